package streamprox

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// numberedConn is a connection of which only the number matters.
type numberedConn struct {
	net.Conn
	number int
}

// listenVirtually opens a generation of the listener on host:80.
func listenVirtually(t testing.TB, host string) *listener {
	t.Helper()
	l, err := listen(context.Background(), networkName, host, "80", 0, net.ListenConfig{})
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	ln := l.(*listener)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// deliverVirtually delivers a connection while accepting on want and on the others,
// and checks that want gets it.
func deliverVirtually(t *testing.T, want *listener, others ...*listener) {
	t.Helper()
	type acceptance struct {
		from *listener
		conn net.Conn
	}
	accepted := make(chan acceptance, 1)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for _, l := range append([]*listener{want}, others...) {
		wg.Go(func() {
			select {
			case conn := <-l.conns: // as Accept, but given up when the test is over
				accepted <- acceptance{l, conn}
			case <-stop:
			}
		})
	}
	conn := &numberedConn{number: 1}
	err := network.deliver(want.addr.String(), conn, time.Minute)
	close(stop)
	wg.Wait()
	if err != nil {
		t.Fatalf("delivering: %v", err)
	}
	got := <-accepted
	if got.from != want {
		t.Errorf("delivered to an older generation, want the newest")
	}
	if got.conn != conn {
		t.Errorf("accepted another connection: %v", got.conn)
	}
}

func TestDeliverToNewestGeneration(t *testing.T) {
	first := listenVirtually(t, "newest")
	deliverVirtually(t, first)
	second := listenVirtually(t, "newest")
	deliverVirtually(t, second, first)
	third := listenVirtually(t, "newest")
	deliverVirtually(t, third, second, first)

	// A new configuration that fails to start closes its listener: the old one is
	// the newest again.
	third.Close()
	deliverVirtually(t, second, first)
	// An old configuration that has been replaced closes its own.
	first.Close()
	deliverVirtually(t, second)
	second.Close()
	if l, _ := network.newest("newest:80", false); l != nil {
		t.Errorf("after all closed: got a listener on %s, want none", l.addr)
	}
	if err := second.Close(); err != nil {
		t.Errorf("closing again: got %v, want no error", err)
	}
}

func TestAcceptAfterClose(t *testing.T) {
	l := listenVirtually(t, "closed")
	done := make(chan error)
	go func() {
		_, err := l.Accept()
		done <- err
	}()
	l.Close()
	err := <-done
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
	var op *net.OpError
	if !errors.As(err, &op) || op.Net != "streamprox" || op.Addr.String() != "closed:80" {
		t.Errorf("got %#v, want an operation on streamprox closed:80", err)
	}
}

// newVirtualNetwork returns a network of its own, for a bubble of synctest.
func newVirtualNetwork() *virtualNetwork {
	return &virtualNetwork{listeners: make(map[string][]*listener), changed: make(chan struct{})}
}

func newListener(address addr) *listener {
	return &listener{addr: address, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func TestDeliverWaitsForListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newVirtualNetwork()
		begun := time.Now()
		go func() {
			time.Sleep(2 * time.Second)
			n.add(newListener("other:80")) // wakes the delivery in vain
			time.Sleep(time.Second)
			l := newListener("web:80")
			n.add(l)
			time.Sleep(time.Second)
			_, _ = l.Accept()
		}()
		if err := n.deliver("web:80", &numberedConn{}, 5*time.Second); err != nil {
			t.Fatalf("delivering: %v", err)
		}
		if got, want := time.Since(begun), 4*time.Second; got != want {
			t.Errorf("delivered after %s, want %s", got, want)
		}
	})
}

func TestDeliverMovesToNewerGenerationWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newVirtualNetwork()
		n.add(newListener("web:80")) // never accepts
		delivered := make(chan error)
		go func() { delivered <- n.deliver("web:80", &numberedConn{}, time.Minute) }()
		synctest.Wait()

		newer := newListener("web:80")
		n.add(newer)
		if _, err := newer.Accept(); err != nil {
			t.Fatalf("accepting: %v", err)
		}
		if err := <-delivered; err != nil {
			t.Errorf("delivering: %v", err)
		}
	})
}

func TestDeliverTimesOut(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(*virtualNetwork)
	}{
		{"nobody listens", func(*virtualNetwork) {}},
		{"another name listens", func(n *virtualNetwork) { n.add(newListener("other:80")) }},
		{"another port listens", func(n *virtualNetwork) { n.add(newListener("web:443")) }},
		{"nobody accepts", func(n *virtualNetwork) { n.add(newListener("web:80")) }},
		{"others come meanwhile", func(n *virtualNetwork) {
			go func() {
				for range 10 {
					time.Sleep(400 * time.Millisecond)
					n.add(newListener("other:80"))
				}
			}()
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newVirtualNetwork()
				test.prepare(n)
				client, server := net.Pipe()
				begun := time.Now()
				if err := n.deliver("web:80", server, 5*time.Second); !errors.Is(err, errNotListening) {
					t.Fatalf("got %v, want errNotListening", err)
				}
				if got, want := time.Since(begun), 5*time.Second; got != want {
					t.Errorf("gave up after %s, want %s", got, want)
				}

				// The connection is still the caller's.
				go func() {
					_, _ = io.WriteString(server, "503")
					server.Close()
				}()
				got, err := io.ReadAll(client)
				if string(got) != "503" || err != nil {
					t.Errorf("from the connection that was not delivered: got %q, %v, want an answer", got, err)
				}
			})
		})
	}
}

// TestDeliverLosesNothing delivers connections while generations open and close:
// each is accepted once or stays with the one who delivers it.
func TestDeliverLosesNothing(t *testing.T) {
	for _, test := range []struct {
		name string
		wait time.Duration
	}{
		{"patient", time.Minute},
		{"impatient", 50 * time.Microsecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			const deliverers, each = 8, 250
			host := "lossless-" + test.name
			var times [deliverers * each]atomic.Int32
			var servers sync.WaitGroup
			var generations []*listener
			serve := func() *listener {
				l := listenVirtually(t, host)
				generations = append(generations, l)
				servers.Go(func() {
					for {
						conn, err := l.Accept()
						if err != nil {
							return
						}
						replay := conn.(*replayConn)
						replay.requestTaken()
						times[replay.Conn.(*numberedConn).number].Add(1)
					}
				})
				return l
			}

			stop := make(chan struct{})
			var reloads sync.WaitGroup
			reloads.Go(func() {
				current := serve()
				for i := 0; ; i++ {
					select {
					case <-stop:
						current.Close()
						return
					default:
					}
					switch next := serve(); i % 3 {
					case 0: // a reload
						current.Close()
						current = next
					case 1: // a reload that fails
						next.Close()
					case 2: // a time without any listener
						current.Close()
						next.Close()
						current = serve()
					}
				}
			})

			var failed [deliverers * each]error
			var callers sync.WaitGroup
			for d := range deliverers {
				callers.Go(func() {
					for i := d * each; i < (d+1)*each; i++ {
						conn := newReplayConn(&numberedConn{number: i}, nil, func() {})
						failed[i] = network.deliver(host+":80", conn, test.wait)
					}
				})
			}
			callers.Wait()
			close(stop)
			reloads.Wait()
			servers.Wait()

			accepted := 0
			for i := range times {
				n, err := times[i].Load(), failed[i]
				switch {
				case err == nil && n == 1:
					accepted++
				case err != nil && n == 0 && errors.Is(err, errNotListening):
				default:
					t.Errorf("connection %d: got accepted %d times and error %v, want once without error or never with errNotListening", i, n, err)
				}
			}
			if test.wait >= time.Second && accepted != len(times) {
				t.Errorf("accepted: got %d, want all %d", accepted, len(times))
			}
			for i, l := range generations {
				if l.awaited != 0 {
					t.Errorf("generation %d: got %d requests on their way, want none", i, l.awaited)
				}
			}
			t.Logf("%d of %d accepted by %d generations", accepted, len(times), len(generations))
		})
	}
}

// TestNewGenerationWaitsForRequests checks that the generation before a new one has
// the requests that are on their way to it before the new one is ready.
func TestNewGenerationWaitsForRequests(t *testing.T) {
	tests := []struct {
		name  string
		taken func(*replayConn)
	}{
		{"server takes the request on", func(c *replayConn) { c.requestTaken() }},
		{"server reads on", func(c *replayConn) { _, _ = c.Read(make([]byte, 1)) }},
		{"server answers", func(c *replayConn) { _, _ = c.Write([]byte("HTTP/1.1 200 OK\r\n")) }},
		{"server sends a file", func(c *replayConn) { _, _ = c.ReadFrom(strings.NewReader("file")) }},
		{"server closes", func(c *replayConn) { _ = c.Close() }},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			host := "handover-" + string(rune('a'+i))
			old := listenVirtually(t, host)
			client, conn := net.Pipe()
			defer client.Close()
			go func() { _, _ = io.Copy(io.Discard, client) }()
			request := newReplayConn(conn, []byte("GET / HTTP/1.1\r\n\r\n"), func() {})
			defer request.Close()
			go func() { _ = network.deliver(host+":80", request, time.Minute) }()
			accepted, err := old.Accept()
			if err != nil {
				t.Fatalf("accepting: %v", err)
			}

			var taken atomic.Bool
			go func() {
				time.Sleep(handoverPatience / 20)
				taken.Store(true)
				test.taken(accepted.(*replayConn))
			}()
			listenVirtually(t, host)
			if !taken.Load() {
				t.Error("the new generation was ready before the request had reached the old one")
			}
		})
	}

	t.Run("not for ever", func(t *testing.T) {
		old := listenVirtually(t, "handover-stuck")
		request := newReplayConn(&numberedConn{}, nil, func() {})
		go func() { _ = network.deliver("handover-stuck:80", request, time.Minute) }()
		if _, err := old.Accept(); err != nil {
			t.Fatalf("accepting: %v", err)
		}
		begun := time.Now()
		listenVirtually(t, "handover-stuck")
		if got := time.Since(begun); got < handoverPatience {
			t.Errorf("waited %s for a request that is not taken, want %s", got, handoverPatience)
		}
		request.requestTaken()
	})
}

func TestPacketListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := listenPacket(context.Background(), networkNameHTTP3, "web", "443", 0, net.ListenConfig{})
		if err != nil {
			t.Fatalf("listening: %v", err)
		}
		p := l.(*packetListener)
		if got := p.LocalAddr().String(); got != "web" {
			t.Errorf("address: got %q, want %q: with a port, HTTP/3 would be advertised", got, "web")
		}
		if got := p.LocalAddr().Network(); got != networkNameHTTP3 {
			t.Errorf("network: got %q, want %q", got, networkNameHTTP3)
		}
		if n, err := p.WriteTo([]byte("packet"), p.LocalAddr()); n != 6 || err != nil {
			t.Errorf("writing: got %d, %v, want 6 bytes dropped without error", n, err)
		}

		var read error
		returned := false
		go func() {
			_, _, read = p.ReadFrom(make([]byte, 1))
			returned = true
		}()
		time.Sleep(time.Hour)
		synctest.Wait()
		if returned {
			t.Fatalf("reading returned %v before the listener was closed", read)
		}
		for range 2 {
			if err := p.Close(); err != nil {
				t.Errorf("closing: %v", err)
			}
		}
		synctest.Wait()
		if !returned || !errors.Is(read, net.ErrClosed) {
			t.Errorf("after close: got returned %t with %v, want net.ErrClosed", returned, read)
		}
	})
}

func TestJoinAddr(t *testing.T) {
	tests := []struct {
		name    string
		host    string
		ports   string
		offset  uint
		want    addr
		wantErr string
	}{
		{name: "port", host: "web", ports: "80", want: "web:80"},
		{name: "range", host: "web", ports: "80-82", want: "web:80"},
		{name: "in a range", host: "web", ports: "80-82", offset: 2, want: "web:82"},
		{name: "port 0", host: "web", ports: "0", want: "web:0"},
		{name: "name with colons", host: "a:b", ports: "80", want: "[a:b]:80"},
		{name: "no name", ports: "80", wantErr: "bind streamprox/web"},
		{name: "no port", host: "web", wantErr: "parsing port of streamprox/web"},
		{name: "no number", host: "web", ports: "http", wantErr: "parsing port of streamprox/web"},
		{name: "too large", host: "web", ports: "65536", wantErr: "parsing port of streamprox/web"},
		{name: "negative", host: "web", ports: "-1", wantErr: "parsing port of streamprox/web"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := joinAddr(test.host, test.ports, test.offset)
			switch {
			case test.wantErr == "" && err != nil:
				t.Errorf("got error %v, want %q", err, test.want)
			case test.wantErr != "" && (err == nil || !strings.Contains(err.Error(), test.wantErr)):
				t.Errorf("got error %v, want one with %q", err, test.wantErr)
			case got != test.want:
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
