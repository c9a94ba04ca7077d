package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func newPortable(r *Registry) Engine { return Portable{Streams: r} }

func TestPortable(t *testing.T) { testEngine(t, newPortable) }

// TestPortableAnyConn is what an engine does that takes any net.Conn.
func TestPortableAnyConn(t *testing.T) { testAnyConn(t, newPortable(nil)) }

func testAnyConn(t *testing.T, e Engine) {
	t.Run("tls", func(t *testing.T) {
		testTransport(t, e, "tls")
		t.Run("resets", func(t *testing.T) { testResets(t, e, "tls") })
		t.Run("truncation", func(t *testing.T) { testTruncation(t, e) })
	})
	t.Run("tls peer slow to read", func(t *testing.T) { testSlowCloseNotify(t, e) })
	t.Run("errors", func(t *testing.T) { testErrors(t, e) })
	t.Run("clocks", func(t *testing.T) { testClocks(t, e) })
	t.Run("no CloseWrite", func(t *testing.T) { testNoCloseWrite(t, e) })
	t.Run("short writes", func(t *testing.T) { testShortWrites(t, e) })
}

func testTruncation(t *testing.T, e Engine) {
	for _, test := range []struct {
		name      string
		wire      string // the last bytes on the TCP connection
		want      Cause
		wantError error
	}{
		{"within a record", "\x17\x03\x03\x00\x20half of it", ClientError, io.ErrUnexpectedEOF},
		{"within a record's header", "\x17\x03", ClientError, io.ErrUnexpectedEOF},
		// crypto/tls accepts it; should that change, it becomes an error here too.
		{"between records", "", Finished, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := &link{}
			var s Stream
			s.Client, l.client = connect(t, "tls")
			s.Upstream, l.upstream = connect(t, "tcp")
			l.start(t, e, s)
			send(t, l.client, "whole")
			receives(t, l.upstream, "whole")

			raw := l.client.(*tls.Conn).NetConn()
			send(t, raw, test.wire)
			closeWrite(t, raw)
			if test.want == Finished {
				receivesEnd(t, l.upstream)
				closeWrite(t, l.upstream)
			} else {
				receivesReset(t, l.upstream)
			}
			a := l.account(t)
			if a.Cause != test.want || !errors.Is(a.Err, test.wantError) {
				t.Errorf("got %v, error %v, want %v, error %v", a.Cause, a.Err, test.want, test.wantError)
			}
		})
	}
}

// testSlowCloseNotify: crypto/tls waits 5 s for the peer to take a close_notify.
// A slower one still gets all that was delivered, and the end.
func testSlowCloseNotify(t *testing.T, e Engine) {
	cert := certificate(t)
	synctest.Test(t, func(t *testing.T) {
		near, far := newDuplex()
		server := tls.Server(near, &tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true})
		client := tls.Client(far, &tls.Config{InsecureSkipVerify: true})
		go client.Handshake()
		if err := server.Handshake(); err != nil {
			t.Fatal(err)
		}
		nearUpstream, upstream := newDuplex()
		done := make(chan Account, 1)
		e.Start(&Stream{Client: server, Upstream: nearUpstream, Done: func(a Account) { done <- a }})

		go func() {
			upstream.Write([]byte("response"))
			upstream.CloseWrite()
		}()
		receives(t, client, "response")
		time.Sleep(time.Minute)
		receivesEnd(t, client)
		go client.CloseWrite()
		receivesEnd(t, upstream)
		if a := <-done; a.Cause != Finished || a.ToClient != 8 {
			t.Errorf("got %+v, want %v and 8 bytes", a, Finished)
		}
	})
}

// brokenConn fails with the given errors, unless they are nil.
type brokenConn struct {
	*net.TCPConn
	read, write, closeWrite error
}

func (c brokenConn) NetConn() net.Conn { return c.TCPConn }

func (c brokenConn) Read(p []byte) (int, error) {
	if c.read != nil {
		return copy(p, "last words"), c.read
	}
	return c.TCPConn.Read(p)
}

func (c brokenConn) Write(p []byte) (int, error) {
	if c.write != nil {
		n, _ := c.TCPConn.Write(p[:1])
		return n, c.write
	}
	return c.TCPConn.Write(p)
}

func (c brokenConn) CloseWrite() error {
	if c.closeWrite != nil {
		return c.closeWrite
	}
	return c.TCPConn.CloseWrite()
}

func testErrors(t *testing.T, e Engine) {
	boom := errors.New("boom")
	for _, test := range []struct {
		name             string
		client, upstream brokenConn
		want             Account
	}{
		{"client read", brokenConn{read: boom}, brokenConn{}, Account{Cause: ClientError, ToUpstream: 10}},
		{"upstream read", brokenConn{}, brokenConn{read: boom}, Account{Cause: UpstreamError, ToUpstream: -1, ToClient: 10}},
		{"client write", brokenConn{write: boom}, brokenConn{}, Account{Cause: ClientError, ToUpstream: -1, ToClient: 1}},
		{"upstream write", brokenConn{}, brokenConn{write: boom}, Account{Cause: UpstreamError, ToUpstream: 1, ToClient: -1}},
		{"upstream CloseWrite", brokenConn{}, brokenConn{closeWrite: boom}, Account{Cause: UpstreamError, ToUpstream: 4}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := &link{}
			client, upstream := test.client, test.upstream
			var c, u net.Conn
			c, l.client = connect(t, "tcp")
			u, l.upstream = connect(t, "tcp")
			client.TCPConn, upstream.TCPConn = c.(*net.TCPConn), u.(*net.TCPConn)
			if upstream.closeWrite != nil {
				send(t, l.client, "ping")
				closeWrite(t, l.client)
			} else if test.client.read == nil && test.upstream.read == nil {
				send(t, l.client, "ping")
				if client.write != nil {
					send(t, l.upstream, "pong")
				}
			}
			l.start(t, e, Stream{Client: client, Upstream: upstream})
			// Neither peer may take what it got for complete.
			receivesReset(t, l.client)
			receivesReset(t, l.upstream)
			if a := l.ends(t, test.want); !errors.Is(a.Err, boom) {
				t.Errorf("error: got %v, want %v", a.Err, boom)
			}
		})
	}
}

// testClocks runs in false time, so that it can be exact.
func testClocks(t *testing.T, e Engine) {
	type act func(client, upstream *duplex)
	type step struct {
		at time.Duration
		do act
	}
	clientSends := func(c, _ *duplex) { c.Write([]byte{1}) }
	upstreamSends := func(_, u *duplex) { u.Write([]byte{1}) }
	clientEnds := func(c, _ *duplex) { c.CloseWrite() }
	upstreamEnds := func(_, u *duplex) { u.CloseWrite() }
	const s = time.Second

	for _, test := range []struct {
		name            string
		idle, halfClose time.Duration
		limit           int64 // to upstream
		deaf            bool  // the upstream does not read
		steps           []step
		want            Cause
		after           time.Duration
	}{
		{name: "idle", idle: 60 * s, want: IdleTimeout, after: 60 * s},
		{name: "idle, one way", idle: 60 * s, steps: []step{{40 * s, clientSends}}, want: IdleTimeout, after: 100 * s},
		{name: "idle, other way", idle: 60 * s, steps: []step{{40 * s, upstreamSends}}, want: IdleTimeout, after: 100 * s},
		{
			name: "idle, again and again", idle: 60 * s,
			steps: []step{{59 * s, clientSends}, {118 * s, upstreamSends}, {119 * s, clientSends}, {170 * s, clientSends}},
			want:  IdleTimeout, after: 230 * s,
		},
		{
			name: "idle, nothing delivered", idle: 60 * s, deaf: true,
			steps: []step{{40 * s, clientSends}}, want: IdleTimeout, after: 60 * s,
		},
		{
			name: "no timeouts", steps: []step{{9999 * time.Hour, clientEnds}, {99999 * time.Hour, upstreamEnds}},
			want: Finished, after: 99999 * time.Hour,
		},
		{
			name: "the longest timeouts", idle: forever, halfClose: forever,
			steps: []step{{40 * s, clientSends}, {50 * s, clientEnds}, {9999 * time.Hour, upstreamEnds}},
			want:  Finished, after: 9999 * time.Hour,
		},
		{
			name: "half-close does not run before", halfClose: 30 * s,
			steps: []step{{100 * s, clientSends}, {200 * s, clientEnds}}, want: HalfCloseTimeout, after: 230 * s,
		},
		{
			name: "half-close by the upstream", idle: time.Hour, halfClose: 30 * s,
			steps: []step{{10 * s, upstreamEnds}}, want: HalfCloseTimeout, after: 40 * s,
		},
		{
			name: "half-close, progress", idle: time.Hour, halfClose: 30 * s,
			steps: []step{{10 * s, clientEnds}, {39 * s, upstreamSends}, {60 * s, upstreamSends}},
			want:  HalfCloseTimeout, after: 90 * s,
		},
		{
			name: "half-close by limit", idle: time.Hour, halfClose: 30 * s, limit: 1,
			steps: []step{{10 * s, clientSends}}, want: HalfCloseTimeout, after: 40 * s,
		},
		{
			name: "half-close, idle earlier", idle: 60 * s, halfClose: 30 * s,
			steps: []step{{50 * s, clientEnds}}, want: IdleTimeout, after: 60 * s,
		},
		{
			name: "half-close earlier than idle", idle: 60 * s, halfClose: 30 * s,
			steps: []step{{20 * s, clientEnds}}, want: HalfCloseTimeout, after: 50 * s,
		},
		{
			name: "half-close with idle only", idle: 60 * s,
			steps: []step{{20 * s, clientEnds}, {50 * s, upstreamSends}}, want: IdleTimeout, after: 110 * s,
		},
		{
			name: "finished", idle: 60 * s, halfClose: 30 * s,
			steps: []step{{20 * s, clientEnds}, {40 * s, upstreamEnds}}, want: Finished, after: 40 * s,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				nearClient, client := newDuplex()
				nearUpstream, upstream := newDuplex()
				done := make(chan Account, 1)
				start := time.Now()
				e.Start(&Stream{
					Client: nearClient, Upstream: nearUpstream,
					ToUpstream:  Direction{Limit: test.limit},
					IdleTimeout: test.idle, HalfCloseTimeout: test.halfClose,
					Done: func(a Account) { done <- a },
				})
				go io.Copy(io.Discard, client)
				if !test.deaf {
					go io.Copy(io.Discard, upstream)
				}
				for _, step := range test.steps {
					time.Sleep(time.Until(start.Add(step.at)))
					step.do(client, upstream)
					synctest.Wait()
				}
				a := <-done
				if a.Cause != test.want || a.Duration != test.after {
					t.Errorf("got %v after %v, want %v after %v", a.Cause, a.Duration, test.want, test.after)
				}
			})
		})
	}
}

func testNoCloseWrite(t *testing.T, e Engine) {
	// The upstream is a net.Pipe: closing it is its only way to end.
	start := func() (client *duplex, upstream net.Conn, done chan Account) {
		nearClient, client := newDuplex()
		nearUpstream, upstream := net.Pipe()
		done = make(chan Account, 1)
		e.Start(&Stream{
			Client: nearClient, Upstream: nearUpstream, HalfCloseTimeout: time.Minute,
			Done: func(a Account) { done <- a },
		})
		return client, upstream, done
	}
	check := func(t *testing.T, a, want Account) {
		t.Helper()
		if a.Cause != want.Cause || a.ToUpstream != want.ToUpstream || a.ToClient != want.ToClient {
			t.Errorf("got %+v, want %+v", a, want)
		}
	}

	t.Run("ends with the source", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, upstream, done := start()
			go func() {
				client.Write([]byte("request"))
				client.CloseWrite()
			}()
			receives(t, upstream, "request")
			receivesEnd(t, upstream)
			receivesEnd(t, client)
			check(t, <-done, Account{Cause: Finished, ToUpstream: 7})
		})
	})
	t.Run("delivers what it has read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, upstream, done := start()
			upstream.Write([]byte("in hand")) // read by the engine, not yet by the client
			client.CloseWrite()
			receivesEndOrNothing(t, upstream)
			receives(t, client, "in hand")
			receivesEnd(t, client)
			check(t, <-done, Account{Cause: Finished, ToClient: 7})
		})
	})
	t.Run("does not wait for ever to deliver", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, upstream, done := start()
			upstream.Write([]byte("in hand"))
			client.CloseWrite()
			check(t, <-done, Account{Cause: HalfCloseTimeout})
		})
	})
	t.Run("no deadlines either", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			nearClient, client := newDuplex()
			nearUpstream, upstream := net.Pipe()
			done := make(chan Account, 1)
			e.Start(&Stream{
				Client: nearClient, Upstream: noDeadlines{nearUpstream},
				Done: func(a Account) { done <- a },
			})
			client.CloseWrite()
			receivesEnd(t, upstream)
			check(t, <-done, Account{Cause: Finished})
		})
	})
	t.Run("the other way it half-closes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, upstream, done := start()
			upstream.Close()
			receivesEnd(t, client)
			client.CloseWrite()
			check(t, <-done, Account{Cause: Finished})
		})
	})
}

// receivesEndOrNothing checks that no byte comes before the stream's end.
func receivesEndOrNothing(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(time.Second))
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("got %d bytes, error %v, want none", n, err)
	}
}

type noDeadlines struct{ net.Conn }

func (noDeadlines) SetDeadline(time.Time) error     { return os.ErrNoDeadline }
func (noDeadlines) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

// stingyConn accepts at most three bytes at a time, without an error, and after
// some bytes none.
type stingyConn struct {
	net.Conn
	left int
}

func (c *stingyConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p[:min(3, len(p), c.left)])
	c.left -= n
	return n, err
}

func testShortWrites(t *testing.T, e Engine) {
	for _, test := range []struct {
		name   string
		accept int
		want   string
		cause  Cause
	}{
		{"all accepted in the end", 100, "in many pieces", Finished},
		{"no progress", 7, "in many", UpstreamError},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				nearClient, client := newDuplex()
				nearUpstream, upstream := net.Pipe()
				done := make(chan Account, 1)
				e.Start(&Stream{
					Client: nearClient, Upstream: &stingyConn{nearUpstream, test.accept},
					Done: func(a Account) { done <- a },
				})
				go func() {
					client.Write([]byte("in many pieces"))
					client.CloseWrite()
				}()
				receives(t, upstream, test.want)
				receivesEnd(t, upstream)
				a := <-done
				if a.Cause != test.cause || a.ToUpstream != int64(len(test.want)) {
					t.Errorf("got %v, %d bytes, want %v, %d", a.Cause, a.ToUpstream, test.cause, len(test.want))
				}
			})
		})
	}
}

func TestRegistry(t *testing.T) {
	start := func(r *Registry, done func(Account)) (client, upstream *duplex) {
		nearClient, client := newDuplex()
		nearUpstream, upstream := newDuplex()
		Portable{Streams: r}.Start(&Stream{Client: nearClient, Upstream: nearUpstream, Done: done})
		return client, upstream
	}

	t.Run("nothing to drain", func(t *testing.T) {
		if got := new(Registry).Drain(context.Background()); got != 0 {
			t.Errorf("got %d, want 0", got)
		}
	})
	t.Run("nothing to drain any more", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := new(Registry)
			client, upstream := start(r, nil)
			client.Close()
			upstream.Close()
			synctest.Wait()
			if got := r.Len() + r.Drain(context.Background()); got != 0 {
				t.Errorf("got %d, want 0", got)
			}
		})
	})
	t.Run("waits for the last one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := new(Registry)
			begin := time.Now()
			for i := range 3 {
				client, upstream := start(r, nil)
				time.AfterFunc(time.Duration(i+1)*time.Minute, func() { client.Close(); upstream.Close() })
			}
			if got := r.Drain(context.Background()); got != 0 {
				t.Errorf("reset: got %d, want 0", got)
			}
			if got := time.Since(begin); got != 3*time.Minute {
				t.Errorf("drained after %v, want 3m", got)
			}
		})
	})
	t.Run("waits for Done after a reset", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := new(Registry)
			begin := time.Now()
			start(r, func(Account) { time.Sleep(time.Second) })
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if got := r.Drain(ctx); got != 1 {
				t.Errorf("reset: got %d, want 1", got)
			}
			if got := time.Since(begin); got != 11*time.Second {
				t.Errorf("drained after %v, want 11s", got)
			}
		})
	})
	t.Run("a stream that starts after the reset", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := new(Registry)
			start(r, func(Account) { time.Sleep(time.Second) })
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			time.AfterFunc(10*time.Second+time.Millisecond, func() { start(r, nil) })
			if got := r.Drain(ctx); got != 2 {
				t.Errorf("reset: got %d, want 2", got)
			}
		})
	})
	t.Run("two drains", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := new(Registry)
			for range 5 {
				start(r, nil)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			sum := make(chan int)
			for range 2 {
				go func() { sum <- r.Drain(ctx) }()
			}
			if got := <-sum + <-sum; got != 5 {
				t.Errorf("reset: got %d, want 5", got)
			}
		})
	})
}

func TestCause(t *testing.T) {
	for c := Finished; c <= ResponseTimeout; c++ {
		if s := c.String(); s == "" || s == "unknown" {
			t.Errorf("cause %d has no name", c)
		}
	}
	if got := (ResponseTimeout + 1).String(); got != "unknown" {
		t.Errorf("got %q, want unknown", got)
	}
}
