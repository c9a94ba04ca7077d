package socket

import (
	"bytes"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// decodingConn is a socket with a Read of its own, as listener wrappers make it.
type decodingConn struct {
	*net.TCPConn
	r io.Reader
}

func (c decodingConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// TestReadUsesTheConnectionsOwnRead: the bytes of a type that embeds a socket are not those
// of the socket.
func TestReadUsesTheConnectionsOwnRead(t *testing.T) {
	near, far := connect(t, "tcp")
	send(t, far, "encoded")
	r := NewReader(decodingConn{near.(*net.TCPConn), strings.NewReader("decoded")})
	if got, err := r.ReadFirst(2); string(got) != "de" || err != nil {
		t.Errorf("first: got %q (%v), want what Read returns", got, err)
	}
	if got, err := r.Read(100); string(got) != "coded" || err != nil {
		t.Errorf("then: got %q (%v), want what Read returns", got, err)
	}
}

func TestRead(t *testing.T) {
	for _, network := range []string{"tcp", "unix", "tls"} {
		t.Run(network, func(t *testing.T) {
			near, far := connect(t, network)
			r := NewReader(near)
			send(t, far, "first bytes")
			first, err := r.ReadFirst(5)
			if string(first) != "first" || cap(first) != FirstSize || err != nil {
				t.Errorf("first: got %q with room for %d (%v)", first, cap(first), err)
			}
			GiveBack(first)
			if got := network == "tls"; r.ChangesDeadline() != got {
				t.Errorf("changes the deadline: got %v", got)
			}
			_ = near.SetReadDeadline(time.Now().Add(patience))
			if got, err := r.Read(3); string(got) != " by" || err != nil {
				t.Errorf("limited: got %q (%v)", got, err)
			}
			if got, err := r.Read(100); string(got) != "tes" || err != nil {
				t.Errorf("the rest: got %q (%v)", got, err)
			}
			want := bytes.Repeat([]byte("bulk"), LargeSize)
			go func() {
				_, _ = far.Write(want)
				_ = CloseWrite(far)
			}()
			var got []byte
			for {
				p, err := r.Read(1 << 40)
				got = append(got, p...)
				GiveBack(p)
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, want) {
				t.Errorf("in bulk: got %d bytes, want %d; they differ", len(got), len(want))
			}
		})
	}
}

// TestReadSizes: a buffer is large when a small one has been filled, and small again.
func TestReadSizes(t *testing.T) {
	near, far := connect(t, "tcp")
	r := NewReader(near)
	send(t, far, strings.Repeat("x", SmallSize+10))
	for left, want := SmallSize+10, SmallSize; left > 0; {
		p, err := r.Read(1 << 40)
		if err != nil {
			t.Fatal(err)
		}
		if cap(p) != want {
			t.Errorf("got a buffer of %d bytes, want %d", cap(p), want)
		}
		if want = SmallSize; len(p) >= SmallSize {
			want = LargeSize
		}
		left -= len(p)
		GiveBack(p)
	}
}

// TestReadDeadline: a deadline that passes leaves no bytes behind, and the reader goes on.
func TestReadDeadline(t *testing.T) {
	near, far := connect(t, "tcp")
	r := NewReader(near)
	_ = near.SetReadDeadline(time.Unix(1, 0))
	if p, err := r.ReadFirst(10); len(p) > 0 || !os.IsTimeout(err) {
		t.Errorf("got %q (%v), want a timeout", p, err)
	}
	_ = near.SetReadDeadline(time.Now().Add(patience))
	send(t, far, "x")
	if p, err := r.ReadFirst(10); string(p) != "x" || err != nil {
		t.Errorf("got %q (%v)", p, err)
	}
	Reset(far)
	if p, err := r.Read(10); len(p) > 0 || !IsReset(err) {
		t.Errorf("got %q (%v), want a reset", p, err)
	}
}

func TestBuffers(t *testing.T) {
	for _, size := range []int{FirstSize, SmallSize, LargeSize} {
		if b := TakeBuffer(size, 1<<40); len(b) != size || cap(b) != size {
			t.Errorf("of %d: got %d, with room for %d", size, len(b), cap(b))
		}
		b := TakeBuffer(size, 10)
		if len(b) != 10 || cap(b) != size {
			t.Errorf("of %d: got %d, with room for %d; want 10", size, len(b), cap(b))
		}
		GiveBack(b)
	}
	GiveBack(nil)
	GiveBack(make([]byte, 10, 100))
}
