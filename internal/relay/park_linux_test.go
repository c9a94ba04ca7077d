package relay

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
)

// parkedOwner takes a parked connection with its next bytes.
type parkedOwner struct {
	t      *testing.T
	taken  chan parkedData
	closed chan struct{}
}

type parkedData struct {
	conn net.Conn
	data []byte
}

func newParkedOwner(t *testing.T) *parkedOwner {
	return &parkedOwner{t, make(chan parkedData, 1), make(chan struct{})}
}

func (o *parkedOwner) Next([]byte, bool) Next { return Next{} }
func (o *parkedOwner) Refusal(int) []byte     { o.t.Error("Refusal was called"); return nil }
func (o *parkedOwner) Ended(Account)          { o.t.Error("Ended was called") }
func (o *parkedOwner) Tunnelled()             { o.t.Error("Tunnelled was called") }
func (o *parkedOwner) Dropped()               { o.t.Error("Dropped was called") }
func (o *parkedOwner) Closed()                { close(o.closed) }
func (o *parkedOwner) Take(client net.Conn, data []byte, _ time.Time, _ net.Conn, _ func()) {
	o.taken <- parkedData{client, data}
}

// park parks a connection, and returns its client and its owner.
func park(t *testing.T, network string, streams *Registry, keepalive time.Duration, before func(client net.Conn)) (net.Conn, *parkedOwner) {
	t.Helper()
	conn, client := connect(t, network)
	if before != nil {
		before(client)
	}
	owner := newParkedOwner(t)
	if !descriptors.Take(1) {
		t.Fatal("descriptors are scarce")
	}
	if !(&Event{Streams: streams}).Park(&Session{Client: conn, Keepalive: keepalive, Owner: owner}) {
		t.Fatal("not parked")
	}
	return client, owner
}

// over fails unless the parked connection is closed, and nobody has taken it.
func (o *parkedOwner) over(t *testing.T) {
	t.Helper()
	await(t, "end of a parked connection", o.closed)
	if len(o.taken) > 0 {
		t.Error("somebody has taken the connection")
	}
}

// TestParkKeepsBytes: what the client sends while its connection is parked, before it, and
// after it, arrives once.
func TestParkKeepsBytes(t *testing.T) {
	tests := []struct {
		name          string
		before, after string
		ends          bool
	}{
		{"before", "hello", "", false},
		{"after", "", "hello", false},
		{"both", "hel", "lo", false},
		{"before, and the end", "hello", "", true},
		{"after, and the end", "", "hello", true},
	}
	for _, network := range []string{"tcp", "unix"} {
		for _, test := range tests {
			t.Run(network+" "+test.name, func(t *testing.T) {
				for range 50 {
					var streams Registry
					var sending sync.WaitGroup
					client, owner := park(t, network, &streams, time.Hour, func(client net.Conn) {
						send(t, client, test.before)
						sending.Go(func() {
							send(t, client, test.after)
							if test.ends {
								closeWrite(t, client)
							}
						})
					})
					await(t, "end of the session", owner.closed)
					got := <-owner.taken
					rest := make([]byte, 5-len(got.data))
					_ = got.conn.SetDeadline(time.Now().Add(patience))
					if _, err := io.ReadFull(got.conn, rest); err != nil || string(got.data)+string(rest) != "hello" {
						t.Fatalf("got %q and %q (%v)", got.data, rest, err)
					}
					sending.Wait()
					send(t, got.conn, "answer")
					got.conn.Close()
					receives(t, client, "answer")
					client.Close()
				}
			})
		}
	}
}

// TestParkEnds: a parked connection is closed when its time is over, when its client leaves,
// when it is retired and at shutdown. Nothing of it is left.
func TestParkEnds(t *testing.T) {
	tests := []struct {
		name      string
		keepalive time.Duration
		end       func(*Registry, net.Conn)
	}{
		{"in time", time.Millisecond, func(*Registry, net.Conn) {}},
		{"by its client", time.Hour, func(_ *Registry, client net.Conn) { closeWrite(t, client) }},
		{"by a reset", time.Hour, func(_ *Registry, client net.Conn) { sendReset(client) }},
		{"retired", time.Hour, func(streams *Registry, _ net.Conn) { streams.Retire(nil) }},
		{"drained", time.Hour, func(streams *Registry, _ net.Conn) {
			if reset := streams.Drain(t.Context()); reset != 0 {
				t.Errorf("%d were reset", reset)
			}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			const connections = 20
			before := openDescriptors()
			var streams Registry
			var clients []net.Conn
			var owners []*parkedOwner
			for range connections {
				client, owner := park(t, "tcp", &streams, test.keepalive, nil)
				clients, owners = append(clients, client), append(owners, owner)
			}
			for i, client := range clients {
				test.end(&streams, client)
				owners[i].over(t)
				client.Close()
			}
			for begin := time.Now(); streams.Len() > 0 || openDescriptors() > before; time.Sleep(time.Millisecond) {
				if time.Since(begin) > patience {
					t.Fatalf("left over: %d streams, and %d descriptors instead of %d", streams.Len(), openDescriptors(), before)
				}
			}
		})
	}
}

// TestParkFails: where there is no descriptor in spite of all, a connection is not parked, and
// stays as it is.
func TestParkFails(t *testing.T) {
	conn, client := connect(t, "tcp")
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if !descriptors.Take(1) {
		t.Fatal("descriptors are scarce")
	}
	none := before
	none.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	var streams Registry
	parked := (&Event{Streams: &streams}).Park(&Session{Client: conn, Keepalive: time.Hour, Owner: newParkedOwner(t)})
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if parked {
		t.Fatal("parked")
	}
	send(t, client, "hello")
	receives(t, conn, "hello")
	if n := streams.Len(); n != 0 {
		t.Errorf("%d streams", n)
	}
}
