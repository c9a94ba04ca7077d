package socket

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what would otherwise hang; no test depends on its length.
const patience = 30 * time.Second

// connect returns the two ends of a connection over tcp, unix or tls. The near one is for
// what is tested, the far one for the test.
func connect(t testing.TB, network string) (near, far net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	switch network {
	case "tls":
		return connectTLS(t)
	case "unix":
		dir, err := os.MkdirTemp("", "socket") // t.TempDir may be too long for sun_path
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		address = filepath.Join(dir, "s")
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if far, err = net.Dial(network, ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	if near, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	for _, conn := range []net.Conn{near, far} {
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
	return near, far
}

func connectTLS(t testing.TB) (near, far net.Conn) {
	t.Helper()
	rawNear, rawFar := connect(t, "tcp")
	borrowed := httptest.NewUnstartedServer(nil) // for its certificate
	borrowed.StartTLS()
	certificates := borrowed.TLS.Certificates
	borrowed.Close()
	server := tls.Server(rawNear, &tls.Config{Certificates: certificates})
	client := tls.Client(rawFar, &tls.Config{InsecureSkipVerify: true})
	failed := make(chan error, 1)
	go func() { failed <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-failed); err != nil {
		t.Fatal(err)
	}
	return server, client
}

func send(t testing.TB, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatalf("sending %q: %v", text, err)
	}
}

// receivesEnd wants conn to read want and then an end.
func receivesEnd(t testing.TB, conn net.Conn, want string) {
	t.Helper()
	if got, err := io.ReadAll(conn); string(got) != want || err != nil {
		t.Errorf("got %q (%v), want %q and the end", got, err, want)
	}
}

// receivesReset wants conn to read a reset.
func receivesReset(t testing.TB, conn net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{conn}); !IsReset(err) {
		t.Errorf("got error %v, want a reset", err)
	}
}

// Wrappers of which each says in another way what it wraps, or does not.
type (
	netConnWrapper struct{ net.Conn }
	rawWrapper     struct{ net.Conn }
	seenWrapper    struct{ net.Conn } // known by SeeThrough
	unknownWrapper struct{ net.Conn }
)

func (w netConnWrapper) NetConn() net.Conn { return w.Conn }
func (w rawWrapper) Raw() net.Conn         { return w.Conn }

func init() {
	SeeThrough(func(conn net.Conn) net.Conn {
		if w, ok := conn.(seenWrapper); ok {
			return w.Conn
		}
		return nil
	})
}
