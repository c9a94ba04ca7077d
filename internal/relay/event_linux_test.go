package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

func init() { engines["event"] = newEvent }

func newEvent(r *Registry) Engine { return &Event{Streams: r} }

func TestEvent(t *testing.T) { testEngine(t, newEvent) }

// TestEventChooses checks which engine has a stream: where bytes do not come straight
// from a socket, the event engine cannot see them.
func TestEventChooses(t *testing.T) {
	for _, test := range []struct {
		name             string
		client, upstream string
		wrapped          bool
		want             string
	}{
		{"tcp", "tcp", "tcp", false, "event"},
		{"unix", "unix", "unix", false, "event"},
		{"tcp to unix", "tcp", "unix", false, "event"},
		{"unix to tcp", "unix", "tcp", false, "event"},
		{"tls to tcp", "tls", "tcp", false, "portable"},
		{"tcp to tls", "tcp", "tls", false, "portable"},
		{"a wrapper", "tcp", "tcp", true, "portable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := &link{}
			var s Stream
			s.Client, l.client = connect(t, test.client)
			s.Upstream, l.upstream = connect(t, test.upstream)
			if test.wrapped {
				s.Client = brokenConn{TCPConn: s.Client.(*net.TCPConn)}
			}
			r := new(Registry)
			l.start(t, newEvent(r), s)
			if got := r.Len(); got != 1 {
				t.Errorf("streams: got %d, want 1", got)
			}
			send(t, l.client, "ping")
			receives(t, l.upstream, "ping")
			closeWrite(t, l.client)
			closeWrite(t, l.upstream)
			if a := l.ends(t, Account{ToUpstream: 4}); a.Engine != test.want {
				t.Errorf("engine: got %q, want %q", a.Engine, test.want)
			}
		})
	}
}

// TestEventIdle counts what idle streams cost.
func TestEventIdle(t *testing.T) {
	const streams = 1000
	peers := make([][4]net.Conn, streams)
	for i := range peers {
		peers[i][0], peers[i][1] = connect(t, "tcp")
		peers[i][2], peers[i][3] = connect(t, "tcp")
	}
	until(t, "the loops of other tests have ended", func() bool { return running() == 0 })
	goroutines, open := runtime.NumGoroutine(), openDescriptors()
	loops := runtime.GOMAXPROCS(0)

	r := new(Registry)
	e := newEvent(r)
	for _, p := range peers {
		e.Start(&Stream{Client: p[0], Upstream: p[2], IdleTimeout: time.Hour})
		send(t, p[1], "ping")
		receives(t, p[3], "ping")
		send(t, p[3], "pong")
		receives(t, p[1], "pong")
	}
	if got := runtime.NumGoroutine() - goroutines; got > loops {
		t.Errorf("goroutines: got %d more, want at most %d", got, loops)
	}
	// The sockets are the same in number as they were. A loop has two of its own.
	if got := openDescriptors() - open; got > 2*loops {
		t.Errorf("descriptors: got %d more, want at most %d", got, 2*loops)
	}
	if got := unsafe.Sizeof(pair{}); got > 400 {
		t.Errorf("record: got %d bytes, want at most 400", got)
	}
	if got := unsafe.Sizeof(session{}); got > 192 {
		t.Errorf("what a session has besides: got %d bytes, want at most 192", got)
	}

	now, cancel := context.WithCancel(t.Context())
	cancel()
	if got := r.Drain(now); got != streams {
		t.Errorf("reset: got %d streams, want %d", got, streams)
	}
	until(t, "the loops have ended", func() bool { return running() == 0 })
	if got, want := openDescriptors(), open-2*streams; got > want {
		t.Errorf("descriptors after the end: got %d, want %d", got, want)
	}
}

// TestEventDoneMayWait: nobody else waits for a Done.
func TestEventDoneMayWait(t *testing.T) {
	e := newEvent(nil)
	waits, goOn := make(chan struct{}), make(chan struct{})
	client, farClient := connect(t, "tcp")
	upstream, farUpstream := connect(t, "tcp")
	e.Start(&Stream{Client: client, Upstream: upstream, Done: func(Account) { close(waits); <-goOn }})
	others := make([]*link, 2*runtime.GOMAXPROCS(0))
	for i := range others {
		others[i] = relayed(t, e, "tcp", Stream{})
	}
	sendReset(farClient)
	receivesReset(t, farUpstream)
	await(t, "Done", waits)
	for _, l := range others {
		send(t, l.client, "ping")
		receives(t, l.upstream, "ping")
	}
	close(goOn)
}

// TestResetBehindEnd: a reset that follows an end of sending leaves only the end to be
// read. The other side must not take it for one.
func TestResetBehindEnd(t *testing.T) {
	for name, newEngine := range engines {
		t.Run(name, func(t *testing.T) {
			l := &link{}
			var s Stream
			s.Client, l.client = connect(t, "tcp")
			s.Upstream, l.upstream = connect(t, "tcp")
			closeWrite(t, l.client)
			sendReset(l.client)
			for begin := time.Now(); !socket.LostPeer(s.Client); {
				if time.Since(begin) > patience {
					t.Fatal("the reset does not arrive")
				}
			}
			l.start(t, newEngine(nil), s)
			receivesReset(t, l.upstream)
			l.ends(t, Account{Cause: ClientReset})
		})
	}
}

// TestEventEnrols: nobody can end a stream that is in one registry and not yet in the other.
func TestEventEnrols(t *testing.T) {
	streams, group := new(Registry), new(Registry)
	l := &link{}
	s := Stream{Group: group}
	s.Client, l.client = connect(t, "tcp")
	s.Upstream, l.upstream = connect(t, "tcp")
	group.mu.Lock() // Start comes as far as this
	started := make(chan struct{})
	go func() {
		defer close(started)
		l.start(t, newEvent(streams), s)
	}()
	for begin := time.Now(); streams.Len() == 0; runtime.Gosched() {
		if time.Since(begin) > patience {
			t.Fatal("no stream is registered")
		}
	}
	streams.mu.Lock()
	for m := range streams.streams {
		for range 1000 {
			if mu := &m.(*pair).loop.mu; mu.TryLock() {
				mu.Unlock()
				t.Error("the stream can be ended before it is in its group")
				break
			}
			runtime.Gosched()
		}
	}
	streams.mu.Unlock()
	group.mu.Unlock()
	await(t, "Start", started)
	if got := streams.Kill(); got != 1 {
		t.Errorf("killed: got %d, want 1", got)
	}
	l.ends(t, Account{Cause: Killed})
	streams.Drain(t.Context())
	group.Drain(t.Context())
}

// TestKillWhileStarting: streams that are killed while they start are in no registry at
// the end.
func TestKillWhileStarting(t *testing.T) {
	for name, newEngine := range engines {
		t.Run(name, func(t *testing.T) {
			streams, group := new(Registry), new(Registry)
			e := newEngine(streams)
			stop := make(chan struct{})
			var killing sync.WaitGroup
			for _, r := range []*Registry{streams, group} {
				killing.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
							r.Kill()
							runtime.Gosched()
						}
					}
				})
			}
			for range 100 {
				relayed(t, e, "tcp", Stream{Group: group})
			}
			streams.Kill() // those that Kill came too early for
			streams.Drain(t.Context())
			group.Drain(t.Context())
			close(stop)
			killing.Wait()
			if got := streams.Len() + group.Len(); got != 0 {
				t.Errorf("left: got %d, want 0", got)
			}
		})
	}
}

// TestEventUrgentData: an urgent byte in the midst of bulk is left out, as read(2) does
// it, and what comes after it is not lost.
func TestEventUrgentData(t *testing.T) {
	l := relayed(t, newEvent(nil), "tcp", Stream{})
	data := random(4<<20, 6)
	raw, err := l.client.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		l.client.Write(data[:len(data)/2])
		raw.Write(func(fd uintptr) bool {
			return unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil) != unix.EAGAIN
		})
		l.client.Write(data[len(data)/2:])
		closeWrite(t, l.client)
	}()
	got, err := io.ReadAll(l.upstream)
	if err != nil {
		t.Error(err)
	}
	same(t, "upstream received", got, data)
}

// TestEventShortOfDescriptors takes all descriptors away, and gives them back.
func TestEventShortOfDescriptors(t *testing.T) {
	until(t, "the loops have ended, which may have pipes", func() bool { return running() == 0 })
	warned := make(chan error, 10)
	e := &Event{Warn: func(_ string, err error) { warned <- err }}
	early := relayed(t, e, "tcp", Stream{})
	send(t, early.client, "ping") // its loop runs
	receives(t, early.upstream, "ping")

	var s Stream
	late := &link{}
	s.Client, late.client = connect(t, "tcp")
	s.Upstream, late.upstream = connect(t, "tcp")
	data := random(8<<20, 7)

	giveBack := takeAllDescriptors(t)
	transfer(t, early, data)
	if got := pipesOpen.Load(); got != 0 {
		t.Errorf("pipes without descriptors: got %d, want 0", got)
	}
	late.start(t, e, s)
	transfer(t, late, data)
	giveBack()

	// A loop asks again after a while, and the stream goes on as if nothing had been.
	for begin := time.Now(); pipesOpen.Load() == 0; {
		if time.Since(begin) > patience {
			t.Fatal("no pipe is used though there are descriptors again")
		}
		transfer(t, early, data)
	}
	for _, l := range []*link{early, late} {
		closeWrite(t, l.client)
		closeWrite(t, l.upstream)
	}
	early.ends(t, Account{ToUpstream: -1})
	if a := late.ends(t, Account{ToUpstream: int64(len(data))}); a.Engine != "portable" {
		t.Errorf("engine of the late stream: got %q, want portable", a.Engine)
	}
	if got := len(warned); got != 1 {
		t.Errorf("warnings: got %d, want 1", got)
	}
	if err := <-warned; !errors.Is(err, unix.EMFILE) {
		t.Errorf("warning: got error %v, want EMFILE", err)
	}
}

// transfer sends data from the client to the upstream.
func transfer(t *testing.T, l *link, data []byte) {
	t.Helper()
	go l.client.Write(data)
	got := make([]byte, len(data))
	if n, err := io.ReadFull(l.upstream, got); err != nil {
		t.Fatalf("got %d bytes and error %v", n, err)
	}
	same(t, "upstream received", got, data)
}

// takeAllDescriptors lets the process open no more descriptors until giveBack.
func takeAllDescriptors(t *testing.T) (giveBack func()) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	lower := limit
	lower.Cur = uint64(openDescriptors() + 50)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lower); err != nil {
		t.Fatal(err)
	}
	var taken []int
	giveBack = func() {
		for _, fd := range taken {
			unix.Close(fd)
		}
		taken = nil
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(giveBack)
	for {
		fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
		if err == unix.EMFILE {
			return giveBack
		}
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, fd)
	}
}

func BenchmarkEventThroughput(b *testing.B) { benchmarkThroughput(b, newEvent(nil)) }
func BenchmarkEventEcho(b *testing.B)       { benchmarkEcho(b, newEvent(nil)) }
func BenchmarkEventIdle(b *testing.B)       { benchmarkIdle(b, newEvent) }

// TestEventFair: a stream that has more to move than a turn's worth waits for the others
// before it goes on. The loop has no goroutine here; the test takes its turns.
func TestEventFair(t *testing.T) {
	l := new(loop)
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	defer l.close()
	l.turn = 1
	turn := func() {
		l.wait()
		l.serveReady()
	}
	begin := func() (p *pair, client, upstream net.Conn) {
		p = &pair{engine: new(Event), clock: noClock, loop: l}
		p.up.accept(Direction{})
		p.down.accept(Direction{})
		for s, far := range map[*endpoint]*net.Conn{&p.client: &client, &p.upstream: &upstream} {
			var near net.Conn
			near, *far = connect(t, "tcp")
			loan, err := s.borrow(p, near, socket.Lend)
			if err != nil {
				t.Fatal(err)
			}
			loan.Keep()
			t.Cleanup(func() { unix.Close(int(s.fd)) })
		}
		if err := l.watch(p); err != nil {
			t.Fatal(err)
		}
		l.begin(p)
		return p, client, upstream
	}

	flooded, flood, sink := begin()
	_, client, upstream := begin()
	size := 2 * socket.LargeSize
	flood.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)) // what the socket does not take is no matter
	sent, _ := flood.Write(make([]byte, size))
	send(t, client, "x")
	if sent <= socket.LargeSize {
		t.Skipf("the socket takes %d bytes, no more than one read does", sent)
	}
	turn()
	if got := flooded.up.carried; got == 0 || got >= int64(sent) {
		t.Errorf("the flood moved %d of %d bytes in its turn, want some", got, sent)
	}
	receives(t, upstream, "x")
	for range sent {
		if flooded.up.carried == int64(sent) {
			break
		}
		turn()
	}
	got := make([]byte, sent)
	if _, err := io.ReadFull(sink, got); err != nil {
		t.Errorf("of the flood: %v", err)
	}
	l.pipes.giveBack(&flooded.up)
}

// TestEventUrgentDataFirst: reading stops before an urgent byte, though there is more, of
// which no event will tell.
func TestEventUrgentDataFirst(t *testing.T) {
	l := &link{}
	var s Stream
	s.Client, l.client = connect(t, "tcp")
	s.Upstream, l.upstream = connect(t, "tcp")
	control := func(c net.Conn, f func(fd int)) {
		t.Helper()
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { f(int(fd)) })
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	send(t, l.client, "abc")
	control(l.client, func(fd int) {
		if err := unix.Sendto(fd, []byte("!"), unix.MSG_OOB, nil); err != nil {
			t.Fatal(err)
		}
	})
	send(t, l.client, "def")
	for begin := time.Now(); ; {
		var waiting int
		control(s.Client, func(fd int) { waiting, _ = unix.IoctlGetInt(fd, unix.TIOCINQ) })
		if waiting == len("abc") { // as far as the urgent byte
			break
		}
		if time.Since(begin) > patience {
			t.Fatalf("%d bytes are waiting", waiting)
		}
	}
	l.start(t, newEvent(nil), s)
	receives(t, l.upstream, "abcdef")
}

// TestEventDescriptorZero: a process without standard input gives its number to others.
func TestEventDescriptorZero(t *testing.T) {
	saved, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Skip("there is none here")
	}
	r := new(Registry)
	e := newEvent(r)
	t.Cleanup(func() { // when all streams have ended, and with them the loops
		if err := unix.Dup3(saved, 0, 0); err != nil {
			t.Error(err)
		}
		unix.Close(saved)
	})
	links := make([]*link, 1+2*runtime.GOMAXPROCS(0))
	streams := make([]Stream, len(links))
	for i := range links {
		links[i] = new(link)
		streams[i].Client, links[i].client = connect(t, "tcp")
		streams[i].Upstream, links[i].upstream = connect(t, "tcp")
	}
	unix.Close(0)
	for i, l := range links {
		l.start(t, e, streams[i])
	}
	for _, l := range links {
		send(t, l.client, "ping")
		receives(t, l.upstream, "ping")
		closeWrite(t, l.client)
		closeWrite(t, l.upstream)
		l.ends(t, Account{ToUpstream: 4})
	}
	r.Drain(t.Context())
	until(t, "the loops have ended, which may have the descriptor", func() bool { return running() == 0 })
}

// running returns how many event loops there are.
func running() (n int) {
	for _, l := range loops() {
		l.mu.Lock()
		if l.sockets != nil {
			n++
		}
		l.mu.Unlock()
	}
	return n
}
