package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// holdLoops lets no event loop go on until release is called. All of them run then.
func holdLoops(t *testing.T) (release func()) {
	t.Helper()
	var held []chan bool
	for range loops() {
		near, far := connect(t, "tcp")
		other, _ := connect(t, "tcp")
		streams := new(Registry)
		newEvent(streams).Start(&Stream{Client: near, Upstream: other})
		for m := range streams.streams {
			p := m.(*pair)
			first := make(chan bool) // the loop waits for the test to take it
			p.loop.post(message{pair: p, cause: Killed, first: first})
			held = append(held, first)
		}
		t.Cleanup(func() { far.Close() })
	}
	return func() {
		for _, first := range held {
			<-first
		}
	}
}

// TestSessionsBeginTogether: sessions that begin in one turn of a loop send each its own
// request.
func TestSessionsBeginTogether(t *testing.T) {
	const sessions = 50
	release := holdLoops(t)
	type link struct{ client, upstream net.Conn }
	var links [sessions]link
	for i := range links {
		near, client := connect(t, "tcp")
		up, upstream := connect(t, "tcp")
		k := newKeeper(t, func() net.Conn { return up })
		k.engine = newEvent(k.streams)
		t.Cleanup(func() { client.Close(); upstream.Close() })
		k.serve(near, []byte(getOf(fmt.Sprint("/", i))), nil)
		links[i] = link{client, upstream}
	}
	release()
	for i, l := range links {
		receives(t, l.upstream, getOf(fmt.Sprint("/", i)))
		send(t, l.upstream, okWith(fmt.Sprint(i)))
		receives(t, l.client, okWith(fmt.Sprint(i)))
	}
}

// handLoop is a loop whose turns the test takes, and a session on it.
type handLoop struct {
	*loop
	p                *pair
	owner            *keeper
	client, upstream net.Conn
}

func newHandLoop(t *testing.T, in string) *handLoop {
	t.Helper()
	l := &handLoop{loop: new(loop)}
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	l.owner = newKeeper(t, func() net.Conn { t.Error("dialed"); return nil })
	l.p = &pair{engine: new(Event), owner: l.owner, clock: noClock, loop: l.loop, session: &session{
		keepalive:         time.Hour,
		upstreamKeepalive: time.Hour,
	}}
	for s, far := range map[*endpoint]*net.Conn{&l.p.client: &l.client, &l.p.upstream: &l.upstream} {
		near, c := connect(t, "tcp")
		*far = c
		loan, err := s.borrow(l.p, near, socket.Lend)
		if err != nil {
			t.Fatal(err)
		}
		loan.Keep()
	}
	if err := l.watch(l.p); err != nil {
		t.Fatal(err)
	}
	request, n, _ := l.owner.read([]byte(in))
	l.p.session.first = &firstRequest{request: request, pending: []byte(in)[n:]}
	l.now = time.Since(epoch)
	l.begin(l.p)
	t.Cleanup(func() { l.end(l.p, Finished, nil) })
	return l
}

// take takes a turn.
func (l *handLoop) take() {
	l.wait()
	l.serveReady()
}

// unread returns how many bytes wait to be read from the client.
func (l *handLoop) unread(t *testing.T) int {
	t.Helper()
	n, err := unix.IoctlGetInt(int(l.p.client.fd), unix.TIOCINQ)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestSessionFair: a client that sends faster than anybody reads does not keep the loop from
// others, whatever becomes of its bytes.
func TestSessionFair(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n"
	flood := func(t *testing.T, l *handLoop) {
		t.Helper()
		_ = l.client.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)) // what the socket does not take is no matter
		_, _ = l.client.Write(make([]byte, 8<<20))
		if got := l.unread(t); got <= socket.LargeSize {
			t.Skipf("the socket takes %d bytes, no more than one read does", got)
		}
	}
	t.Run("request", func(t *testing.T) {
		l := newHandLoop(t, head)
		l.turn = 1
		flood(t, l)
		if l.take(); l.unread(t) == 0 {
			t.Error("all is read in one turn")
		}
		if len(l.ready) == 0 {
			t.Error("it has no other turn")
		}
	})
	t.Run("after an early response", func(t *testing.T) {
		l := newHandLoop(t, head)
		send(t, l.upstream, okWith("early"))
		for l.p.session.phase != lingering {
			l.take()
		}
		receives(t, l.client, strings.Replace(okWith("early"), "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
		l.turn = 1
		flood(t, l)
		if l.take(); l.unread(t) == 0 {
			t.Error("all is read in one turn")
		}
		if len(l.ready) == 0 {
			t.Error("it has no other turn")
		}
	})
}

// TestSessionShortOfDescriptors: a session goes on although there is no descriptor left. If
// need be, the upstream's connection, which is only kept, makes room for the client's.
func TestSessionShortOfDescriptors(t *testing.T) {
	for _, keeps := range []bool{false, true} {
		t.Run(fmt.Sprint("upstream kept: ", keeps), func(t *testing.T) {
			for range loops() { // none of them ends, which would make room
				relayed(t, newEvent(nil), "tcp", Stream{})
			}
			before := openDescriptors()
			client, k, accept := scripted(t, "tcp", "tcp", func(k *keeper) {
				k.engine = newEvent(k.streams)
				k.elsewhere = func([]byte) bool { return true }
				if !keeps {
					k.settings.UpstreamKeepalive = 0
				}
			})
			send(t, client, getOf("/"))
			upstream := accept()
			receives(t, upstream, getOf("/"))
			send(t, upstream, okWith("ok"))
			receives(t, client, okWith("ok"))
			k.cause(t)
			if !keeps {
				until(t, "the upstream's connection is let go of", func() bool { return k.dropped.Load() > 0 })
			}
			next, far := connect(t, "tcp")
			k.dial = func() net.Conn { return next }
			giveBack := takeAllDescriptors(t)
			send(t, client, getOf("/next"))
			if keeps {
				receives(t, far, getOf("/next"))
				send(t, far, okWith("next"))
				receives(t, client, okWith("next"))
				k.cause(t)
			} else {
				// There is nothing to be done.
				if n, err := client.Read(make([]byte, 1)); err == nil {
					t.Errorf("got %d bytes", n)
				}
				next.Close()
			}
			giveBack()
			client.Close()
			k.wg.Wait()
			if got, want := k.dropped.Load(), int32(1); !keeps && got != want {
				t.Errorf("dropped: got %d connections, want %d", got, want)
			}
			until(t, "all is out of the registry", func() bool { return k.streams.Len() == 0 })
			upstream.Close()
			far.Close()
			until(t, "all descriptors are closed", func() bool { return openDescriptors() <= before })
		})
	}
}

// TestSessionScarce: what only the reserve is left for is under way already.
func TestSessionScarce(t *testing.T) {
	client, k, accept := scripted(t, "tcp", "tcp", func(k *keeper) {
		k.engine = newEvent(k.streams)
		k.elsewhere = func([]byte) bool { return true }
	})
	send(t, client, getOf("/"))
	upstream := accept()
	receives(t, upstream, getOf("/"))
	send(t, upstream, okWith("ok"))
	receives(t, client, okWith("ok"))
	k.cause(t)
	leaveReserve(t)
	send(t, client, getOf("/next"))
	receives(t, upstream, getOf("/next"))
	send(t, upstream, okWith("next"))
	receives(t, client, okWith("next"))
}

// narrow is a connection whose far end takes little before it is read from.
func narrow(t *testing.T) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<10) // before the window is known
		}), err)
	}}
	if far, err = dialer.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	far.SetDeadline(time.Now().Add(patience))
	if near, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// TestSessionAnswerStays: a client that is slow to read finds its answer, also when its
// connection has been closed meanwhile, whatever was the matter with the upstream.
func TestSessionAnswerStays(t *testing.T) {
	for name, newEngine := range engines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			near, client := narrow(t)
			_, k, accept := scripted(t, "tcp", "tcp", func(k *keeper) {
				k.engine = newEngine(k.streams)
				k.refusal = strings.Repeat("x", 32<<10) // most of it is on the way for long
			})
			go k.serve(near, nil, nil)
			send(t, client, getOf("/"))
			sendReset(accept())
			if got := k.cause(t); got != UpstreamReset {
				t.Errorf("got cause %v, want %v", got, UpstreamReset)
			}
			k.wg.Wait() // that takes as long as the client may linger
			got, err := io.ReadAll(client)
			if want := k.Refusal(502); err != nil || !bytes.Equal(got, want) {
				t.Errorf("got %d bytes and %v, want %d", len(got), err, len(want))
			}
		})
	}
}

// TestSessionsStuck has clients that have stopped reading when their exchange is refused, for
// whatever reason, with as much on the way to them as chance will have it. Each is given up
// when the answer's time is over, and nothing of it is left.
func TestSessionsStuck(t *testing.T) {
	const sessions = 60
	reasons := []func(client, upstream net.Conn){
		func(client, _ net.Conn) { _, _ = io.WriteString(client, "no chunk\r\n") },
		func(client, _ net.Conn) { _ = client.(closeWriter).CloseWrite() },
		func(_, upstream net.Conn) { _, _ = io.WriteString(upstream, "no HTTP\r\n") },
		func(_, upstream net.Conn) { _ = upstream.(closeWriter).CloseWrite() },
		func(_, upstream net.Conn) { sendReset(upstream) },
		func(_, _ net.Conn) {}, // idle for too long
	}
	interim := "HTTP/1.1 103 Early Hints\r\nLink: " + strings.Repeat("x", 1000) + "\r\n\r\n"
	for name, newEngine := range engines {
		t.Run(name, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			before := openDescriptors()
			var all sync.WaitGroup
			for i := range sessions {
				rng := rand.New(rand.NewPCG(seed, uint64(i)))
				near, client := narrow(t)
				if err := near.(*net.TCPConn).SetWriteBuffer(1); err != nil {
					t.Fatal(err)
				}
				up, upstream := connect(t, "tcp")
				k := newKeeper(t, func() net.Conn { return up })
				k.engine = newEngine(k.streams)
				k.refusal = strings.Repeat("x", rng.IntN(64<<10))
				k.settings.IdleTimeout = 500 * time.Millisecond
				all.Go(func() {
					send(t, client, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
					k.serve(near, nil, nil)
					_, _ = upstream.Read(make([]byte, 1))
					sent := strings.Repeat(interim, rng.IntN(60)) // together less than what is too much
					var sending sync.WaitGroup
					sending.Go(func() { _, _ = io.WriteString(upstream, sent) })
					if chance(rng, 2) {
						sending.Wait() // or it is cut short
					} else {
						time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
					}
					reasons[i%len(reasons)](client, upstream)
					if got := k.cause(t); got == Finished {
						t.Errorf("session %d: its exchange is no failure", i)
					}
					k.wg.Wait()
					until(t, "a session that is given up is out of the registry", func() bool { return k.streams.Len() == 0 })
					got, _ := io.ReadAll(client)
					client.Close()
					upstream.Close()
					sending.Wait()
					if rest := strings.ReplaceAll(string(got), interim, ""); !strings.HasPrefix(string(k.Refusal(400)), rest) &&
						!strings.HasPrefix(string(k.Refusal(502)), rest) && !strings.HasPrefix(string(k.Refusal(504)), rest) && !strings.HasPrefix(interim, rest) {
						t.Errorf("session %d: the client got %.200q", i, rest)
					}
				})
			}
			all.Wait()
			until(t, "all descriptors are closed", func() bool { return openDescriptors() <= before })
		})
	}
}
