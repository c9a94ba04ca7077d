package streamprox

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/streamprox/caddy-streamprox/internal/relay"
)

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
