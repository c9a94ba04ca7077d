package examples

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

func testExistingSites(t *testing.T) {
	source, err := os.ReadFile("existing-sites/sites.conf")
	if err != nil {
		t.Fatal(err)
	}
	if formatted := caddyfile.Format(source); string(formatted) != string(source) {
		t.Errorf("not formatted; run 'caddy fmt --overwrite examples/existing-sites/sites.conf'")
	}
	plain, secure := freeport.Get(t), freeport.Get(t)
	t.Setenv("HTTP_PORT", plain)
	t.Setenv("HTTPS_PORT", secure)
	t.Setenv("SSH_PORT", greeter(t))
	run(t, "existing-sites/Caddyfile")

	for _, test := range []struct {
		url    string
		http2  bool
		proto  string
		status int
		want   string // with the client's address for %s
	}{
		{"https://localhost:" + secure + "/", true, "HTTP/2.0", http.StatusOK, "The site. Your address is %s.\n"},
		{"https://localhost:" + secure + "/", false, "HTTP/1.1", http.StatusOK, "The site. Your address is %s.\n"},
		{"https://api.localhost:" + secure + "/a", true, "HTTP/2.0", http.StatusOK, "The API."},
		{"https://api.localhost:" + secure + "/b", false, "HTTP/1.1", http.StatusNotFound, "No such thing."},
		{"http://plain.localhost:" + plain + "/", false, "HTTP/1.1", http.StatusOK, "The site without TLS."},
		{"http://localhost:" + plain + "/", false, "HTTP/1.1", http.StatusPermanentRedirect, ""},
		{"http://api.localhost:" + plain + "/a", false, "HTTP/1.1", http.StatusPermanentRedirect, ""},
	} {
		client, local := newClient(t)
		transport := client.Transport.(*http.Transport)
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
		transport.ForceAttemptHTTP2 = test.http2
		got, want := get(t, client, test.url), test.want
		if want == "The site. Your address is %s.\n" {
			want = fmt.Sprintf(want, *local)
		}
		if got.status != test.status || got.body != want || got.status != http.StatusPermanentRedirect && got.proto != test.proto {
			t.Errorf("%s with %s: got %d %q with %q, want %d %q", test.url, test.proto, got.status, got.body, got.proto, test.status, want)
		}
		if got.altSvc != "" {
			t.Errorf("%s: got Alt-Svc %q, though nobody serves HTTP/3", test.url, got.altSvc)
		}
	}

	conn := dial(t, "127.0.0.1:"+secure)
	fmt.Fprint(conn, "SSH-2.0-client\r\n")
	if got, want := readLine(t, conn), "SSH-2.0-server\r\n"; got != want {
		t.Errorf("ssh: got %q, want %q", got, want)
	}
}
