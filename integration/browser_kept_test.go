package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/streamprox/caddy-streamprox/internal/browsertest"
	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// silent is a destination that does not record.
type silent string

func (l silent) Addr() string            { return string(l) }
func (silent) Seen(*testing.T) []request { return nil }

// The requests that a page makes one after the other share one connection, though some are
// for relay, and some for sites; a WebSocket has one of its own.
func TestBrowserKeepsItsConnection(t *testing.T) {
	chromium := browsertest.Find(t)
	requests := &record{seen: make(map[string][]string)}
	address := freeport.Address(t)
	startQuiet(t, layer4Caddyfile(address, `
		@api http_request path /api/*
		route @api {
			relay `+requests.server(t, "api")+`
		}
		@ws http_request path /ws/*
		route @ws {
			relay `+requests.server(t, "ws")+`
		}
		route {
			http_app web
		}
	`)+`
	http://:80 {
		bind streamprox/web
		handle / {
			header Content-Type text/html
			respond "<!doctype html><title>browser</title><link rel=icon href=data:,>"
		}
		handle {
			respond "site {http.request.method} {http.request.uri} {http.request.body}"
		}
	}`)
	waitForListener(t, address)
	tap := startTap(t, silent(address))
	_, port, _ := net.SplitHostPort(tap.Addr())

	const fetches, conversations = 150, 3
	var steps [][]operation
	for i := range fetches {
		o := operation{Path: fmt.Sprintf("/%s/%d", []string{"api", "static", "api"}[i%3], i), Method: "GET"}
		if i%5 == 4 {
			content := strings.Repeat("x", 100*i)
			o.Method, o.Body = "POST", &content
		}
		steps = append(steps, []operation{o})
		if i%50 == 49 {
			steps = append(steps, []operation{{Path: fmt.Sprint("/ws/", i), Messages: []string{"one", "two"}}})
		}
	}
	plan, err := json.Marshal(steps)
	if err != nil {
		t.Fatal(err)
	}
	page, browser := browsertest.Start(t, chromium, 5*patience)
	if err := chromedp.Do(page, chromedp.Navigate("http://localhost:"+port+"/")); err != nil {
		t.Fatalf("opening the page: %v\n%s", err, theLogs.problems())
	}
	outcomes, err := chromedp.Run(page, chromedp.Evaluate[map[string]outcome](
		fmt.Sprintf("(%s)(%s)", performJS, plan), chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatalf("what the page does: %v\n%s", err, theLogs.problems())
	}
	browser.Close()
	for _, step := range steps {
		if got := outcomes[step[0].Path]; got.Text != step[0].text() {
			t.Errorf("%s %s: got %.200q (%s), want %.200q", step[0].Method, step[0].Path, got.Text, got.Failure, step[0].text())
		}
	}

	tap.settle(t)
	most, used, upgraded := 0, 0, 0
	for _, f := range tap.took() {
		n := strings.Count(f.up.String(), " HTTP/1.1\r\n")
		if most = max(most, n); n > 0 {
			used++
		}
		if strings.Contains(f.up.String(), "Upgrade: websocket\r\n") {
			upgraded++
		}
	}
	if most < fetches || upgraded != conversations {
		t.Errorf("%d connections, of which one had %d requests and %d were upgraded, want one with %d, and %d", used, most, upgraded, fetches, conversations)
	}
}
