package examples

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

func testTwistedProxy(t *testing.T) {
	twisted, _ := pythonServer(t, "twisted-proxy", "twisted.web.proxy", "python3-twisted")
	port, appPort := freeport.Get(t), freeport.Get(t)
	t.Setenv("PORT", port)
	t.Setenv("APP_PORT", appPort)
	t.Setenv("TWISTED", twisted)
	address := "127.0.0.1:" + port

	t.Run("stand-ins", func(t *testing.T) {
		tlsPort := freeport.Get(t)
		t.Setenv("TLS_PORT", tlsPort)
		t.Setenv("CONNECT_PORT", tlsPort)
		t.Setenv("APP", "127.0.0.1:"+appPort)
		run(t, "twisted-proxy/Caddyfile")
		direct, _ := newClient(t)
		forward := proxied(t, address)
		for _, test := range []struct {
			name   string
			client *http.Client
			url    string
			status int
			want   string
		}{
			{"site", direct, "http://" + address + "/", http.StatusOK, "The site.\n"},
			{"reverse", direct, "http://" + address + "/app/a", http.StatusOK, "The application. You asked 127.0.0.1 for /a.\n"},
			{"forward", forward, "http://127.0.0.1:" + appPort + "/a?b", http.StatusOK, "The application. You asked 127.0.0.1 for /a?b.\n"},
			{"forward by name", forward, "http://localhost:" + appPort + "/a", http.StatusOK, "The application. You asked localhost for /a.\n"},
			{"forward, TLS", forward, "https://localhost:" + tlsPort + "/", http.StatusOK, "The site with TLS.\n"},
			{"forward, not allowed", forward, "http://192.0.2.1/", http.StatusBadGateway, "502 Bad Gateway\n"},
		} {
			got := get(t, test.client, test.url)
			if got.status != test.status || got.body != test.want {
				t.Errorf("%s: got %d %q, want %d %q", test.name, got.status, got.body, test.status, test.want)
			}
		}
		for _, target := range []string{"localhost:22", "192.0.2.1:" + tlsPort, "127.0.0.1:" + port} {
			conn := dial(t, address)
			fmt.Fprintf(conn, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", target)
			if got := readLine(t, conn); !strings.HasPrefix(got, "HTTP/1.1 403 ") {
				t.Errorf("CONNECT %s: got %q, want 403", target, got)
			}
			conn.Close()
		}
	})

	// A message goes up and comes back before the next one is sent, all in one request.
	t.Run("streaming both ways", func(t *testing.T) {
		app, secure := httptest.NewServer(http.HandlerFunc(mirror)), httptest.NewTLSServer(http.HandlerFunc(mirror))
		t.Cleanup(app.Close)
		t.Cleanup(secure.Close)
		_, securePort, _ := net.SplitHostPort(secure.Listener.Addr().String())
		t.Setenv("CONNECT_PORT", securePort)
		t.Setenv("TLS_PORT", freeport.Get(t))
		t.Setenv("APP", app.Listener.Addr().String())
		run(t, "twisted-proxy/Caddyfile")
		direct, _ := newClient(t)
		testMirror(t, direct, "http://"+address+"/app/")
		testMirror(t, proxied(t, address), app.URL)
		testMirror(t, proxied(t, address), secure.URL)
	})
}

// proxied returns an HTTP client that uses the proxy at the address.
func proxied(t *testing.T, address string) *http.Client {
	t.Helper()
	transport := &http.Transport{
		Proxy:           http.ProxyURL(&url.URL{Scheme: "http", Host: address}),
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// mirror returns each line of a request as it comes.
func mirror(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	if err := control.EnableFullDuplex(); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		fmt.Fprintf(w, "%s\n", lines.Bytes())
		if control.Flush() != nil {
			return
		}
	}
}

// testMirror has a conversation with mirror within one request.
func testMirror(t *testing.T, client *http.Client, target string) {
	t.Helper()
	body, lines := io.Pipe()
	defer lines.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, target, body)
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		fmt.Fprintln(lines, "line 0")
	}()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	defer resp.Body.Close()
	<-sent
	answers := bufio.NewReader(resp.Body)
	for i := range 5 {
		if i > 0 {
			fmt.Fprintf(lines, "line %d\n", i)
		}
		if got, err := answers.ReadString('\n'); got != fmt.Sprintf("line %d\n", i) {
			t.Fatalf("%s: got %q, %v, want line %d", target, got, err, i)
		}
	}
	lines.Close()
	if rest, err := io.ReadAll(answers); err != nil || len(rest) > 0 {
		t.Errorf("%s: at the end got %q, %v", target, rest, err)
	}
}
