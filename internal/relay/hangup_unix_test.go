//go:build unix

package relay

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// TestResetUnread: a peer that resets its connection is noticed though nothing is read
// from it and nothing is written to it.
func TestResetUnread(t *testing.T) {
	for name, newEngine := range engines {
		for _, network := range []string{"tcp", "tls"} {
			for _, side := range []struct {
				name     string
				from, to func(*link) net.Conn
				limited  Stream
				want     Cause
			}{
				{"client", (*link).clientEnd, (*link).upstreamEnd, Stream{ToUpstream: Direction{Limit: 1}}, ClientReset},
				{"upstream", (*link).upstreamEnd, (*link).clientEnd, Stream{ToClient: Direction{Limit: 1}}, UpstreamReset},
			} {
				t.Run(name+" "+network+" "+side.name, func(t *testing.T) {
					t.Run("after its end", func(t *testing.T) {
						l := relayed(t, newEngine(nil), network, Stream{})
						closeWrite(t, side.from(l))
						receivesEnd(t, side.to(l))
						sendReset(side.from(l))
						l.ends(t, Account{Cause: side.want})
						if _, err := side.to(l).Write([]byte("x")); !socket.IsReset(err) {
							t.Errorf("sending: got error %v, want a reset", err)
						}
					})
					t.Run("after its limit", func(t *testing.T) {
						l := relayed(t, newEngine(nil), network, side.limited)
						send(t, side.from(l), "1")
						receives(t, side.to(l), "1")
						send(t, side.from(l), "2")
						sendReset(side.from(l))
						receivesReset(t, side.to(l))
						l.ends(t, Account{Cause: side.want, ToUpstream: -1, ToClient: -1})
					})
					t.Run("while the other does not read", func(t *testing.T) {
						l := relayed(t, newEngine(nil), network, Stream{})
						fill(side.from(l))
						sendReset(side.from(l))
						l.ends(t, Account{Cause: side.want, ToUpstream: -1, ToClient: -1})
						receivesReset(t, side.to(l))
					})
				})
			}
		}
	}
}

// TestExchangeResetUnread: a client that resets its connection is noticed wherever an
// exchange does not read from it.
func TestExchangeResetUnread(t *testing.T) {
	for _, network := range []string{"tcp", "tls"} {
		for name, in := range map[string]string{
			"behind a request":     exchangeGet,
			"ahead of an upgrade":  upgradeGet,
			"in a request":         "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n",
			"behind its end":       exchangeGet,
			"behind its end, held": upgradeGet,
		} {
			t.Run(network+" "+name, func(t *testing.T) {
				ended := make(chan struct{})
				l := exchanged(t, network, in, func(x *testSession) {
					x.Client = endingConn{x.Client, sync.OnceFunc(func() { close(ended) })}
				})
				if strings.HasPrefix(name, "behind its end") {
					receives(t, l.upstream, "GET / ")
					closeWrite(t, l.client)
					await(t, "the end", ended)
				} else {
					fill(l.client)
				}
				sendReset(l.client)
				l.over(t, ClientReset)
				receivesReset(t, l.upstream)
			})
		}
	}
}

// endingConn tells when its end is read.
type endingConn struct {
	net.Conn
	ended func()
}

func (c endingConn) NetConn() net.Conn { return c.Conn }
func (c endingConn) CloseWrite() error { return c.Conn.(closeWriter).CloseWrite() }

func (c endingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == io.EOF {
		c.ended()
	}
	return n, err
}

// TestExchangeClientCloses: a client that closes its connection in the middle of a quiet
// response is noticed with the first byte that it does not take.
func TestExchangeClientCloses(t *testing.T) {
	l := exchanged(t, "tcp", exchangeGet, nil)
	receives(t, l.upstream, getSent)
	send(t, l.upstream, ok+"\r\nevent")
	receives(t, l.client, okSent+"event")
	l.client.Close()
	send(t, l.upstream, "s")
	receivesReset(t, l.upstream)
	l.over(t, ClientReset)
}

// TestExchangeHalfClosed: a client that has finished sending waits for its response no
// longer than half_close_timeout, unless bytes of it come.
func TestExchangeHalfClosed(t *testing.T) {
	const halfClose = time.Minute
	tests := []struct {
		name string
		in   string
		from string // what the upstream sends at once
		end  bool   // the client's
		tick time.Duration
		to   string
		want Cause
		last time.Duration // 10 ticks, if there are any
	}{
		{name: "no response", in: exchangeGet, end: true, to: "HTTP/1.1 504 ", want: HalfCloseTimeout, last: halfClose},
		{name: "no answer to an upgrade", in: upgradeGet, end: true, to: "HTTP/1.1 504 ", want: HalfCloseTimeout, last: halfClose},
		{name: "a quiet response", in: exchangeGet, from: ok + "\r\na", end: true, to: okSent + "a", want: HalfCloseTimeout, last: halfClose},
		{name: "a response that flows", in: exchangeGet, from: ok + "\r\na", end: true, tick: halfClose - time.Second, to: okSent + "abbbbbbbbbb", want: Finished, last: 10 * (halfClose - time.Second)},
		{name: "a client that may send", in: exchangeGet, from: ok + "\r\na", tick: 2 * halfClose, to: okSent + "abbbbbbbbbb", want: Finished, last: 20 * halfClose},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := exchanged(t, "pipe", test.in, func(x *testSession) { x.HalfCloseTimeout = halfClose })
				begin := time.Now()
				var sent atomic.Int32
				go io.Copy(io.Discard, struct{ io.Reader }{l.upstream})
				go func() {
					io.WriteString(l.upstream, test.from)
					for range 10 {
						if test.tick == 0 {
							return
						}
						time.Sleep(test.tick)
						if _, err := io.WriteString(l.upstream, "b"); err != nil {
							return
						}
						sent.Add(1)
					}
					l.upstream.Close()
				}()
				if test.end {
					closeWrite(t, l.client)
				}
				got, err := io.ReadAll(l.client)
				if err != nil || !strings.HasPrefix(string(got), test.to) {
					t.Errorf("got %q and error %v, want %q", got, err, test.to)
				}
				if lasted := time.Since(begin); lasted != test.last {
					t.Errorf("the response lasted %v, want %v", lasted, test.last)
				}
				l.over(t, test.want)
			})
		})
	}
}

// TestTunnelAfterFailedWrite: an upstream may agree to a tunnel and break the connection
// before it has the end of the request. No byte of the client's is lost on the way to the
// tunnel, and nobody waits for ever.
func TestTunnelAfterFailedWrite(t *testing.T) {
	ahead := string(random(4*aheadLimit, 8))
	l := exchanged(t, "tcp", upgradeGet, func(x *testSession) {
		x.Upstream = &hookedConn{x.Upstream.(*net.TCPConn), func() error { return errors.New("boom") }}
	})
	go io.WriteString(l.client, ahead)
	send(t, l.upstream, switching)
	receives(t, l.client, switching)
	receives(t, l.upstream, ahead)
	l.client.Close()
	l.upstream.Close()
}
