package docs

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/pires/go-proxyproto"
	"gopkg.in/yaml.v3"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// manifest is what this test reads of an object in contrib/kubernetes. contrib/check
// holds the objects to their schemas.
type manifest struct {
	Data struct {
		Caddyfile string `yaml:"Caddyfile"`
	}
	Spec struct {
		Template struct {
			Spec struct {
				Containers []struct {
					Ports []struct {
						Name string
						Port string `yaml:"containerPort"`
					}
					Readiness probe `yaml:"readinessProbe"`
					Liveness  probe `yaml:"livenessProbe"`
				}
			}
		}
	}
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

// TestKubernetes runs the Caddyfile of the manifest, asks what the probes ask, and
// connects as the balancer does.
func TestKubernetes(t *testing.T) {
	source, err := os.ReadFile("../contrib/kubernetes/streamprox.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var text string
	probes, ports := make(map[string]probe), make(map[string]string)
	for decoder := yaml.NewDecoder(strings.NewReader(strings.ReplaceAll(string(source), "\r\n", "\n"))); ; {
		var object manifest
		if err := decoder.Decode(&object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		text += object.Data.Caddyfile
		for _, container := range object.Spec.Template.Spec.Containers {
			probes["ready"], probes["live"] = container.Readiness, container.Liveness
			for _, port := range container.Ports {
				ports[port.Name] = port.Port
			}
		}
	}
	// What can be had here stands in for what is named there.
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "the site, for %s", r.Header.Get("X-Forwarded-For"))
	}))
	t.Cleanup(site.Close)
	chats := make([]string, 2)
	for i := range chats {
		chat := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "chat-%d", i)
		}))
		t.Cleanup(chat.Close)
		chats[i] = chat.Listener.Addr().String()
	}
	replace(t, &text, "chat-0.chat:9000 chat-1.chat:9000", chats[0]+" "+chats[1])
	if err := (&block{place: "manifest", language: "caddyfile", text: text}).check(); err != nil {
		t.Fatalf("the Caddyfile: %v", err)
	}
	plain, secure, probing := freeport.Get(t), freeport.Get(t), freeport.Get(t)
	for from, to := range map[string]string{
		"{\n\tgrace_period 30s\n": "{\n\tgrace_period 1s\n\tadmin off\n\tlocal_certs\n\tskip_install_trust\n" +
			"\thttp_port " + plain + "\n\thttps_port " + secure + "\n\tlog {\n\t\tlevel ERROR\n\t}\n",
		":" + ports["http"] + " :" + ports["https"] + " {": "127.0.0.1:" + plain + " 127.0.0.1:" + secure + " {",
		"streamprox/web:443 {":                             "streamprox/web:" + secure + " {",
		"allow 10.0.0.0/8":                                 "allow 127.0.0.1/32",
		"reverse_proxy web:80":                             "reverse_proxy " + site.Listener.Addr().String(),
		"http://:" + ports["probes"] + " {":                "http://:" + probing + " {\n\tbind 127.0.0.1",
	} {
		replace(t, &text, from, to)
	}
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err == nil {
		err = caddy.Load(config, true)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})

	// The kubelet takes any status from 200 to 399 for health.
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) string {
		t.Helper()
		resp, err := client.Get("http://127.0.0.1:" + probing + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return fmt.Sprintf("%d %s", resp.StatusCode, body)
	}
	for answer, probe := range probes {
		if got, want := get(probe.HTTPGet.Path), "200 "+answer; got != want || probe.HTTPGet.Port != "probes" {
			t.Errorf("%+v: got %q, want %q", probe.HTTPGet, got, want)
		}
	}
	if got, want := get("/"), "404 "; got != want || len(probes) != 2 {
		t.Errorf("another path: got %q, want %q", got, want)
	}

	// ask sends a request as a client of the balancer. Without an address of the client,
	// it leaves out the PROXY header.
	ask := func(from, path string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+secure)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if from != "" {
			header := proxyproto.HeaderProxyFromAddrs(2, &net.TCPAddr{IP: net.ParseIP(from), Port: 1000}, conn.RemoteAddr())
			if _, err := header.WriteTo(conn); err != nil {
				return "", err
			}
		}
		secured := tls.Client(conn, &tls.Config{ServerName: "example.com", InsecureSkipVerify: true})
		fmt.Fprintf(secured, "GET %s HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n", path)
		resp, err := http.ReadResponse(bufio.NewReader(secured), nil)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	var got string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got, err = ask("203.0.113.7", "/"); err == nil || !strings.Contains(err.Error(), "internal error") {
			break // else Caddy has no certificate yet
		}
	}
	if want := "the site, for 203.0.113.7"; err != nil || got != want {
		t.Errorf("the site: got %q, %v, want %q", got, err, want)
	}
	rooms := make(map[string]bool)
	for i := range 20 {
		room := fmt.Sprintf("/chat/%d", i)
		first, err := ask("203.0.113.7", room)
		if err != nil || !strings.HasPrefix(first, "chat-") {
			t.Fatalf("%s: got %q, %v", room, first, err)
		}
		rooms[first] = true
		if second, err := ask("203.0.113.8", room); second != first {
			t.Errorf("%s: %s for one client, %s (%v) for another", room, first, second, err)
		}
	}
	if len(rooms) != 2 {
		t.Errorf("all rooms are at %v", rooms)
	}
	if got, err := ask("", "/"); err == nil {
		t.Errorf("without a PROXY header: got %q, want the end", got)
	}
}

// replace replaces what the text holds once.
func replace(t *testing.T, text *string, from, to string) {
	t.Helper()
	if strings.Count(*text, from) != 1 {
		t.Fatalf("the Caddyfile does not hold %q once", from)
	}
	*text = strings.Replace(*text, from, to, 1)
}
