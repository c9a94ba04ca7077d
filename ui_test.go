package streamprox

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// commandPatience is how long a command may take, at most, on a machine that has much to do.
const commandPatience = 90 * time.Second

// startUI runs `caddy streamprox ui` until the test ends, and returns the address that it
// prints. It must end in peace when it is interrupted.
func startUI(t *testing.T, s *stubAdmin) (address string) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*commandPatience)
	t.Cleanup(cancel)
	command := exec.CommandContext(ctx, program, "streamprox", "ui", "--address", s.address())
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := command.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		if err := command.Wait(); err != nil {
			t.Errorf("the end of the command: %v", err)
		}
	})
	address, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(address)
}

// uiClient asks the page's server as a program can, and not only a browser.
type uiClient struct {
	t    *testing.T
	base string // scheme, host and port
}

// send sends a request; each of header is a line of the head.
func (c *uiClient) send(method, url, body string, header ...string) (response *http.Response, got string) {
	c.t.Helper()
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Host" {
			request.Host = value
		}
		request.Header.Add(name, value)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err = transport.RoundTrip(request)
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return response, string(content)
}

// TestUIAccess tests who may use the page: only who has opened the printed address, in a
// browser that says it comes from the page.
func TestUIAccess(t *testing.T) {
	s := steered(t)
	address := startUI(t, s)
	found := regexp.MustCompile(`^(http://127\.0\.0\.1:\d+)/\?token=([A-Z2-7]{26})$`).FindStringSubmatch(address)
	if found == nil {
		t.Fatalf("printed %q", address)
	}
	c := &uiClient{t, found[1]}
	host := strings.TrimPrefix(c.base, "http://")

	for _, test := range []struct {
		name, path string
		header     []string
	}{
		{"no token", "/", nil},
		{"another token", "/?token=" + strings.Repeat("A", 26), nil},
		{"an empty token", "/?token=", nil},
		{"another host", "/?token=" + found[2], []string{"Host: rebound.example.com"}},
		{"a name of the loopback address", "/?token=" + found[2], []string{"Host: localhost:" + strings.TrimPrefix(host, "127.0.0.1:")}},
		{"another port", "/?token=" + found[2], []string{"Host: 127.0.0.1:1"}},
		{"a foreign origin", "/?token=" + found[2], []string{"Origin: http://example.com"}},
		{"the origin null", "/?token=" + found[2], []string{"Origin: null"}},
		{"before anybody asks", "/?token=" + found[2], []string{"Sec-Purpose: prefetch;prerender"}},
		{"no cookie", "/api/streams", nil},
		{"a file without a cookie", "/ui.js", nil},
	} {
		if response, body := c.send("GET", c.base+test.path, "", test.header...); response.StatusCode != http.StatusForbidden || len(response.Cookies()) > 0 {
			t.Errorf("%s: got %s, %q", test.name, response.Status, body)
		}
	}

	response, _ := c.send("GET", address, "")
	cookies := response.Cookies()
	if response.StatusCode != http.StatusSeeOther || len(cookies) != 1 {
		t.Fatalf("got %s, cookies %v", response.Status, cookies)
	}
	path := response.Header.Get("Location")
	if k := cookies[0]; !k.HttpOnly || k.SameSite != http.SameSiteStrictMode || k.Path != path || k.Domain != "" || len(k.Value) < 26 || !strings.HasSuffix(path, "/") || len(path) < 28 {
		t.Errorf("cookie %v for %s", k, path)
	}
	cookie := "Cookie: " + cookies[0].Name + "=" + cookies[0].Value
	origin := "Origin: " + c.base
	if response, _ := c.send("GET", address, "", cookie); response.StatusCode != http.StatusForbidden {
		t.Errorf("the token works twice: %s", response.Status)
	}

	page := c.base + path
	for _, test := range []struct {
		name, method, path string
		header             []string
		want               int
	}{
		{"the page", "GET", "", []string{cookie}, 200},
		{"its style", "GET", "ui.css", []string{cookie}, 200},
		{"its script", "GET", "ui.js", []string{cookie}, 200},
		{"streams", "GET", "api/streams?route=chat&limit=10", []string{cookie}, 200},
		{"streams from the page", "GET", "api/streams", []string{cookie, origin}, 400}, // the stub wants a limit
		{"a stream", "GET", "api/streams/7f3a9c0000000012", []string{cookie}, 200},
		{"stats", "GET", "api/stats", []string{cookie}, 200},
		{"upstreams", "GET", "api/upstreams", []string{cookie}, 200},
		{"a stream that is not there", "GET", "api/streams/none", []string{cookie}, 404},

		{"no cookie", "GET", "", nil, 403},
		{"another cookie", "GET", "", []string{"Cookie: " + cookies[0].Name + "=" + strings.Repeat("A", 26)}, 403},
		{"two cookies", "GET", "", []string{cookie, "Cookie: " + cookies[0].Name + "=x"}, 403},
		{"another host", "GET", "", []string{cookie, "Host: rebound.example.com"}, 403},
		{"a foreign origin", "GET", "api/streams?limit=1", []string{cookie, "Origin: http://example.com"}, 403},
		{"the origin of another port", "DELETE", "api/streams/7f3a9c0000000012", []string{cookie, "Origin: http://127.0.0.1:1"}, 403},
		{"two origins", "DELETE", "api/streams/7f3a9c0000000012", []string{cookie, origin, "Origin: http://127.0.0.1:1"}, 403},
		{"no origin", "DELETE", "api/streams/7f3a9c0000000012", []string{cookie}, 403},
		{"no origin", "POST", "api/upstreams/10.0.0.5:9000/drain", []string{cookie}, 403},
		{"no cookie", "DELETE", "api/streams/7f3a9c0000000012", []string{origin}, 403},

		{"what the page does not need", "DELETE", "api/streams?all=true", []string{cookie, origin}, 405},
		{"what the page does not need", "GET", "api/config/", []string{cookie, origin}, 404},
		{"another way out", "GET", "api/streams/..%2F..%2Fconfig", []string{cookie}, 404},
		{"what the page does not need", "POST", "load", []string{cookie, origin}, 404},
		{"what the page does not need", "POST", "api/upstreams/10.0.0.5:9000/stop", []string{cookie, origin}, 404},

		{"drain", "POST", "api/upstreams/unix%2F%2Frun%2Fapp.sock/drain", []string{cookie, origin}, 200},
		{"kill", "DELETE", "api/streams/7f3a9c0000000012", []string{cookie, origin}, 200},
	} {
		body := ""
		if test.method == "POST" {
			body = "{}"
		}
		response, got := c.send(test.method, page+test.path, body, test.header...)
		if response.StatusCode != test.want {
			t.Errorf("%s: got %s, want %d: %s", test.name, response.Status, test.want, got)
		}
		for name, want := range map[string]string{
			"Content-Security-Policy":      uiPolicy,
			"X-Content-Type-Options":       "nosniff",
			"Referrer-Policy":              "no-referrer",
			"Cache-Control":                "no-store",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Access-Control-Allow-Origin":  "",
		} {
			if got := response.Header.Get(name); got != want {
				t.Errorf("%s: %s: got %q, want %q", test.name, name, got, want)
			}
		}
	}
	if response, got := c.send("POST", page+"api/explain", strings.Repeat(" ", maxUIBody+1), cookie, origin); response.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a long question: got %s: %s", response.Status, got)
	}
	want := []string{"POST /streamprox/upstreams/unix%2F%2Frun%2Fapp.sock/drain", "DELETE /streamprox/streams/7f3a9c0000000012"}
	if got := s.requests(); !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
	s.Close()
	if response, got := c.send("GET", page+"api/stats", "", cookie); response.StatusCode != http.StatusBadGateway || !strings.Contains(got, `{"error":"asking the admin API at `) {
		t.Errorf("without a Caddy: got %s: %s", response.Status, got)
	}
}

// TestUIPolicy tests that the page keeps to what its policy allows, for a browser that does
// not enforce all of it.
func TestUIPolicy(t *testing.T) {
	if !strings.HasPrefix(uiPolicy, "default-src 'none'; ") || strings.Contains(uiPolicy, "unsafe") || strings.Contains(uiPolicy, "*") {
		t.Errorf("policy %s", uiPolicy)
	}
	files, err := uiFiles.ReadDir("ui")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 3 {
		t.Errorf("%d files", len(files))
	}
	for _, file := range files {
		content, err := uiFiles.ReadFile("ui/" + file.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, wrong := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "DOMParser", "srcdoc", " style=", " onclick=", "<style", "https://", "@import", "url("} {
			if strings.Contains(string(content), wrong) {
				t.Errorf("%s has %s", file.Name(), wrong)
			}
		}
		for _, link := range regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(string(content), -1) {
			if !slices.Contains([]string{"ui.js", "ui.css"}, link[1]) && !strings.HasPrefix(link[1], "#") && !strings.HasPrefix(link[1], "data:image/svg+xml,") {
				t.Errorf("%s links to %s", file.Name(), link[1])
			}
		}
	}
}
