package examples

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/streamprox/caddy-streamprox/internal/browsertest"
	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

func testSocketIO(t *testing.T) {
	address, log := socketIOServer(t)
	port := freeport.Get(t)
	t.Setenv("PORT", port)
	t.Setenv("SOCKETIO", address)
	t.Setenv("SITE", "socketio/site")
	run(t, "socketio/Caddyfile")
	site := "http://127.0.0.1:" + port

	t.Run("clients", func(t *testing.T) {
		clients := []*socketIOClient{
			startSocketIO(t, site, "polling"),
			startSocketIO(t, site, "websocket"),
			startSocketIO(t, site), // an upgrade from the one to the other
		}
		for i, transport := range []string{"polling", "websocket", "websocket"} {
			clients[i].shows(t, "connected by "+transport)
		}
		for i, transport := range []string{"polling", "websocket", "websocket"} {
			clients[i].say(t, fmt.Sprintf("said by %d", i))
			for _, client := range clients {
				client.shows(t, fmt.Sprintf("said by %d (by %s)", i, transport))
			}
		}
	})

	t.Run("one connection", func(t *testing.T) {
		page, err := os.ReadFile("socketio/site/index.html")
		if err != nil {
			t.Fatal(err)
		}
		visitor := &visitor{address: "127.0.0.1:" + port}
		for range 2 {
			if got := visitor.get(t, "/"); got.body != string(page) {
				t.Errorf("/: got %.40q, want the page", got.body)
			}
			if got := visitor.get(t, "/socket.io/?EIO=4&transport=polling"); !strings.HasPrefix(got.body, `0{"sid":`) {
				t.Errorf("the first poll: got %.40q, want a session", got.body)
			}
		}
	})

	t.Run("browser", func(t *testing.T) {
		page, browser := openSocketIO(t, site)
		testSocketIOPage(t, page, browser, site)
		if got := polls(t, page); !slices.Equal(slices.Compact(got), []string{"http/1.1"}) {
			t.Errorf("the page polls by %q, want http/1.1", got)
		}
		browser.Close()
	})

	for _, want := range []string{"GET polling \n", "POST polling \n", "GET websocket \n"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the server did not see %q", want)
		}
	}
}

func testSocketIOHTTPS(t *testing.T) {
	const path = "socketio/https/Caddyfile"
	address, log := socketIOServer(t)
	port := freeport.Get(t)
	t.Setenv("HTTP_PORT", freeport.Get(t))
	t.Setenv("HTTPS_PORT", port)
	t.Setenv("SOCKETIO", address)
	t.Setenv("SITE", "socketio/site")
	site := "https://localhost:" + port
	// What has come to the server since the last call, and whether all of it came from
	// relay: reverse_proxy adds a field.
	seen := 0
	came := func() (requests string, relayed bool) {
		requests = log.String()[seen:]
		seen += len(requests)
		return requests, requests != "" && !strings.Contains(requests, "Caddy")
	}

	t.Run("HTTP/2", func(t *testing.T) {
		run(t, path)
		obtained(t, site)
		page, browser := openSocketIO(t, site)
		testSocketIOPage(t, page, browser, site)
		if got := polls(t, page); !slices.Equal(slices.Compact(got), []string{"h2"}) {
			t.Errorf("the page polls by %q, want h2", got)
		}
		browser.Close()
		got, _ := came()
		for _, want := range []string{"GET polling 2.0 Caddy\n", "POST polling 2.0 Caddy\n", "GET websocket \n"} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q among what came: %q", want, got)
			}
		}
		if strings.Contains(got, "GET websocket 2.0 Caddy\n") {
			t.Errorf("reverse_proxy had the WebSocket: %q", got)
		}

		client := startSocketIO(t, site)
		client.shows(t, "connected by websocket")
		client.say(t, "said")
		client.shows(t, "said (by websocket)")
		if got, relayed := came(); !relayed || !strings.Contains(got, "GET polling") || !strings.Contains(got, "GET websocket") {
			t.Errorf("a client without HTTP/2: came %q", got)
		}
	})

	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	without := strings.Replace(string(source), "reverse_proxy {$SOCKETIO:127.0.0.1:9000}", "respond 404", 1)
	if without == string(source) {
		t.Fatal("no reverse_proxy to leave out")
	}

	t.Run("WebSockets alone", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte("A page that does not poll."), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("SITE", dir)
		run(t, written(t, without))
		obtained(t, site)
		client, _ := newTLSClient(t, true)
		if got := get(t, client, site+"/socket.io/?EIO=4&transport=polling"); got.status != http.StatusNotFound {
			t.Errorf("a poll with HTTP/2: got %d %q, want the site's 404", got.status, got.body)
		}
		page, browser := openSocketIO(t, site)
		got, err := chromedp.Run(page, chromedp.Evaluate[string](`new Promise((resolve, reject) => {
			const socket = new WebSocket("wss://" + location.host + "/socket.io/?EIO=4&transport=websocket");
			socket.onmessage = ({ data }) => resolve(data);
			socket.onerror = () => reject(new Error("WebSocket"));
		})`, chromedp.EvalAwaitPromise))
		if err != nil || !strings.HasPrefix(got, `0{"sid":`) {
			t.Errorf("got %q, %v, want a session", got, err)
		}
		browser.Close()
		if got, relayed := came(); !relayed || !strings.Contains(got, "GET websocket") {
			t.Errorf("came %q", got)
		}
	})

	t.Run("HTTP/1.1 alone", func(t *testing.T) {
		run(t, written(t, strings.Replace(without, "protocols h1 h2", "protocols h1", 1)))
		obtained(t, site)
		page, browser := openSocketIO(t, site)
		testSocketIOPage(t, page, browser, site)
		if got := polls(t, page); !slices.Equal(slices.Compact(got), []string{"http/1.1"}) {
			t.Errorf("the page polls by %q, want http/1.1", got)
		}
		browser.Close()
		if got, relayed := came(); !relayed {
			t.Errorf("came %q", got)
		}
	})
}

// written returns the path of a Caddyfile with the source.
func written(t *testing.T, source string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(path, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// socketIOServer runs the server of the example until the test ends.
func socketIOServer(t *testing.T) (address string, log *output) {
	t.Helper()
	python(t, "aiohttp", "python3-aiohttp")
	return pythonServer(t, "socketio", "aiohttp, socketio", "python3-socketio")
}

// socketIOClient is a running client.py.
type socketIOClient struct {
	in    io.Writer
	shown *output
}

// startSocketIO runs client.py until the test ends.
func startSocketIO(t *testing.T, url string, transports ...string) *socketIOClient {
	t.Helper()
	cmd := exec.Command(python(t, "aiohttp, socketio", "python3-socketio"), append([]string{"-B", "socketio/client.py", url}, transports...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return &socketIOClient{in, program(t, cmd)}
}

func (c *socketIOClient) say(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(c.in, text+"\n"); err != nil {
		t.Fatal(err)
	}
}

func (c *socketIOClient) shows(t *testing.T, line string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q at a client", line), func() bool {
		return slices.Contains(strings.Split(c.shown.String(), "\n"), line)
	})
}

// openSocketIO opens the page of the site in Chromium, which trusts every certificate.
func openSocketIO(t *testing.T, site string) (context.Context, *browsertest.Browser) {
	t.Helper()
	page, browser := browsertest.Start(t, browsertest.Find(t), 5*patience, chromedp.Flag("ignore-certificate-errors", true))
	if err := chromedp.Do(page, chromedp.Navigate(site+"/")); err != nil {
		t.Fatalf("opening the page: %v", err)
	}
	return page, browser
}

// testSocketIOPage has the page of the site and a client without a WebSocket speak to each
// other.
func testSocketIOPage(t *testing.T, page context.Context, browser *browsertest.Browser, site string) {
	t.Helper()
	if err := chromedp.Do(page, chromedp.WaitVisible(chromedp.CSS("#log li:nth-child(2)"))); err != nil {
		t.Fatalf("the page: %v; console: %q", err, browser.Complaints())
	}
	client := startSocketIO(t, site, "polling")
	client.shows(t, "connected by polling")
	if err := chromedp.Do(page,
		chromedp.SendKeys(chromedp.ID("text"), "typed by a test\r"),
		chromedp.WaitVisible(chromedp.CSS("#log li:nth-child(3)")),
	); err != nil {
		t.Fatalf("a message from the page: %v; console: %q", err, browser.Complaints())
	}
	client.shows(t, "typed by a test (by websocket)")
	client.say(t, "said to the page")
	if err := chromedp.Do(page, chromedp.WaitVisible(chromedp.CSS("#log li:nth-child(4)"))); err != nil {
		t.Fatalf("a message to the page: %v; console: %q", err, browser.Complaints())
	}
	got, err := chromedp.Run(page, chromedp.Evaluate[[]string](
		`Array.from(document.querySelectorAll("#log li"), (line) => line.textContent)`))
	want := []string{"connected by polling", "upgraded to websocket", "typed by a test (by websocket)", "said to the page (by polling)"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("the page shows %q, %v, want %q", got, err, want)
	}
	if got := browser.Complaints(); len(got) > 0 {
		t.Errorf("console: %q", got)
	}
}

// polls returns the protocols by which the page has polled.
func polls(t *testing.T, page context.Context) []string {
	t.Helper()
	got, err := chromedp.Run(page, chromedp.Evaluate[[]string](
		`performance.getEntriesByType("resource").filter(({ name }) => name.includes("transport=polling")).map((entry) => entry.nextHopProtocol)`))
	if err != nil || len(got) < 3 {
		t.Errorf("polls: got %q, %v", got, err)
	}
	return got
}
