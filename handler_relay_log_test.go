package streamprox

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/relay"
)

// TestFailedByUpstream checks which streams are held against their upstream.
func TestFailedByUpstream(t *testing.T) {
	for _, test := range []struct {
		name    string
		account relay.Account
		refused uint16
		want    bool
	}{
		{"a stream is reset", relay.Account{Engine: "event", Cause: relay.UpstreamReset}, 0, true},
		{"a stream is reset after bytes of the client", relay.Account{Engine: "portable", Cause: relay.UpstreamReset, ToUpstream: 9}, 0, true},
		{"a stream is reset after an answer", relay.Account{Engine: "event", Cause: relay.UpstreamReset, ToClient: 9}, 0, false},
		{"a stream is reset later", relay.Account{Engine: "event", Cause: relay.UpstreamReset, Duration: time.Second}, 0, false},
		{"a stream ends without a byte", relay.Account{Engine: "event"}, 0, false},
		{"the client resets a stream", relay.Account{Engine: "event", Cause: relay.ClientReset}, 0, false},
		{"a stream is killed", relay.Account{Engine: "event", Cause: relay.Killed}, 0, false},

		{"502 for a reset", relay.Account{Engine: "http", Cause: relay.UpstreamReset, ToClient: 99}, http.StatusBadGateway, true},
		{"502 for an end", relay.Account{Engine: "http", Cause: relay.UpstreamError, Err: io.ErrUnexpectedEOF, ToClient: 99}, http.StatusBadGateway, true},
		{"502 for what is no HTTP", relay.Account{Engine: "http", Cause: relay.BadResponse, Err: errors.New("no HTTP"), ToClient: 99}, http.StatusBadGateway, true},
		{"502 later", relay.Account{Engine: "http", Cause: relay.UpstreamReset, ToClient: 99, Duration: time.Second}, http.StatusBadGateway, false},
		{"504", relay.Account{Engine: "http", Cause: relay.ResponseTimeout, ToClient: 99}, http.StatusGatewayTimeout, false},
		{"400", relay.Account{Engine: "http", Cause: relay.BadRequest, ToClient: 99}, http.StatusBadRequest, false},
		{"a response is cut by a reset", relay.Account{Engine: "http", Cause: relay.UpstreamReset, ToClient: 99}, 0, false},
		{"a response is cut", relay.Account{Engine: "http", Cause: relay.BadResponse, Err: io.ErrUnexpectedEOF, ToClient: 99}, 0, false},
		{"a response", relay.Account{Engine: "http", ToClient: 99}, 0, false},
		{"the client leaves", relay.Account{Engine: "http", Cause: relay.ClientReset}, 0, false},
	} {
		if got := failedByUpstream(test.account, test.refused); got != test.want {
			t.Errorf("%s: got %t", test.name, got)
		}
	}
}
