package relay

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// hops are networks of a client and of its upstream.
var hops = []struct{ client, upstream string }{
	{"tcp", "tcp"}, {"unix", "unix"}, {"tls", "tcp"}, {"tcp", "tls"},
}

// onEachHop runs a test over all of them.
func onEachHop(t *testing.T, test func(t *testing.T, client, upstream string)) {
	for _, hop := range hops {
		t.Run(hop.client+" to "+hop.upstream, func(t *testing.T) { test(t, hop.client, hop.upstream) })
	}
}

// scripted begins a session whose upstream is the test: accept returns the next connection
// that is made to it.
func scripted(t *testing.T, network, upstream string, configure func(*keeper)) (client net.Conn, k *keeper, accept func() net.Conn) {
	t.Helper()
	dialed := make(chan net.Conn, 100)
	var over atomic.Bool
	k = newKeeper(t, func() net.Conn {
		if over.Load() { // a request is repeated whose upstream has gone with the test
			near, _ := newDuplex()
			near.Close()
			return near
		}
		near, far := connect(t, upstream)
		if upstream == "tls" {
			near, far = far, near // who dials is the client
			_ = far.SetDeadline(time.Now().Add(patience))
			_ = near.SetDeadline(time.Time{})
		}
		dialed <- far
		return near
	})
	if configure != nil {
		configure(k)
	}
	near, client := connect(t, network)
	t.Cleanup(func() { client.Close() })
	go k.serve(near, nil, nil)
	return client, k, func() net.Conn {
		t.Helper()
		select {
		case c := <-dialed:
			t.Cleanup(func() {
				over.Store(true)
				c.Close()
			})
			return c
		case <-time.After(patience):
			t.Fatal("nobody connects to the upstream")
			return nil
		}
	}
}

// cause waits for the end of an exchange.
func (k *keeper) cause(t *testing.T) Cause {
	t.Helper()
	select {
	case a := <-k.ended:
		return a.Cause
	case <-time.After(patience):
		t.Fatal("the exchange does not end")
		return 0
	}
}

// until waits until something holds.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for begin := time.Now(); !holds(); time.Sleep(time.Millisecond) {
		if time.Since(begin) > patience {
			t.Fatalf("in vain: %s", what)
		}
	}
}

func getOf(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: h\r\n\r\n" }

func okWith(content string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(content), content)
}

// TestSessionUnsolicited: what an upstream sends between two requests reaches nobody.
func TestSessionUnsolicited(t *testing.T) {
	evil := okWith("evil")
	for name, respond := range map[string]func(*testing.T, net.Conn, net.Conn){
		"in one write": func(t *testing.T, client, upstream net.Conn) {
			send(t, upstream, okWith("first")+evil)
			receives(t, client, okWith("first"))
		},
		"right behind": func(t *testing.T, client, upstream net.Conn) {
			// Over TLS these are two records, which may be read from the socket together.
			send(t, upstream, okWith("first"))
			send(t, upstream, evil)
			receives(t, client, okWith("first"))
		},
		"later": func(t *testing.T, client, upstream net.Conn) {
			send(t, upstream, okWith("first"))
			receives(t, client, okWith("first"))
			_, _ = io.WriteString(upstream, evil)
		},
		"a byte": func(t *testing.T, client, upstream net.Conn) {
			send(t, upstream, okWith("first"))
			receives(t, client, okWith("first"))
			_, _ = io.WriteString(upstream, "H")
		},
		"after its own end": func(t *testing.T, client, upstream net.Conn) {
			send(t, upstream, okWith("first"))
			closeWrite(t, upstream)
			if inner := socket.Innermost(upstream); inner != upstream { // its TLS has ended, and no more
				_, _ = io.WriteString(inner, evil)
			}
			receives(t, client, okWith("first"))
		},
		"behind a response that fills a buffer": func(t *testing.T, client, upstream net.Conn) {
			response := okWith(strings.Repeat("x", socket.SmallSize-len(okWith(""))-3))
			send(t, upstream, response[:len(response)-1]) // leaves the buffers at an edge
			receives(t, client, response[:len(response)-1])
			send(t, upstream, response[len(response)-1:]+evil)
			receives(t, client, response[len(response)-1:])
		},
	} {
		t.Run(name, func(t *testing.T) {
			onEachHop(t, func(t *testing.T, network, upstreamNetwork string) {
				client, k, accept := scripted(t, network, upstreamNetwork, nil)
				send(t, client, getOf("/first"))
				upstream := accept()
				receives(t, upstream, getOf("/first"))
				respond(t, client, upstream)
				k.cause(t)
				if name == "right behind" {
					// Where a write of the upstream's was slower than the response was
					// fast, the bytes are as those that come later.
					time.Sleep(time.Millisecond)
				}
				send(t, client, getOf("/second"))
				other := accept()
				receives(t, other, getOf("/second"))
				send(t, other, okWith("second"))
				receives(t, client, okWith("second"))
				if got := k.dropped.Load(); got != 1 {
					t.Errorf("dropped: got %d connections, want 1", got)
				}
			})
		})
	}
}

// TestSessionUnsolicitedPipelined: nor may that be the answer to a request that was sent
// ahead.
func TestSessionUnsolicitedPipelined(t *testing.T) {
	onEachHop(t, func(t *testing.T, network, upstreamNetwork string) {
		upstreams := make(chan net.Conn, 1)
		sendEvil := sync.OnceFunc(func() { send(t, <-upstreams, okWith("evil")) })
		client, _, accept := scripted(t, network, upstreamNetwork, func(k *keeper) {
			k.onEnded = func() { sendEvil() } // nothing else has told us of it when the next request goes up
		})
		send(t, client, getOf("/first")+getOf("/second"))
		upstream := accept()
		upstreams <- upstream
		receives(t, upstream, getOf("/first"))
		send(t, upstream, okWith("first"))
		other := accept()
		receives(t, other, getOf("/second"))
		send(t, other, okWith("second"))
		receives(t, client, okWith("first")+okWith("second"))
	})
}

// TestSessionReusedNotQuiet: an upstream's connection that a session begins with may have
// been closed meanwhile, or hold what nobody has asked for.
func TestSessionReusedNotQuiet(t *testing.T) {
	for name, disturb := range map[string]func(*testing.T, net.Conn){
		"an answer": func(t *testing.T, c net.Conn) { send(t, c, okWith("evil")) },
		"its end":   func(t *testing.T, c net.Conn) { closeWrite(t, c) },
		"a reset":   func(_ *testing.T, c net.Conn) { sendReset(c) },
	} {
		t.Run(name, func(t *testing.T) {
			onEachHop(t, func(t *testing.T, network, upstreamNetwork string) {
				kept, far := connect(t, upstreamNetwork)
				disturb(t, far)
				_, k, accept := scripted(t, network, upstreamNetwork, nil)
				near, client := connect(t, network)
				t.Cleanup(func() { client.Close() })

				k.serve(near, []byte(getOf("/")), kept)
				upstream := accept()
				receives(t, upstream, getOf("/"))
				send(t, upstream, okWith("right"))
				receives(t, client, okWith("right"))

				// A request that may have been sent is answered.
				kept, far = connect(t, upstreamNetwork)
				disturb(t, far)
				near, client = connect(t, network)
				t.Cleanup(func() { client.Close() })
				k.settings.Reused = true
				dial := k.dial
				k.dial = func() net.Conn { return kept }
				k.serve(near, []byte(getOf("/")), nil) // Received is nil
				k.dial, k.settings.Reused = dial, false
				receives(t, client, "HTTP/1.1 502 ")
			})
		})
	}
}

// TestSessionNoSmuggling: an upstream that answers a request before it has taken all of it
// gets no other one on that connection, where that would be taken for the rest of the first.
func TestSessionNoSmuggling(t *testing.T) {
	for _, last := range []bool{false, true} {
		for _, network := range []string{"tcp", "unix", "tls"} {
			t.Run(fmt.Sprintf("%s, last %v", network, last), func(t *testing.T) {
				upstreamNetwork := strings.Replace(network, "tls", "tcp", 1)
				near, upstream := tight(t, upstreamNetwork)
				fill(near) // it takes no more
				client, k, accept := scripted(t, network, upstreamNetwork, func(k *keeper) {
					dial := k.dial
					k.dial = func() net.Conn { k.dial = dial; return near }
				})
				in := "POST /first HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
				if last {
					in = strings.Replace(in, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
				}
				send(t, client, in)
				send(t, upstream, okWith("early"))
				if last {
					receives(t, client, strings.Replace(okWith("early"), "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
					receivesEnd(t, client)
				} else {
					receives(t, client, okWith("early"))
					send(t, client, getOf("/second"))
					other := accept()
					receives(t, other, getOf("/second"))
					send(t, other, okWith("right"))
					receives(t, client, okWith("right"))
				}
				k.cause(t)
				got, err := io.ReadAll(upstream)
				if err == nil && network != "unix" {
					t.Error("a request that was cut short looks complete: want a reset")
				}
				if got = bytes.TrimLeft(got, "\x00"); !strings.HasPrefix(in, string(got)) {
					t.Errorf("the upstream got %q", got)
				}
			})
		}
	}
}

// TestSessionKeepsUpstream: the upstream's connection is used again after responses of all
// sizes, however they are carried.
func TestSessionKeepsUpstream(t *testing.T) {
	onEachHop(t, func(t *testing.T, network, upstreamNetwork string) {
		client, k, accept := scripted(t, network, upstreamNetwork, nil)
		r := bufio.NewReader(client)
		var upstream net.Conn
		for _, size := range []int{0, 1, socket.SmallSize, socket.LargeSize - len(okWith("")) - len("1234"), socket.LargeSize, 1 << 20, 1<<20 + 1, 3 << 20} {
			send(t, client, getOf("/"))
			if upstream == nil {
				upstream = accept()
			}
			receives(t, upstream, getOf("/"))
			content := random(size, 1)
			go func() { _, _ = io.WriteString(upstream, okWith(string(content))) }()
			request, _ := http.NewRequest("GET", "http://h/", nil)
			got, _ := answerOf(t, r, request)
			same(t, fmt.Sprint(size, " bytes"), []byte(got), content)
			k.cause(t)
		}
		if got := k.dropped.Load(); got != 0 {
			t.Errorf("dropped %d connections, want none", got)
		}
	})
}

// TestSessionLastUpstreamCloses: an upstream has some time to close its connection, as it
// was asked to, although the client has closed its own before.
func TestSessionLastUpstreamCloses(t *testing.T) {
	was := upstreamPatience
	t.Cleanup(func() { upstreamPatience = was })
	upstreamPatience = time.Hour
	onEachHop(t, func(t *testing.T, network, upstreamNetwork string) {
		client, k, accept := scripted(t, network, upstreamNetwork, func(k *keeper) { k.settings.Keepalive = 0 })
		send(t, client, getOf("/"))
		upstream := accept()
		receives(t, upstream, getOf("/"))
		send(t, upstream, okWith("last"))
		_, _ = io.Copy(io.Discard, struct{ io.Reader }{client})
		client.Close()
		k.cause(t)
		time.Sleep(10 * time.Millisecond) // that the client has left is noticed; if not, the rest holds too
		closeWrite(t, upstream)
		if inner := socket.Innermost(upstream); inner != upstream {
			closeWrite(t, inner)
		}
		if rest, err := io.ReadAll(upstream); err != nil || len(rest) > 0 {
			t.Errorf("the upstream sees %q and %v, want the end", rest, err)
		}
	})
}

// tight is a connection whose sockets hold little.
func tight(t *testing.T, network string) (near, far net.Conn) {
	t.Helper()
	near, far = connect(t, network)
	for _, c := range []net.Conn{near, far} {
		c := c.(interface {
			SetReadBuffer(int) error
			SetWriteBuffer(int) error
		})
		if err := c.SetReadBuffer(1); err != nil {
			t.Fatal(err)
		}
		if err := c.SetWriteBuffer(1); err != nil {
			t.Fatal(err)
		}
	}
	return near, far
}

// TestSessionClientEndsLate: a client may end its request too early while it does not take
// the response, which is complete. Nobody is held up by that.
func TestSessionClientEndsLate(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			for size := 1 << 10; size < 1<<20; size *= 2 { // some of it is left in our hands
				for _, in := range []string{
					"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n12345",
					"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
				} {
					near, client := tight(t, network)
					_, k, accept := scripted(t, network, network, nil)
					go k.serve(near, nil, nil)
					send(t, client, in)
					upstream := accept()
					_, _ = upstream.Read(make([]byte, 1))
					go func() { _, _ = io.WriteString(upstream, okWith(strings.Repeat("x", size))) }()
					receives(t, client, "HTTP/1.1 200 OK")
					if strings.HasSuffix(in, "\r\n") {
						_, _ = io.WriteString(client, "x") // no chunk
					}
					_ = client.(closeWriter).CloseWrite()
					// Others are served.
					other, _, accept := scripted(t, network, network, nil)
					for range 2 {
						send(t, other, getOf("/"))
						upstream = accept()
						receives(t, upstream, getOf("/"))
						send(t, upstream, strings.Replace(okWith("ok"), "OK\r\n", "OK\r\nConnection: close\r\n", 1))
						receives(t, other, okWith("ok"))
					}
					_, _ = io.Copy(io.Discard, struct{ io.Reader }{client})
					k.cause(t)
				}
			}
		})
	}
}

// TestSessionAnswerNotTaken: a session does not wait for ever for a client that does not
// take the answer to its request.
func TestSessionAnswerNotTaken(t *testing.T) {
	near, client := tight(t, "tcp")
	_, k, accept := scripted(t, "tcp", "tcp", nil)
	go k.serve(near, nil, nil)
	send(t, client, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
	upstream := accept()
	for interim := "HTTP/1.1 103 Early Hints\r\nLink: " + strings.Repeat("x", 1000) + "\r\n\r\n"; ; {
		_ = upstream.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := io.WriteString(upstream, interim); err != nil || upstream == nil {
			break // held up, or too many
		}
		if len(k.ended) > 0 {
			break
		}
	}
	send(t, client, "no chunk\r\n")
	if got := k.cause(t); got != BadRequest && got != BadResponse {
		t.Errorf("got cause %v", got)
	}
}

// TestSessionUpgradeNotTaken: no tunnel begins, and no answer follows, where a client does
// not take the response to its upgrade.
func TestSessionUpgradeNotTaken(t *testing.T) {
	near, client := tight(t, "tcp")
	fill(near)
	// Long enough for the upstream to answer.
	_, k, accept := scripted(t, "tcp", "tcp", func(k *keeper) { k.settings.IdleTimeout = 2 * time.Second })
	go k.serve(near, nil, nil)
	send(t, client, upgradeGet)
	upstream := accept()
	receives(t, upstream, upgradeGet)
	send(t, upstream, switching)
	_, _ = io.Copy(io.Discard, struct{ io.Reader }{upstream}) // its connection is closed
	got, _ := io.ReadAll(client)
	if got := k.cause(t); got != IdleTimeout {
		t.Errorf("got cause %v, want %v", got, IdleTimeout)
	}
	if got = bytes.TrimLeft(got, "\x00"); !strings.HasPrefix(switching, string(got)) {
		t.Errorf("got %q", got)
	}
}

// TestSessionHeadDeadline: the time for a head is that which was set when its first byte
// came, however slowly the others follow.
func TestSessionHeadDeadline(t *testing.T) {
	onEachHop(t, func(t *testing.T, network, upstreamNetwork string) {
		var first atomic.Value
		client, k, accept := scripted(t, network, upstreamNetwork, func(k *keeper) {
			k.wait = func() time.Time {
				if at := time.Now().Add(20 * time.Millisecond); first.CompareAndSwap(nil, at) {
					return at
				}
				return time.Now().Add(time.Hour)
			}
		})
		send(t, client, getOf("/"))
		upstream := accept()
		receives(t, upstream, getOf("/"))
		send(t, upstream, okWith("ok"))
		receives(t, client, okWith("ok"))
		in := "GET /" + strings.Repeat("x", 1000)
		sent := 0
		until(t, "the head is taken over", func() bool {
			if sent < len(in) {
				send(t, client, in[sent:sent+1])
				sent++
			}
			return k.taken.Load() > 0
		})
		if due := k.due.Load().(time.Time); due.IsZero() || due.After(first.Load().(time.Time)) {
			t.Errorf("it was due at %v, want %v", due, first.Load())
		}
		send(t, client, in[sent:]+" HTTP/1.1\r\nHost: h\r\n\r\n")
		want := in + " HTTP/1.1\r\nHost: h\r\n\r\n"
		if k.dropped.Load() > 0 {
			upstream = accept()
		}
		receives(t, upstream, want)
	})
}

// TestSessionNotRepeatable: a request that must not be sent twice goes on a fresh connection
// if the kept one has not answered lately.
func TestSessionNotRepeatable(t *testing.T) {
	was := freshAnswer
	t.Cleanup(func() { freshAnswer = was })
	for _, fresh := range []bool{false, true} {
		if freshAnswer = 0; fresh {
			freshAnswer = time.Hour
		}
		t.Run(fmt.Sprint(fresh), func(t *testing.T) {
			onEachHop(t, func(t *testing.T, network, upstreamNetwork string) {
				client, _, accept := scripted(t, network, upstreamNetwork, nil)
				send(t, client, getOf("/"))
				upstream := accept()
				receives(t, upstream, getOf("/"))
				send(t, upstream, okWith("ok"))
				receives(t, client, okWith("ok"))
				time.Sleep(time.Millisecond)
				post := strings.Replace(getOf("/post"), "GET", "POST", 1)
				send(t, client, post)
				if !fresh {
					upstream = accept()
				}
				receives(t, upstream, post)
				send(t, upstream, okWith("ok"))
				receives(t, client, okWith("ok"))
			})
		})
	}
}

// TestSessionKilled: a session with a request under way is ended by its group, and both ends
// see a reset.
func TestSessionKilled(t *testing.T) {
	onEachHop(t, func(t *testing.T, network, upstreamNetwork string) {
		for phase, advance := range map[string]func(client, upstream net.Conn){
			"request": func(client, upstream net.Conn) { receives(t, upstream, getOf("/")) },
			"response": func(client, upstream net.Conn) {
				receives(t, upstream, getOf("/"))
				send(t, upstream, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
				receives(t, client, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
			},
		} {
			t.Run(phase, func(t *testing.T) {
				group := new(Registry)
				client, k, accept := scripted(t, network, upstreamNetwork, func(k *keeper) { k.settings.Group = group })
				send(t, client, getOf("/"))
				upstream := accept()
				advance(client, upstream)
				if got := group.Kill(); got != 1 {
					t.Errorf("killed: got %d, want 1", got)
				}
				if _, err := io.Copy(io.Discard, struct{ io.Reader }{client}); (err == nil) != (network == "unix") {
					t.Errorf("the client sees %v", err)
				}
				_, _ = io.Copy(io.Discard, struct{ io.Reader }{upstream})
				k.wg.Wait()
				group.Drain(t.Context())
				if got := k.dropped.Load(); got != 1 {
					t.Errorf("dropped: got %d connections, want 1", got)
				}
			})
		}
	})
}

// TestSessionKilledWaiting: a client that waits between two requests has nothing at the
// upstream. It loses the connection that is kept there, and goes on with a fresh one.
func TestSessionKilledWaiting(t *testing.T) {
	onEachHop(t, func(t *testing.T, network, upstreamNetwork string) {
		for _, begun := range []string{"", "GET /ne"} { // of the next request
			t.Run(fmt.Sprintf("after %q", begun), func(t *testing.T) {
				group := new(Registry)
				client, k, accept := scripted(t, network, upstreamNetwork, func(k *keeper) { k.settings.Group = group })
				send(t, client, getOf("/"))
				upstream := accept()
				receives(t, upstream, getOf("/"))
				send(t, upstream, okWith("ok"))
				receives(t, client, okWith("ok"))
				k.cause(t)
				waits := k.waits.Load()
				if send(t, client, begun); begun != "" {
					until(t, "the head is looked at", func() bool { return k.waits.Load() > waits })
				}
				if got := group.Kill(); got != 0 {
					t.Errorf("killed: got %d, want 0", got)
				}
				if _, err := io.Copy(io.Discard, struct{ io.Reader }{upstream}); (err == nil) != (upstreamNetwork == "unix") {
					t.Errorf("the upstream sees %v", err)
				}
				send(t, client, strings.TrimPrefix(getOf("/next"), begun))
				other := accept()
				receives(t, other, getOf("/next"))
				until(t, "the session that was taken over has left its group", func() bool { return group.Len() == 1 })
				if got := group.Kill(); got != 1 {
					t.Errorf("killed with a request under way: got %d, want 1", got)
				}
				k.wg.Wait()
				group.Drain(t.Context())
				if got := k.dropped.Load(); got != 2 {
					t.Errorf("dropped: got %d connections, want 2", got)
				}
			})
		}
	})
}

// TestSessionKilledAfterwards: nor is anything taken from a client that reads its last
// response, or the answer in place of one.
func TestSessionKilledAfterwards(t *testing.T) {
	onEachHop(t, func(t *testing.T, network, upstreamNetwork string) {
		for name, want := range map[string]string{
			"response": strings.Replace(okWith("ok"), "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1),
			"answer":   "HTTP/1.1 502 Refused\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		} {
			t.Run(name, func(t *testing.T) {
				group := new(Registry)
				client, k, accept := scripted(t, network, upstreamNetwork, func(k *keeper) {
					k.settings.Group, k.settings.Keepalive = group, 0
				})
				send(t, client, getOf("/"))
				upstream := accept()
				receives(t, upstream, getOf("/"))
				if name == "response" {
					send(t, upstream, okWith("ok"))
				} else {
					send(t, upstream, "no HTTP\r\n")
				}
				receives(t, client, want)
				receivesEnd(t, client)
				if got := group.Kill(); got != 0 {
					t.Errorf("killed: got %d, want 0", got)
				}
				send(t, client, "more") // into a connection that is not reset
				_, _ = io.Copy(io.Discard, struct{ io.Reader }{upstream})
				client.Close()
				k.wg.Wait()
				group.Drain(t.Context())
				if got := k.dropped.Load(); got != 1 {
					t.Errorf("dropped: got %d connections, want 1", got)
				}
				if len(k.ended) > 1 {
					t.Error("another exchange ended")
				}
			})
		}
	})
}

// TestSessionRetiredWaiting: sessions that wait end when they are retired, at whatever
// moment, and no request that has come is lost.
func TestSessionRetiredWaiting(t *testing.T) {
	onEachHop(t, func(t *testing.T, network, upstreamNetwork string) {
		for i := range 50 {
			client, k, accept := scripted(t, network, upstreamNetwork, nil)
			send(t, client, getOf("/"))
			upstream := accept()
			receives(t, upstream, getOf("/"))
			var retiring sync.WaitGroup
			retiring.Go(func() {
				time.Sleep(time.Duration(i*10) * time.Microsecond)
				k.streams.Retire(nil)
			})
			send(t, upstream, okWith("ok"))
			r := bufio.NewReader(client)
			request, _ := http.NewRequest("GET", "http://h/", nil)
			if got, _ := answerOf(t, r, request); got != "ok" {
				t.Errorf("got %q", got)
			}
			retiring.Wait()
			if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
				t.Fatalf("got %q and %v, want the end", rest, err)
			}
			client.Close()
			upstream.Close()
		}
	})
}

// TestSessionRetiredBetween: that moment may be the one when the session begins to wait.
func TestSessionRetiredBetween(t *testing.T) {
	onEachHop(t, func(t *testing.T, network, upstreamNetwork string) {
		client, _, accept := scripted(t, network, upstreamNetwork, func(k *keeper) {
			k.settings.UpstreamKeepalive = 0
			k.onDropped = func() { k.streams.Retire(nil) }
		})
		send(t, client, getOf("/"))
		upstream := accept()
		receives(t, upstream, getOf("/"))
		send(t, upstream, okWith("ok"))
		receives(t, client, okWith("ok"))
		receivesEnd(t, client)
	})
}

// TestSessionRetiredHead: a request whose first bytes have come is answered, and is the last.
func TestSessionRetiredHead(t *testing.T) {
	onEachHop(t, func(t *testing.T, network, upstreamNetwork string) {
		client, k, accept := scripted(t, network, upstreamNetwork, nil)
		send(t, client, getOf("/"))
		upstream := accept()
		receives(t, upstream, getOf("/"))
		send(t, upstream, okWith("ok"))
		receives(t, client, okWith("ok"))
		in := getOf("/half")
		waits := k.waits.Load()
		send(t, client, in[:9])
		until(t, "the head is looked at", func() bool { return k.waits.Load() > waits })
		k.streams.Retire(nil)
		send(t, client, in[9:])
		receives(t, upstream, in)
		send(t, upstream, okWith("ok"))
		receives(t, client, strings.Replace(okWith("ok"), "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
		receivesEnd(t, client)
	})
}

// TestSessionDrained: a session that waits ends when a drain begins; one without patience may
// reset it before that.
func TestSessionDrained(t *testing.T) {
	onEachHop(t, func(t *testing.T, network, upstreamNetwork string) {
		client, k, accept := scripted(t, network, upstreamNetwork, nil)
		send(t, client, getOf("/"))
		upstream := accept()
		receives(t, upstream, getOf("/"))
		send(t, upstream, okWith("ok"))
		receives(t, client, okWith("ok"))
		k.cause(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if got := k.streams.Drain(ctx); got > 1 {
			t.Errorf("reset: got %d, want at most 1", got)
		}
		if got := k.streams.Len(); got != 0 {
			t.Errorf("after the drain: got %d sessions, want 0", got)
		}
		_, _ = io.Copy(io.Discard, struct{ io.Reader }{client})
		k.wg.Wait()
	})
}

// TestSessionBlank: the line end with which an old client ends a body goes nowhere, whenever
// it comes, and what follows is the next request. A client that waits after it waits as any
// other one.
func TestSessionBlank(t *testing.T) {
	const post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
	onEachHop(t, func(t *testing.T, network, upstreamNetwork string) {
		for name, pieces := range map[string][3]string{ // with the request, before its response, after that
			"with the request":       {"\r\n", "", ""},
			"before the response":    {"", "\r\n", ""},
			"after the response":     {"", "", "\r\n"},
			"in pieces":              {"\r", "\n", "\r"},
			"with the next one":      {"", "", "\r\n" + getOf("/next")},
			"with the next, early":   {"\r\n" + getOf("/next"), "", ""},
			"with the next, earlier": {"", "\r\n" + getOf("/next"), ""},
		} {
			t.Run(name, func(t *testing.T) {
				client, k, accept := scripted(t, network, upstreamNetwork, func(k *keeper) { k.blank = 4 })
				send(t, client, post+pieces[0])
				upstream := accept()
				receives(t, upstream, post)
				send(t, client, pieces[1])
				send(t, upstream, okWith("ok"))
				receives(t, client, okWith("ok"))
				k.cause(t)
				send(t, client, pieces[2])
				if !strings.Contains(strings.Join(pieces[:], ""), "GET") {
					send(t, client, getOf("/next"))
				}
				receives(t, upstream, getOf("/next"))
				send(t, upstream, okWith("ok"))
				receives(t, client, okWith("ok"))
				k.cause(t)
				if got := k.waits.Load(); got > 0 {
					t.Errorf("asked %d times about no request", got)
				}
				k.streams.Retire(nil)
				receivesEnd(t, client)
			})
		}
	})
}

// TestSessionAnswersUnasked: an upstream that answers before it has seen a request, and again,
// is believed once.
func TestSessionAnswersUnasked(t *testing.T) {
	onEachHop(t, func(t *testing.T, network, upstreamNetwork string) {
		client, k, accept := scripted(t, network, upstreamNetwork, func(k *keeper) {
			dial := k.dial
			k.dial = func() net.Conn {
				k.dial = dial
				near, far := connect(t, "tcp")
				send(t, far, okWith("early")+okWith("evil"))
				return near
			}
		})
		send(t, client, getOf("/first"))
		receives(t, client, okWith("early"))
		k.cause(t)
		send(t, client, getOf("/second"))
		upstream := accept()
		receives(t, upstream, getOf("/second"))
		send(t, upstream, okWith("second"))
		receives(t, client, okWith("second"))
		k.cause(t)
		if got := k.dropped.Load(); got != 1 {
			t.Errorf("dropped: got %d connections, want 1", got)
		}
	})
}

// TestSessionNeverRead: a client that sends requests for ever, and reads no response, is held
// back, and then given up.
func TestSessionNeverRead(t *testing.T) {
	onEachHop(t, func(t *testing.T, network, upstreamNetwork string) {
		client, k, accept := scripted(t, network, upstreamNetwork, func(k *keeper) { k.settings.IdleTimeout = 200 * time.Millisecond })
		var answering sync.WaitGroup
		answering.Go(func() {
			upstream := accept()
			for r := bufio.NewReader(upstream); ; {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				if _, err := io.WriteString(upstream, okWith(strings.Repeat("x", 100_000))); err != nil {
					return
				}
			}
		})
		requests, sent := []byte(strings.Repeat(getOf("/"), 100)), 0
		for sent < 1<<30 {
			n, err := client.Write(requests)
			if sent += n; err != nil {
				break
			}
		}
		if sent >= 1<<30 {
			t.Error("it takes requests for ever")
		}
		for got := k.cause(t); got == Finished; got = k.cause(t) {
		}
		k.wg.Wait()
		answering.Wait()
	})
}

// TestSessionBothAtOnce: both ends of a session may leave at the same moment, in whatever
// way. It ends once.
func TestSessionBothAtOnce(t *testing.T) {
	leaves := map[string]func(net.Conn){
		"closes": func(c net.Conn) { c.Close() },
		"resets": sendReset,
		"ends":   func(c net.Conn) { _ = c.(closeWriter).CloseWrite() },
	}
	onEachHop(t, func(t *testing.T, network, upstreamNetwork string) {
		for one, clientLeaves := range leaves {
			for other, upstreamLeaves := range leaves {
				for _, phase := range []string{"request", "response", "waiting"} {
					t.Run(fmt.Sprintf("client %s, upstream %s, %s", one, other, phase), func(t *testing.T) {
						client, k, accept := scripted(t, network, upstreamNetwork, func(k *keeper) { k.settings.HalfCloseTimeout = time.Hour })
						send(t, client, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nab")
						upstream := accept()
						receives(t, upstream, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nab")
						until(t, "the session is registered", func() bool { return k.streams.Len() == 1 })
						exchanges := 1
						switch phase {
						case "response":
							send(t, client, "cdef")
							receives(t, upstream, "cdef")
							send(t, upstream, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
							receives(t, client, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
						case "waiting":
							send(t, client, "cdef")
							receives(t, upstream, "cdef")
							send(t, upstream, okWith("ok"))
							receives(t, client, okWith("ok"))
							k.cause(t)
							exchanges = 0
						}
						var both sync.WaitGroup
						both.Go(func() { clientLeaves(client) })
						both.Go(func() { upstreamLeaves(upstream) })
						both.Wait()
						if one == "ends" { // it may read on
							_, _ = io.Copy(io.Discard, struct{ io.Reader }{client})
							client.Close()
						}
						k.wg.Wait()
						until(t, "all is out of the registry", func() bool { return k.streams.Len() == 0 })
						if got := len(k.ended); got != exchanges {
							t.Errorf("%d exchanges have ended, want %d", got, exchanges)
						}
						if got := k.dropped.Load(); got != 1 {
							t.Errorf("dropped: got %d connections, want 1", got)
						}
					})
				}
			}
		}
	})
}
