package integration

import (
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// TestRouteNames checks what the log calls the route that a request has taken.
func TestRouteNames(t *testing.T) {
	address := freeport.Address(t)
	s := start(t, layer4Caddyfile(address, `
		@one http_request path /one
		route @one {
			http_respond 403 no
		}
		@two http_request path /two
		@three http_request path /three
		route @two @three {
			http_respond 403 no
		}
		@four http_request path /four
		route @four {
			http_respond 403 no
		}
		route {
			subroute {
				@rest http_request path /rest/*
				route @rest {
					http_respond 403 no
				}
			}
		}`))
	for _, test := range []struct{ request, route, answer string }{
		{"GET /one HTTP/1.1\r\nHost: a\r\n\r\n", "one", "403"},
		{"GET /three HTTP/1.1\r\nHost: a\r\n\r\n", "two three", "403"},
		{"GET /rest/ HTTP/1.1\r\nHost: a\r\n\r\n", "3", "403"},
		{"GET /.. HTTP/1.1\r\nHost: a\r\n\r\n", "none", "400"},
	} {
		conn := dial(t, address)
		send(t, conn, test.request, 1<<20)
		expectAnswer(t, conn, test.answer)
		s.logs.expect(t, map[string]any{"msg": "inspected", "remote": conn.LocalAddr().String(), "route": test.route})
	}
}
