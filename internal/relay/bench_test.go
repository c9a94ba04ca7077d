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
	b.Cleanup(func() { far.Close() })
	return near, far
}

// benchmarkThroughput sends bytes in bulk through one stream.
func benchmarkThroughput(b *testing.B, e Engine) {
	client, farClient := dial(b)
	upstream, farUpstream := dial(b)
	done := make(chan Account, 1)
	e.Start(&Stream{
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

// benchmarkEcho sends a small message there and back.
func benchmarkEcho(b *testing.B, e Engine) {
	client, farClient := dial(b)
	upstream, farUpstream := dial(b)
	done := make(chan Account, 1)
	e.Start(&Stream{
		Client: client, Upstream: upstream, IdleTimeout: time.Hour,
		Done: func(a Account) { done <- a },
	})
	go io.Copy(farUpstream, struct{ io.Reader }{farUpstream})
	message := make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := farClient.Write(message); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(farClient, message); err != nil {
			b.Fatal(err)
		}
	}
	farClient.Close()
	farUpstream.Close()
	<-done
}

// benchmarkIdle reports the memory of an idle stream with the engine, without its peers.
// Its two net.Conns are in the figure as far as the engine keeps them.
func benchmarkIdle(b *testing.B, newEngine func(*Registry) Engine) {
	const streams = 1000
	memory := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	for b.Loop() {
		peers := make([][4]net.Conn, streams)
		before := memory()
		for i := range peers {
			peers[i][0], peers[i][1] = dial(b)
			peers[i][2], peers[i][3] = dial(b)
		}
		conns := memory() - before // of four net.Conns a stream
		r := new(Registry)
		e := newEngine(r)
		for i := range peers {
			p := &peers[i]
			e.Start(&Stream{Client: p[0], Upstream: p[2], IdleTimeout: time.Hour})
			p[0], p[2] = nil, nil
			p[1].Write([]byte("x"))
			p[3].Read(make([]byte, 1))
		}
		b.ReportMetric(float64(memory()-before-conns/2)/streams, "B/stream")
		now, cancel := context.WithCancel(context.Background())
		cancel()
		r.Drain(now)
		runtime.KeepAlive(peers)
	}
}

func BenchmarkPortableThroughput(b *testing.B) { benchmarkThroughput(b, newPortable(nil)) }
func BenchmarkPortableEcho(b *testing.B)       { benchmarkEcho(b, newPortable(nil)) }
func BenchmarkPortableIdle(b *testing.B)       { benchmarkIdle(b, newPortable) }
