package relay

import (
	"testing"
	"time"
)

// TestParkedAreNotWaiting: who has parked a connection counts it.
func TestParkedAreNotWaiting(t *testing.T) {
	l := new(loop)
	check := func(what string, p *pair, want int64) {
		t.Helper()
		for range 2 {
			l.countWaiting(p)
		}
		if got := l.tally.waiting.Load(); got != want {
			t.Errorf("%s: got %d waiting, want %d", what, got, want)
		}
	}
	check("a raw stream", new(pair), 0)
	check("a request under way", &pair{session: new(session)}, 0)
	check("parked", &pair{session: &session{phase: waiting}, parked: true}, 0)
	waits := &pair{session: &session{phase: waiting}}
	check("waiting", waits, 1)
	waits.session.phase = exchanging
	check("with the next request", waits, 0)
	waits.session.phase = waiting
	check("waiting again", waits, 1)
	waits.ended = 1
	check("at the end", waits, 0)
}

// TestParkMarks: Park says which connections are parked.
func TestParkMarks(t *testing.T) {
	var streams Registry
	client, owner := park(t, "tcp", &streams, time.Hour, nil)
	streams.mu.Lock()
	for m := range streams.streams {
		if !m.(*pair).parked {
			t.Error("a parked connection is not marked")
		}
	}
	if len(streams.streams) != 1 {
		t.Errorf("got %d streams, want 1", len(streams.streams))
	}
	streams.mu.Unlock()
	client.Close()
	await(t, "end of the session", owner.closed)
}

// TestCountsPipes: the pipe of a stream whose client does not read is counted.
func TestCountsPipes(t *testing.T) {
	before := Count().Pipes
	l := relayed(t, &Event{}, "tcp", Stream{})
	stop := make(chan struct{})
	sending := make(chan struct{})
	go func() {
		defer close(sending)
		bulk := random(1<<20, 4)
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = l.upstream.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			_, _ = l.upstream.Write(bulk)
		}
	}()
	deadline := time.Now().Add(patience)
	for Count().Pipes <= before {
		if time.Now().After(deadline) {
			t.Fatal("no pipe is counted")
		}
		time.Sleep(time.Millisecond)
	}
	close(stop)
	await(t, "end of the sending", sending)
}

func BenchmarkCountBytes(b *testing.B) {
	l, p := new(loop), new(pair)
	for b.Loop() {
		l.count(p, &p.down, 1)
	}
}
