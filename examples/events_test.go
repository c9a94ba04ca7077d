package examples

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/streamprox/caddy-streamprox/internal/browsertest"
	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

func testEvents(t *testing.T) {
	chromium := browsertest.Find(t)
	port := freeport.Get(t)
	t.Setenv("PORT", port)
	address, log := pythonServer(t, "events", "http.server", "python3")
	t.Setenv("EVENTS", address)
	t.Setenv("SITE", "events/site")
	run(t, "events/Caddyfile")

	page, browser := browsertest.Start(t, chromium, 5*patience)
	if err := chromedp.Do(page,
		chromedp.Navigate("http://127.0.0.1:"+port+"/"),
		chromedp.WaitVisible(chromedp.CSS("#log li:nth-child(3)")), // the response does not end
	); err != nil {
		t.Fatalf("the page: %v; console: %q", err, browser.Complaints())
	}
	got, err := chromedp.Run(page, chromedp.Evaluate[string](
		`Array.from(document.querySelectorAll("#log li"), (line) => line.textContent).slice(0, 3).join(" ")`))
	if err != nil || got != "0 1 2" {
		t.Errorf("got %q, %v, want 0 1 2", got, err)
	}
	if got := browser.Complaints(); len(got) > 0 {
		t.Errorf("console: %q", got)
	}
	browser.Close()
	eventually(t, "end of the stream at its server", func() bool {
		return strings.Contains(log.String(), "the client has left")
	})
}
