package relay

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/exchange"
	"github.com/streamprox/caddy-streamprox/internal/httphead"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// TestSessionsModel has many clients at once, of which each sends requests of all kinds, in
// pieces, ahead of the responses or not, and leaves as chance will have it; and two servers,
// net/http's and a raw one, which answer early, late, at once or not at all. In whatever order
// that happens:
//
//   - each client gets the responses to its own requests, in order, or an end;
//   - no server sees a request that was not sent as such, none that must not be repeated
//     twice, and on one connection those of one client;
//   - the owner is told of each end once;
//   - nothing is left.
//
// Once through takes some seconds. With STREAMPROX_PROOF_REQUESTS it goes on until that many
// requests have been answered by each engine over each network, and STREAMPROX_SEED repeats a
// run, as far as the machine does, as in
//
//	STREAMPROX_PROOF_REQUESTS=1000000 go test -run SessionsModel -v -timeout 2h ./internal/relay
func TestSessionsModel(t *testing.T) {
	lingerLong(t)
	number := func(name string, otherwise int64) int64 {
		v := os.Getenv(name)
		if v == "" {
			return otherwise
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	proof := number("STREAMPROX_PROOF_REQUESTS", 0)
	seed := uint64(number("STREAMPROX_SEED", time.Now().UnixNano()))
	type run struct{ engine, client, upstream string }
	runs := []run{{"portable", "tls", "tcp"}, {"portable", "tcp", "tls"}}
	for engine := range engines {
		runs = append(runs, run{engine, "tcp", "tcp"}, run{engine, "unix", "unix"})
	}
	for _, r := range runs {
		t.Run(r.engine+" "+r.client+" to "+r.upstream, func(t *testing.T) {
			t.Logf("seed %d", seed)
			var answered, streams int64
			for round := uint64(0); round < 4 || answered < proof && !t.Failed(); round++ {
				// A subtest for each round, so that its sockets are closed before the next.
				t.Run(fmt.Sprint("round ", round), func(t *testing.T) {
					w := newWorld(t, r.engine, r.client, r.upstream, seed+round, round%4 == 3)
					w.turn(t)
					answered += w.answered.Load()
					streams += w.sessions.Load()
				})
			}
			t.Logf("%d sessions, %d requests answered and compared", streams, answered)
		})
	}
}

// world is the clients, servers and sessions of a round.
type world struct {
	t         *testing.T
	engine    Engine
	client    string // its network
	streams   *Registry
	groups    [3]*Registry
	servers   [2]func() net.Conn // how to connect to them
	requests  map[string]*modelRequest
	disturbed bool // sessions are ended at random
	seed      uint64

	sessions  atomic.Int64 // begun
	answered  atomic.Int64
	accepting sync.WaitGroup // connections whose first request is waited for
	clients   []*modelClient

	mu     sync.Mutex
	owners []*modelOwner
}

// modelPatience is for connections, in place of patience: a round takes longer than a step.
const modelPatience = 4 * patience

// modelRequest is a request, what becomes of it at the server, and what its client has to see
// of that.
type modelRequest struct {
	id     string // of the client, and its number
	client int
	server int // which one
	seed   uint64

	// The request.
	method, path string
	old          bool // HTTP/1.0
	closes       bool // Connection: close
	content      []byte
	chunked      bool
	expects      bool // waits for a 100
	upgrades     bool

	// The response.
	status   int
	answer   []byte
	framing  httphead.Framing
	interims int
	early    bool // it does not wait for the content
	extra    bool // more than the response is sent
	last     bool // Connection: close
	ends     int  // how the server's connection ends

	arrived atomic.Int32 // how often
}

func (r *modelRequest) String() string {
	return fmt.Sprintf("%s %s: server %d, old %v, closes %v, content %d, chunked %v, expects %v, upgrades %v; %d, %v %d, interims %d, early %v, extra %v, last %v, ends %d",
		r.method, r.id, r.server, r.old, r.closes, len(r.content), r.chunked, r.expects, r.upgrades,
		r.status, r.framing, len(r.answer), r.interims, r.early, r.extra, r.last, r.ends)
}

// How a server's connection ends.
const (
	endsNot          = iota
	endsSilently     // after the response, which did not say so
	endsBefore       // before the response
	endsWithin       // within it
	resetsBefore     // before the response
	answersOtherwise // with what is no HTTP
)

// benign reports whether the client can rely on a response.
func (r *modelRequest) benign() bool {
	return r.ends == endsNot && !(r.early && r.expects) && !r.unread() || r.ends == endsSilently && !r.early
}

// unread reports whether the server answers r without reading its content. Then its end is a
// reset, if it closes the connection, which may break the response off.
func (r *modelRequest) unread() bool {
	return r.early && r.server == 1 && (r.expects || r.seed%2 == 0)
}

// repeatable reports whether it may be sent twice.
func (r *modelRequest) repeatable() bool { return r.method != "POST" }

// rand returns what decides for one of those that have to do with r: the client's is 0, the
// owner's 1, a server's 2 and more.
func (r *modelRequest) rand(whose int) *rand.Rand {
	return rand.New(rand.NewPCG(r.seed, uint64(whose)))
}

// readAnswer reads the content of the response to r. Where the client cannot rely on getting all,
// and the end of the connection is that of the content, an early end may look like any other: a
// reset, which only the sending was told of, or a Unix socket has none.
func (r *modelRequest) readAnswer(response *http.Response, rely bool) ([]byte, error) {
	got, err := io.ReadAll(response.Body)
	if err == nil && r.framing == httphead.UntilClose && !rely && len(got) < len(r.answer) {
		err = io.ErrUnexpectedEOF
	}
	return got, err
}

// keeps reports whether the client's connection is to be kept after the response; and sure,
// whether that is certain.
func (r *modelRequest) keeps() (keeps, sure bool) {
	switch {
	case r.old, r.closes, r.framing == httphead.UntilClose, r.upgrades:
		return false, true
	case r.early && len(r.content) > 0:
		return false, false
	}
	return true, true
}

func newWorld(t *testing.T, engine, client, upstream string, seed uint64, disturbed bool) *world {
	w := &world{t: t, client: client, streams: new(Registry), requests: make(map[string]*modelRequest), disturbed: disturbed, seed: seed}
	w.engine = engines[engine](w.streams)
	for i := range w.groups {
		w.groups[i] = new(Registry)
	}
	for i := range 24 {
		c := newModelClient(i, rand.New(rand.NewPCG(seed, uint64(i))))
		c.real = i >= 16
		for _, r := range c.requests {
			if c.real {
				r.tame()
			}
			w.requests[r.id] = r
		}
		w.clients = append(w.clients, c)
	}
	for i, serve := range [...]func(net.Listener) (stop func()){w.serveRaw, w.serveHTTP} {
		ln, dial := listen(t, upstream)
		stop := serve(ln)
		t.Cleanup(stop)
		w.servers[i] = dial
	}
	return w
}

// listen returns a listener on a network, and how to connect to it.
func listen(t *testing.T, network string) (net.Listener, func() net.Conn) {
	t.Helper()
	base, address := network, "127.0.0.1:0"
	switch network {
	case "tls":
		base = "tcp"
	case "unix":
		dir, err := os.MkdirTemp("", "relay")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		address = filepath.Join(dir, "s")
	}
	ln, err := net.Listen(base, address)
	if err != nil {
		t.Fatal(err)
	}
	address = ln.Addr().String()
	if network == "tls" {
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
	}
	return ln, func() net.Conn {
		c, err := net.Dial(base, address)
		if err != nil {
			t.Error(err)
			return nil
		}
		if network != "tls" {
			return c
		}
		client := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		if err := client.Handshake(); err != nil {
			t.Error(err)
		}
		return client
	}
}

// turn plays the round.
func (w *world) turn(t *testing.T) {
	before := openDescriptors()
	var all sync.WaitGroup
	for _, c := range w.clients {
		all.Go(func() {
			if c.real {
				c.browse(w)
			} else {
				c.play(w)
			}
		})
	}
	if w.disturbed {
		rng := rand.New(rand.NewPCG(w.seed, 1000))
		for range 3 {
			time.Sleep(time.Duration(rng.IntN(30_000)) * time.Microsecond)
			switch rng.IntN(3) {
			case 0:
				w.streams.Retire(nil)
			case 1:
				w.groups[rng.IntN(len(w.groups))].Kill()
			case 2:
				w.groups[rng.IntN(len(w.groups))].Retire(nil)
			}
		}
	}
	all.Wait()
	w.accepting.Wait()
	for _, r := range append(w.groups[:len(w.groups):len(w.groups)], w.streams) {
		if r.Drain(context.Background()); r.Len() > 0 {
			t.Error("a session does not end")
		}
	}
	for _, o := range w.owners {
		if !o.begun {
			continue
		}
		// One that has handed the connection on is told of the end after that has been registered.
		until(t, "the owner is told of the end", o.closed.Load)
		if o.ended != o.exchanges || o.hasServer {
			t.Errorf("client %d: in the end: %d of %d exchanges ended, upstream %v", o.client, o.ended, o.exchanges, o.hasServer)
		}
	}
	until(t, "no descriptor is left", func() bool { return openDescriptors() <= before })
}

// modelClient is a client, and what it does.
type modelClient struct {
	number    int
	real      bool // that of net/http
	rng       *rand.Rand
	requests  []*modelRequest
	pipelines bool
	aborts    int64 // resets its connection after so many bytes sent; 0: does not
	halves    bool  // ends its sending after its last request
	resets    bool  // its connection, after the last response
}

// size returns a random size, of any magnitude below 1<<bits.
func size(rng *rand.Rand, bits int) int { return rng.IntN(1 << rng.IntN(bits+1)) }

// words returns n bytes of the text.
func words(rng *rand.Rand, n int) []byte {
	at := rng.IntN(len(text) - n + 1)
	return text[at : at+n : at+n]
}

// chance reports true once in n times.
func chance(rng *rand.Rand, n int) bool { return rng.IntN(n) == 0 }

func newModelClient(number int, rng *rand.Rand) *modelClient {
	c := &modelClient{number: number, rng: rng, pipelines: chance(rng, 3), halves: chance(rng, 2), resets: chance(rng, 3)}
	if chance(rng, 6) {
		c.aborts = 1 + int64(size(rng, 18))
	}
	server := rng.IntN(2)
	for i := range 1 + rng.IntN(8) {
		if chance(rng, 4) {
			server = 1 - server
		}
		c.requests = append(c.requests, newModelRequest(number, i, server, rng))
	}
	return c
}

func newModelRequest(client, number, server int, rng *rand.Rand) *modelRequest {
	r := &modelRequest{
		id:     fmt.Sprintf("%d-%d", client, number),
		client: client,
		server: server,
		seed:   rng.Uint64(),
		method: []string{"GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "OPTIONS"}[rng.IntN(8)],
		closes: chance(rng, 12),
		status: []int{200, 200, 200, 404, 500, 204, 304}[rng.IntN(7)],
		last:   chance(rng, 8),
	}
	r.path = "/" + r.id + "/" + strings.Repeat("x", size(rng, 9))
	if r.method == "POST" || r.method == "PUT" || chance(rng, 10) {
		r.content = words(rng, size(rng, 20))
		r.chunked = chance(rng, 2)
		r.expects = len(r.content) > 0 && chance(rng, 4)
	}
	r.old = !r.chunked && !r.expects && chance(rng, 20)
	if len(r.content) == 0 && !r.old && chance(rng, 12) {
		r.method, r.upgrades = "GET", true
		r.content, r.chunked = words(rng, size(rng, 17)), false // what goes through the tunnel
		if chance(rng, 4) {
			r.status = 403
		} else {
			r.status = 101
		}
	}
	r.answer = words(rng, size(rng, 20))
	r.framing = []httphead.Framing{httphead.Counted, httphead.Counted, httphead.Chunked, httphead.Chunked, httphead.UntilClose}[rng.IntN(5)]
	switch {
	case r.old && r.framing == httphead.Chunked:
		r.framing = httphead.Counted
	case server == 1 && r.framing == httphead.UntilClose && !r.old: // net/http's does not
		r.framing = httphead.Chunked
	}
	if r.status == 204 || r.status == 304 || r.method == "HEAD" {
		r.framing, r.answer = httphead.NoBody, nil
	}
	if !r.old && chance(rng, 6) {
		r.interims = 1 + rng.IntN(3)
	}
	r.early = len(r.content) > 0 && !r.upgrades && chance(rng, 5)
	if server == 0 {
		r.extra = chance(rng, 10) && r.framing != httphead.UntilClose && r.status != 101
		if chance(rng, 6) {
			r.ends = 1 + rng.IntN(5)
		}
		if r.ends == endsWithin && r.framing == httphead.UntilClose { // it would look complete
			r.framing = httphead.Counted
		}
	}
	if r.upgrades {
		r.ends, r.early, r.extra = endsNot, false, false
	}
	return r
}

// tame makes r a request that net/http's client can send, and answers that it understands.
func (r *modelRequest) tame() {
	r.old, r.extra = false, false
	if r.upgrades {
		r.upgrades, r.content, r.status = false, nil, 200
	}
	if r.method == "GET" || r.method == "HEAD" || r.method == "OPTIONS" {
		r.content, r.chunked, r.expects, r.early = nil, false, false, false
	}
}

// head returns the head of r.
func (r *modelRequest) head() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.%d\r\nHost: h\r\nX-Id: %s\r\n", r.method, r.path, map[bool]int{false: 1, true: 0}[r.old], r.id)
	switch {
	case r.upgrades:
		b.WriteString("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
	case r.closes:
		b.WriteString("Connection: close\r\n")
	case chance(r.rand(0), 4):
		b.WriteString("Connection: keep-alive\r\n")
	}
	switch {
	case r.upgrades:
	case r.chunked:
		b.WriteString("Transfer-Encoding: chunked\r\n")
	case len(r.content) > 0 || r.method == "POST":
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(r.content))
	}
	if r.expects {
		b.WriteString("Expect: 100-continue\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// writeContent writes content with its framing, in pieces, and returns after an error.
func writeContent(w io.Writer, rng *rand.Rand, content []byte, chunked bool) error {
	out := w
	var chunks io.WriteCloser
	if chunked {
		chunks = httputil.NewChunkedWriter(w)
		out = chunks
	}
	for len(content) > 0 {
		n := min(len(content), 1+size(rng, 19))
		if _, err := out.Write(content[:n]); err != nil {
			return err
		}
		content = content[n:]
		pause(rng)
	}
	if !chunked {
		return nil
	}
	if err := chunks.Close(); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\r\n")
	return err
}

// pause waits a little, or not.
func pause(rng *rand.Rand) {
	if chance(rng, 8) {
		time.Sleep(time.Duration(rng.IntN(1000)) * time.Microsecond)
	}
}

// slowReader reads from a connection in pieces, with pauses.
type slowReader struct {
	net.Conn
	rng  *rand.Rand
	over bool // nothing more can be read: a head that is malformed is one that was broken off
}

func (r *slowReader) Read(p []byte) (int, error) {
	pause(r.rng)
	n, err := r.Conn.Read(p[:min(len(p), 1+size(r.rng, 17))])
	r.over = err != nil
	return n, err
}

// shrink gives sockets little room, or leaves it as it is.
func shrink(rng *rand.Rand, conns ...net.Conn) {
	for _, c := range conns {
		if c, ok := socket.Of(c).(interface {
			SetReadBuffer(int) error
			SetWriteBuffer(int) error
		}); ok && chance(rng, 3) {
			_, _ = c.SetReadBuffer(64<<10), c.SetWriteBuffer(64<<10) // less than a packet is slow
		}
	}
}

// connect begins a session, and returns the client's end.
func (w *world) connect(client int) net.Conn {
	near, far := connect(w.t, w.client)
	_ = far.SetDeadline(time.Now().Add(modelPatience))
	shrink(rand.New(rand.NewPCG(w.seed, uint64(2000+client))), near, far)
	w.accepting.Go(func() { w.owner(client).begin(near, nil, nil, -1) })
	return far
}

// owner returns the owner of a session of a client.
func (w *world) owner(client int) *modelOwner {
	o := &modelOwner{world: w, client: client, group: w.groups[client%len(w.groups)]}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.owners = append(w.owners, o)
	return o
}

// play is a client that speaks for itself.
func (c *modelClient) play(w *world) {
	conn := w.connect(c.number)
	defer conn.Close()
	var writer io.Writer = conn
	if c.aborts > 0 {
		writer = &abortingWriter{conn, c.aborts}
	}
	goOn := make(chan int, 1000) // a response has come; -1: no more will
	continues := make(chan struct{}, 1000)
	var sending sync.WaitGroup
	sending.Go(func() {
		for i, r := range c.requests {
			if i > 0 && (!c.pipelines || r.upgrades || c.requests[i-1].upgrades) {
				for {
					n := <-goOn
					if n < 0 {
						return
					}
					if n == i-1 {
						break
					}
				}
			}
			if !c.send(writer, r, continues) {
				return
			}
			if r.upgrades {
				return // the reader goes on with it
			}
			pause(c.rng)
		}
		if c.halves {
			_ = conn.(closeWriter).CloseWrite()
		}
	})
	c.receive(w, conn, writer, goOn, continues)
	goOn <- -1
	continues <- struct{}{}
	_ = conn.SetDeadline(time.Unix(1, 0))
	sending.Wait()
}

// abortingWriter resets a connection after so many bytes.
type abortingWriter struct {
	net.Conn
	left int64
}

func (w *abortingWriter) Write(p []byte) (int, error) {
	if int64(len(p)) < w.left {
		w.left -= int64(len(p))
		return w.Conn.Write(p)
	}
	n, _ := w.Conn.Write(p[:w.left])
	sendReset(w.Conn)
	return n, net.ErrClosed
}

// send sends a request. It reports false if that cannot be done.
func (c *modelClient) send(w io.Writer, r *modelRequest, continues <-chan struct{}) bool {
	head := r.head()
	if !r.expects && !r.upgrades && len(r.content) < 1<<10 && !r.chunked {
		head = append(head, r.content...) // in one
	}
	for rest := head; len(rest) > 0; {
		n := len(rest)
		if chance(c.rng, 3) {
			n = 1 + c.rng.IntN(n)
		}
		if _, err := w.Write(rest[:n]); err != nil {
			return false
		}
		if rest = rest[n:]; len(rest) > 0 {
			pause(c.rng)
		}
	}
	switch {
	case r.upgrades:
		return true
	case r.expects:
		<-continues // a response of some kind
	case len(head) > 0 && bytes.HasSuffix(head, r.content) && len(r.content) < 1<<10 && !r.chunked:
		return true
	}
	return writeContent(w, c.rng, r.content, r.chunked) == nil
}

// relies reports whether the client can rely on the response to its request number i, once it has
// those before. What it has sent ahead of an end may be too much, and the end a reset, which
// destroys the responses before it that are still on their way (RFC 9112 section 9.6).
func (c *modelClient) relies(i int) bool {
	last := len(c.requests) - 1
	for k := i; k <= last; k++ {
		r := c.requests[k]
		if k > i && (!c.pipelines || r.upgrades || c.requests[k-1].upgrades) {
			break // it is sent once the response before it is there
		}
		fails := !r.benign()
		if k > 0 && c.requests[k-1].ends == endsSilently && !(r.repeatable() && len(r.content) == 0) {
			fails = true // it may go up to who closes the connection just now
		}
		keeps, sure := r.keeps()
		ends := fails || !(keeps && sure)
		switch {
		case k == i && fails, ends && k > i && len(r.content) > 0, ends && k < last && c.pipelines:
			return false
		}
	}
	return true
}

// receive reads the responses and compares them.
func (c *modelClient) receive(w *world, conn net.Conn, writer io.Writer, goOn chan<- int, continues chan<- struct{}) {
	t := w.t
	in := &slowReader{Conn: conn, rng: rand.New(rand.NewPCG(w.seed, uint64(3000+c.number)))}
	br := bufio.NewReaderSize(in, 1+size(rand.New(rand.NewPCG(w.seed, 0)), 17))
	rely := c.aborts == 0 && !w.disturbed // on getting all
	for i, r := range c.requests {
		rely = rely && c.relies(i)
		response, err := c.next(w, in, br, r, continues)
		if err != nil {
			if rely {
				t.Errorf("client %d: (%v): %v", c.number, r, err)
			}
			return
		}
		if response.Header.Get("X-Refused") != "" {
			if rely {
				t.Errorf("client %d: (%v): refused with %s", c.number, r, response.Status)
			}
			c.expectEnd(w, conn, br)
			return
		}
		if response.StatusCode == 101 {
			w.answered.Add(1)
			c.tunnel(w, conn, writer, br, r, rely)
			return
		}
		got, err := r.readAnswer(response, rely)
		if !bytes.HasPrefix(r.answer, got) || err == nil && len(got) != len(r.answer) {
			t.Errorf("client %d: (%v): got another response, of %d bytes", c.number, r, len(got))
			return
		}
		if err != nil {
			if rely {
				t.Errorf("client %d: (%v): after %d bytes: %v", c.number, r, len(got), err)
			}
			return
		}
		w.answered.Add(1)
		keeps, sure := r.keeps()
		if sure && response.Close == keeps && !w.disturbed && c.aborts == 0 {
			t.Errorf("client %d: (%v): closes %v, want %v", c.number, r, response.Close, !keeps)
		}
		if response.Close {
			c.expectEnd(w, conn, br)
			return
		}
		goOn <- i
	}
	if !c.halves && c.resets {
		sendReset(conn)
	}
}

// next reads the next final response. It must be the one to r.
func (c *modelClient) next(w *world, in *slowReader, br *bufio.Reader, r *modelRequest, continues chan<- struct{}) (*http.Response, error) {
	for {
		response, err := http.ReadResponse(br, &http.Request{Method: r.method})
		if err != nil {
			if badResponse(err) && !in.over {
				w.t.Errorf("client %d: (%v): %v", c.number, r, err)
			}
			return nil, err
		}
		continues <- struct{}{}
		id, refused := response.Header.Get("X-For"), response.Header.Get("X-Refused") != ""
		switch {
		case refused:
		case id != r.id && response.StatusCode != 100:
			w.t.Errorf("client %d: got the response %s to %q, want that to %q", c.number, response.Status, id, r.id)
			return nil, errWrongBytes
		case response.StatusCode < 200 && response.StatusCode != 101:
			if r.old {
				w.t.Errorf("client %d: %s: an interim response to HTTP/1.0", c.number, r.id)
			}
			continue
		case response.StatusCode != r.status:
			w.t.Errorf("client %d: (%v): got %s", c.number, r, response.Status)
		}
		if refused {
			_, err = io.Copy(io.Discard, response.Body)
		}
		return response, err
	}
}

// badResponse reports whether err says that what was read is no response.
func badResponse(err error) bool {
	var protocol textproto.ProtocolError
	return errors.As(err, &protocol) || strings.Contains(err.Error(), "malformed")
}

// expectEnd reads on after the last response: nothing follows.
func (c *modelClient) expectEnd(w *world, conn net.Conn, br *bufio.Reader) {
	rest, err := io.ReadAll(br)
	if len(rest) > 0 {
		w.t.Errorf("client %d: %q follows the last response", c.number, rest)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Errorf("client %d: the connection does not end", c.number)
	}
}

// tunnel sends the content through a tunnel and gets it back.
func (c *modelClient) tunnel(w *world, conn net.Conn, writer io.Writer, br *bufio.Reader, r *modelRequest, rely bool) {
	var sending sync.WaitGroup
	sending.Go(func() {
		if writeContent(writer, r.rand(0), r.content, false) == nil {
			_ = conn.(closeWriter).CloseWrite()
		}
	})
	got, err := io.ReadAll(br)
	sending.Wait()
	if !bytes.HasPrefix(r.content, got) {
		w.t.Errorf("client %d: %s: got other bytes through a tunnel", c.number, r.id)
	}
	if rely && (err != nil || len(got) != len(r.content)) {
		w.t.Errorf("client %d: %s: got %d of %d bytes through a tunnel, and %v", c.number, r.id, len(got), len(r.content), err)
	}
}

// browse is a client of net/http's.
func (c *modelClient) browse(w *world) {
	transport := &http.Transport{
		DialContext:           func(context.Context, string, string) (net.Conn, error) { return w.connect(c.number), nil },
		DisableCompression:    true,
		ExpectContinueTimeout: modelPatience,
	}
	defer transport.CloseIdleConnections()
	rely := !w.disturbed
	for _, r := range c.requests {
		if rely = rely && r.benign(); r.ends == endsSilently {
			rely = false // the next one may be one that must not be repeated
		}
		ctx, cancel := context.WithTimeout(context.Background(), modelPatience)
		var content io.Reader
		if len(r.content) > 0 {
			content = bytes.NewReader(r.content)
			if r.chunked {
				content = struct{ io.Reader }{content}
			}
		}
		request, err := http.NewRequestWithContext(ctx, r.method, "http://h"+r.path, content)
		if err != nil {
			w.t.Error(err)
		}
		request.Header.Set("X-Id", r.id)
		request.Close = r.closes
		if r.expects {
			request.Header.Set("Expect", "100-continue")
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			if rely && !(r.early && len(r.content) > 0) { // it may fail to send what nobody waits for
				w.t.Errorf("client %d: (%v): %v", c.number, r, err)
			}
			cancel()
			continue
		}
		got, err := r.readAnswer(response, rely)
		response.Body.Close()
		cancel()
		switch {
		case response.Header.Get("X-Refused") != "":
			if rely {
				w.t.Errorf("client %d: (%v): refused with %s", c.number, r, response.Status)
			}
		case response.Header.Get("X-For") != r.id, !bytes.HasPrefix(r.answer, got), response.StatusCode != r.status:
			w.t.Errorf("client %d: (%v): got another response: %+v, %d bytes", c.number, r, response, len(got))
		case err == nil && len(got) == len(r.answer):
			w.answered.Add(1)
		case rely || err == nil:
			w.t.Errorf("client %d: (%v): got %d of %d bytes and %v", c.number, r, len(got), len(r.answer), err)
		}
	}
}

// modelOwner is the owner of a session. It finds the server of a request, and makes sure that
// the session tells what it has to.
type modelOwner struct {
	world  *world
	client int
	group  *Registry
	server int // which one its upstream is

	begun     bool
	busy      atomic.Bool // one of its methods runs
	exchanges int         // begun
	ended     int
	hasServer bool // an upstream's connection that is not dropped
	closed    atomic.Bool
}

// alone makes sure that one method runs at a time.
func (o *modelOwner) alone() (leave func()) {
	if !o.busy.CompareAndSwap(false, true) {
		o.world.t.Errorf("client %d: two methods of an owner at once", o.client)
	}
	return func() { o.busy.Store(false) }
}

// begin begins a session with what the client has sent, on the connection to a server that
// is kept, or a fresh one.
func (o *modelOwner) begin(client net.Conn, data []byte, upstream net.Conn, server int) {
	_ = client.SetReadDeadline(time.Now().Add(modelPatience))
	r, headLen, request := o.read(data)
	for r == nil {
		b := make([]byte, 4<<10)
		n, err := client.Read(b)
		if err != nil {
			if !errors.Is(err, io.EOF) && !socket.IsReset(err) && !errors.Is(err, net.ErrClosed) {
				o.world.t.Errorf("client %d: waiting for a head: %v", o.client, err)
			}
			client.Close()
			if upstream != nil {
				socket.Reset(upstream)
			}
			return
		}
		data = append(data, b[:n]...)
		r, headLen, request = o.read(data)
	}
	s := &Session{Client: client, Owner: o, Request: request, Pending: data[headLen:], Group: o.group, Keepalive: time.Hour}
	s.UpstreamKeepalive = []time.Duration{0, time.Millisecond, time.Hour, time.Hour, time.Hour}[r.rand(1).IntN(5)]
	if upstream != nil && (server != r.server || !r.repeatable()) {
		socket.Reset(upstream)
		upstream = nil
	}
	if upstream != nil {
		s.Reused, s.Received = true, bytes.Clone(data)
	} else if upstream = o.world.servers[r.server](); upstream == nil {
		client.Close()
		return
	}
	shrink(r.rand(1), upstream)
	s.Upstream, o.server = upstream, r.server
	o.begun, o.hasServer = true, true
	o.exchanges++
	o.world.sessions.Add(1)
	o.world.engine.Serve(s)
}

// read reads a head. r is nil if it is not complete.
func (o *modelOwner) read(data []byte) (r *modelRequest, headLen int, request exchange.Request) {
	if len(data) == 0 {
		return nil, 0, request
	}
	var reader httphead.Reader
	reader.Reset(httphead.Options{})
	switch reader.Read(data) {
	case httphead.HTTP:
	case httphead.More:
		return nil, 0, request
	default:
		o.world.t.Errorf("client %d: %.200q is no request: %v", o.client, data, reader.Err())
	}
	id, _ := reader.Lookup(data, "X-Id")
	if r = o.world.requests[string(id)]; r == nil || r.client != o.client {
		o.world.t.Errorf("client %d: a request of %q: %.200q", o.client, id, data)
		return nil, 0, request
	}
	forward := httphead.Forward{Upgrades: []string{"websocket"}, Persistent: true}
	return r, reader.Len, requestOf(o.world.t, &forward, &reader, data)
}

func (o *modelOwner) Refusal(status int) []byte {
	defer o.alone()()
	return fmt.Appendf(nil, "HTTP/1.1 %d Refused\r\nX-Refused: yes\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status)
}

func (o *modelOwner) Ended(Account) {
	defer o.alone()()
	if o.ended++; o.ended > o.exchanges || o.closed.Load() {
		o.world.t.Errorf("client %d: %d exchanges have ended of %d", o.client, o.ended, o.exchanges)
	}
}

func (o *modelOwner) Next(data []byte, kept bool) Next {
	defer o.alone()()
	if o.ended != o.exchanges || o.closed.Load() || kept && !o.hasServer {
		o.world.t.Errorf("client %d: Next, after %d of %d exchanges; kept %v, closed %v", o.client, o.ended, o.exchanges, kept, o.closed.Load())
	}
	r, headLen, request := o.read(data)
	switch {
	case r == nil:
		return Next{Verdict: Wait, Deadline: time.Now().Add(time.Hour)}
	case !kept || r.server != o.server || chance(r.rand(1), 8):
		return Next{Verdict: Elsewhere}
	}
	o.exchanges++
	return Next{Verdict: Forward, Request: request, HeadLen: headLen, Repeatable: r.repeatable()}
}

func (o *modelOwner) Take(client net.Conn, data []byte, _ time.Time, upstream net.Conn, registered func()) {
	defer o.alone()()
	// Closed comes before or after this: after it if the connection is not detached.
	if (upstream != nil) != o.hasServer {
		o.world.t.Errorf("client %d: taken with upstream %v, want %v", o.client, upstream != nil, o.hasServer)
	}
	if o.ended < o.exchanges-1 { // the last one is to be sent once more
		o.world.t.Errorf("client %d: taken after %d of %d exchanges", o.client, o.ended, o.exchanges)
	}
	o.hasServer = false
	o.exchanges = o.ended
	o.world.owner(o.client).begin(client, data, upstream, o.server)
	registered()
}

func (o *modelOwner) Tunnelled() {}

func (o *modelOwner) Dropped() {
	defer o.alone()()
	if !o.hasServer || o.closed.Load() {
		o.world.t.Errorf("client %d: dropped, though there is %v; closed %v", o.client, o.hasServer, o.closed.Load())
	}
	o.hasServer = false
}

func (o *modelOwner) Closed() {
	defer o.alone()()
	if o.closed.Swap(true) {
		o.world.t.Errorf("client %d: closed twice", o.client)
	}
}

// arrived finds the request that a server has got, on a connection that has carried those of
// a client; -1: of none yet. It returns nil if it is none that was sent.
func (w *world) arrived(req *http.Request, client *int) *modelRequest {
	r := w.requests[req.Header.Get("X-Id")]
	switch {
	case r == nil:
		w.t.Errorf("a server got a request that nobody has sent: %+v", req)
		return nil
	case *client >= 0 && *client != r.client:
		w.t.Errorf("a server got requests of clients %d and %d on one connection", *client, r.client)
	case req.Method != r.method || req.URL.Path != r.path || req.Host != "h" || req.ProtoAtLeast(1, 1) == r.old:
		w.t.Errorf("a server got %+v for %+v", req, r)
	case req.Header.Get("Upgrade") != "" && !r.upgrades:
		w.t.Errorf("a server is asked for an upgrade: %+v", req)
	}
	*client = r.client
	if n := r.arrived.Add(1); n > 1 && !r.repeatable() {
		w.t.Errorf("a server got %s %s %d times", r.method, r.id, n)
	}
	return r
}

// compare reads the content of a request that a server has got, and reports whether all of
// it came.
func (w *world) compare(r *modelRequest, body io.Reader) bool {
	got, err := io.ReadAll(body)
	want := r.content
	if r.upgrades {
		want = nil
	}
	if !bytes.HasPrefix(want, got) || err == nil && len(got) != len(want) {
		w.t.Errorf("a server got %d bytes of content of %d with %s, or others (%v)", len(got), len(want), r.id, err)
	}
	return err == nil
}

// serveRaw serves all that is connected to it as the requests say.
func (w *world) serveRaw(ln net.Listener) (stop func()) {
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { w.serveConn(c) })
		}
	})
	return func() { ln.Close(); all.Wait() }
}

func (w *world) serveConn(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(modelPatience))
	rng := rand.New(rand.NewPCG(w.seed, 4000))
	shrink(rng, c)
	in := &slowReader{Conn: c, rng: rng}
	br := bufio.NewReader(in)
	client := -1
	for {
		req, err := http.ReadRequest(br)
		if err != nil {
			if badResponse(err) && !in.over {
				w.t.Errorf("client %d: the server got no request: %v", client, err)
			}
			return
		}
		r := w.arrived(req, &client)
		if r == nil || !w.answer(c, br, req, r) {
			return
		}
	}
}

// answer reports whether more requests may follow r.
func (w *world) answer(c net.Conn, br *bufio.Reader, req *http.Request, r *modelRequest) bool {
	rng := r.rand(2 + int(r.arrived.Load()))
	switch pause(rng); r.ends {
	case endsBefore:
		return false
	case resetsBefore:
		sendReset(c)
		return false
	case answersOtherwise:
		_, _ = io.WriteString(c, "SSH-2.0-x\r\n")
		return false
	}
	if r.expects && !r.early {
		if _, err := io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return false
		}
	}
	var reading sync.WaitGroup
	var whole bool
	reading.Go(func() { whole = w.compare(r, req.Body) })
	if !r.early {
		if reading.Wait(); !whole {
			return false
		}
	}
	response := r.response(rng)
	if r.ends == endsWithin {
		response = response[:rng.IntN(len(response))]
	}
	for len(response) > 0 {
		n := min(len(response), 1+size(rng, 19))
		if r.extra {
			// What must not be sent comes together with the last bytes that may, in a piece
			// that nobody cuts: later it could be taken for the next response.
			const last = len(evil) + 20
			if n = min(n, len(response)-last); n <= 0 {
				n = len(response)
			}
		}
		if _, err := c.Write(response[:n]); err != nil {
			return false
		}
		if response = response[n:]; len(response) > 0 {
			pause(rng)
		}
	}
	if r.status == 101 {
		_, _ = io.Copy(c, br)
		_ = c.(closeWriter).CloseWrite()
		return false
	}
	if r.ends != endsNot || r.early && r.expects { // then the content may never come
		return false // which may break an early response off
	}
	reading.Wait()
	return whole && !r.last && !req.Close && !r.old && r.framing != httphead.UntilClose
}

// evil is a response that nobody has asked for.
const evil = "HTTP/1.1 200 OK\r\nX-For: nobody\r\nContent-Length: 4\r\n\r\nevil"

// response returns the bytes of the response to r, and what follows them.
func (r *modelRequest) response(rng *rand.Rand) []byte {
	var b bytes.Buffer
	for range r.interims {
		fmt.Fprintf(&b, "HTTP/1.1 103 Early Hints\r\nX-For: %s\r\n\r\n", r.id)
	}
	if r.status == 101 {
		b.WriteString(strings.TrimSuffix(switching, "\r\n") + "X-For: " + r.id + "\r\n\r\n")
		return b.Bytes()
	}
	fmt.Fprintf(&b, "HTTP/1.1 %d Status\r\nX-For: %s\r\nX-Filling: %s\r\n", r.status, r.id, strings.Repeat("x", size(rng, 13)))
	switch {
	case r.framing == httphead.Counted:
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(r.answer))
	case r.framing == httphead.Chunked:
		b.WriteString("Transfer-Encoding: chunked\r\n")
	case r.method == "HEAD" && r.status == 200:
		b.WriteString("Content-Length: 5\r\n")
	}
	if r.last {
		b.WriteString("Connection: close\r\n")
	}
	b.WriteString("\r\n")
	if r.framing != httphead.NoBody {
		_ = writeContent(&b, rng, r.answer, r.framing == httphead.Chunked)
	}
	if r.extra {
		b.WriteString(evil)
	}
	return b.Bytes()
}

// serveHTTP serves with net/http's server.
func (w *world) serveHTTP(ln net.Listener) (stop func()) {
	type clientKey struct{}
	server := &http.Server{
		ErrorLog: log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			client := -1
			return context.WithValue(ctx, clientKey{}, &client)
		},
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
			r := w.arrived(req, req.Context().Value(clientKey{}).(*int))
			if r == nil {
				return
			}
			rng := r.rand(2 + int(r.arrived.Load()))
			pause(rng)
			switch {
			case !r.early:
				if !w.compare(r, req.Body) {
					panic(http.ErrAbortHandler)
				}
			case !r.unread():
				if err := http.NewResponseController(rw).EnableFullDuplex(); err != nil {
					w.t.Error(err)
				}
				var reading sync.WaitGroup
				reading.Go(func() { w.compare(r, req.Body) })
				defer reading.Wait()
			}
			rw.Header().Set("X-For", r.id)
			for range r.interims {
				rw.WriteHeader(http.StatusEarlyHints)
			}
			if r.status == 101 {
				c, rw, err := http.NewResponseController(rw).Hijack()
				if err != nil {
					w.t.Error(err)
					return
				}
				defer c.Close()
				_, _ = io.WriteString(c, strings.TrimSuffix(switching, "\r\n")+"X-For: "+r.id+"\r\n\r\n")
				_, _ = io.Copy(c, rw)
				_ = c.(closeWriter).CloseWrite()
				return
			}
			if r.last {
				rw.Header().Set("Connection", "close")
			}
			if r.framing == httphead.Counted {
				rw.Header().Set("Content-Length", strconv.Itoa(len(r.answer)))
			}
			rw.WriteHeader(r.status)
			if r.framing == httphead.Chunked {
				_ = http.NewResponseController(rw).Flush()
			}
			if r.framing != httphead.NoBody {
				_ = writeContent(rw, rng, r.answer, false)
			}
		}),
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(ln) }()
	return func() { _ = server.Close(); <-served }
}
