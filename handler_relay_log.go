package streamprox

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/relay"
	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

// What relay logs. An upstream that fails does so for all its clients: so there is one line
// for each kind of failure, with a count.

// logDial warns of an upstream that was not reached. Another one may be.
func (h *Relay) logDial(attempt upstream.Attempt) {
	failure := attempt.Failure
	if failure == nil || !failure.Reason.OfServer() {
		return // why Connect fails is logged by logFailure
	}
	remote := attempt.Client.Stream.RemoteAddr()
	h.logger.Debug("dial failed", zap.Stringer("upstream", attempt.Server), zap.Stringer("remote", remote), zap.Error(failure.Err))
	h.failures.failure(h.logger.Warn, lineKind{"upstream not reached", attempt.Server.String(), failure.Reason.String()},
		zap.Stringer("remote", remote), zap.Error(failure.Err))
}

// logHealthCheck says when an upstream goes up or down, also to the events app.
func (h *Relay) logHealthCheck(check upstream.HealthCheck) {
	if check.Err != nil {
		h.logger.Debug("health check failed", zap.Stringer("upstream", check.Server), zap.String("check", check.Check), zap.Error(check.Err))
	}
	if !check.Changed {
		return
	}
	fields := []zap.Field{zap.Stringer("upstream", check.Server), zap.String("check", check.Check)}
	if check.Err == nil {
		h.logger.Info("upstream is up", fields...)
	} else {
		h.logger.Warn("upstream is down", append(fields, zap.Int("closed", check.Closed), zap.Error(check.Err))...)
	}
	h.events.tell(check)
}

// logFailure says why a client has got no upstream.
func (h *Relay) logFailure(remote net.Addr, err error) {
	fields := []zap.Field{zap.Stringer("remote", remote), zap.Error(err)}
	switch upstream.ReasonOf(err) {
	case upstream.GivenUp:
		h.logger.Debug("relay given up", fields...)
	case upstream.NoAddress:
		h.failures.failure(h.logger.Warn, lineKind{message: "no address to dial"}, fields...)
	case upstream.NotAllowed:
		h.failures.failure(h.logger.Warn, lineKind{message: "address refused"}, fields...)
	case upstream.Scarce:
		scarcity.refusal(h.logger, "descriptors are scarce; not dialling upstreams")
	default:
		h.failures.failure(h.logger.Error, lineKind{message: "no upstream reached"}, fields...)
	}
}

// logResponse warns of an upstream that has not answered a request as it should. The event loop,
// which calls it, does not wait for the output of the log.
func (h *Relay) logResponse(remote fmt.Stringer, server *upstream.Server, account relay.Account) {
	if reason := responseFailure(account); reason != "" {
		warn := func(message string, fields ...zap.Field) { go h.logger.Warn(message, fields...) }
		h.failures.failure(warn, lineKind{"upstream did not answer as it should", server.String(), reason},
			zap.String("remote", remote.String()), zap.NamedError("error", account.Err))
	}
}

// soonFailed is how soon after its begin a stream must have failed for it to be held against the
// upstream.
const soonFailed = time.Second

// judge holds what has become of a stream against the upstream, or in its favour.
func (h *Relay) judge(r *relayed, a relay.Account) {
	switch {
	case failedByUpstream(a, r.refused):
		client := r.remote
		if client == nil {
			client = r.origin.ends.Client()
		}
		prefix, _ := clientPrefix(client) // those without an address are one
		if h.pool.Failed(r.to.Server, prefix) {
			h.logger.Warn("upstream is ejected: streams to it have failed",
				zap.Stringer("upstream", r.to.Server), zap.Stringer("cause", a.Cause), zap.Duration("for", time.Duration(h.HealthChecks.Passive.FailDuration)))
		}
	case a.ToClient > 0 && r.refused == 0 && a.Cause != relay.UpstreamReset && responseFailure(a) == "":
		r.to.Answered()
	}
}

// failedByUpstream reports whether the upstream has failed a stream soon after its begin, without
// anything of an answer: by a reset, or so that a request was answered with 502.
func failedByUpstream(a relay.Account, refused uint16) bool {
	if a.Duration >= soonFailed {
		return false
	}
	if refused != 0 { // what was sent to the client is that, after interim responses
		return refused == http.StatusBadGateway && responseFailure(a) != ""
	}
	return a.Cause == relay.UpstreamReset && a.ToClient == 0
}

// responseFailure says what is wrong with the answer to a request, or "". How a tunnel ends
// does not count.
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

// logEnd says what has become of a stream.
func (h *Relay) logEnd(remote fmt.Stringer, address string, account relay.Account) {
	if !h.logger.Core().Enabled(zap.DebugLevel) {
		return
	}
	h.logger.Debug("stream ended",
		zap.Stringer("remote", remote),
		zap.String("upstream", address),
		zap.Int64("read", account.ToUpstream),
		zap.Int64("written", account.ToClient),
		zap.Duration("duration", account.Duration),
		zap.Stringer("cause", account.Cause),
		zap.String("engine", account.Engine),
		zap.Error(account.Err))
}
