package relay

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestEventYields: a loop that yields lets those come first whose sockets are ready, though
// nobody but the loop could learn of it.
func TestEventYields(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	l := new(loop)
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	defer l.close()
	near, far := connect(t, "tcp")
	defer near.Close()
	var read atomic.Int32
	go func() {
		for {
			if _, err := near.Read(make([]byte, 1)); err != nil {
				return
			}
			read.Add(1)
		}
	}()
	raw, err := far.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	const rounds = 100
	for range rounds {
		raw.Control(func(fd uintptr) { write(int32(fd), []byte("x")) })
		l.yield()
	}
	// The runtime takes goroutines out of turn now and then, or looks by itself.
	if got := read.Load(); got < rounds/2 {
		t.Errorf("read: got %d bytes of %d", got, rounds)
	}
}

// BenchmarkEventFair is what a tunnel of tiny writes costs the rest of a process that has
// one processor: the latency of an HTTP server, alone and beside the tunnel. The clients
// and the tunnel's far ends are processes of their own. That the loop has no time to rest
// takes a processor for this process alone:
//
//	taskset -c 0 go test -run '^$' -bench EventFair ./internal/relay
//
// with the others on another one, where taskset is found.
func BenchmarkEventFair(b *testing.B) {
	const clients = 2
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, tunnel := range []bool{false, true} {
		b.Run(fmt.Sprintf("tunnel=%v", tunnel), func(b *testing.B) {
			listener := func() net.Listener {
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					b.Fatal(err)
				}
				return ln
			}
			if tunnel {
				near, far := listener(), listener()
				defer near.Close()
				defer far.Close()
				peer(b, "tunnel", near, far)
				client, err := near.Accept()
				if err != nil {
					b.Fatal(err)
				}
				upstream, err := far.Accept()
				if err != nil {
					b.Fatal(err)
				}
				done := make(chan struct{})
				streams := new(Registry)
				newEvent(streams).Start(&Stream{Client: client, Upstream: upstream, Done: func(Account) { close(done) }})
				defer func() { streams.Kill(); <-done }()
			}
			ln := listener()
			server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
			go server.Serve(ln)
			defer server.Close()

			p := peer(b, "requests", slices.Repeat([]net.Listener{ln}, clients)...)
			fmt.Fprintln(p.in, b.N)
			b.ResetTimer()
			var p50, p99 float64
			if _, err := fmt.Fscan(p.out, &p50, &p99); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(p50, "p50-µs")
			b.ReportMetric(p99, "p99-µs")
		})
	}
}

// benchmarkPeer, in the environment, makes this program what its value says.
const benchmarkPeer = "STREAMPROX_BENCHMARK_PEER"

// peerProcess is the standard input and output of a peer.
type peerProcess struct {
	in  io.Writer
	out io.Reader
}

// peer starts this program as what role says, with connections to the listeners. It ends
// with its standard input, and with the benchmark.
func peer(b *testing.B, role string, listeners ...net.Listener) peerProcess {
	b.Helper()
	command := []string{os.Args[0]}
	if taskset, err := exec.LookPath("taskset"); err == nil && runtime.NumCPU() == 1 {
		command = []string{taskset, "-c", "1", os.Args[0]}
	}
	cmd := exec.Command(command[0], command[1:]...)
	for _, ln := range listeners {
		role += " " + ln.Addr().String()
	}
	cmd.Env = append(os.Environ(), benchmarkPeer+"="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	return peerProcess{in, out}
}

// bePeer is the main function of a peer. It returns at once if this process is none.
func bePeer() {
	role := strings.Fields(os.Getenv(benchmarkPeer))
	if len(role) == 0 {
		return
	}
	var conns []net.Conn
	for _, address := range role[1:] {
		c, err := net.Dial("tcp", address)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		conns = append(conns, c)
	}
	switch role[0] {
	case "tunnel":
		go func() {
			for err := error(nil); err == nil; {
				_, err = io.WriteString(conns[0], "x")
			}
		}()
		go io.Copy(io.Discard, struct{ io.Reader }{conns[1]})
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "requests":
		var n int
		_, _ = fmt.Scan(&n)
		all := make([]float64, n)
		var wg sync.WaitGroup
		for part := range slices.Chunk(all, (n+len(conns)-1)/len(conns)) {
			c := conns[0]
			conns = conns[1:]
			wg.Go(func() {
				answers := bufio.NewReader(c)
				for i := range part {
					begin := time.Now()
					_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
					if _, err := http.ReadResponse(answers, nil); err != nil {
						fmt.Fprintln(os.Stderr, err)
						os.Exit(1)
					}
					part[i] = float64(time.Since(begin).Microseconds())
				}
			})
		}
		wg.Wait()
		slices.Sort(all)
		fmt.Println(all[n/2], all[n*99/100])
	}
	os.Exit(0)
}

func init() { bePeer() }
