package relay

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// TestExchangeLeavesNoPort: after a complete exchange no connection to the upstream keeps a
// local port for a minute, and an upstream that closes by itself, as it is asked to, sees
// no reset.
func TestExchangeLeavesNoPort(t *testing.T) {
	const exchanges = 50
	tests := []struct {
		name     string
		network  string
		response string
		closes   bool // the upstream, after its response
		reset    bool // what the upstream sees
	}{
		{"counted, closed", "tcp", ok + "Content-Length: 2\r\n\r\nok", true, false},
		{"until close", "tcp", ok + "\r\nok", true, false},
		{"TLS, closed", "tls", ok + "Content-Length: 2\r\n\r\nok", true, false},
		{"counted, left open", "tcp", ok + "Content-Length: 2\r\n\r\nok", false, true},
		{"more than counted", "tcp", ok + "Content-Length: 2\r\n\r\nok, and", false, true},
		{"TLS, left open", "tls", ok + "Content-Length: 2\r\n\r\nok", false, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			if test.closes { // however busy this machine is
				was := upstreamPatience
				t.Cleanup(func() { upstreamPatience = was })
				upstreamPatience = patience
			}
			ours := make(map[string]bool) // local and remote address as in /proc/net/tcp
			port := func(a net.Addr) string { return fmt.Sprintf(":%04X", a.(*net.TCPAddr).Port) }
			var all sync.WaitGroup
			for range exchanges {
				served := make(chan struct{}) // the client has its response
				// Our end is the one that dials.
				l := exchanged(t, "tcp", exchangeGet, func(x *testSession) {
					x.Upstream.Close()
					var upstream net.Conn
					x.Upstream, upstream = dialed(t, ln, test.network)
					ours["0100007F"+port(x.Upstream.LocalAddr())+" 0100007F"+port(ln.Addr())] = true
					all.Go(func() {
						_, _ = io.ReadFull(upstream, make([]byte, len(getSent)))
						_, _ = io.WriteString(upstream, test.response)
						if test.closes {
							inner := socket.Innermost(upstream)
							_ = upstream.(closeWriter).CloseWrite()
							if inner != upstream {
								<-served
								_ = inner.(closeWriter).CloseWrite()
							}
						}
						_, err := io.Copy(io.Discard, struct{ io.Reader }{upstream})
						if got := err != nil; got != test.reset {
							t.Errorf("the upstream sees %v", err)
						}
					})
				})
				all.Go(func() {
					got, err := io.ReadAll(l.client)
					close(served)
					if err != nil || !strings.HasSuffix(string(got), "ok") {
						t.Errorf("the client got %q and error %v", got, err)
					}
					l.client.Close()
					l.over(t, Finished)
				})
			}
			all.Wait()
			if got := timeWaits(t, ours); got > 0 {
				t.Errorf("%d of %d connections are in TIME-WAIT on our side", got, exchanges)
			}
		})
	}
}

// dialed returns a connection to ln, over TLS or not, and its other end.
func dialed(t *testing.T, ln net.Listener, network string) (near, far net.Conn) {
	t.Helper()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	_ = far.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { far.Close() })
	if network == "tls" {
		client := tls.Client(near, &tls.Config{InsecureSkipVerify: true})
		server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
		failed := make(chan error, 1)
		go func() { failed <- server.Handshake() }()
		if err := errors.Join(client.Handshake(), <-failed); err != nil {
			t.Fatal(err)
		}
		near, far = client, server
	}
	return near, far
}

// timeWaits returns how many of those connections wait, closed, for the peer to forget
// them.
func timeWaits(t *testing.T, ours map[string]bool) (n int) {
	t.Helper()
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text()) // sl local_address rem_address st …
		if len(fields) > 3 && ours[fields[1]+" "+fields[2]] && fields[3] == "06" {
			n++
		}
	}
	return n
}
