package integration

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// TestFaults is what befalls streams under way. Each ends with the cause that tells what
// happened, and as that for the other side; nothing is left of it; and a stream beside it
// does not notice.
//
// What befalls dials is in TestUpstreamsThatFail, TestClientLeavesDuringDial and
// TestBlackHole, what befalls requests and responses in TestRelayRequests and in
// internal/relay, with the lack of descriptors and memory.
func TestFaults(t *testing.T) {
	// What a stream can hold on its way is a matter of megabytes: the buffers of four
	// sockets and a pipe.
	const endless = 256 << 20
	const (
		faultHead  = "GET /fault HTTP/1.1\r\nHost: a\r\n\r\n"
		besideHead = "GET /other HTTP/1.1\r\nHost: a\r\n\r\n"
	)
	flood := func(conn net.Conn) int64 {
		n, _ := io.Copy(conn, io.LimitReader(zeros{}, endless))
		return n
	}
	drain := func(conn net.Conn) error {
		_, err := io.Copy(io.Discard, conn)
		return err
	}
	for _, test := range []struct {
		name     string
		upstream func(t *testing.T, conn *net.TCPConn, over <-chan struct{})
		client   func(t *testing.T, conn *net.TCPConn, over <-chan struct{})
		cause    string
	}{
		{
			name: "upstream resets in the middle of a download",
			upstream: func(_ *testing.T, conn *net.TCPConn, _ <-chan struct{}) {
				_, _ = conn.Write(make([]byte, 1<<20))
				_ = conn.SetLinger(0)
			},
			client: func(t *testing.T, conn *net.TCPConn, _ <-chan struct{}) {
				if err := drain(conn); !isReset(err) {
					t.Errorf("the client sees %v, want a reset", err)
				}
			},
			cause: "upstream_reset",
		},
		{
			name: "upstream closes in the middle of an upload",
			upstream: func(_ *testing.T, conn *net.TCPConn, _ <-chan struct{}) {
				_, _ = io.CopyN(io.Discard, conn, 1<<20)
			},
			client: func(t *testing.T, conn *net.TCPConn, _ <-chan struct{}) {
				if n := flood(conn); n == endless {
					t.Error("the client could send everything")
				}
			},
			cause: "upstream_reset",
		},
		{
			name: "client resets in the middle of a download",
			upstream: func(t *testing.T, conn *net.TCPConn, _ <-chan struct{}) {
				if n := flood(conn); n == endless {
					t.Error("the upstream could send everything")
				}
			},
			client: func(_ *testing.T, conn *net.TCPConn, _ <-chan struct{}) {
				_, _ = io.CopyN(io.Discard, conn, 1<<20)
				_ = conn.SetLinger(0)
				conn.Close()
			},
			cause: "client_reset",
		},
		{
			name: "client resets in the middle of an upload",
			upstream: func(t *testing.T, conn *net.TCPConn, _ <-chan struct{}) {
				if err := drain(conn); !isReset(err) {
					t.Errorf("the upstream sees %v, want a reset", err)
				}
			},
			client: func(_ *testing.T, conn *net.TCPConn, _ <-chan struct{}) {
				_, _ = conn.Write(make([]byte, 1<<20))
				_ = conn.SetLinger(0)
				conn.Close()
			},
			cause: "client_reset",
		},
		{
			name: "client does not read",
			upstream: func(t *testing.T, conn *net.TCPConn, _ <-chan struct{}) {
				if n := flood(conn); n == endless {
					t.Error("what the client did not read was taken all the same")
				}
			},
			client: func(_ *testing.T, _ *net.TCPConn, over <-chan struct{}) { <-over },
			cause:  "idle_timeout",
		},
		{
			name:     "upstream does not read",
			upstream: func(_ *testing.T, _ *net.TCPConn, over <-chan struct{}) { <-over },
			client: func(t *testing.T, conn *net.TCPConn, _ <-chan struct{}) {
				if n := flood(conn); n == endless {
					t.Error("what the upstream did not read was taken all the same")
				}
			},
			cause: "idle_timeout",
		},
		{
			name:     "neither reads",
			upstream: func(_ *testing.T, conn *net.TCPConn, _ <-chan struct{}) { flood(conn) },
			client:   func(_ *testing.T, conn *net.TCPConn, _ <-chan struct{}) { flood(conn) },
			cause:    "idle_timeout",
		},
		{
			name:     "both are silent",
			upstream: func(_ *testing.T, _ *net.TCPConn, over <-chan struct{}) { <-over },
			client:   func(_ *testing.T, _ *net.TCPConn, over <-chan struct{}) { <-over },
			cause:    "idle_timeout",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			over := make(chan struct{})
			address, besideAddress := freeport.Address(t), freeport.Address(t)
			upstream := backend(t, func(conn net.Conn) {
				head := make([]byte, len(faultHead))
				_, _ = io.ReadFull(conn, head)
				if string(head) == besideHead {
					_, _ = io.Copy(conn, conn)
					return
				}
				test.upstream(t, conn.(*net.TCPConn), over)
			})
			raw := func(address, timeout string) string {
				return address + " {\n route {\n inspect {\n route {\n relay " + upstream + " {\n reuse pin\n" + timeout + "\n}\n}\n}\n}\n}\n"
			}
			s := start(t, "{\n layer4 {\n"+raw(address, "idle_timeout 2s")+raw(besideAddress, "")+"}\n}")

			beside := dial(t, besideAddress)
			send(t, beside, besideHead, 1<<20)
			stop, rounds := make(chan struct{}), make(chan error, 1)
			go func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						rounds <- nil
						return
					case <-time.After(time.Millisecond):
					}
					want := fmt.Sprintf("round %10d\n", i)
					if _, err := io.WriteString(beside, want); err != nil {
						rounds <- err
						return
					}
					got := make([]byte, len(want))
					if _, err := io.ReadFull(beside, got); err != nil || string(got) != want {
						rounds <- fmt.Errorf("got %q (%v), want %q", got, err, want)
						return
					}
				}
			}()

			conn := dial(t, address)
			send(t, conn, faultHead, 1<<20)
			go func() {
				defer close(over)
				ended := map[string]any{"msg": "stream ended"}
				for begin := time.Now(); len(s.logs.lines(ended)) == 0 && time.Since(begin) < patience; {
					time.Sleep(5 * time.Millisecond)
				}
			}()
			test.client(t, conn, over)
			<-over
			s.logs.expect(t, map[string]any{"msg": "stream ended", "cause": test.cause})
			close(stop)
			if err := <-rounds; err != nil {
				t.Errorf("the stream beside it: %v", err)
			}
			beside.Close()
		})
	}
}

// zeros is an endless reader.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
