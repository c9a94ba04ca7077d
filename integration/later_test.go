package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// TestLaterRequestsSeeWhatWasSet: what a matcher and a handler before inspect have set for a
// connection holds for each of its requests, whether it waits for them with the relay, with the
// HTTP app, or parked. So does the time when it came.
func TestLaterRequestsSeeWhatWasSet(t *testing.T) {
	parksHere(t)
	address := freeport.Address(t)
	const set = "rewrite_head {\nheader X-Set \"{l4.vars.tenant} {l4.regexp.1} {l4.conn.wrap_time}\"\n}\n"
	s := start(t, `{
		layer4 {
			`+address+` {
				route {
					vars tenant acme
				}
				@known vars_regexp tenant ^ac(.*)$
				route @known {
					inspect {
						@acme vars tenant acme
						@relayed http_request path /relayed/*
						@new http_request path /new/*
						route @new {
							`+set+`
							relay `+headBackend(t)+` {
								upstream_keepalive 0
							}
						}
						route @relayed {
							`+set+`
							relay `+headBackend(t)+`
						}
						route @acme {
							`+set+`
							http_app web {
								park 20ms
							}
						}
					}
				}
			}
		}
	}
	http://:80 {
		bind streamprox/web
		respond "X-Set: {http.request.header.X-Set}"
	}`)
	c := newTalk(dial(t, address))
	var first string
	for i := range 12 {
		target := fmt.Sprint([]string{"/app/", "/relayed/", "/relayed/", "/new/", "/parked/"}[i%5], i)
		c.send(t, getRequest(target))
		_, content := c.get(t)
		_, rest, _ := strings.Cut(content, "X-Set: ")
		got, _, _ := strings.Cut(rest, "\r\n")
		if i == 0 {
			first = got
		}
		if got != first || !strings.HasPrefix(got, "acme me 20") {
			t.Errorf("%s: got %q, for the first request %q", target, got, first)
		}
		if strings.HasPrefix(target, "/parked/") {
			s.parked()
		}
	}
}
