package upstream

import (
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// readConn counts what is read, and tells of the end.
type readConn struct {
	*net.TCPConn
	read  atomic.Int64
	ended atomic.Bool
}

func (c *readConn) NetConn() net.Conn { return c.TCPConn }

func (c *readConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.read.Add(int64(n))
	c.ended.Store(err == io.EOF)
	return n, err
}

// TestClientWatchReset: a client that resets its connection during a dial ends it, also
// where the watch reads no further.
func TestClientWatchReset(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no telling on Windows")
	}
	for _, test := range []struct {
		name    string
		sends   int
		ends    bool
		settled func(*readConn) bool
	}{
		{"nothing sent", 0, false, func(*readConn) bool { return true }},
		{"beyond the limit", 2 * watchLimit, false, func(c *readConn) bool { return c.read.Load() >= watchLimit }},
		{"after its end", 10, true, func(c *readConn) bool { return c.ended.Load() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			client, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			near, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			conn := &readConn{TCPConn: near.(*net.TCPConn)}
			defer conn.Close()

			watch := &clientWatch{conn: conn}
			ctx, stop := watch.start(t.Context())
			defer stop()
			if _, err := client.Write(make([]byte, test.sends)); err != nil {
				t.Fatal(err)
			}
			if test.ends {
				_ = client.(*net.TCPConn).CloseWrite()
			}
			for begin := time.Now(); !test.settled(conn); time.Sleep(time.Millisecond) {
				if time.Since(begin) > 30*time.Second {
					t.Fatal("the watch does not read")
				}
			}
			if ctx.Err() != nil {
				t.Fatal("the dial was given up before the reset")
			}
			_ = client.(*net.TCPConn).SetLinger(0)
			client.Close()
			select {
			case <-ctx.Done():
			case <-time.After(30 * time.Second):
				t.Error("the reset was not noticed")
			}
		})
	}
}

// TestClientWatchStop: to stop a watch that waits for a reset leaves the connection as it
// was, with all that was read.
func TestClientWatchStop(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	near, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn := &readConn{TCPConn: near.(*net.TCPConn)}
	defer conn.Close()
	watch := &clientWatch{conn: conn}
	_, stop := watch.start(t.Context())
	const sent = 2 * watchLimit
	go client.Write(make([]byte, sent))
	for begin := time.Now(); conn.read.Load() < watchLimit; time.Sleep(time.Millisecond) {
		if time.Since(begin) > 30*time.Second {
			t.Fatal("the watch does not read")
		}
	}
	stop()
	rest := make([]byte, sent-len(watch.pending))
	if _, err := io.ReadFull(conn, rest); err != nil {
		t.Errorf("reading on: %v", err)
	}
}
