package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// TestSameUpstream runs two Caddys side by side, which have the same upstreams in another order, each
// for relay and for reverse_proxy. All four choose the same one for a client, a field, a target and a
// cookie of reverse_proxy. When one upstream goes, its keys alone move, and all four move them alike.
func TestSameUpstream(t *testing.T) {
	const upstreams, keys = 5, 20
	var backends []*downable
	var addresses []string
	for range upstreams {
		d := &downable{t: t, address: freeport.Address(t)}
		d.serve = answering(d.address)
		d.up()
		backends, addresses = append(backends, d), append(addresses, d.address)
	}
	policies := []struct{ name, policy string }{
		{"ip", "ip_hash"}, {"field", "header X-Tenant"}, {"host", "header Host"}, {"target", "uri_hash"}, {"cookie", "cookie lb secret"},
	}
	type instance struct{ relay, site string }
	var instances []instance
	for range 2 {
		in := instance{freeport.Address(t), freeport.Address(t)}
		instances = append(instances, in)
		_, port, _ := net.SplitHostPort(in.site)
		var routes, proxies strings.Builder
		for _, p := range policies {
			options := strings.Join(addresses, " ") + " {\n lb_policy " + p.policy + "\n fail_duration 1h\n lb_try_duration 10s\n lb_try_interval 20ms\n }\n"
			fmt.Fprintf(&routes, "@%s http_request path /%[1]s*\n route @%[1]s {\n relay %s }\n", p.name, options)
			fmt.Fprintf(&proxies, "reverse_proxy /%s* %s", p.name, options)
		}
		startProcess(t, "{\n admin off\n"+strings.TrimPrefix(layer4Caddyfile(in.relay, routes.String()), "{")+"\nhttp://:"+port+" {\n bind 127.0.0.1\n "+proxies.String()+"}\n")
		slices.Reverse(addresses)
	}

	// ask returns who answers a request, and the cookie that comes with the answer.
	ask := func(from, address, request string) (name, cookie string) {
		t.Helper()
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := dialer.DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Skip("several clients need several loopback addresses: ", err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, request)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%q: %v", request, err)
		}
		defer resp.Body.Close()
		content, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%q: %s %q", request, resp.Status, content)
		}
		cookie, _, _ = strings.Cut(resp.Header.Get("Set-Cookie"), ";")
		return string(content), cookie
	}
	// key is a client, and a request of it, which all instances are to send to the same upstream.
	type key struct{ name, from, request string }
	var all []key
	for i := range keys {
		get := func(path, host, fields string) string {
			return "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\n" + fields + "Connection: close\r\n\r\n"
		}
		all = append(all,
			key{"ip", fmt.Sprint("127.0.0.", 2+i), get("/ip", "a.example.org", "")},
			key{"field", "127.0.0.1", get("/field", "a.example.org", fmt.Sprintf("X-Tenant: %d\r\n", i))},
			key{"host", "127.0.0.1", get("/host", fmt.Sprintf("%d.example.org", i), "")},
			key{"target", "127.0.0.1", get(fmt.Sprintf("/target/%d?a=%%20", i), "a.example.org", "")})
		_, cookie := ask("127.0.0.1", instances[i%2].site, get("/cookie", "a.example.org", ""))
		if !strings.HasPrefix(cookie, "lb=") {
			t.Fatalf("reverse_proxy has set the cookie %q", cookie)
		}
		all = append(all, key{"cookie", "127.0.0.1", get("/cookie", "a.example.org", "Cookie: "+cookie+"\r\n")})
	}
	// answers returns who gets each key, on which all agree.
	answers := func() (got []string) {
		t.Helper()
		for _, k := range all {
			want, _ := ask(k.from, instances[0].relay, k.request)
			for n, in := range instances {
				name, _ := ask(k.from, in.relay, k.request)
				if name != want {
					t.Errorf("%s: the relay of the first Caddy chooses %s, that of Caddy %d %s; %q", k.name, want, n, name, k.request)
				}
				// Of a cookie whose upstream is gone, reverse_proxy makes another one.
				if name, cookie := ask(k.from, in.site, k.request); name != want && cookie == "" {
					t.Errorf("%s: relay chooses %s, reverse_proxy of Caddy %d %s; %q", k.name, want, n, name, k.request)
				}
			}
			got = append(got, want)
		}
		return got
	}

	before := answers()
	used := make(map[string]bool)
	for i, k := range all {
		used[k.name+before[i]] = true
	}
	for _, p := range policies {
		n := 0
		for _, address := range addresses {
			if used[p.name+address] {
				n++
			}
		}
		if n < 3 { // of five, for twenty keys
			t.Errorf("%s: %d upstreams are used", p.name, n)
		}
	}

	gone := backends[0]
	gone.down()
	moved := 0
	for i, now := range answers() {
		switch {
		case before[i] == gone.address:
			moved++
		case now != before[i]:
			t.Errorf("%s: moves from %s to %s, though %s is gone; %q", all[i].name, before[i], now, gone.address, all[i].request)
		}
		if now == gone.address {
			t.Errorf("%s is gone, and answers", now)
		}
	}
	if moved == 0 {
		t.Error("the upstream that is gone had no keys")
	}
}
