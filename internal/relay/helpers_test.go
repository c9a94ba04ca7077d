package relay

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

func TestMain(m *testing.M) {
	askInterval = 10 * time.Millisecond
	goleak.VerifyTestMain(m)
}

// patience bounds what would otherwise hang; no test depends on its length.
const patience = 30 * time.Second

// closeWriter is a connection that can end sending.
type closeWriter interface{ CloseWrite() error }

// fileConn is a socket that can be duplicated.
type fileConn interface{ File() (*os.File, error) }

// link is a stream in an engine's hands, seen from the peers.
type link struct {
	client, upstream net.Conn // the peers' ends
	done             chan Account
}

// relayed starts s between two connections of the given network. It closes the
// peers at the end of the test and checks that Done was called exactly once.
func relayed(t *testing.T, e Engine, network string, s Stream) *link {
	t.Helper()
	l := &link{}
	s.Client, l.client = connect(t, network)
	s.Upstream, l.upstream = connect(t, network)
	l.start(t, e, s)
	return l
}

// start starts s, whose connections' other ends l holds already.
func (l *link) start(t *testing.T, e Engine, s Stream) {
	t.Helper()
	l.done = make(chan Account, 1)
	var once sync.Once
	ended := make(chan struct{})
	s.Done = func(a Account) {
		first := false
		once.Do(func() { first = true; l.done <- a; close(ended) })
		if !first {
			t.Error("Done was called twice")
		}
	}
	t.Cleanup(func() {
		l.client.Close()
		l.upstream.Close()
		await(t, "Done", ended)
	})
	e.Start(&s)
}

func (l *link) clientEnd() net.Conn   { return l.client }
func (l *link) upstreamEnd() net.Conn { return l.upstream }

// account waits for the end of the stream.
func (l *link) account(t *testing.T) Account {
	t.Helper()
	select {
	case a := <-l.done:
		return a
	case <-time.After(patience):
		t.Fatal("the stream did not end")
		return Account{}
	}
}

// ends waits for the end of the stream and compares its account. A want.Duration
// is a minimum; ToUpstream and ToClient below 0 stand for any number. It returns
// the account.
func (l *link) ends(t *testing.T, want Account) (got Account) {
	t.Helper()
	got = l.account(t)
	if got.Cause != want.Cause {
		t.Errorf("cause: got %v (error %v), want %v", got.Cause, got.Err, want.Cause)
	}
	if want.ToUpstream >= 0 && got.ToUpstream != want.ToUpstream {
		t.Errorf("bytes to upstream: got %d, want %d", got.ToUpstream, want.ToUpstream)
	}
	if want.ToClient >= 0 && got.ToClient != want.ToClient {
		t.Errorf("bytes to client: got %d, want %d", got.ToClient, want.ToClient)
	}
	if got.Duration < want.Duration {
		t.Errorf("duration: got %v, want at least %v", got.Duration, want.Duration)
	}
	if got.Engine == "" {
		t.Error("the account does not name its engine")
	}
	if failed := got.Cause == ClientError || got.Cause == UpstreamError; failed != (got.Err != nil) {
		t.Errorf("cause %v with error %v", got.Cause, got.Err)
	}
	return got
}

// lingerLong lets a session wait longer for a client that still sends after the last response,
// or reads it, until the test ends: on a busy machine one may take more than lingerTimeout.
func lingerLong(t *testing.T) {
	was := lingerTimeout
	t.Cleanup(func() { lingerTimeout = was })
	lingerTimeout = patience
}

func await(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Errorf("waited in vain for: %s", what)
	}
}

// connect returns the two ends of a connection over tcp, unix, tls or an in-memory pipe.
// The near one is for the engine, the far one for the test.
func connect(t *testing.T, network string) (near, far net.Conn) {
	t.Helper()
	switch network {
	case "tls":
		return connectTLS(t)
	case "pipe":
		return newDuplex()
	}
	address := "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("", "relay") // t.TempDir may be too long for sun_path
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
	far, err = net.Dial(network, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err = ln.Accept()
	if err != nil {
		far.Close()
		t.Fatal(err)
	}
	far.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { far.Close() })
	return near, far
}

func connectTLS(t *testing.T) (near, far net.Conn) {
	t.Helper()
	rawNear, rawFar := connect(t, "tcp")
	server := tls.Server(rawNear, &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
	client := tls.Client(rawFar, &tls.Config{InsecureSkipVerify: true})
	failed := make(chan error, 1)
	go func() { failed <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-failed); err != nil {
		t.Fatal(err)
	}
	return server, client
}

var selfSigned = sync.OnceValues(func() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(crand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
})

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	c, err := selfSigned()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// duplex is an in-memory connection with CloseWrite, made of a net.Pipe for each
// direction. It works in a synctest bubble.
type duplex struct {
	net.Conn          // read from
	out      net.Conn // written to
}

func newDuplex() (near, far *duplex) {
	a, b := net.Pipe()
	c, d := net.Pipe()
	return &duplex{a, c}, &duplex{d, b}
}

func (d *duplex) Write(p []byte) (int, error)        { return d.out.Write(p) }
func (d *duplex) CloseWrite() error                  { return d.out.Close() }
func (d *duplex) Close() error                       { d.out.Close(); return d.Conn.Close() }
func (d *duplex) SetWriteDeadline(t time.Time) error { return d.out.SetWriteDeadline(t) }
func (d *duplex) SetDeadline(t time.Time) error {
	return errors.Join(d.Conn.SetReadDeadline(t), d.out.SetWriteDeadline(t))
}

// random returns n bytes, the same for the same seed.
func random(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// sendCut writes data in pieces of random sizes, some tiny, some larger than any
// buffer, and then ends sending.
func sendCut(c net.Conn, data []byte) error {
	for len(data) > 0 {
		n := min(len(data), 1+rand.IntN(1<<rand.IntN(19)))
		if _, err := c.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return c.(closeWriter).CloseWrite()
}

// fill writes until the far side has taken nothing for a while. That it is full then is
// likely, and no test relies on it.
func fill(c net.Conn) {
	for piece := make([]byte, 64<<10); ; {
		c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := c.Write(piece); err != nil {
			c.SetWriteDeadline(time.Time{})
			return
		}
	}
}

func send(t *testing.T, c net.Conn, data string) {
	t.Helper()
	if _, err := io.WriteString(c, data); err != nil {
		t.Fatalf("sending %.100q: %v", data, err)
	}
}

func closeWrite(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.(closeWriter).CloseWrite(); err != nil {
		t.Fatalf("CloseWrite: %v", err)
	}
}

// receives reads as many bytes as want has and compares.
func receives(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("got %.1000q and error %v, want %.1000q", got[:n], err, want)
	}
	if string(got) != want {
		t.Fatalf("got %.1000q, want %.1000q", got, want)
	}
}

// receivesEnd reads the end of sending.
func receivesEnd(t *testing.T, c net.Conn) {
	t.Helper()
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		t.Fatalf("got %q and error %v, want the end", rest, err)
	}
}

// receivesReset reads until an error, which has to be a reset. Bytes before it are
// no fault: a reset overtakes them or not.
func receivesReset(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{c}); !socket.IsReset(err) {
		t.Fatalf("got error %v, want a reset", err)
	}
}

// sendReset closes c with a reset, as an aborting peer does.
func sendReset(c net.Conn) { socket.Reset(c) }

// same compares without printing megabytes.
func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got %d bytes, want %d; they differ", what, len(got), len(want))
	}
}

// openDescriptors returns the number of open file descriptors, or 0 where there is no
// way to tell.
func openDescriptors() int {
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(d)
}
