package integration

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"

	"github.com/streamprox/caddy-streamprox/internal/browsertest"
	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// operation is something that the page does: a WebSocket conversation if it has
// messages, otherwise a request.
type operation struct {
	Path     string   `json:"path"`
	Method   string   `json:"method"`
	Body     *string  `json:"body"` // GET has none
	Messages []string `json:"messages"`
}

// performJS runs the operations of one step in parallel, the steps one after the other,
// and returns the outcome of each by its path.
const performJS = `async (steps) => {
	const ask = async ({ path, method, body }) => {
		const response = await fetch(path, { method, body, cache: "no-store" });
		const text = await response.text();
		if (!response.ok) throw new Error("status " + response.status + ": " + text);
		return text;
	};
	const converse = ({ path, messages }) => new Promise((resolve, reject) => {
		const socket = new WebSocket(location.origin.replace("http", "ws") + path);
		const answers = [];
		socket.onopen = () => socket.send(messages[0]);
		socket.onmessage = ({ data }) => {
			answers.push(data);
			if (answers.length < messages.length) socket.send(messages[answers.length]);
			else socket.close(1000);
		};
		socket.onclose = ({ code }) => {
			if (code === 1000) resolve(answers.join("\n"));
			else reject(new Error("closed with " + code + " after " + answers.length + " answers"));
		};
	});
	const outcomes = {};
	for (const step of steps) {
		await Promise.all(step.map(async (operation) => {
			try {
				outcomes[operation.path] = { text: await (operation.messages ? converse : ask)(operation) };
			} catch (error) {
				outcomes[operation.path] = { failure: String(error) };
			}
		}));
	}
	return outcomes;
}`

// outcome is what the page got.
type outcome struct{ Text, Failure string }

// destinations are where requests end, by the first segment of their path. The three
// servers are not part of Caddy; site and other are sites, in the HTTP app.
var destinations = map[string]string{
	"api":    "api",
	"ws":     "ws",
	"sitews": "sitews", // through the site, which proxies it
	"static": "site",
	"other":  "other",
}

// operations returns steps of operations, the same ones for the same seed.
func operations(seed uint64, total int) [][]operation {
	random := rand.New(rand.NewPCG(seed, 0))
	kinds := []string{"api", "static", "other", "ws", "sitews"}
	var steps [][]operation
	for n := 0; n < total; {
		parallel := 1
		if random.IntN(2) == 0 {
			parallel += random.IntN(8) // more than the six connections that a browser opens
		}
		var step []operation
		for ; parallel > 0 && n < total; parallel-- {
			kind, nonce := kinds[random.IntN(len(kinds))], fmt.Sprintf("%016x", random.Uint64())
			o := operation{Path: fmt.Sprintf("/%s/%d-%s", kind, n, nonce), Method: "GET"}
			content := strings.Repeat(nonce, []int{0, 1, 100, 2000}[random.IntN(4)])
			switch {
			case strings.HasSuffix(kind, "ws"):
				o.Messages = []string{nonce, content, "the last of " + nonce}
			case random.IntN(3) == 0:
				o.Method, o.Body = "POST", &content
			}
			step = append(step, o)
			n++
		}
		steps = append(steps, step)
	}
	return steps
}

// destination returns where the operation has to go.
func (o operation) destination() string {
	return destinations[strings.Split(o.Path, "/")[1]]
}

// text returns what the page has to get.
func (o operation) text() string {
	if o.Messages == nil {
		body := ""
		if o.Body != nil {
			body = *o.Body
		}
		return answer(o.destination(), o.Method, o.Path, body)
	}
	var answers []string
	for _, message := range o.Messages {
		answers = append(answers, answer(o.destination(), "message", o.Path, message))
	}
	return strings.Join(answers, "\n")
}

func answer(destination, method, path, content string) string {
	return fmt.Sprintf("%s %s %s %s", destination, method, path, content)
}

// record is where requests have been seen, by path.
type record struct {
	mu   sync.Mutex
	seen map[string][]string
}

func (r *record) add(path, destination string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[path] = append(r.seen[path], destination)
}

// server runs an HTTP and WebSocket server that records whatever comes, until the test
// ends, and returns its address.
func (r *record) server(t *testing.T, name string) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.add(req.URL.Path, name)
		if req.Header.Get("Upgrade") == "" {
			body, _ := io.ReadAll(req.Body)
			_, _ = io.WriteString(w, answer(name, req.Method, req.URL.Path, string(body)))
			return
		}
		conn, err := websocket.Accept(w, req, nil)
		if err != nil {
			return // answered, which the page reports
		}
		defer conn.CloseNow()
		conn.SetReadLimit(1 << 20)
		for {
			kind, message, err := conn.Read(req.Context())
			if err != nil {
				return
			}
			if conn.Write(req.Context(), kind, []byte(answer(name, "message", req.URL.Path, string(message)))) != nil {
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// A browser keeps its connections and sends on each whatever comes next. However its
// requests and WebSockets to a site and to servers on the same origin follow one another,
// each gets to the destination that its path names, and to no other.
func TestBrowser(t *testing.T) {
	chromium := browsertest.Find(t)

	// site answers as the recording servers do. Its access log is its record, without
	// the WebSockets, which are recorded where it proxies them to.
	site := func(name, more string) string {
		return `
			log
			log_append destination ` + name + `
			` + more + `
			handle / {
				header Content-Type text/html
				respond "<!doctype html><title>browser</title><link rel=icon href=data:,>"
			}
			handle {
				respond "` + name + ` {http.request.method} {http.request.uri} {http.request.body}"
			}`
	}
	other := `
	http://:` + freeport.Get(t) + ` {
		bind streamprox/other
		` + site("other", "") + `
	}`

	for _, test := range []struct {
		name   string
		secure bool
		// config returns the Caddyfile that serves address with the given routes
		// of inspect, and the site.
		config func(address, port, routes, site string) string
	}{
		{"layer4 owns the port", false, func(address, port, routes, site string) string {
			return `{
				layer4 {
					` + address + ` {
						route {
							inspect {
								` + routes + `
								route {
									http_app web
								}
							}
						}
					}
				}
			}
			http://:80 {
				bind streamprox/web
				` + site + `
			}` + other
		}},
		{"the HTTP app owns the port", false, func(address, port, routes, site string) string {
			return `{
				servers ` + address + ` {
					listener_wrappers {
						layer4 {
							route {
								inspect {
									` + routes + `
									route {
										http_app
									}
								}
							}
						}
					}
				}
			}
			http://:` + port + ` {
				bind 127.0.0.1
				` + site + `
			}` + other
		}},
		{"layer4 terminates TLS", true, func(address, port, routes, site string) string {
			httpPort := freeport.Get(t)
			return `{
				http_port ` + httpPort + `
				local_certs
				skip_install_trust
				layer4 {
					` + address + ` {
						route {
							tls {
								connection_policy {
									alpn http/1.1
								}
							}
							inspect {
								` + routes + `
								route {
									http_app web:` + httpPort + `
								}
							}
						}
					}
				}
			}
			http://localhost {
				bind streamprox/web
				` + site + `
			}
			https://localhost:` + freeport.Get(t) + ` {
				bind streamprox/certificates
				respond certificates
			}` + other
		}},
		{"the HTTP app owns the port, with TLS", true, func(address, port, routes, site string) string {
			return `{
				http_port ` + freeport.Get(t) + `
				https_port ` + port + `
				local_certs
				skip_install_trust
				servers ` + address + ` {
					protocols h1
					listener_wrappers {
						layer4 {
							route {
								inspect {
									` + routes + `
									route {
										http_app
									}
								}
							}
						}
					}
				}
			}
			https://localhost {
				bind 127.0.0.1
				` + site + `
			}` + other
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			requests := &record{seen: make(map[string][]string)}
			routes := `
				@api http_request path /api/*
				route @api {
					relay ` + requests.server(t, "api") + `
				}
				@ws http_request path /ws/*
				route @ws {
					relay ` + requests.server(t, "ws") + `
				}
				@other http_request path /other/*
				route @other {
					http_app other
				}`
			address := freeport.Address(t)
			_, port, _ := net.SplitHostPort(address)
			s := start(t, test.config(address, port, routes, site("site", `
				log_skip /sitews/*
				handle /sitews/* {
					reverse_proxy `+requests.server(t, "sitews")+`
				}`)))
			origin := "http://localhost:" + port
			if test.secure {
				origin = "https://localhost:" + port
				eventually(t, "certificate", func() bool {
					conn, err := tls.Dial("tcp", address, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
					if err == nil {
						conn.Close()
					}
					return err == nil
				})
			}

			const seed, total = 2012, 300
			steps := operations(seed, total)
			plan, err := json.Marshal(steps)
			if err != nil {
				t.Fatal(err)
			}
			page, browser := browsertest.Start(t, chromium, 5*patience, chromedp.Flag("ignore-certificate-errors", true))
			if err := chromedp.Do(page, chromedp.Navigate(origin+"/")); err != nil {
				t.Fatalf("opening the page: %v\n%s", err, theLogs.problems())
			}
			outcomes, err := chromedp.Run(page, chromedp.Evaluate[map[string]outcome](
				fmt.Sprintf("(%s)(%s)", performJS, plan), chromedp.EvalAwaitPromise))
			if err != nil {
				t.Fatalf("what the page does: %v\n%s", err, theLogs.problems())
			}
			if got := browser.Complaints(); len(got) > 0 {
				t.Errorf("the console complains: %.500q", got)
			}

			// Once Caddy has stopped, every request is recorded.
			browser.Close()
			if err := caddy.Stop(); err != nil {
				t.Errorf("stopping Caddy: %v", err)
			}
			logged, connections := s.logs.lines(map[string]any{"msg": "handled request"}), make(map[any]bool)
			for _, line := range logged {
				request := line["request"].(map[string]any)
				requests.add(request["uri"].(string), fmt.Sprint(line["destination"]))
				connections[request["remote_port"]] = true
			}
			if len(connections) == len(logged) {
				t.Error("no connection to the HTTP app was kept for a second request: this proves nothing")
			}

			want := map[string]string{"/": "site"}
			var failed, wrong, misled []string
			for _, o := range slices.Concat(steps...) {
				want[o.Path] = o.destination()
				got := outcomes[o.Path]
				switch {
				case got.Text == o.text():
				case got.Text == "":
					failed = append(failed, fmt.Sprintf("%s %s: %.200s", o.Method, o.Path, got.Failure))
				default:
					wrong = append(wrong, fmt.Sprintf("%s %s: got %.200q, want %.200q", o.Method, o.Path, got.Text, o.text()))
				}
			}
			for path, destination := range want {
				if got := requests.seen[path]; !slices.Equal(got, []string{destination}) {
					misled = append(misled, fmt.Sprintf("%s: got %q, want %q once", path, got, destination))
				}
			}
			for path, got := range requests.seen {
				if want[path] == "" {
					misled = append(misled, fmt.Sprintf("%s: got %q, nobody asked for it", path, got))
				}
			}
			for what, found := range map[string][]string{"failed": failed, "with a wrong answer": wrong, "not at their destination alone": misled} {
				if len(found) > 0 {
					t.Errorf("of %d operations (seed %d) %d %s, such as\n%s", total, seed, len(found), what, strings.Join(found[:min(5, len(found))], "\n"))
				}
			}
		})
	}
}
