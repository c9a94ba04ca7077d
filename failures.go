package streamprox

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/relay"
)

// failureInterval is how often one kind of failure is logged at most. Those that come in
// between are counted.
const failureInterval = 10 * time.Second

// failureLog writes a line for each kind of failure, not for each failure: what an
// upstream does wrong, it does to all its clients.
type failureLog struct {
	mu    sync.Mutex
	kinds map[failureKind]*failureCount
}

// failureKind is what is wrong, and where. Neither is for a client to choose: there are
// few.
type failureKind struct{ message, upstream, reason string }

type failureCount struct {
	logged time.Time
	since  int // failures that no line tells of
}

// log writes a line with how many failures of its kind it stands for, unless one has been
// written lately.
func (l *failureLog) log(write func(string, ...zap.Field), kind failureKind, fields ...zap.Field) {
	l.mu.Lock()
	count := l.kinds[kind]
	if count == nil {
		if l.kinds == nil {
			l.kinds = make(map[failureKind]*failureCount)
		}
		count = new(failureCount)
		l.kinds[kind] = count
	}
	count.since++
	now := time.Now()
	if now.Sub(count.logged) < failureInterval {
		l.mu.Unlock()
		return
	}
	failures := count.since
	count.logged, count.since = now, 0
	l.mu.Unlock()

	if kind.upstream != "" {
		fields = append(fields, zap.String("upstream", kind.upstream))
	}
	if kind.reason != "" {
		fields = append(fields, zap.String("reason", kind.reason))
	}
	write(kind.message, append(fields, zap.Int("failures", failures))...)
}

// dialFailure says why an upstream was not reached, in words of which there are few.
func dialFailure(err error) string {
	switch failureStatus(err) {
	case http.StatusGatewayTimeout:
		return "timeout"
	case http.StatusServiceUnavailable:
		return "not available"
	}
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &certificate):
		return "its certificate is not valid"
	case strings.HasPrefix(err.Error(), "TLS handshake"):
		return "TLS handshake failed"
	default:
		return "no connection"
	}
}

// responseFailure says what is wrong with an upstream that has been reached and has not
// answered a request as it should, or "". What a tunnel ends with is no answer.
func responseFailure(account relay.Account) string {
	if account.Engine != "http" {
		return ""
	}
	truncated := errors.Is(account.Err, io.ErrUnexpectedEOF)
	switch account.Cause {
	case relay.UpstreamReset:
		return "it reset the connection"
	case relay.UpstreamError:
		if truncated {
			return "it closed the connection before its response"
		}
		return "its connection failed"
	case relay.ResponseTimeout:
		return "no response in time"
	case relay.BadResponse:
		if truncated {
			return "its response is truncated"
		}
		return account.Err.Error()
	default:
		return ""
	}
}
