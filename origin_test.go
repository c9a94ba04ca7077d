package streamprox

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
)

// TestLeanOrigin checks that a later request sees what was set before inspect, whether the
// connection it was set on is kept or not.
func TestLeanOrigin(t *testing.T) {
	type key struct{}
	wrapped := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
	for _, test := range []struct {
		name string
		set  func(cx *layer4.Connection)
		lean bool              // the connection is not kept
		want map[string]string // the values of placeholders
	}{
		{"nothing", func(*layer4.Connection) {}, true, map[string]string{"l4.vars.tenant": "", "l4.regexp.0": unknown}},
		{"a variable", func(cx *layer4.Connection) { cx.SetVar("tenant", "acme") }, true, map[string]string{"l4.vars.tenant": "acme"}},
		{"placeholders", func(cx *layer4.Connection) {
			cx.Replacer().Set("l4.regexp.0", "GET")
			cx.Replacer().Set("l4.regexp.1", "")
			cx.Replacer().Set(layer4.ConnWrapTimeReplKey, wrapped)
		}, true, map[string]string{"l4.regexp.0": "GET", "l4.regexp.1": "", "l4.regexp.2": unknown, layer4.ConnWrapTimeReplKey: "2020-02-03 04:05:06 +0000 UTC"}},
		{"the address of another connection", func(cx *layer4.Connection) {
			cx.Replacer().Set(remoteAddrReplKey, "192.0.2.9:9")
		}, true, map[string]string{remoteAddrReplKey: "127.0.0.1:4000", localAddrReplKey: "127.0.0.1:80"}},
		{"caddy-l4's http matcher", func(cx *layer4.Connection) {
			cx.SetVar("tenant", "acme")
			cx.SetVar(stockHTTPRequestVar, new(http.Request))
			cx.Replacer().Set(stockHTTPReplPrefix+"host", "a.example")
		}, true, map[string]string{"l4.vars.tenant": "acme", "l4.vars." + stockHTTPRequestVar: "", stockHTTPReplPrefix + "host": unknown}},
		{"a function", func(cx *layer4.Connection) {
			cx.Replacer().Map(func(key string) (any, bool) { return "from a function", key == "l4.own" })
		}, false, map[string]string{"l4.own": "from a function", "l4.vars.tenant": ""}},
		{"a context", func(cx *layer4.Connection) {
			cx.SetVar("tenant", "acme")
			cx.Context = context.WithValue(cx.Context, key{}, "from a context")
		}, false, map[string]string{"l4.vars.tenant": "acme"}},
		{"another context", func(cx *layer4.Connection) {
			var cancel context.CancelFunc
			cx.Context, cancel = context.WithCancel(cx.Context)
			t.Cleanup(cancel)
		}, false, map[string]string{"l4.vars.tenant": ""}},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn := clientConn{remote: textAddr("127.0.0.1:4000")}
			cx := layer4.WrapConnection(conn, nil, zap.NewNop())
			test.set(cx)
			first := origin{parent: cx}
			later := first.lean()
			if lean := later.parent == nil; lean != test.lean {
				t.Errorf("is lean: got %v, want %v", lean, test.lean)
			}
			if got := later.client().RemoteAddr().String(); got != "127.0.0.1:4000" {
				t.Errorf("the client's address: got %s", got)
			}
			forks := map[string]*layer4.Connection{
				"first":        first.fork(conn, nil),
				"later":        later.fork(conn, nil),
				"one of later": forkOf(later.fork(conn, nil), conn, nil),
			}
			for name, want := range test.want {
				for fork, cx := range forks {
					if got := placeholderValues(cx, name)[0]; got != want {
						t.Errorf("{%s} in the %s fork: got %q, want %q", name, fork, got, want)
					}
				}
			}
			for fork, cx := range forks {
				if got, want := fmt.Sprint(cx.Context.Value(key{})), fmt.Sprint(first.context().Value(key{})); got != want {
					t.Errorf("value of the context of the %s fork: got %s, want %s", fork, got, want)
				}
			}
		})
	}
}
