package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// Handlers of layer4 as other plugins may have them.

func init() {
	caddy.RegisterModule(swallowHandler{})
	caddy.RegisterModule(wrappersHandler{})
	caddy.RegisterModule(wrapHandler{})
}

// swallowHandler reads what has been read ahead, and no more, and tells of it.
type swallowHandler struct{}

var swallowed = make(chan struct{}, 1)

func (swallowHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.test_swallow", New: func() caddy.Module { return new(swallowHandler) }}
}
func (swallowHandler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }
func (swallowHandler) Handle(cx *layer4.Connection, next layer4.Handler) error {
	if _, err := io.CopyN(io.Discard, cx, int64(len(cx.MatchingBytes()))); err != nil {
		return err
	}
	swallowed <- struct{}{}
	return next.Handle(cx)
}

// wrappersHandler notes in wrappersSeen what the connection it gets is made of.
type wrappersHandler struct{}

var wrappersSeen struct {
	sync.Mutex
	of []string
}

func (wrappersHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.test_wrappers", New: func() caddy.Module { return new(wrappersHandler) }}
}
func (wrappersHandler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }
func (wrappersHandler) Handle(cx *layer4.Connection, next layer4.Handler) error {
	var types []string
	for conn := cx.Conn; conn != nil; {
		types = append(types, fmt.Sprintf("%T", conn))
		v := reflect.Indirect(reflect.ValueOf(conn))
		conn = nil
		if f := v.FieldByName("Conn"); f.IsValid() && f.CanInterface() {
			conn, _ = f.Interface().(net.Conn)
		}
	}
	wrappersSeen.Lock()
	wrappersSeen.of = append(wrappersSeen.of, strings.Join(types, " "))
	wrappersSeen.Unlock()
	return next.Handle(cx)
}

// wrapHandler puts a wrapper around the connection whose type cannot be compared.
type wrapHandler struct{}

type uncomparableConn struct {
	net.Conn
	_ []func()
}

func (wrapHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.test_wrap", New: func() caddy.Module { return new(wrapHandler) }}
}
func (wrapHandler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }
func (wrapHandler) Handle(cx *layer4.Connection, next layer4.Handler) error {
	cx.Conn = uncomparableConn{Conn: cx.Conn}
	return next.Handle(cx)
}

// A handler that has consumed what was inspected leaves other bytes in the same memory:
// what follows is matched by itself, though it begins like the bytes before and is as
// long.
func TestWhatWasConsumedIsForgotten(t *testing.T) {
	open, shut := httpBackend(t, "open"), httpBackend(t, "shut")
	routes := `
		@open http_request path /same-open*
		route @open {
			test_swallow
			subroute {
				@shut http_request path /same-shut*
				route @shut {
					relay ` + shut + `
				}
				route {
					relay ` + open + `
				}
			}
		}
	`
	for _, around := range []string{"inspect", "subroute"} {
		t.Run(around, func(t *testing.T) {
			address := freeport.Address(t)
			start(t, "{\n layer4 {\n "+address+" {\n route {\n "+around+" {\n"+routes+"\n}\n}\n}\n}\n}")
			conn := dial(t, address)
			send(t, conn, head("GET /same-open HTTP/1.1", "Host: a.example"), 1<<20)
			select {
			case <-swallowed:
			case <-time.After(patience):
				t.Fatal("the first request was not swallowed")
			}
			if _, got := roundTrip(t, conn, head("GET /same-shut HTTP/1.1", "Host: a.example"), 1<<20); got != "shut GET /same-shut " {
				t.Errorf("got %q, want the backend of what was sent last", got)
			}
		})
	}
}

// The handlers of a route run for each request, on the connection as inspect has it: what
// they wrap it in is there once, and not for requests of other routes.
func TestHandlersThatWrapDoNotPileUp(t *testing.T) {
	site := newRecorder()
	site.register(t, "site")
	address, port := freeport.Address(t), freeport.Get(t)
	routes := func(app string) string {
		return `
			@slow http_request path /slow*
			route @slow {
				throttle {
					read_bytes_per_second 1
					read_burst_size 512
				}
				test_wrappers
				` + app + `
			}
			@wrapped http_request path /wrapped*
			route @wrapped {
				test_wrap
				` + app + `
			}
			route {
				` + app + `
			}
		`
	}
	start(t, `{
		layer4 {
			`+address+` {
				route {
					inspect {
						`+routes("http_app web")+`
					}
				}
			}
		}
		servers 127.0.0.1:`+port+` {
			listener_wrappers {
				layer4 {
					route {
						inspect {
							`+routes("http_app")+`
						}
					}
				}
			}
		}
	}`+recorderSite(":80", "streamprox/web", "site")+recorderSite(":"+port, "127.0.0.1", "site"))

	content := strings.Repeat("x", 64<<10)
	slow := head("GET /slow HTTP/1.1", "Host: a.example")
	fast := head("POST /fast HTTP/1.1", "Host: a.example", fmt.Sprint("Content-Length: ", len(content))) + content
	wrapped := head("GET /wrapped HTTP/1.1", "Host: a.example")
	wrappersSeen.of = nil
	conn := dial(t, address)
	c := &client{TCPConn: conn, r: bufio.NewReader(conn), size: 1 << 20}
	for range 20 {
		sends(slow)(t, c)
		gets(200, "GET /slow")(t, c)
		sends(fast)(t, c) // would take as many seconds as it has bytes
		gets(200, "POST /fast")(t, c)
	}
	for _, types := range wrappersSeen.of {
		if types != "l4throttle.throttledConn *net.TCPConn" {
			t.Errorf("a request came through %s, want one throttle around the socket", types)
		}
	}
	if n := len(wrappersSeen.of); n != 20 {
		t.Errorf("the handlers of the route ran %d times for 20 requests", n)
	}
	// What a wrapper of unknown kind holds back nobody else can read: such a request is
	// the last one.
	sends(wrapped)(t, c)
	last(200, "GET /wrapped")(t, c)

	// In a wrapped server, to which a connection cannot return, such a request is the last
	// one too, and says so.
	for _, request := range []string{slow, wrapped} {
		conn = dial(t, "127.0.0.1:"+port)
		c = &client{TCPConn: conn, r: bufio.NewReader(conn), size: 1 << 20}
		sends(fast)(t, c)
		gets(200, "POST /fast")(t, c)
		conn = dial(t, "127.0.0.1:"+port)
		c = &client{TCPConn: conn, r: bufio.NewReader(conn), size: 1 << 20}
		sends(request)(t, c)
		last(200)(t, c)
	}
}
