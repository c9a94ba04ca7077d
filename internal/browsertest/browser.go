// Package browsertest drives the machine's Chromium, for tests.
package browsertest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// Find returns the path of a Chromium. Where there is none the test is skipped, but not
// where all tests must run.
func Find(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("STREAMPROX_E2E") != "" {
		t.Fatal("no Chromium in PATH, and STREAMPROX_E2E is set; install the package chromium")
	}
	t.Skip("no Chromium in PATH; install the package chromium")
	return ""
}

// Browser is a running Chromium with an empty page.
type Browser struct {
	// Close ends the browser and with it every connection that it has. The end of the
	// test does so otherwise.
	Close func()

	mu         sync.Mutex
	complaints []string
}

// Start runs the Chromium at path until the test ends, at most for the given time. It
// returns the context for chromedp.
func Start(t *testing.T, path string, limit time.Duration, options ...chromedp.ExecAllocatorOption) (context.Context, *Browser) {
	t.Helper()
	// Not t.TempDir: with the name of a test the path gets too long for the Unix socket
	// that Chromium puts there.
	dir, err := os.MkdirTemp("", "browser")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("removing what the browser left: %v", err)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	allocator, closeAllocator := chromedp.NewExecAllocator(ctx, slices.Concat(chromedp.DefaultExecAllocatorOptions[:], []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path),
		chromedp.UserDataDir(filepath.Join(dir, "data")),
		chromedp.Env("HOME="+dir, "TMPDIR="+dir),
		chromedp.NoSandbox, // which Chromium needs as root; the page is the test's own
		chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
	}, options)...)
	page, closePage := chromedp.NewContext(allocator)

	// Asked again after a failed start, chromedp panics.
	if err := chromedp.Do(page); err != nil {
		closePage()
		closeAllocator()
		cancel()
		t.Fatalf("starting the browser: %v", err)
	}
	b := new(Browser)
	read := make(chan struct{})
	messages := chromedp.Console(page)
	go func() {
		defer close(read)
		for message, err := range messages {
			if err != nil {
				return
			}
			switch message.Type {
			case chromedp.ConsoleError, chromedp.ConsoleWarning, chromedp.ConsoleException:
				b.mu.Lock()
				b.complaints = append(b.complaints, message.String())
				b.mu.Unlock()
			}
		}
	}()
	b.Close = sync.OnceFunc(func() {
		if err := chromedp.Cancel(page); err != nil {
			t.Errorf("closing the browser: %v", err)
		}
		closePage()
		closeAllocator()
		chromedp.FromContext(page).Allocator.Wait()
		<-read
		cancel()
	})
	t.Cleanup(b.Close)
	return page, b
}

// Complaints returns the errors and warnings on the console so far.
func (b *Browser) Complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.complaints)
}
