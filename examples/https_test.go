package examples

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/chromedp/chromedp"

	"github.com/streamprox/caddy-streamprox/internal/browsertest"
	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

func testHTTPS(t *testing.T) {
	plain, secure := freeport.Get(t), freeport.Get(t)
	t.Setenv("HTTP_PORT", plain)
	t.Setenv("HTTPS_PORT", secure)
	site := "https://localhost:" + secure + "/"

	t.Run("HTTPS", func(t *testing.T) {
		run(t, "https/Caddyfile")
		obtained(t, site)
		for _, test := range []struct {
			http2 bool
			proto string
		}{
			{true, "HTTP/2.0"},
			{false, "HTTP/1.1"},
		} {
			client, local := newTLSClient(t, test.http2)
			got := get(t, client, site)
			if want := fmt.Sprintf("The site, with %s. Your address is %s.\n", test.proto, *local); got.body != want {
				t.Errorf("%s: got %q, want %q", test.proto, got.body, want)
			}
			if got.altSvc != "" {
				t.Errorf("%s: got Alt-Svc %q, though nobody serves HTTP/3", test.proto, got.altSvc)
			}
		}

		client, _ := newClient(t)
		got := get(t, client, "http://localhost:"+plain+"/")
		if want := "https://localhost/"; got.status != http.StatusPermanentRedirect || got.location != want {
			t.Errorf("redirect: got %d to %q, want 308 to %q", got.status, got.location, want)
		}
	})

	t.Run("browser", func(t *testing.T) {
		chromium := browsertest.Find(t)
		run(t, "https/Caddyfile")
		obtained(t, site)
		page, browser := browsertest.Start(t, chromium, 5*patience, chromedp.Flag("ignore-certificate-errors", true))
		if err := chromedp.Do(page, chromedp.Navigate(site)); err != nil {
			t.Fatalf("opening the page: %v", err)
		}
		got, err := chromedp.Run(page, chromedp.Evaluate[string](`document.body.innerText`))
		if want := "The site, with HTTP/2.0. Your address is 127.0.0.1:"; err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
		browser.Close()
	})

	t.Run("SSH", func(t *testing.T) {
		server := startSSH(t)
		t.Setenv("SSH_PORT", server.port)
		run(t, "https/Caddyfile")
		server.test(t, secure)
		silent := dial(t, "127.0.0.1:"+secure)
		if got := readLine(t, silent); !strings.HasPrefix(got, "SSH-2.0-OpenSSH") {
			t.Errorf("a silent client got %q", got)
		}
		silent.Close()
	})
}

// newTLSClient returns a client as newClient does, which trusts only the certificates
// that this Caddy makes.
func newTLSClient(t *testing.T, http2 bool) (*http.Client, *string) {
	t.Helper()
	client, local := newClient(t)
	transport := client.Transport.(*http.Transport)
	transport.TLSClientConfig = &tls.Config{RootCAs: localAuthority(t)}
	transport.ForceAttemptHTTP2 = http2
	return client, local
}

// localAuthority returns the authority that local_certs signs with. A site has to have its
// certificate before.
func localAuthority(t *testing.T) *x509.CertPool {
	t.Helper()
	root, err := os.ReadFile(filepath.Join(caddy.AppDataDir(), "pki", "authorities", "local", "root.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(root) {
		t.Fatal("no certificate in root.crt")
	}
	return pool
}
