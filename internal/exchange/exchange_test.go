package exchange

import (
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
)

// begin begins the exchange of the request in, whose head must be complete, and returns the
// bytes that go up at once, and those that came ahead.
func begin(t *testing.T, x *Exchange, in string, configure func(*Request)) (up, ahead string) {
	t.Helper()
	data := []byte(in)
	var head httphead.Reader
	head.Reset(httphead.Options{})
	if got := head.Read(data); got != httphead.HTTP {
		t.Fatalf("%q is %v: %v", in, got, head.Err())
	}
	forward := httphead.Forward{Upgrades: []string{"websocket"}, Persistent: true}
	forwarded, err := forward.Request(&head, data)
	if err != nil {
		t.Fatal(err)
	}
	r := Request{Method: string(head.Method.Of(data)), Forwarded: forwarded, Old: head.Minor == 0}
	head.ResetBody(&r.Body)
	if configure != nil {
		configure(&r)
	}
	x.Begin(r)
	body, rest := x.Request(data[head.Len:])
	return string(forwarded.Head) + string(body), string(rest)
}

const (
	get       = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"
	ok        = "HTTP/1.1 200 OK\r\n"
	closes    = "Connection: close\r\n"
	upgrade   = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)

// exchangeTest is an exchange whose request is complete, or not, when the response comes.
type exchangeTest struct {
	name     string
	in       string // from the client
	from     string // from the upstream
	end      bool   // of the upstream's sending
	down     string // to the client
	state    State
	status   int
	client   bool // is kept
	upstream bool // is kept
	rest     string
	err      error
	blame    Side
}

var exchangeTests = []exchangeTest{
	{name: "counted", in: get, from: ok + "Content-Length: 5\r\n\r\nhello", down: ok + "Content-Length: 5\r\n\r\nhello", state: Complete, client: true, upstream: true},
	{name: "counted, nothing", in: get, from: ok + "Content-Length: 0\r\n\r\n", down: ok + "Content-Length: 0\r\n\r\n", state: Complete, client: true, upstream: true},
	{name: "chunked", in: get, from: ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", down: ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", state: Complete, client: true, upstream: true},
	{name: "chunked, padded", in: get, from: ok + "Transfer-Encoding: chunked\r\n\r\n5;a\r\nhello\r\n0 \r\n\r\n", down: ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", state: Complete, client: true, upstream: true},
	{name: "more than counted", in: get, from: ok + "Content-Length: 5\r\n\r\nhello" + ok, down: ok + "Content-Length: 5\r\n\r\nhello", state: Complete, client: true},
	{name: "more than chunked", in: get, from: ok + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + ok, down: ok + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", state: Complete, client: true},
	{name: "more than 204", in: get, from: "HTTP/1.1 204 No Content\r\n\r\nevil", down: "HTTP/1.1 204 No Content\r\n\r\n", state: Complete, client: true},
	{name: "more than HEAD", in: "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", from: ok + "Content-Length: 4\r\n\r\nevil", down: ok + "Content-Length: 4\r\n\r\n", state: Complete, client: true},
	{name: "HEAD", in: "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", from: ok + "Content-Length: 4\r\n\r\n", down: ok + "Content-Length: 4\r\n\r\n", state: Complete, client: true, upstream: true},
	{name: "304", in: get, from: "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", down: "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", state: Complete, client: true, upstream: true},
	{name: "426", in: get, from: "HTTP/1.1 426 Upgrade Required\r\nUpgrade: x\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n", down: "HTTP/1.1 426 Upgrade Required\r\nUpgrade: x\r\nContent-Length: 0\r\nConnection: Upgrade\r\n\r\n", state: Complete, client: true, upstream: true},
	{name: "until close", in: get, from: ok + "\r\nhello", end: true, down: ok + closes + "\r\nhello", state: Complete},
	{name: "until close, not yet", in: get, from: ok + "\r\nhello", down: ok + closes + "\r\nhello", state: Running},
	{name: "the upstream closes", in: get, from: ok + closes + "Content-Length: 2\r\n\r\nok", down: ok + "Content-Length: 2\r\n\r\nok", state: Complete, client: true},
	{name: "the upstream has ended", in: get, from: ok + "Content-Length: 2\r\n\r\nok", end: true, down: ok + "Content-Length: 2\r\n\r\nok", state: Complete, client: true},
	{name: "the upstream speaks HTTP/1.0", in: get, from: "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", down: ok + "Content-Length: 2\r\n\r\nok", state: Complete, client: true},
	{name: "the client closes", in: "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", from: ok + "Content-Length: 2\r\n\r\nok", down: ok + "Content-Length: 2\r\n" + closes + "\r\nok", state: Complete, upstream: true},
	{name: "the client speaks HTTP/1.0", in: "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", from: "HTTP/1.1 103 Early Hints\r\n\r\n" + ok + "Content-Length: 2\r\n\r\nok", down: ok + "Content-Length: 2\r\n" + closes + "\r\nok", state: Complete, upstream: true},
	{name: "interim", in: get, from: "HTTP/1.1 103 Early Hints\r\nConnection: x\r\nX: y\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + ok + "Content-Length: 0\r\n\r\n", down: "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + ok + "Content-Length: 0\r\n\r\n", state: Complete, client: true, upstream: true},
	{name: "early", in: "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhel", from: ok + "Content-Length: 2\r\n\r\nok", down: ok + "Content-Length: 2\r\n" + closes + "\r\nok", state: Complete},
	{name: "ahead", in: get + "GET /b", from: ok + "Content-Length: 2\r\n\r\nok", down: ok + "Content-Length: 2\r\n\r\nok", state: Complete, client: true, upstream: true},

	{name: "upgrade", in: upgrade + "frames", from: switching + "frame", down: switching, rest: "frame", state: Tunnel},
	{name: "upgrade, refused", in: upgrade + "frames", from: "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", down: "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n" + closes + "\r\nno", state: Complete, upstream: true},
	{name: "upgrade without proof", in: upgrade, from: strings.Replace(switching, "s3pP", "S3pP", 1), state: Refused, status: 502, err: ErrSwitched, blame: Upstream},
	{name: "101 unasked", in: get, from: switching, state: Refused, status: 502, err: ErrSwitched, blame: Upstream},
	{name: "101 after 103", in: get, from: "HTTP/1.1 103 Early Hints\r\n\r\n" + switching, down: "HTTP/1.1 103 Early Hints\r\n\r\n", state: Refused, status: 502, err: ErrSwitched, blame: Upstream},
	{name: "CONNECT", in: "CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\nbytes", from: ok + "Content-Length: 3\r\n\r\nfrom", down: ok + "\r\n", rest: "from", state: Tunnel},
	{name: "CONNECT, refused", in: "CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n", from: "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", down: "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n" + closes + "\r\nno", state: Complete, upstream: true},

	{name: "no HTTP", in: get, from: "SSH-2.0-x\r\n", state: Refused, status: 502, blame: Upstream},
	{name: "no response", in: get, end: true, state: Refused, status: 502, err: io.ErrUnexpectedEOF, blame: Upstream},
	{name: "half a head", in: get, from: ok + "X: ", end: true, state: Refused, status: 502, err: io.ErrUnexpectedEOF, blame: Upstream},
	{name: "head too large", in: get, from: ok + "X: " + strings.Repeat("x", maxResponseHead), state: Refused, status: 502, err: ErrHeadTooLarge, blame: Upstream},
	{name: "less than counted", in: get, from: ok + "Content-Length: 5\r\n\r\nhel", end: true, down: ok + "Content-Length: 5\r\n\r\nhel", state: Broken, err: io.ErrUnexpectedEOF, blame: Upstream},
	{name: "broken chunk", in: get, from: ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX", down: ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello", state: Broken, err: httphead.ErrChunkEnd, blame: Upstream},
	{name: "broken request", in: "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx", state: Refused, status: 400, err: httphead.ErrChunkSize, blame: Client},
}

// TestExchange is what becomes of exchanges, with responses in one piece, in two at every
// cut, and byte by byte.
func TestExchange(t *testing.T) {
	for _, test := range exchangeTests {
		t.Run(test.name, func(t *testing.T) {
			cuts := len(test.from) + 1
			if cuts > 1000 {
				cuts = 3
			}
			for cut := range cuts {
				test.run(t, []string{test.from[:cut], test.from[cut:]})
			}
			test.run(t, strings.Split(test.from, ""))
		})
	}
}

// finalStatus returns the status of the final response in down, 0 if there is none.
func finalStatus(down string) int {
	for _, line := range regexp.MustCompile(`HTTP/1\.1 (\d{3})`).FindAllStringSubmatch(down, -1) {
		if status, _ := strconv.Atoi(line[1]); status == 101 || status >= 200 {
			return status
		}
	}
	return 0
}

func (test *exchangeTest) run(t *testing.T, pieces []string) {
	t.Helper()
	var x Exchange
	begin(t, &x, test.in, nil)
	defer func() {
		if got, want := x.Responded(), finalStatus(test.down); got != want {
			t.Errorf("in %d pieces: responded with %d, want %d", len(pieces), got, want)
		}
	}()
	var down, rest string
	for _, piece := range pieces {
		if x.State() == Tunnel {
			rest += piece
			continue
		}
		head, body := x.Response(nil, []byte(piece))
		down += string(head)
		if x.State() == Tunnel {
			rest += string(body)
		} else {
			down += string(body)
		}
	}
	if test.end {
		x.ResponseEnd()
	}
	if down != test.down || rest != test.rest {
		t.Fatalf("in %d pieces: got %q down, and %q behind it; want %q and %q", len(pieces), down, rest, test.down, test.rest)
	}
	if x.State() != test.state || x.Status() != test.status {
		t.Fatalf("in %d pieces: got state %d, status %d; want %d and %d", len(pieces), x.State(), x.Status(), test.state, test.status)
	}
	if blame, err := x.Err(); blame != test.blame || test.err != nil && err != test.err {
		t.Fatalf("got blame %d and error %v, want %d and %v", blame, err, test.blame, test.err)
	}
	if test.state == Complete && (x.KeepsClient() != test.client || x.KeepsUpstream() != test.upstream) {
		t.Fatalf("in %d pieces %q: keeps client %v, upstream %v; want %v and %v", len(pieces), pieces, x.KeepsClient(), x.KeepsUpstream(), test.client, test.upstream)
	}
}

// TestRequest is how a request goes up, in two pieces at every cut.
func TestRequest(t *testing.T) {
	for _, test := range []struct{ name, in, up, ahead string }{
		{"no content", get, get, ""},
		{"ahead", get + get, get, get},
		{"counted", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhelloGET", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", "GET"},
		{"chunked", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "GET"},
		{"kept alive", "GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\n\r\n", get, ""},
		{"closes", "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", ""},
		{"old", "GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nConnection: close\r\n\r\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			head := strings.Index(test.in, "\r\n\r\n") + 4
			for cut := head; cut <= len(test.in); cut++ {
				var x Exchange
				up, ahead := begin(t, &x, test.in[:cut], nil)
				more, rest := x.Request([]byte(test.in[cut:]))
				if up, ahead = up+string(more), ahead+string(rest); up != test.up || ahead != test.ahead {
					t.Fatalf("cut at %d: got %q up and %q ahead, want %q and %q", cut, up, ahead, test.up, test.ahead)
				}
				if !x.RequestDone() {
					t.Fatal("the request is not done")
				}
			}
		})
	}
}

// TestEnds is what ends and failures do to an exchange, by how far it has come.
func TestEnds(t *testing.T) {
	const post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhel"
	for _, test := range []struct {
		name   string
		in     string
		from   string
		event  func(*Exchange)
		state  State
		status int
	}{
		{"the client ends in its request", post, "", (*Exchange).RequestEnd, Refused, 400},
		{"the client ends in its request, late", post, ok + "Content-Length: 2\r\n\r\n", (*Exchange).RequestEnd, Broken, 0},
		{"the client ends after its request", get, "", (*Exchange).RequestEnd, Running, 0},
		{"abort with an answer", get, "", func(x *Exchange) { x.Abort(504) }, Refused, 504},
		{"abort with an answer, late", get, ok + "Content-Length: 2\r\n\r\n", func(x *Exchange) { x.Abort(504) }, Broken, 0},
		{"abort with an answer in an interim response", get, "HTTP/1.1 103 Early Hints\r\n\r\n", func(x *Exchange) { x.Abort(504) }, Refused, 504},
		{"abort without one", get, "", func(x *Exchange) { x.Abort(0) }, Broken, 0},
		{"abort when it is over", get, ok + "Content-Length: 0\r\n\r\n", func(x *Exchange) { x.Abort(504) }, Complete, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			var x Exchange
			begin(t, &x, test.in, nil)
			x.Response(nil, []byte(test.from))
			test.event(&x)
			if x.State() != test.state || x.Status() != test.status {
				t.Errorf("got state %d, status %d; want %d and %d", x.State(), x.Status(), test.state, test.status)
			}
			if test.state == Running {
				head, _ := x.Response(nil, []byte(ok+"Content-Length: 0\r\n\r\n"))
				if x.KeepsClient() || !strings.Contains(string(head), closes) {
					t.Errorf("got %q: the client is not told of its end", head)
				}
			}
		})
	}
}

// TestLast: who carries an exchange out may let the client's connection end with it.
func TestLast(t *testing.T) {
	for name, last := range map[string]func(*Exchange){
		"from the beginning": func(x *Exchange) { begin(t, x, get, func(r *Request) { r.Last = true }) },
		"later":              func(x *Exchange) { begin(t, x, get, nil); x.End() },
	} {
		var x Exchange
		last(&x)
		head, _ := x.Response(nil, []byte(ok+"Content-Length: 0\r\n\r\n"))
		if want := ok + "Content-Length: 0\r\n" + closes + "\r\n"; string(head) != want || x.KeepsClient() {
			t.Errorf("%s: got %q, want %q", name, head, want)
		}
	}
}

// TestPassed: bytes that nobody has looked at count.
func TestPassed(t *testing.T) {
	var x Exchange
	begin(t, &x, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n", nil)
	if got := x.RequestLeft(); got != 100 {
		t.Errorf("of the request: got %d bytes, want 100", got)
	}
	x.RequestPassed(99)
	if x.RequestDone() {
		t.Error("the request is done after 99 of 100 bytes")
	}
	x.RequestPassed(1)
	if !x.RequestDone() || x.RequestLeft() != 0 {
		t.Error("the request is not done")
	}
	if got := x.ResponseLeft(); got != 0 {
		t.Errorf("before the response: got %d bytes, want 0", got)
	}
	x.Response(nil, []byte(ok+"Content-Length: 50\r\n\r\n0123456789"))
	if got := x.ResponseLeft(); got != 40 {
		t.Errorf("of the response: got %d bytes, want 40", got)
	}
	x.ResponsePassed(40)
	if x.State() != Complete || !x.KeepsClient() || !x.KeepsUpstream() {
		t.Errorf("got state %d", x.State())
	}
}

// TestHeadsAreNotShared: what reads the head of a response is used again, but never for two
// at once.
func TestHeadsAreNotShared(t *testing.T) {
	for name, failing := range map[string]string{
		"malformed":               ok + "X x\r\n",
		"too large":               ok + "X: " + strings.Repeat("x", maxResponseHead),
		"switched":                switching,
		"interim heads too large": "HTTP/1.1 102 Processing\r\nX: " + strings.Repeat("x", maxResponseHead-40) + "\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			for range 100 {
				var x Exchange
				begin(t, &x, get, nil)
				x.Response(nil, []byte(failing[:9])) // its reader is kept
				x.Response(nil, []byte(failing[9:]))
				if x.State() != Refused {
					t.Fatalf("got state %d", x.State())
				}
				var others [2]Exchange
				for i := range others {
					begin(t, &others[i], get, nil)
					others[i].Response(nil, []byte(ok))
				}
				if others[0].head == others[1].head {
					t.Fatal("two exchanges read with one reader")
				}
			}
		})
	}
}

// TestKeyIsKept: an exchange does not depend on the memory that its request lies in.
func TestKeyIsKept(t *testing.T) {
	var x Exchange
	var lent []byte
	begin(t, &x, upgrade, func(r *Request) { lent = r.Forwarded.Key })
	clear(lent)
	if x.Response(nil, []byte(switching)); x.State() != Tunnel {
		t.Errorf("got state %d, want a tunnel", x.State())
	}
}

// TestRequestAfterResponse: a request goes on although its response is complete, until it
// breaks or ends.
func TestRequestAfterResponse(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, test := range []struct {
		name  string
		event func(*Exchange) (up, ahead []byte)
		up    string
		ahead string
		done  bool
		wants bool
	}{
		{"more", func(x *Exchange) ([]byte, []byte) { return x.Request([]byte("3\r\nabc\r\n")) }, "3\r\nabc\r\n", "", false, true},
		{"the end", func(x *Exchange) ([]byte, []byte) { return x.Request([]byte("0\r\n\r\nGET")) }, "0\r\n\r\n", "GET", true, false},
		{"broken", func(x *Exchange) ([]byte, []byte) { return x.Request([]byte("x")) }, "", "", false, false},
		{"ended", func(x *Exchange) ([]byte, []byte) { x.RequestEnd(); return x.Request([]byte("x")) }, "", "x", false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var x Exchange
			begin(t, &x, head, nil)
			if !x.WantsRequest() {
				t.Error("nothing more of the request is wanted, from the beginning")
			}
			x.Response(nil, []byte(ok+"Content-Length: 0\r\n\r\n"))
			up, ahead := test.event(&x)
			if string(up) != test.up || string(ahead) != test.ahead {
				t.Errorf("got %q up and %q ahead, want %q and %q", up, ahead, test.up, test.ahead)
			}
			if x.State() != Complete || x.RequestDone() != test.done || x.WantsRequest() != test.wants || x.KeepsClient() {
				t.Errorf("got state %d, done %v, wants more %v, keeps the client %v", x.State(), x.RequestDone(), x.WantsRequest(), x.KeepsClient())
			}
		})
	}
}

// TestExchangeAllocations: nothing is allocated for a response in one piece besides what
// its head becomes, nor for a body.
func TestExchangeAllocations(t *testing.T) {
	var x Exchange
	begin(t, &x, get, nil)
	response := []byte(ok + "Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
	chunk := []byte("5\r\nhello\r\n")
	dst := make([]byte, 0, 1<<10)
	was := x
	if got := testing.AllocsPerRun(100, func() {
		x = was
		x.Response(dst, response)
	}); got > 2 { // the connection options, twice
		t.Errorf("a head: got %v allocations, want at most 2", got)
	}
	if got := testing.AllocsPerRun(100, func() { x.Response(dst, chunk) }); got > 0 {
		t.Errorf("a chunk: got %v allocations, want 0", got)
	}
}

// FuzzExchange holds that what becomes of an exchange depends on the bytes alone, never on
// the pieces in which they come, and that what goes down is one response, as a strict reader
// reads it, and no byte more.
func FuzzExchange(f *testing.F) {
	for _, test := range exchangeTests {
		if len(test.from) < 1000 {
			f.Add(test.in, test.from, byte(7), test.end)
		}
	}
	f.Fuzz(func(t *testing.T, in, from string, step byte, end bool) {
		var head httphead.Reader
		head.Reset(httphead.Options{})
		if head.Read([]byte(in)) != httphead.HTTP {
			return
		}
		forward := httphead.Forward{}
		if _, err := forward.Request(&head, []byte(in)); err != nil {
			return
		}
		carry := func(step int) string {
			var x Exchange
			up, ahead := begin(t, &x, in, nil)
			result := fmt.Sprintf("%q %q ", up, ahead)
			var down, rest string
			for data := []byte(from); len(data) > 0; {
				n := min(step, len(data))
				if x.State() == Tunnel {
					rest += string(data[:n])
				} else {
					head, body := x.Response(nil, append([]byte(nil), data[:n]...))
					down += string(head)
					if x.State() == Tunnel {
						rest += string(body)
					} else {
						down += string(body)
					}
				}
				data = data[n:]
			}
			if end {
				x.ResponseEnd()
			}
			if x.State() == Complete {
				judge(t, down, &head, in, x.KeepsClient())
				result += fmt.Sprint(x.KeepsClient(), x.KeepsUpstream())
			}
			return result + fmt.Sprintf(" %q %q %d %d", down, rest, x.State(), x.Status())
		}
		want := carry(len(from) + 1)
		for _, step := range []int{1, int(step) + 1} {
			if got := carry(step); got != want {
				t.Errorf("in pieces of %d bytes: got %s, want %s", step, got, want)
			}
		}
	})
}

// judge reads down as a strict client reads the responses to a request, and fails if it
// holds more or less than interim responses and a final one.
func judge(t *testing.T, down string, request *httphead.Reader, in string, kept bool) {
	data := []byte(down)
	for {
		var r httphead.Response
		r.Reset()
		if got := r.Read(data); got != httphead.HTTP {
			t.Fatalf("what went down is no response: %q", data)
		}
		body := data[r.Len:]
		if r.Status < 200 {
			data = body
			continue
		}
		switch r.Body(request.Method.Of([]byte(in))) {
		case httphead.NoBody:
		case httphead.UntilClose:
			if kept {
				t.Fatalf("a client is kept whose response ends with its connection: %q", down)
			}
			return
		default:
			var b httphead.Body
			b.Reset(r.ContentLength, r.Chunked) // strict
			n, done, err := b.Read(body)
			if !done || err != nil {
				t.Fatalf("the body is not complete: %q: %v", down, err)
			}
			body = body[n:]
		}
		if len(body) > 0 {
			t.Fatalf("%q follows the response", body)
		}
		return
	}
}
