package integration

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// After a handler that consumes or decodes what inspect saw, http_request and an inner
// inspect answer for the bytes that come now, although caddy-l4 reads them into the same
// memory: also if there are exactly as many as before.
func TestWhatWasInspectedIsForgotten(t *testing.T) {
	admin, other := httpBackend(t, "admin"), httpBackend(t, "default")
	routes := `
		@admin http_request path /admin*
		route @admin {
			relay ` + admin + `
		}
		route {
			relay ` + other + `
		}
	}`
	for _, inner := range []string{"subroute {", "inspect {"} {
		t.Run(inner, func(t *testing.T) {
			t.Run("tls", func(t *testing.T) {
				secure := freeport.Address(t)
				start(t, `{
					local_certs
					skip_install_trust
					layer4 {
						`+secure+` {
							route {
								inspect {
									@tls inspected tls
									route @tls {
										tls
										`+inner+routes+`
									}
								}
							}
						}
					}
				}
				https://example.com:`+freeport.Get(t)+` {
					bind streamprox/certificates
					respond certificates
				}`)
				for _, long := range []int{0, 10} {
					config := tlsClient("http/1.1")
					for i := range long { // a ClientHello that does not fit in the first buffer
						config.NextProtos = append(config.NextProtos, strings.Repeat(string(rune('a'+i)), 250))
					}
					for _, more := range []int{-1, 0, 1} {
						var conn *tls.Conn
						var recorded *recordedConn
						eventually(t, "certificate", func() bool {
							recorded = &recordedConn{Conn: dial(t, secure)}
							conn = tls.Client(recorded, config)
							return conn.Handshake() == nil
						})
						request := padded(t, "GET /admin/1 HTTP/1.1", len(recorded.first)+more)
						if _, got := roundTrip(t, conn, request, 1<<20); got != "admin GET /admin/1 " {
							t.Errorf("%d long protocol names, a request of %d bytes more than the ClientHello: got %q, want the admin backend", long, more, got)
						}
					}
				}
			})

			t.Run("proxy_protocol", func(t *testing.T) {
				address := freeport.Address(t)
				start(t, layer4Caddyfile(address, `
					@proxied inspected other
					route @proxied {
						proxy_protocol {
							allow 127.0.0.0/8
						}
						`+inner+routes+`
					}
				`))
				const header = "PROXY TCP6 2001:db8:1111:2222:3333:4444:5555:6666 2001:db8:1111:2222:3333:4444:5555:7777 10000 20000\r\n"
				for _, more := range []int{-1, 0, 1} {
					conn := dial(t, address)
					send(t, conn, header, 1<<20)
					request := padded(t, "GET /admin/1 HTTP/1.1", len(header)+more)
					if _, got := roundTrip(t, conn, request, 1<<20); got != "admin GET /admin/1 " {
						t.Errorf("a request of %d bytes more than the header: got %q, want the admin backend", more, got)
					}
				}
			})
		})
	}
}

// In a subroute whose matchers have read on, what inspect found out still holds.
func TestInspectionHoldsInSubroutes(t *testing.T) {
	address := freeport.Address(t)
	start(t, layer4Caddyfile(address, `
		route {
			subroute {
				@sni {
					inspected tls
					tls sni example.com
				}
				route @sni {
					relay `+backend(t, echo("sni"))+`
				}
				route {
					relay `+backend(t, echo("default"))+`
				}
			}
		}
	`))
	hello := clientHello(t, "example.com")
	for range 5 {
		conn := dial(t, address)
		send(t, conn, hello, 100)
		if got, _ := bufio.NewReader(conn).ReadString('\n'); got != "sni\n" {
			t.Errorf("got %q, want the route for the name", got)
		}
	}
}

// A CONNECT request is matched by no set that does not name the method.
func TestConnectInSetsThatAreORed(t *testing.T) {
	address := freeport.Address(t)
	s := start(t, "{\n}")
	var apps any
	err := json.Unmarshal([]byte(`{"layer4":{"servers":{"a":{"listen":["`+address+`"],"routes":[{"handle":[{"handler":"inspect","routes":[{
		"match":[{"http_request":[
			{"method":["CONNECT"],"host":["allowed.example"]},
			{"header":{"X-Absent":null}},
			{"remote_ip":{"ranges":["127.0.0.0/8"]}}]}],
		"handle":[{"handler":"relay","reuse":"pin","upstreams":[{"dial":["`+backend(t, echo("tunnel"))+`"]}]}]}]}]}]}}}}`), &apps)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.loadConfig(map[string]any{"apps": apps}); err != nil {
		t.Fatal(err)
	}
	conn := dial(t, address)
	send(t, conn, "CONNECT evil.example:22 HTTP/1.1\r\nHost: evil.example:22\r\n\r\n", 1<<20)
	expectAnswer(t, conn, "501")
	for _, request := range []string{"CONNECT allowed.example:22 HTTP/1.1\r\nHost: allowed.example:22\r\n\r\n", getRoot} {
		conn = dial(t, address)
		send(t, conn, request, 1<<20)
		if got, _ := bufio.NewReader(conn).ReadString('\n'); got != "tunnel\n" {
			t.Errorf("%q: got %q, want the tunnel", request, got)
		}
	}
}

// Matchers that lean on a server, and the short placeholders of the Caddyfile.
func TestHTTPMatchersWithoutAServer(t *testing.T) {
	for _, matcher := range []string{
		"client_ip 127.0.0.0/8",
		"remote_ip 127.0.0.0/8",
		"expression `{method} == \"GET\"`",
		"expression `{http.request.method} == \"GET\"`",
		"vars {host} a",
		"path_regexp ^/$",
	} {
		t.Run(matcher, func(t *testing.T) {
			address := freeport.Address(t)
			s := start(t, layer4Caddyfile(address, `
				@it http_request `+matcher+`
				route @it {
					relay `+httpBackend(t, "matched")+`
				}
				route {
					relay `+httpBackend(t, "default")+`
				}
			`))
			if _, got := roundTrip(t, dial(t, address), getRoot, 1<<20); got != "matched GET / " {
				t.Errorf("got %q, want a match\n%s", got, s.logs.problems())
			}
		})
	}
}

// relay tells a TLS upstream the same name as proxy, also when it does not verify.
func TestServerNameWithoutVerification(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	certificates := server.TLS.Certificates
	server.Close()
	for _, handler := range []string{"proxy", "relay"} {
		t.Run(handler, func(t *testing.T) {
			names := make(chan string, 1)
			_, port, _ := net.SplitHostPort(backend(t, func(conn net.Conn) {
				tlsConn := tls.Server(conn, &tls.Config{Certificates: certificates, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
					names <- hello.ServerName
					return nil, nil
				}})
				echo("tls")(tlsConn)
			}))
			address := freeport.Address(t)
			start(t, relayCaddyfile(address, handler+" {\n upstream localhost:"+port+" {\n tls_insecure_skip_verify\n }\n }"))
			conn := dial(t, address)
			send(t, conn, getRoot, 1<<20)
			conn.CloseWrite()
			if got := <-names; got != "localhost" {
				t.Errorf("server name %q, want localhost", got)
			}
			_, _ = io.ReadAll(conn)
		})
	}
}

func TestMaxPacketsBehindProxyProtocol(t *testing.T) {
	address := freeport.Address(t)
	start(t, `{
		layer4 {
			`+address+` {
				route {
					proxy_protocol {
						allow 127.0.0.0/8
					}
					inspect {
						max_packets 1
						route {
							relay `+httpBackend(t, "one packet")+`
						}
					}
				}
			}
		}
	}`)
	const header = "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
	for name, packets := range map[string][]string{"together": {header + getRoot}, "apart": {header, getRoot}} {
		conn := dial(t, address)
		for _, packet := range packets[:len(packets)-1] {
			send(t, conn, packet, 1<<20)
			time.Sleep(50 * time.Millisecond)
		}
		if _, got := roundTrip(t, conn, packets[len(packets)-1], 1<<20); got != "one packet GET / " {
			t.Errorf("header and head %s: got %q", name, got)
		}
	}
}

// A TLS handshake that does not come to an end is not silence inside TLS.
func TestUnfinishedHandshakeInListenerWrapper(t *testing.T) {
	port, httpPort := freeport.Get(t), freeport.Get(t)
	var dialled atomic.Int64
	speaker := backend(t, func(conn net.Conn) { dialled.Add(1) })
	start(t, `{
		http_port `+httpPort+`
		https_port `+port+`
		local_certs
		skip_install_trust
		servers 127.0.0.1:`+port+` {
			protocols h1
			listener_wrappers {
				layer4 {
					route {
						inspect {
							silent_timeout 2s
							@silent inspected silent
							route @silent {
								relay `+speaker+`
							}
						}
					}
				}
			}
		}
	}
	example.com {
		bind 127.0.0.1
		respond ok
	}`)
	address := "127.0.0.1:" + port
	eventually(t, "certificate", func() bool {
		return tls.Client(dial(t, address), tlsClient("http/1.1")).Handshake() == nil
	})
	before := dialled.Load()
	conn := dial(t, address)
	send(t, conn, clientHello(t, "example.com")[:50], 1<<20)
	time.Sleep(time.Second)
	conn.CloseWrite()
	_, _ = io.ReadAll(conn)
	if n := dialled.Load() - before; n > 1 { // the probes above may have been silent
		t.Errorf("an unfinished handshake was relayed")
	}
}

// A client that has gone costs no further rounds of dials.
func TestClientClosesDuringTries(t *testing.T) {
	address := freeport.Address(t)
	s := start(t, relayCaddyfile(address, "relay "+refusing(t)+" {\n lb_try_duration 1h\n lb_try_interval 20ms\n }"))
	conn := dial(t, address)
	send(t, conn, getRoot, 1<<20)
	conn.Close()
	s.logs.expect(t, map[string]any{"msg": "no upstream reached"})
}

// A relay to the port that its client came in by ends soon, and the log says what it is.
func TestRelayToItself(t *testing.T) {
	address := freeport.Address(t)
	for name, caddyfile := range map[string]string{
		"inspected":      relayCaddyfile(address, "relay "+address),
		"raw":            "{\n layer4 {\n " + address + " {\n route {\n relay " + address + "\n}\n}\n}\n}",
		"PROXY protocol": "{\n layer4 {\n " + address + " {\n @p proxy_protocol\n route @p {\n proxy_protocol\n }\n route {\n inspect {\n route {\n relay " + address + " {\n proxy_protocol v2\n }\n}\n}\n}\n}\n}\n}",
		// Each round has the addresses that the first one had in its header.
		"believed PROXY protocol": "{\n layer4 {\n " + address + " {\n @p proxy_protocol\n route @p {\n proxy_protocol {\n allow 127.0.0.0/8\n }\n }\n route {\n inspect {\n route {\n relay " + address + " {\n proxy_protocol v2\n }\n}\n}\n}\n}\n}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, caddyfile)
			conn := dial(t, address)
			if strings.HasPrefix(name, "believed") {
				send(t, conn, "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", 1<<20)
			}
			send(t, conn, getRoot, 1<<20)
			if name == "raw" {
				if got, err := io.ReadAll(conn); len(got) > 0 || err != nil && !isReset(err) {
					t.Errorf("got %q (%v), want the end", got, err)
				}
			} else if resp, _ := roundTrip(t, conn, "", 1); resp.StatusCode != 508 {
				t.Errorf("got %s, want 508", resp.Status)
			}
			s.logs.expect(t, map[string]any{"msg": "relay leads back to the port that its client has come in by", "upstream": address})
		})
	}
}

// Relays of one process that lead to each other end as soon: one request would take all
// descriptors. A chain of them is none.
func TestRelaysToEachOther(t *testing.T) {
	addresses := []string{freeport.Address(t), freeport.Address(t), freeport.Address(t)}
	ring := func(last string, route func(to string) string) string {
		var servers strings.Builder
		for i, address := range addresses {
			to := last
			if i+1 < len(addresses) {
				to = addresses[i+1]
			}
			servers.WriteString(address + " {\n route {\n " + route(to) + "\n}\n}\n")
		}
		return "{\n layer4 {\n " + servers.String() + "}\n}"
	}
	raw := func(to string) string { return "relay " + to }
	inspected := func(to string) string { return "inspect {\n route {\n relay " + to + "\n}\n}" }

	t.Run("inspected", func(t *testing.T) {
		s := start(t, ring(addresses[0], inspected))
		conn := dial(t, addresses[0])
		send(t, conn, getRoot, 1<<20)
		if resp, _ := roundTrip(t, conn, "", 1); resp.StatusCode != 508 {
			t.Errorf("got %s, want 508", resp.Status)
		}
		// Each relay has a log of its own, and the circle may end at more than one.
		eventually(t, "warning", func() bool {
			return len(s.logs.lines(map[string]any{"msg": "relays of this process lead to each other in a circle"})) > 0
		})
	})
	t.Run("raw", func(t *testing.T) {
		s := start(t, ring(addresses[0], raw))
		conn := dial(t, addresses[0])
		send(t, conn, getRoot, 1<<20)
		if got, err := io.ReadAll(conn); len(got) > 0 || err != nil && !isReset(err) {
			t.Errorf("got %q (%v), want the end", got, err)
		}
		// Each relay has a log of its own, and the circle may end at more than one.
		eventually(t, "warning", func() bool {
			return len(s.logs.lines(map[string]any{"msg": "relays of this process lead to each other in a circle"})) > 0
		})
	})
	t.Run("chain", func(t *testing.T) {
		backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {}))
		t.Cleanup(backend.Close)
		start(t, ring(backend.Listener.Addr().String(), inspected))
		for range 20 {
			conn := dial(t, addresses[0])
			send(t, conn, getRoot, 1<<20)
			if resp, _ := roundTrip(t, conn, "", 1); resp.StatusCode != 200 {
				t.Errorf("got %s, want 200", resp.Status)
			}
			conn.Close()
		}
	})
}
