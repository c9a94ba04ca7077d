package upstream

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/mholt/caddy-l4/modules/l4proxy"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
)

func TestReasonOf(t *testing.T) {
	for _, test := range []struct {
		err  error
		want Reason
	}{
		{syscall.ECONNREFUSED, NoConnection},
		{&net.DNSError{IsNotFound: true}, NoConnection},
		{&net.DNSError{IsTimeout: true}, Timeout},
		{os.ErrDeadlineExceeded, Timeout},
		{syscall.ETIMEDOUT, Timeout},
		{fmt.Errorf("%w: %w", errHandshake, os.ErrDeadlineExceeded), Timeout},
		{fmt.Errorf("%w: %w", errHandshake, errors.New("bad record")), HandshakeFailed},
		{fmt.Errorf("%w: %w", errHandshake, &tls.CertificateVerificationError{Err: errors.New("expired")}), InvalidCertificate},
		{fmt.Errorf("%w: x", errNoAddress), NoAddress},
		{fmt.Errorf("%w: x", errNotAllowed), NotAllowed},
		{fmt.Errorf("%w: %w", descriptors.ErrScarce, syscall.EMFILE), Scarce},
	} {
		if got := reasonOf(test.err); got != test.want {
			t.Errorf("%v: got %s, want %s", test.err, got, test.want)
		}
	}
}

// TestReasonsOfTLS: what real servers do wrong has a name.
func TestReasonsOfTLS(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	hangs, _ := listening(t, "127.0.0.1") // accepts, and sends nothing
	for name, test := range map[string]struct {
		address string
		timeout time.Duration
		want    Reason
	}{
		"a certificate that nobody has signed": {server.Listener.Addr().String(), 0, InvalidCertificate},
		"no answer":                            {"127.0.0.1:" + hangs, time.Millisecond, Timeout},
	} {
		p := newTestPool(t, Options{
			Servers:     l4proxy.UpstreamPool{{Dial: []string{test.address}, TLS: new(reverseproxy.TLSConfig)}},
			DialTimeout: test.timeout,
		})
		if _, err := p.Dial(t.Context(), p.servers[0], &Client{Stream: clientOf("10.0.0.1")}); ReasonOf(err) != test.want {
			t.Errorf("%s: got error %v (%s), want %s", name, err, ReasonOf(err), test.want)
		}
	}
}
