package main

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"
)

// TestPage opens the page in Chromium and waits until it shows that each of its
// conversations works and who answers.
func TestPage(t *testing.T) {
	chromium := findChromium(t)
	d := start(t, "-listen", "127.0.0.1:0")
	ctx, complaints := browse(t, chromium)

	if err := chromedp.Do(ctx,
		chromedp.Navigate("http://"+d.address+"/"),
		shows(`#page[data-state="answered"][data-destination="http_app"]`),
		shows(`#fetch[data-state="answered"][data-destination="http_app"]`),
		shows(`#echo[data-state="open"][data-destination="echo"]:not([data-returned="0"])`),
		shows(`#pictures[data-state="open"][data-destination="pictures"]`),
		waitFor(`Number(document.querySelector("#pictures").dataset.pictures) >= 3`),
	); err != nil {
		t.Fatalf("the page: %v; console: %q", err, complaints())
	}

	// What a person does with it.
	if err := chromedp.Do(ctx,
		chromedp.SendKeys(chromedp.ID("echo-text"), "typed by a test\r"),
		shows(`#echo[data-returned="2"]`),
		chromedp.Click(chromedp.CSS("#pictures .toggle")),
		shows(`#pictures[data-state="closed"]`),
		chromedp.Click(chromedp.CSS("#pictures .toggle")),
		shows(`#pictures[data-state="open"]`),
		chromedp.Click(chromedp.CSS("#fetch-again")),
		shows(`#fetch[data-state="answered"]`),
	); err != nil {
		t.Fatalf("using the page: %v; console: %q", err, complaints())
	}
	for _, test := range []struct{ what, expression, want string }{
		{
			"states and destinations",
			`Array.from(document.querySelectorAll(".card"), (card) =>
				[card.id, card.querySelector(".state").textContent, card.querySelector(".destination").textContent].join(" ")).join("\n")`,
			"page answered http_app\nfetch answered http_app\necho open echo\npictures open pictures",
		},
		{
			"last message",
			`document.querySelector("#echo-log").lastChild.textContent`,
			"← typed by a test",
		},
		{
			"alpha in the middle of the picture",
			`String(document.querySelector("#canvas").getContext("2d").getImageData(160, 90, 1, 1).data[3])`,
			"255",
		},
		{
			"commands",
			`Array.from(document.querySelectorAll(".commands code"), (code) => code.textContent).join("\n")`,
			strings.ReplaceAll(`nc 127.0.0.1 PORT
printf 'EHLO me\n' | nc -N 127.0.0.1 PORT
curl -i --path-as-is 'http://127.0.0.1:PORT/..%2f'`, "PORT", strings.TrimPrefix(d.address, "127.0.0.1:")),
		},
		{
			"width beyond the window's",
			`String(document.documentElement.scrollWidth - document.documentElement.clientWidth)`,
			"0",
		},
	} {
		got, err := chromedp.Run(ctx, chromedp.Evaluate[string](test.expression))
		if err != nil || got != test.want {
			t.Errorf("%s: got %q, %v, want %q", test.what, got, err, test.want)
		}
	}
	if got := complaints(); len(got) > 0 {
		t.Errorf("console: %q", got)
	}

	d.stop()
	if err := chromedp.Do(ctx,
		shows(`#echo[data-state="closed"]`),
		shows(`#pictures[data-state="closed"]`),
		chromedp.Click(chromedp.CSS("#echo .toggle")),
		shows(`#echo[data-state="error"]`),
		chromedp.Click(chromedp.CSS("#fetch-again")),
		shows(`#fetch[data-state="error"]`),
	); err != nil {
		t.Errorf("the page after the demo stopped: %v", err)
	}
}

// shows waits until an element that matches the CSS selector is visible.
func shows(selector string) chromedp.Action[chromedp.Void] {
	return chromedp.WaitVisible(chromedp.CSS(selector))
}

// waitFor waits until the JavaScript expression is true.
func waitFor(expression string) chromedp.Action[chromedp.Void] {
	return chromedp.Poll[chromedp.Void](expression, chromedp.WithPollingTimeout(patience))
}

// findChromium returns the path of a Chromium, without which the test is skipped.
func findChromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("STREAMPROX_E2E") == "1" {
		t.Fatal("no Chromium in PATH, and STREAMPROX_E2E=1 asks for it; install the package chromium")
	}
	t.Skip("no Chromium in PATH; install the package chromium to test the page")
	return ""
}

// browse starts a browser that runs until the test ends. It returns the context for
// chromedp and what the console has complained about so far.
func browse(t *testing.T, path string) (context.Context, func() []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	allocator, closeAllocator := chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.Env("HOME="+t.TempDir(), "TMPDIR="+t.TempDir()),
		chromedp.NoSandbox, // which Chromium needs as root; the page is ours
		chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
	)...)
	browser, closeBrowser := chromedp.NewContext(allocator)

	var mu sync.Mutex
	var complaints []string
	read := make(chan struct{})
	messages := chromedp.Console(browser) // starts the browser
	go func() {
		defer close(read)
		for message, err := range messages {
			if err != nil {
				return
			}
			switch message.Type {
			case chromedp.ConsoleError, chromedp.ConsoleWarning, chromedp.ConsoleException:
				mu.Lock()
				complaints = append(complaints, message.String())
				mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		if err := chromedp.Cancel(browser); err != nil {
			t.Errorf("closing the browser: %v", err)
		}
		closeBrowser()
		closeAllocator()
		chromedp.FromContext(browser).Allocator.Wait()
		<-read
		cancel()
	})
	return browser, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(complaints)
	}
}
