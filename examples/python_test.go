package examples

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/streamprox/caddy-streamprox/internal/browsertest"
	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// python returns the path of a Python that has the module. Debian's comes first.
func python(t *testing.T, module, debianPackage string) string {
	t.Helper()
	for _, name := range []string{"/usr/bin/python3", "python3"} {
		if path, err := exec.LookPath(name); err == nil && exec.Command(path, "-c", "import "+module).Run() == nil {
			return path
		}
	}
	missing(t, "Python's module "+module, debianPackage)
	return ""
}

// pythonServer runs examples/<folder>/server.py until the test ends, and returns its
// address and what it writes.
func pythonServer(t *testing.T, folder, module, debianPackage string) (address string, log *output) {
	t.Helper()
	interpreter, port := python(t, module, debianPackage), freeport.Get(t)
	log = program(t, exec.Command(interpreter, "-B", folder+"/server.py", port))
	answers(t, "127.0.0.1:"+port)
	return "127.0.0.1:" + port, log
}

func testAutobahn(t *testing.T) {
	chromium := browsertest.Find(t)
	port := freeport.Get(t)
	t.Setenv("PORT", port)
	address, _ := pythonServer(t, "autobahn", "autobahn.twisted", "python3-autobahn")
	t.Setenv("AUTOBAHN", address)
	t.Setenv("SITE", "autobahn/site")
	run(t, "autobahn/Caddyfile")

	page, browser := browsertest.Start(t, chromium, 5*patience)
	long := strings.Repeat("long ", 2000)
	if err := chromedp.Do(page,
		chromedp.Navigate("http://127.0.0.1:"+port+"/"),
		chromedp.WaitVisible(chromedp.CSS("#log li")),
		chromedp.SendKeys(chromedp.ID("text"), "typed by a test\r"),
		chromedp.WaitVisible(chromedp.CSS("#log li:nth-child(2)")),
	); err != nil {
		t.Fatalf("the page: %v; console: %q", err, browser.Complaints())
	}
	if err := chromedp.Do(page, chromedp.SetValue(chromedp.ID("text"), long), chromedp.Click(chromedp.CSS("button")),
		chromedp.WaitVisible(chromedp.CSS("#log li:nth-child(3)"))); err != nil {
		t.Fatalf("a long message: %v; console: %q", err, browser.Complaints())
	}
	got, err := chromedp.Run(page, chromedp.Evaluate[[]string](
		`[document.body.dataset.extensions, ...Array.from(document.querySelectorAll("#log li"), (line) => line.textContent)]`))
	if err != nil || len(got) != 4 {
		t.Fatalf("got %q, %v", got, err)
	}
	for i, want := range []string{"permessage-deflate", "http://127.0.0.1:" + port + " asked 127.0.0.1 for /echo", "typed by a test", long} {
		if got[i] != want && !(i == 0 && strings.HasPrefix(got[i], want)) {
			t.Errorf("got %.100q, want %.100q", got[i], want)
		}
	}
	if got := browser.Complaints(); len(got) > 0 {
		t.Errorf("console: %q", got)
	}
	browser.Close()
}

func testTxWS(t *testing.T) {
	chromium := browsertest.Find(t)
	port := freeport.Get(t)
	t.Setenv("PORT", port)
	address, _ := pythonServer(t, "txws", "txws", "python3-txws")
	t.Setenv("TXWS", address)
	t.Setenv("SITE", "txws/site")
	run(t, "txws/Caddyfile")

	page, browser := browsertest.Start(t, chromium, 5*patience)
	if err := chromedp.Do(page,
		chromedp.Navigate("http://127.0.0.1:"+port+"/"),
		chromedp.Poll[chromedp.Void](`Number(document.body.dataset.shown) >= 3`, chromedp.WithPollingTimeout(patience)),
	); err != nil {
		t.Fatalf("the page: %v; console: %q", err, browser.Complaints())
	}
	got, err := chromedp.Run(page, chromedp.Evaluate[int](`document.querySelector("img").naturalWidth`))
	if err != nil || got != 128 {
		t.Errorf("the picture is %d wide, %v, want 128", got, err)
	}
	if got := browser.Complaints(); len(got) > 0 {
		t.Errorf("console: %q", got)
	}
	browser.Close()
}
