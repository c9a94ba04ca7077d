package streamprox

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
)

// explainFor explains what a Caddyfile makes of a question.
func explainFor(t *testing.T, caddyfile string, question explainRequest) (*explanation, error) {
	t.Helper()
	apps, err := adaptConfig(caddyfile)
	if err != nil {
		t.Fatalf("%v\n%s", err, caddyfile)
	}
	var answer *explanation
	whileProvisioned(t, apps, func(ctx caddy.Context) { answer, err = explainLimited(ctx, &question) })
	return answer, err
}

// whileProvisioned calls f with a configuration of the apps, which is cleaned up then.
func whileProvisioned(t *testing.T, apps string, f func(caddy.Context)) {
	t.Helper()
	defer func() { probe = nil }()
	probe = func(ctx caddy.Context) {
		for _, app := range []string{"layer4", "http"} {
			if _, err := ctx.AppIfConfigured(app); err != nil && !errors.Is(err, caddy.ErrNotConfigured) {
				t.Errorf("%s: %v", app, err)
				return
			}
		}
		f(ctx)
	}
	apps = strings.TrimSuffix(strings.TrimSpace(apps), "}") + `,"streamprox_config_probe":{}}`
	if err := caddy.Validate(configOf(t, apps, "WARN")); err != nil {
		t.Error(err)
	}
}

// destination returns a destination in one line.
func (d explainedDestination) destination() string {
	parts := []string{d.Kind}
	for _, part := range []string{d.Handler, d.Server, d.Listener, d.Address} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if d.Status != 0 {
		parts = append(parts, fmt.Sprint(d.Status))
	}
	return strings.Join(parts, " ")
}

const explainedGET = "GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n"

// TestExplainText holds the text of an explanation that has something of everything.
func TestExplainText(t *testing.T) {
	const config = `{
	layer4 {
		:8080 {
			@pg postgres
			route @pg {
				proxy 127.0.0.1:5432
			}
			route {
				inspect {
					@chat {
						http_request path /chat/*
						remote_ip 10.0.0.0/8
					}
					@admin http_request host admin.example
					route @chat @admin {
						relay 127.0.0.1:9001
					}
					@ssh inspected silent other
					route @ssh {
						relay 127.0.0.1:22
					}
					route {
						rewrite_head {
							header X-From {l4.conn.remote_addr}
						}
						relay 127.0.0.1:9002 127.0.0.1:9003 {
							lb_policy first
						}
					}
				}
			}
		}
	}
}`
	tests := []struct{ name, sent, want string }{
		{"a request", explainedGET, `
:8080, server srv0 of layer4, 36 bytes from 10.0.0.9:4000
route 0: no
  postgres {}: no
route 1: taken
  > inspect
    outcome http: "GET" "/x" HTTP/1.1, host "a.example"
    route chat admin: no
      http_request [{"path":["/chat/*"]}]: no
      remote_ip {"ranges":["10.0.0.0/8"]}: not asked
      or
      http_request [{"host":["admin.example"]}]: no
    route ssh: no
      the outcome is another one
      inspected ["silent","other"]: no
    route 2: taken
      > rewrite_head: the request is GET /x of a.example now
      > relay

to 127.0.0.1:9002
policy first
  upstream 127.0.0.1:9002: 0 streams, tried first
  upstream 127.0.0.1:9003: 0 streams
it gets 59 bytes:
  "GET /x HTTP/1.1\r\n"
  "Host: a.example\r\n"
  "X-From: 10.0.0.9:4000\r\n"
  "\r\n"
next request: routed: after the response
`},
		{"half of one", "GET / HT", `
:8080, server srv0 of layer4, 8 bytes from 10.0.0.9:4000
route 0: no
  postgres {}: no
route 1: taken
  > inspect
    outcome timeout: the head is not complete, if nothing comes within 10s
    route chat admin: no
      only a set that names this outcome with inspected gets it
      http_request [{"path":["/chat/*"]}]: not asked
      remote_ip {"ranges":["10.0.0.0/8"]}: not asked
      or
      only a set that names this outcome with inspected gets it
      http_request [{"host":["admin.example"]}]: not asked
    route ssh: no
      the outcome is another one
      inspected ["silent","other"]: no
    route 2: no: without matchers a route takes http but for CONNECT, and tls

answered with 408: no route takes the outcome timeout
more bytes would decide: this is what happens if none come
next request: closed: the connection ends with the answer
`},
		{"two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: \x1b]0;b\r\n\r\n", `
:8080, server srv0 of layer4, 40 bytes from 10.0.0.9:4000
route 0: no
  postgres {}: no
route 1: taken
  > inspect
    outcome malformed: invalid byte in a field value (RFC 9110 section 5.5)
    route chat admin: no
      only a set that names this outcome with inspected gets it
      http_request [{"path":["/chat/*"]}]: not asked
      remote_ip {"ranges":["10.0.0.0/8"]}: not asked
      or
      only a set that names this outcome with inspected gets it
      http_request [{"host":["admin.example"]}]: not asked
    route ssh: no
      the outcome is another one
      inspected ["silent","other"]: no
    route 2: no: without matchers a route takes http but for CONNECT, and tls

answered with 400: no route takes the outcome malformed
next request: closed: the connection ends with the answer
`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			answer, err := explainFor(t, config, explainRequest{Client: "10.0.0.9:4000", Text: test.sent})
			if err != nil {
				t.Fatal(err)
			}
			if got := "\n" + answer.text(); got != test.want {
				t.Errorf("got%s\nwant%s", got, test.want)
			}
		})
	}
}

// TestExplainDestinations checks where bytes go by handlers of caddy-l4, and by handlers that
// are not inside inspect.
func TestExplainDestinations(t *testing.T) {
	const (
		clientHello = "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"
		next        = "relay 127.0.0.1:9"
		site        = "http:// {\n bind streamprox/web\n respond x\n}\n"
		tlsSite     = "https://a.example {\n bind streamprox/web\n tls internal\n respond x\n}\n"
	)
	wrapper := func(layer4, tls string) string {
		return "{\n skip_install_trust\n local_certs\n servers :8443 {\n protocols h1\n listener_wrappers {\n layer4 {\n" + layer4 + "\n}\n" + tls + "\n}\n}\n}\nhttps://a.example:8443 {\n respond x\n}\n"
	}
	inspect := func(routes string) string { return "route {\n inspect {\n" + routes + "\n}\n}" }
	server := func(routes string) string { return "{\n layer4 {\n :8080 {\n" + routes + "\n}\n}\n}\n" }
	beside := func(handler string) string {
		return "{\n layer4 {\n :8079 {\n route {\n" + next + "\n}\n}\n:8080 {\n route {\n" + handler + "\n}\n}\n}\n}\n"
	}
	tests := []struct {
		name, config, sent string
		end                bool
		want, next         string
		sends              string // "": all
		more               bool
	}{
		{"proxy", beside("proxy 127.0.0.1:9"), explainedGET, false, "handler proxy", "pinned", "", false},
		{"close", beside("close"), explainedGET, false, "closed", "closed", "-", false},
		{"relay alone", inRoute(next), explainedGET, false, "relay 127.0.0.1:9", "pinned", "", false},
		{"vars", inRoute("vars to 9\n relay 127.0.0.1:{l4.vars.to} {\n dial_allow 127.0.0.1\n}"), explainedGET, false, "relay 127.0.0.1:9", "pinned", "", false},
		{"throttle", server(inspect("route {\n throttle {\n read_bytes_per_second 1\n read_burst_size 1\n latency 1h\n}\n" + next + "\n}")), explainedGET, false, "relay 127.0.0.1:9", "routed", "", false},
		{"tee", server("route {\n tee {\n echo\n }\n}\n" + inspect("route {\n"+next+"\n}")), explainedGET, false, "relay 127.0.0.1:9", "routed", "", false},
		{"tls, what is inside", inRoute("tls\n inspect {\n @s http_request protocol https\n route @s {\n" + next + "\n}\n}"), explainedGET, false, "relay 127.0.0.1:9", "routed", "", false},
		{"tls, a ClientHello", inRoute("tls\n inspect {\n route {\n" + next + "\n}\n}"), clientHello, false, "handler tls", "pinned", "-", false},
		{"a wrapper behind TLS", wrapper(inspect("@s http_request protocol https\n route @s {\n http_app\n}\n route {\n"+next+"\n}"), ""), explainedGET, false, "http_app srv0 :8443", "routed", "", false},
		{"a wrapper before TLS", wrapper(inspect("@s http_request protocol http\n route @s {\n"+next+"\n}\nroute {\n http_app\n}"), "tls"), explainedGET, false, "relay 127.0.0.1:9", "closed", "GET /x HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n", false},
		{"TLS in a wrapper before TLS", wrapper(inspect("route {\n http_app\n}"), "tls"), clientHello, false, "http_app srv0 :8443", "pinned", "", false},
		{"other, in a wrapper", wrapper(inspect("route {\n http_app\n}"), ""), "SSH-2.0-x\r\n", false, "answer 400", "closed", "-", false},
		{"http_app with TLS", inRoute("http_app web") + tlsSite, clientHello, false, "http_app srv0 streamprox/web:443", "pinned", "", false},
		{"http_app without TLS", inRoute("http_app web") + site, explainedGET, false, "http_app srv0 streamprox/web:80", "pinned", "", false},
		{"http_app, no such kind", inRoute("http_app web") + site, clientHello, false, "closed", "closed", "-", false},
		{"http_app, no such name", inRoute("http_app nobody") + site, explainedGET, false, "answer 503", "closed", "-", false},
		{"http_app waits", inRoute("http_app web") + site, "", false, "closed", "closed", "-", true},
		{"http_app closes", inRoute("inspect {\n route {\n http_app web {\n reuse close\n}\n}\n}") + site, explainedGET, false, "http_app srv0 streamprox/web:80", "closed", "GET /x HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n", false},
		{"http_app, pipelined", inRoute("inspect {\n route {\n http_app web\n}\n}") + site, explainedGET + explainedGET, false, "http_app srv0 streamprox/web:80", "routed", explainedGET, false},
		{"http_app, HTTP/1.0", inRoute("inspect {\n route {\n http_app web\n}\n}") + site, "GET / HTTP/1.0\r\n\r\n", false, "http_app srv0 streamprox/web:80", "closed", "", false},
		{"a matcher of layer4 waits", server("@ssh ssh\n route @ssh {\n" + next + "\n}"), "SS", false, "closed", "closed", "-", true},
		{"a matcher of layer4, and the end", server("@ssh ssh\n route @ssh {\n" + next + "\n}"), "SS", true, "closed", "closed", "-", false},
		{"a route after one that waits", server("@ssh ssh\n route @ssh {\n close\n}\n@ip remote_ip 192.0.2.0/24\n route @ip {\n" + next + "\n}"), "SSx", false, "relay 127.0.0.1:9", "pinned", "", false},
		{"no route of layer4", server("@ssh ssh\n route @ssh {\n " + next + "\n}"), explainedGET, false, "closed", "closed", "-", false},
		{"rewrite_head without a head", inRoute("rewrite_head {\n host b\n}\n" + next), explainedGET, false, "closed", "closed", "-", false},
		{"rewrite_head that breaks it", inRoute("inspect {\n route {\n rewrite_head {\n host {l4.vars.none}\n}\n" + next + "\n}\n}"), explainedGET, false, "answer 400", "closed", "-", false},
		{"http_respond without a request", inRoute("inspect {\n @o inspected other\n route @o {\n http_respond 404\n}\n}"), "x y\r\n", false, "closed", "closed", "-", false},
		{"an upgrade", inRoute("inspect {\n route {\n" + next + "\n}\n}"), "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", false, "relay 127.0.0.1:9", "pinned", "", false},
		{"a broken body", inRoute("inspect {\n route {\n" + next + "\n}\n}"), "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", false, "relay 127.0.0.1:9", "routed", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			listen := ":8080"
			if strings.Contains(test.config, ":8443") {
				listen = ":8443"
			}
			answer, err := explainFor(t, test.config, explainRequest{Listen: listen, Text: test.sent, End: test.end})
			if err != nil {
				t.Fatal(err)
			}
			d := answer.Destination
			if d.destination() != test.want || answer.Next.Fate != test.next || answer.NeedsMore != test.more {
				t.Errorf("got %s (%s), next request %s, needs more %v; want %s, %s, %v\n%s",
					d.destination(), d.Why, answer.Next.Fate, answer.NeedsMore, test.want, test.next, test.more, answer.text())
			}
			want := test.sends
			switch want {
			case "":
				want = test.sent
			case "-":
				want = ""
			}
			if string(d.Sent) != want {
				t.Errorf("it gets %q, want %q", d.Sent, want)
			}
		})
	}
}

// TestExplainPlaces checks that each handler is found where it stands, in however many
// servers, which Caddy provisions in an order of chance.
func TestExplainPlaces(t *testing.T) {
	var servers strings.Builder
	const number = 8
	for i := range number {
		fmt.Fprintf(&servers, ":%d {\n route {\n subroute {\n @a http_request path /a\n route @a {\n relay 127.0.0.1:9 {\n dial_timeout %ds\n}\n}\n"+
			"route {\n inspect {\n route {\n subroute {\n route {\n relay 127.0.0.1:9 {\n dial_timeout %ds\n}\n}\n}\n}\n}\n}\n}\n}\n}\n", 8001+i, 10+i, 50+i)
	}
	apps, err := adaptConfig("{\n layer4 {\n" + servers.String() + "}\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	whileProvisioned(t, apps, func(ctx caddy.Context) {
		for i := range number {
			listener, err := findListener(ctx, fmt.Sprint(":", 8001+i))
			if err != nil {
				t.Fatal(err)
			}
			if !listener.routes.known() || len(listener.routes.own) != 3 {
				t.Fatalf("server %s: the places are not known: %+v", listener.Server, listener.routes)
			}
			for own, want := range map[int]int{0: 10 + i, 2: 50 + i} {
				relay, ok := listener.routes.own[own].live.(*Relay)
				if !ok || time.Duration(*relay.DialTimeout) != time.Duration(want)*time.Second {
					t.Errorf("server %s, handler %d: got %+v, want the one with dial_timeout %ds", listener.Server, own, relay, want)
				}
			}
		}
	})
}

func init() { caddy.RegisterModule(new(nestingHandler)) }

// nestingHandler is a handler of another plugin that holds handlers.
type nestingHandler struct {
	Raw []json.RawMessage `json:"inside" caddy:"namespace=layer4.handlers inline_key=handler"`
}

func (*nestingHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.streamprox_nesting_test", New: func() caddy.Module { return new(nestingHandler) }}
}

func (h *nestingHandler) Provision(ctx caddy.Context) error {
	_, err := ctx.LoadModule(h, "Raw")
	return err
}

func (*nestingHandler) Handle(*layer4.Connection, layer4.Handler) error { return nil }

// TestExplainWithoutPlaces checks that nothing is made up where a handler of another plugin
// holds handlers of this one.
func TestExplainWithoutPlaces(t *testing.T) {
	const relay = `{"handler":"relay","upstreams":[{"dial":["127.0.0.1:9"]}]}`
	for name, handlers := range map[string]string{
		"before": `{"handler":"streamprox_nesting_test","inside":[` + relay + `]},` + relay,
		"after":  relay + `,{"handler":"streamprox_nesting_test","inside":[` + relay + `]}`,
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			whileProvisioned(t, "{"+inServer(handlers)+"}", func(ctx caddy.Context) {
				_, err = explainLimited(ctx, &explainRequest{Text: "x"})
			})
			var known *explainError
			if !errors.As(err, &known) || known.Status != 501 {
				t.Errorf("got %v, want status 501", err)
			}
		})
	}
}

// TestExplainLimits checks how many explanations there may be at once, and for how long.
func TestExplainLimits(t *testing.T) {
	release := make(chan struct{})
	for range explainAtOnce {
		_, err := limited(time.Nanosecond, func() (any, error) {
			<-release
			return nil, nil
		})
		checkStatus(t, err, 504)
	}
	free := func() error {
		_, err := limited(time.Hour, func() (any, error) { return nil, nil })
		return err
	}
	checkStatus(t, free(), 429)
	close(release)
	deadline := time.Now().Add(20 * time.Second)
	for free() != nil {
		if time.Now().After(deadline) {
			t.Fatal("the places are not free again")
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := limited(time.Hour, func() (any, error) { panic("a module") }); err == nil || !strings.Contains(err.Error(), "a module") {
		t.Errorf("got %v, want what the module panicked with", err)
	}
}

func checkStatus(t *testing.T, err error, want int) {
	t.Helper()
	var known *explainError
	if !errors.As(err, &known) || known.Status != want {
		t.Errorf("got %v, want status %d", err, want)
	}
}

// TestExplainListeners checks what an address or a name finds.
func TestExplainListeners(t *testing.T) {
	config := func(listen ...string) string {
		var b strings.Builder
		for _, l := range listen {
			b.WriteString(l + " {\n route {\n relay 127.0.0.1:9\n}\n}\n")
		}
		return "{\n layer4 {\n" + b.String() + "}\n}\n"
	}
	tests := []struct {
		name, config, listen string
		want                 string // the address and the server, or a part of the error
	}{
		{"the only one", config(":8080"), "", ":8080 srv0"},
		{"as configured", config(":8080", ":8081"), ":8081", ":8081 srv1"},
		{"by name", config(":8080", ":8081"), "srv1", ":8081 srv1"},
		{"an address of all", config(":8080", ":8081"), "192.0.2.1:8080", ":8080 srv0"},
		{"the port alone", config("127.0.0.1:8080", ":8081"), ":8080", "127.0.0.1:8080 srv0"},
		{"all is all", config("0.0.0.0:8080", "127.0.0.2:8081"), ":8080", "0.0.0.0:8080 srv0"},
		{"one of a range", config(":8080-8082"), ":8081", ":8081 srv0"},
		{"one of two addresses of a server", config(":8080 :8081"), "srv0", ":8080 srv0"},
		{"exact before all", config(":8080", "127.0.0.1:8081"), "127.0.0.1:8081", "127.0.0.1:8081 srv1"},
		{"a Unix socket", config("unix//run/x.sock"), "unix//run/x.sock", "unix//run/x.sock srv0"},
		{"which", config(":8080", ":8081"), "", "listen: name one of"},
		{"which of two hosts", config("127.0.0.1:8080", "127.0.0.2:8080"), ":8080", "listen: name one of"},
		{"none", config(":8080"), ":9", "there are :8080 (server srv0 of layer4)"},
		{"another network", config(":8080"), "udp/:8080", "listen: nothing"},
		{"nothing of this package", "{\n layer4 {\n :8080 {\n route {\n echo\n}\n}\n}\n}\n", "", "no server of the configuration"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			answer, err := explainFor(t, test.config, explainRequest{Listen: test.listen})
			got := ""
			if err != nil {
				got = err.Error()
			} else {
				got = answer.Listener.Address + " " + answer.Listener.Server
			}
			if !strings.Contains(got, test.want) {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// TestInert checks what is left out of a configuration that is only asked.
func TestInert(t *testing.T) {
	config, err := inert(json.RawMessage(`{"@id":"x","logging":{"logs":{"default":{"writer":{"output":"file","filename":"/nowhere"}}}},"storage":{"module":"none"},
		"admin":{"listen":":1"},"apps":{"layer4":{"servers":{"a":{"routes":[{"handle":[
			{"handler":"relay","health_checks":{"active":{"interval":"1s"},"passive":{"max_fails":2}}}]}]}}}}}`), "/home")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(config.AppsRaw["layer4"]); strings.Contains(got, "active") || !strings.Contains(got, `"max_fails":2`) {
		t.Errorf("got %s, want it without active checks", got)
	}
	if got := string(config.StorageRaw); !strings.Contains(got, "/home") {
		t.Errorf("got storage %s", got)
	}
	if !config.Admin.Disabled || config.Logging.Logs["default"].WriterRaw != nil {
		t.Errorf("got admin %+v, logging %+v", config.Admin, config.Logging.Logs["default"])
	}
	if _, err := inert(json.RawMessage(`[]`), "/home"); err == nil {
		t.Error("a list is taken for a configuration")
	}
}
