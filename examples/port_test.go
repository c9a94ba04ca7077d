package examples

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/streamprox/caddy-streamprox/internal/browsertest"
	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

func testPort(t *testing.T) {
	port, chatPort := freeport.Get(t), freeport.Get(t)
	t.Setenv("PORT", port)
	t.Setenv("CHAT_PORT", chatPort)
	t.Setenv("CHAT", "127.0.0.1:"+chatPort)

	t.Run("stand-in", func(t *testing.T) {
		run(t, "port/Caddyfile")
		testSiteAndChat(t, port)
		visitor := &visitor{address: "127.0.0.1:" + port}
		if got := visitor.get(t, "/old/a"); got.status != http.StatusMovedPermanently || got.location != "/" {
			t.Errorf("/old/a: got %d to %q, want 301 to /", got.status, got.location)
		}
	})

	t.Run("browser", func(t *testing.T) { testChatInBrowser(t, "port/Caddyfile", port) })

	t.Run("SSH", func(t *testing.T) {
		server := startSSH(t)
		t.Setenv("SSH_PORT", server.port)
		run(t, "port/Caddyfile")
		server.test(t, port)
	})
}

// visitor asks one request after another, on one connection as long as the server keeps
// it.
type visitor struct {
	address string
	conn    net.Conn // nil: none yet, or the server has closed it
	answers *bufio.Reader
}

func (v *visitor) get(t *testing.T, path string) answer {
	t.Helper()
	if v.conn == nil {
		v.conn = dial(t, v.address)
		v.answers = bufio.NewReader(v.conn)
	}
	fmt.Fprintf(v.conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, v.address)
	resp, err := http.ReadResponse(v.answers, nil)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	got := answer{status: resp.StatusCode, body: string(body), location: resp.Header.Get("Location")}
	got.body = strings.Replace(got.body, v.conn.LocalAddr().String(), "the client's", 1)
	if resp.Close {
		v.conn.Close()
		v.conn = nil
	}
	return got
}

// testSiteAndChat asks the site and the chat server.
func testSiteAndChat(t *testing.T, port string) {
	t.Helper()
	visitor := &visitor{address: "127.0.0.1:" + port}
	const site, chat = "The site. Your address is the client's.\n", "The chat server. You asked for %s.\n"
	for _, test := range []struct{ path, want string }{
		{"/", site},
		{"/chats", site},
		{"/chat/room", chat},
		{"/chat/other?a=b", chat},
		{"/", site},
	} {
		want := strings.Replace(test.want, "%s", test.path, 1)
		if got := visitor.get(t, test.path); got.status != http.StatusOK || got.body != want {
			t.Errorf("%s: got %d %q, want %q", test.path, got.status, got.body, want)
		}
	}
}

// testChatInBrowser opens the page of the site in Chromium, and from there a WebSocket to
// a chat server that wants to see the browser's own Host and Origin.
func testChatInBrowser(t *testing.T, path, port string) {
	chromium := browsertest.Find(t)
	t.Setenv("CHAT", webSocketEcho(t, "127.0.0.1:"+port, "http://127.0.0.1:"+port))
	run(t, path)
	page, browser := browsertest.Start(t, chromium, 5*patience)
	if err := chromedp.Do(page, chromedp.Navigate("http://127.0.0.1:"+port+"/")); err != nil {
		t.Fatalf("opening the page: %v", err)
	}
	got, err := chromedp.Run(page, chromedp.Evaluate[[]string](`new Promise((resolve, reject) => {
		const got = [document.body.innerText];
		const socket = new WebSocket("ws://" + location.host + "/chat/room");
		socket.onopen = () => socket.send("said in the browser");
		socket.onmessage = ({ data }) => {
			if (got.push(data) === 3) {
				socket.close();
			}
		};
		socket.onclose = ({ code }) => resolve([...got, String(code)]);
		socket.onerror = () => reject(new Error("WebSocket"));
	})`, chromedp.EvalAwaitPromise))
	if err != nil || len(got) != 4 || !strings.HasPrefix(got[0], "The site. Your address is 127.0.0.1:") ||
		got[1] != "/chat/room" || got[2] != "said in the browser" || got[3] != "1005" { // closed without a code
		t.Errorf("got %q, %v; console: %q", got, err, browser.Complaints())
	}
	browser.Close()
}
