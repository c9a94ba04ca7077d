package handover

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// testConn is a connection of which only the number matters, and when its request is taken.
type testConn struct {
	net.Conn
	number int
	taken  atomic.Pointer[func()]
}

func (c *testConn) WhenTaken(taken func()) {
	if taken == nil {
		c.taken.Store(nil)
	} else {
		c.taken.Store(&taken)
	}
}

// take takes the request on, as a server does.
func (c *testConn) take() {
	if taken := c.taken.Swap(nil); taken != nil {
		(*taken)()
	}
}

const address = "web:80"

// deliverTo delivers a connection while want and the others accept, and checks that want
// gets it. Nobody accepts after that.
func deliverTo(t *testing.T, n *Network, want net.Listener, others ...net.Listener) {
	t.Helper()
	type acceptance struct {
		by   net.Listener
		conn net.Conn
	}
	accepted := make(chan acceptance, 1)
	stop := make(chan struct{})
	var accepting sync.WaitGroup
	for _, l := range append([]net.Listener{want}, others...) {
		accepting.Go(func() {
			select {
			case conn := <-l.(*listener).accepted: // as Accept, but not until the listener closes
				accepted <- acceptance{l, conn}
			case <-stop:
			}
		})
	}
	conn := new(testConn)
	err := n.Deliver(address, conn, time.Minute)
	close(stop)
	accepting.Wait()
	if err != nil {
		t.Fatalf("delivering: %v", err)
	}
	got := <-accepted
	if got.by != want {
		t.Error("an older listener got the connection, want the newest")
	}
	if got.conn != conn {
		t.Errorf("accepted another connection: %v", got.conn)
	}
	conn.take()
}

func TestDeliverToNewestListener(t *testing.T) {
	n := New("test")
	first := n.Listen(address)
	deliverTo(t, n, first)
	second := n.Listen(address)
	deliverTo(t, n, second, first)
	third := n.Listen(address)
	deliverTo(t, n, third, second, first)

	// A new configuration that fails to start closes its listener: the one before it is the
	// newest again.
	third.Close()
	deliverTo(t, n, second, first)
	// A configuration that has been replaced closes its own.
	first.Close()
	deliverTo(t, n, second)
	second.Close()
	if len(n.listeners) != 0 {
		t.Errorf("after all have closed: got listeners %v, want none", n.listeners)
	}
	if err := second.Close(); err != nil {
		t.Errorf("closing again: got %v, want no error", err)
	}
}

func TestAcceptAfterClose(t *testing.T) {
	l := New("test").Listen(address)
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
	if !errors.As(err, &op) || op.Net != "test" || op.Addr.String() != address {
		t.Errorf("got %#v, want an operation on test %s", err, address)
	}
}

func TestAddr(t *testing.T) {
	l := New("test").Listen(address)
	defer l.Close()
	if got := l.Addr(); got.Network() != "test" || got.String() != address {
		t.Errorf("got %s %s, want test %s", got.Network(), got, address)
	}
}

func TestDeliverWaitsForListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New("test")
		begun := time.Now()
		go func() {
			time.Sleep(2 * time.Second)
			n.Listen("other:80") // wakes the delivery in vain
			time.Sleep(time.Second)
			l := n.Listen(address)
			time.Sleep(time.Second)
			_, _ = l.Accept()
		}()
		if err := n.Deliver(address, new(testConn), 5*time.Second); err != nil {
			t.Fatalf("delivering: %v", err)
		}
		if got, want := time.Since(begun), 4*time.Second; got != want {
			t.Errorf("delivered after %s, want %s", got, want)
		}
	})
}

func TestDeliverMovesOnWhileItWaits(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(n *Network, older, newer net.Listener) net.Listener // returns who gets the connection
	}{
		{"to a newer listener", func(n *Network, _, _ net.Listener) net.Listener { return n.Listen(address) }},
		{"to an older one when the newest closes", func(_ *Network, older, newer net.Listener) net.Listener {
			newer.Close()
			return older
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := New("test")
				older, newer := n.Listen(address), n.Listen(address) // neither accepts
				delivered := make(chan error)
				conn := new(testConn)
				go func() { delivered <- n.Deliver(address, conn, time.Minute) }()
				synctest.Wait()

				begun := time.Now()
				if _, err := test.change(n, older, newer).Accept(); err != nil {
					t.Fatalf("accepting: %v", err)
				}
				if err := <-delivered; err != nil {
					t.Errorf("delivering: %v", err)
				}
				if took := time.Since(begun); took != 0 {
					t.Errorf("it took %s, want no time", took)
				}
				conn.take()
			})
		})
	}
}

func TestDeliverTimesOut(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(*Network)
	}{
		{"nobody listens", func(*Network) {}},
		{"another name listens", func(n *Network) { n.Listen("other:80") }},
		{"another port listens", func(n *Network) { n.Listen("web:443") }},
		{"nobody accepts", func(n *Network) { n.Listen(address) }},
		{"others come meanwhile", func(n *Network) {
			go func() {
				for range 10 {
					time.Sleep(400 * time.Millisecond)
					n.Listen("other:80")
				}
			}()
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := New("test")
				test.prepare(n)
				client, server := net.Pipe()
				conn := &testConn{Conn: server}
				begun := time.Now()
				if err := n.Deliver(address, conn, 5*time.Second); !errors.Is(err, ErrNotListening) {
					t.Fatalf("got %v, want ErrNotListening", err)
				}
				if got, want := time.Since(begun), 5*time.Second; got != want {
					t.Errorf("gave up after %s, want %s", got, want)
				}
				if conn.taken.Load() != nil {
					t.Error("the connection would still tell that its request is taken")
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

// TestDeliverLosesNothing delivers connections while listeners open and close: each is
// accepted once or stays with the one who delivers it.
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
			n := New("test")
			var times [deliverers * each]atomic.Int32
			var servers sync.WaitGroup
			var generations []*listener
			serve := func() net.Listener {
				l := n.Listen(address)
				generations = append(generations, l.(*listener))
				servers.Go(func() {
					for {
						conn, err := l.Accept()
						if err != nil {
							return
						}
						accepted := conn.(*testConn)
						accepted.take()
						times[accepted.number].Add(1)
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
						failed[i] = n.Deliver(address, &testConn{number: i}, test.wait)
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
				case err != nil && n == 0 && errors.Is(err, ErrNotListening):
				default:
					t.Errorf("connection %d: got accepted %d times and error %v, want once without error or never with ErrNotListening", i, n, err)
				}
			}
			if test.wait >= time.Second && accepted != len(times) {
				t.Errorf("accepted: got %d, want all %d", accepted, len(times))
			}
			for i, l := range generations {
				if l.underWay != 0 {
					t.Errorf("listener %d: got %d requests on their way, want none", i, l.underWay)
				}
			}
			t.Logf("%d of %d accepted by %d listeners", accepted, len(times), len(generations))
		})
	}
}

// TestListenWaitsForRequests: the server before a new one has the requests that are on
// their way to it when the new one begins to listen, but a request that is never taken does
// not stop that.
func TestListenWaitsForRequests(t *testing.T) {
	for _, test := range []struct {
		name        string
		taken, want time.Duration
	}{
		{"until they are taken", patience / 5, patience / 5},
		{"not for ever", 2 * patience, patience},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := New("test")
				old := n.Listen(address)
				conns := []*testConn{{number: 0}, {number: 1}}
				for _, conn := range conns {
					go func() { _ = n.Deliver(address, conn, time.Minute) }()
					if _, err := old.Accept(); err != nil {
						t.Fatalf("accepting: %v", err)
					}
				}
				conns[0].take()
				time.AfterFunc(test.taken, conns[1].take)
				begun := time.Now()
				n.Listen(address)
				if got := time.Since(begun); got != test.want {
					t.Errorf("ready after %s, want %s", got, test.want)
				}
			})
		})
	}
}

// TestFinish: when no listener is to come, a delivery waits for none, also one that has begun
// to wait. Those that are there still get connections.
func TestFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New("test")
		l := n.Listen(address)
		waiting := make(chan error)
		go func() { waiting <- n.Deliver("other:80", new(testConn), time.Hour) }()
		synctest.Wait()
		begun := time.Now()
		n.Finish()
		if err := <-waiting; !errors.Is(err, ErrNotListening) {
			t.Errorf("waiting: got %v, want ErrNotListening", err)
		}
		deliverTo(t, n, l)
		go func() { waiting <- n.Deliver(address, new(testConn), time.Hour) }()
		synctest.Wait()
		l.Close() // and nobody has accepted
		if err := <-waiting; !errors.Is(err, ErrNotListening) {
			t.Errorf("waiting for one that closes: got %v, want ErrNotListening", err)
		}
		if err := n.Deliver(address, new(testConn), time.Hour); !errors.Is(err, ErrNotListening) {
			t.Errorf("afterwards: got %v, want ErrNotListening", err)
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("it took %s, want no time", took)
		}
	})
}
