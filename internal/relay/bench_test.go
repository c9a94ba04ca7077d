package relay

import (
	"context"
	"io"
	"net"
	"runtime"
	"testing"
	"time"
)

// dial is connect for benchmarks.
func dial(b *testing.B) (near, far net.Conn) {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	if far, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		b.Fatal(err)
	}
	if near, err = ln.Accept(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

func BenchmarkPortableThroughput(b *testing.B) {
	client, farClient := dial(b)
	upstream, farUpstream := dial(b)
	done := make(chan Account, 1)
	Portable{}.Start(&Stream{
		Client: client, Upstream: upstream, IdleTimeout: time.Hour,
		Done: func(a Account) { done <- a },
	})
	go io.Copy(io.Discard, struct{ io.Reader }{farUpstream})
	piece := make([]byte, 128<<10)
	b.SetBytes(int64(len(piece)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := farClient.Write(piece); err != nil {
			b.Fatal(err)
		}
	}
	farClient.Close()
	farUpstream.Close()
	<-done
}

// BenchmarkPortableIdle reports the memory of an idle stream, its goroutines'
// stacks and four net.Conns included.
func BenchmarkPortableIdle(b *testing.B) {
	const streams = 1000
	for b.Loop() {
		memory := func() uint64 {
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc + m.StackInuse
		}
		before := memory()
		r := new(Registry)
		for range streams {
			client, farClient := dial(b)
			upstream, farUpstream := dial(b)
			Portable{Streams: r}.Start(&Stream{Client: client, Upstream: upstream, IdleTimeout: time.Hour})
			farClient.Write([]byte("x"))
			farUpstream.Read(make([]byte, 1))
		}
		b.ReportMetric(float64(memory()-before)/streams, "B/stream")
		now, cancel := context.WithCancel(context.Background())
		cancel()
		r.Drain(now)
	}
}
