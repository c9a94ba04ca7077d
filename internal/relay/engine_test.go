package relay

import (
	"context"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// testEngine is what every engine does with sockets.
func testEngine(t *testing.T, newEngine func(*Registry) Engine) {
	registry := new(Registry)
	e := newEngine(registry)
	// Descriptors that the runtime or the engine keeps are open after a first stream.
	t.Run("first", func(t *testing.T) { testHalfClose(t, e, "tcp") })
	before := openDescriptors()

	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			testTransport(t, e, network)
			t.Run("limits", func(t *testing.T) { testLimits(t, e, network) })
			t.Run("deadlines are cleared", func(t *testing.T) { testDeadlines(t, e, network) })
			t.Run("timeouts", func(t *testing.T) { testTimeouts(t, e, network) })
			t.Run("backpressure", func(t *testing.T) { testBackpressure(t, e, network) })
			t.Run("closed before start", func(t *testing.T) { testClosedBefore(t, e, network) })
		})
	}
	t.Run("resets", func(t *testing.T) { testResets(t, e, "tcp") })
	t.Run("drain", func(t *testing.T) { testDrain(t, newEngine) })
	t.Run("drain while streams start", func(t *testing.T) { testDrainUnderFire(t, newEngine) })
	t.Run("kill a group", func(t *testing.T) { testKill(t, newEngine) })

	registry.Drain(t.Context())
	if got := registry.Len(); got != 0 {
		t.Errorf("streams left: got %d, want 0", got)
	}
	until(t, "no more descriptors are open than before", func() bool { return openDescriptors() <= before })
}

// testTransport is what works over anything that can half-close.
func testTransport(t *testing.T, e Engine, network string) {
	t.Run("bulk both ways", func(t *testing.T) { testBulk(t, e, network) })
	t.Run("pending", func(t *testing.T) { testPending(t, e, network) })
	t.Run("half-close", func(t *testing.T) { testHalfClose(t, e, network) })
}

func testBulk(t *testing.T, e Engine, network string) {
	up, down := random(24<<20, 1), random(17<<20, 2)
	l := relayed(t, e, network, Stream{})

	var wg sync.WaitGroup
	exchange := func(name string, c net.Conn, out, in []byte) {
		wg.Go(func() {
			if err := sendCut(c, out); err != nil {
				t.Errorf("%s sending: %v", name, err)
			}
		})
		wg.Go(func() {
			got, err := io.ReadAll(c)
			if err != nil {
				t.Errorf("%s receiving: %v", name, err)
			}
			same(t, name+" received", got, in)
		})
	}
	exchange("client", l.client, up, down)
	exchange("upstream", l.upstream, down, up)
	wg.Wait()
	l.ends(t, Account{Cause: Finished, ToUpstream: int64(len(up)), ToClient: int64(len(down))})
}

func testPending(t *testing.T, e Engine, network string) {
	big := string(random(300<<10, 3))
	for _, test := range []struct{ name, up, down string }{
		{"to upstream", "GET / HTTP/1.1\r\n", ""},
		{"to client", "", "220 ready\r\n"},
		{"both", "HELO", "220"},
		{"larger than any buffer", big, big},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := relayed(t, e, network, Stream{
				ToUpstream: Direction{Pending: []byte(test.up)},
				ToClient:   Direction{Pending: []byte(test.down)},
			})
			send(t, l.client, "later")
			send(t, l.upstream, "more")
			receives(t, l.upstream, test.up+"later")
			receives(t, l.client, test.down+"more")
			closeWrite(t, l.client)
			closeWrite(t, l.upstream)
			receivesEnd(t, l.upstream)
			receivesEnd(t, l.client)
			l.ends(t, Account{ToUpstream: int64(len(test.up) + 5), ToClient: int64(len(test.down) + 4)})
		})
	}
}

func testHalfClose(t *testing.T, e Engine, network string) {
	for _, test := range []struct {
		name          string
		first, second func(*link) net.Conn
	}{
		{"client first", (*link).clientEnd, (*link).upstreamEnd},
		{"upstream first", (*link).upstreamEnd, (*link).clientEnd},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := relayed(t, e, network, Stream{})
			first, second := test.first(l), test.second(l)
			send(t, first, "all I have")
			closeWrite(t, first)
			receives(t, second, "all I have")
			receivesEnd(t, second)

			for _, piece := range []string{"this ", "still ", "arrives"} {
				send(t, second, piece)
				receives(t, first, piece)
			}
			select {
			case a := <-l.done:
				t.Fatalf("the stream ended early: %+v", a)
			default:
			}
			closeWrite(t, second)
			receivesEnd(t, first)
			l.ends(t, Account{Cause: Finished, ToUpstream: -1, ToClient: -1})
		})
	}
}

func testLimits(t *testing.T, e Engine, network string) {
	for _, test := range []struct {
		name    string
		pending string
		limit   int64
		sent    string
		want    string // received by the destination
		unread  string // left in the source
	}{
		{"exact", "", 5, "12345", "12345", ""},
		{"bytes beyond", "", 5, "12345beyond", "12345", "beyond"},
		{"pending counts", "123", 5, "45beyond", "12345", "beyond"},
		{"pending exact", "12345", 5, "beyond", "12345", "beyond"},
		{"smaller than pending", "12345678", 5, "beyond", "12345", "beyond"},
		{"nothing at all", "12345", -1, "beyond", "", "beyond"},
		{
			"larger than any buffer", "", 200_000,
			string(random(200_000, 4)) + "beyond", string(random(200_000, 4)), "beyond",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := &link{}
			s := Stream{ToUpstream: Direction{Pending: []byte(test.pending), Limit: test.limit}}
			s.Client, l.client = connect(t, network)
			s.Upstream, l.upstream = connect(t, network)
			source := duplicate(t, s.Client)
			l.start(t, e, s)

			send(t, l.client, test.sent)
			receives(t, l.upstream, test.want)
			receives(t, source, test.unread)
			source.Close()

			// The direction's end is not passed on, and the other one goes on.
			send(t, l.upstream, "response")
			receives(t, l.client, "response")
			l.upstream.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if n, err := l.upstream.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Errorf("after the limit the destination read %d bytes, error %v", n, err)
			}
			closeWrite(t, l.upstream)
			l.ends(t, Account{ToUpstream: int64(len(test.want)), ToClient: 8})
		})
	}

	t.Run("both directions", func(t *testing.T) {
		l := relayed(t, e, network, Stream{ToUpstream: Direction{Limit: 2}, ToClient: Direction{Limit: 3}})
		send(t, l.client, "up")
		receives(t, l.upstream, "up")
		send(t, l.upstream, "dow")
		receives(t, l.client, "dow")
		l.ends(t, Account{Cause: Finished, ToUpstream: 2, ToClient: 3})
		receivesEnd(t, l.client)
		receivesEnd(t, l.upstream)
	})

	t.Run("end before the limit", func(t *testing.T) {
		l := relayed(t, e, network, Stream{ToUpstream: Direction{Limit: 10}})
		send(t, l.client, "short")
		closeWrite(t, l.client)
		receives(t, l.upstream, "short")
		receivesEnd(t, l.upstream)
		closeWrite(t, l.upstream)
		l.ends(t, Account{Cause: Finished, ToUpstream: 5})
	})
}

// duplicate returns a second descriptor of the socket, to see what is left in it.
func duplicate(t *testing.T, c net.Conn) net.Conn {
	t.Helper()
	f, err := c.(fileConn).File()
	if runtime.GOOS == "windows" && err != nil {
		t.Skipf("Windows has no second descriptor of a socket: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	d.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { d.Close() })
	return d
}

func testDeadlines(t *testing.T, e Engine, network string) {
	l := &link{}
	var s Stream
	s.Client, l.client = connect(t, network)
	s.Upstream, l.upstream = connect(t, network)
	s.Client.SetDeadline(time.Unix(1, 0))
	s.Upstream.SetDeadline(time.Unix(1, 0))
	l.start(t, e, s)
	send(t, l.client, "ping")
	receives(t, l.upstream, "ping")
	send(t, l.upstream, "pong")
	receives(t, l.client, "pong")
}

func testTimeouts(t *testing.T, e Engine, network string) {
	const short = 60 * time.Millisecond

	t.Run("idle", func(t *testing.T) {
		l := relayed(t, e, network, Stream{IdleTimeout: short, HalfCloseTimeout: time.Hour})
		receivesEnd(t, l.client)
		receivesEnd(t, l.upstream)
		l.ends(t, Account{Cause: IdleTimeout, Duration: short})
	})

	for _, test := range []struct {
		name     string
		from, to func(*link) net.Conn
	}{
		{"to upstream", (*link).clientEnd, (*link).upstreamEnd},
		{"to client", (*link).upstreamEnd, (*link).clientEnd},
	} {
		t.Run("a byte restarts idle, "+test.name, func(t *testing.T) {
			l := relayed(t, e, network, Stream{IdleTimeout: 4 * short})
			time.Sleep(2 * short)
			sent := time.Now()
			test.from(l).Write([]byte{1})
			n, _ := test.to(l).Read(make([]byte, 1))
			if n == 0 {
				t.Skip("the machine is too slow to tell")
			}
			if a := l.account(t); a.Cause != IdleTimeout {
				t.Errorf("cause: got %v, want %v", a.Cause, IdleTimeout)
			}
			if lasted := time.Since(sent); lasted < 4*short {
				t.Errorf("ended %v after a byte, want at least %v", lasted, 4*short)
			}
		})

		t.Run("half-close, "+test.name, func(t *testing.T) {
			l := relayed(t, e, network, Stream{IdleTimeout: time.Hour, HalfCloseTimeout: short})
			time.Sleep(short / 2)
			closeWrite(t, test.from(l))
			receivesEnd(t, test.to(l))
			receivesEnd(t, test.from(l))
			l.ends(t, Account{Cause: HalfCloseTimeout, Duration: short * 3 / 2})
		})
	}

	t.Run("half-close by limit", func(t *testing.T) {
		l := relayed(t, e, network, Stream{ToUpstream: Direction{Limit: 1}, HalfCloseTimeout: short})
		send(t, l.client, "1")
		receives(t, l.upstream, "1")
		receivesEnd(t, l.upstream)
		receivesEnd(t, l.client)
		l.ends(t, Account{Cause: HalfCloseTimeout, ToUpstream: 1, Duration: short})
	})

	t.Run("a destination that does not read is idle", func(t *testing.T) {
		l := relayed(t, e, network, Stream{IdleTimeout: 2 * short})
		piece := make([]byte, 1<<20)
		for { // until the engine closes the connection
			if _, err := l.client.Write(piece); err != nil {
				break
			}
		}
		l.ends(t, Account{Cause: IdleTimeout, ToUpstream: -1, Duration: 2 * short})
	})
}

func testBackpressure(t *testing.T, e Engine, network string) {
	const sockets, total, most = 64 << 10, 32 << 20, 8 << 20
	l := &link{}
	var s Stream
	s.Client, l.client = connect(t, network)
	s.Upstream, l.upstream = connect(t, network)
	for _, c := range []net.Conn{s.Client, l.client, s.Upstream, l.upstream} {
		b := c.(interface {
			SetReadBuffer(int) error
			SetWriteBuffer(int) error
		})
		if err := b.SetReadBuffer(sockets); err != nil {
			t.Fatal(err)
		}
		if err := b.SetWriteBuffer(sockets); err != nil {
			t.Fatal(err)
		}
	}
	l.start(t, e, s)

	data := random(total, 5)
	var sent atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for rest := data; len(rest) > 0; {
			n, err := l.client.Write(rest[:min(len(rest), 32<<10)])
			sent.Add(int64(n))
			if err != nil {
				t.Errorf("sending: %v", err)
				return
			}
			rest = rest[n:]
		}
		closeWrite(t, l.client)
	})

	// Wait until the sender stands still; if it only seems to, the bound holds too.
	for last, same := int64(-1), 0; same < 5; time.Sleep(20 * time.Millisecond) {
		if now := sent.Load(); now == last && now > 0 {
			same++
		} else {
			last, same = now, 0
		}
	}
	if got := sent.Load(); got > most {
		t.Errorf("sent before the reader reads: got %d bytes, want at most %d", got, most)
	}
	// The way back is not held up.
	send(t, l.upstream, "pong")
	receives(t, l.client, "pong")

	got, err := io.ReadAll(l.upstream)
	if err != nil {
		t.Errorf("receiving: %v", err)
	}
	same(t, "upstream received", got, data)
	wg.Wait()
	closeWrite(t, l.upstream)
	l.ends(t, Account{Cause: Finished, ToUpstream: total, ToClient: 4})
}

func testClosedBefore(t *testing.T, e Engine, network string) {
	for _, test := range []struct {
		name             string
		client, upstream bool // closed
	}{
		{"client", true, false},
		{"upstream", false, true},
		{"both", true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := &link{}
			s := Stream{ToUpstream: Direction{Pending: []byte("head")}}
			s.Client, l.client = connect(t, network)
			s.Upstream, l.upstream = connect(t, network)
			if test.client {
				s.Client.Close()
			}
			if test.upstream {
				s.Upstream.Close()
			}
			l.start(t, e, s)
			a := l.account(t)
			client := a.Cause == ClientError && test.client
			upstream := a.Cause == UpstreamError && test.upstream
			if !client && !upstream || a.Err == nil {
				t.Errorf("got cause %v, error %v, want an error of a closed side", a.Cause, a.Err)
			}
		})
	}
}

func testResets(t *testing.T, e Engine, network string) {
	for _, test := range []struct {
		name     string
		from, to func(*link) net.Conn
		want     Cause
	}{
		{"by the client", (*link).clientEnd, (*link).upstreamEnd, ClientReset},
		{"by the upstream", (*link).upstreamEnd, (*link).clientEnd, UpstreamReset},
	} {
		want := Account{Cause: test.want, ToUpstream: -1, ToClient: -1}
		t.Run(test.name, func(t *testing.T) {
			l := relayed(t, e, network, Stream{})
			send(t, l.client, "a")
			receives(t, l.upstream, "a")
			send(t, l.upstream, "b")
			receives(t, l.client, "b")
			sendReset(test.from(l))
			receivesReset(t, test.to(l))
			l.ends(t, want)
		})
		t.Run(test.name+" at once", func(t *testing.T) {
			l := relayed(t, e, network, Stream{})
			sendReset(test.from(l))
			receivesReset(t, test.to(l))
			l.ends(t, want)
		})
		t.Run(test.name+" after the other has finished", func(t *testing.T) {
			l := relayed(t, e, network, Stream{})
			closeWrite(t, test.to(l))
			receivesEnd(t, test.from(l))
			sendReset(test.from(l))
			receivesReset(t, test.to(l))
			l.ends(t, want)
		})
		t.Run(test.name+" after it has finished", func(t *testing.T) {
			l := relayed(t, e, network, Stream{})
			// It no longer sends, so only writing to it tells of the reset.
			closeWrite(t, test.from(l))
			receivesEnd(t, test.to(l))
			test.from(l).Close()
			for piece := make([]byte, 64<<10); ; {
				if _, err := test.to(l).Write(piece); err != nil {
					if !socket.IsReset(err) {
						t.Errorf("sending: got error %v, want a reset", err)
					}
					break
				}
			}
			l.ends(t, want)
		})
		t.Run(test.name+" while bytes wait for it", func(t *testing.T) {
			// Writing and reading wake up together, and only one of them is told
			// that it was a reset. Never may the other side see an end.
			for range 30 {
				l := relayed(t, e, network, Stream{})
				to := test.to(l)
				to.SetWriteDeadline(time.Now().Add(15 * time.Millisecond))
				for piece := make([]byte, 1<<20); ; {
					if _, err := to.Write(piece); err != nil {
						break
					}
				}
				sendReset(test.from(l))
				receivesReset(t, to)
				l.ends(t, want)
				to.Close()
			}
		})
	}
}

func testDrain(t *testing.T, newEngine func(*Registry) Engine) {
	registry := new(Registry)
	e := newEngine(registry)
	finishing := relayed(t, e, "tcp", Stream{})
	staying := relayed(t, e, "tcp", Stream{})
	send(t, staying.client, "hello")
	receives(t, staying.upstream, "hello")
	if got := registry.Len(); got != 2 {
		t.Errorf("streams: got %d, want 2", got)
	}

	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	reset := make(chan int)
	go func() { reset <- registry.Drain(ctx) }()

	closeWrite(t, finishing.client)
	closeWrite(t, finishing.upstream)
	finishing.ends(t, Account{Cause: Finished})
	late := relayed(t, e, "tcp", Stream{})
	send(t, late.client, "works while draining")
	receives(t, late.upstream, "works while draining")
	select {
	case n := <-reset:
		t.Fatalf("Drain returned %d with streams in flight", n)
	default:
	}

	giveUp()
	if got := <-reset; got != 2 {
		t.Errorf("reset: got %d streams, want 2", got)
	}
	for _, l := range []*link{staying, late} {
		receivesReset(t, l.client)
		receivesReset(t, l.upstream)
		l.ends(t, Account{Cause: Shutdown, ToUpstream: -1})
	}
	if got := registry.Len(); got != 0 {
		t.Errorf("streams after Drain: got %d, want 0", got)
	}
}

// testKill resets the streams of a group, and no others.
func testKill(t *testing.T, newEngine func(*Registry) Engine) {
	registry, group, other := new(Registry), new(Registry), new(Registry)
	e := newEngine(registry)
	ended := relayed(t, e, "tcp", Stream{Group: group})
	closeWrite(t, ended.client)
	closeWrite(t, ended.upstream)
	ended.ends(t, Account{Cause: Finished})
	if got := group.Kill(); got != 0 {
		t.Errorf("killed: got %d streams, want none, since the only one has ended", got)
	}

	first, second := relayed(t, e, "tcp", Stream{Group: group}), relayed(t, e, "tcp", Stream{Group: group})
	alone, elsewhere := relayed(t, e, "tcp", Stream{}), relayed(t, e, "tcp", Stream{Group: other})
	if got := group.Kill(); got != 2 {
		t.Errorf("killed: got %d streams, want 2", got)
	}
	for _, l := range []*link{first, second} {
		receivesReset(t, l.client)
		receivesReset(t, l.upstream)
		l.ends(t, Account{Cause: Killed})
	}
	for _, l := range []*link{alone, elsewhere} {
		send(t, l.client, "still here")
		receives(t, l.upstream, "still here")
	}
	registry.Drain(canceled(t))
	for _, r := range []*Registry{registry, group, other} {
		if got := r.Len(); got != 0 {
			t.Errorf("streams left: got %d, want 0", got)
		}
	}
}

// canceled returns a context that is over.
func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// testDrainUnderFire starts streams while Drain resets them: each is accounted for
// once, as reset by Drain.
func testDrainUnderFire(t *testing.T, newEngine func(*Registry) Engine) {
	const streams = 50
	registry := new(Registry)
	e := newEngine(registry)
	var accounted atomic.Int64
	start := func() {
		client, far1 := connect(t, "tcp")
		upstream, far2 := connect(t, "tcp")
		e.Start(&Stream{Client: client, Upstream: upstream, Done: func(a Account) {
			accounted.Add(1)
			if a.Cause != Shutdown {
				t.Errorf("cause: got %v, want %v", a.Cause, Shutdown)
			}
			far1.Close()
			far2.Close()
		}})
	}
	start()
	now, cancel := context.WithCancel(t.Context())
	cancel()
	counted := make(chan int)
	go func() {
		// It may find the registry empty between two streams.
		sum := 0
		for sum < streams {
			sum += registry.Drain(now)
		}
		counted <- sum
	}()
	for range streams - 1 {
		start()
	}
	if got := <-counted; got != streams {
		t.Errorf("reset: got %d, want %d", got, streams)
	}
	if got := accounted.Load(); got != streams {
		t.Errorf("Done: got %d calls, want %d", got, streams)
	}
}
