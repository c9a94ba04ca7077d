package relay

import (
	"bufio"
	"context"
	"sync/atomic"
	"testing"
	"time"
)

// counted waits until as much is counted, since before, as want says.
func counted(t *testing.T, what string, before, want Counts) {
	t.Helper()
	var got Counts
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		got = Count()
		got.ToUpstream -= before.ToUpstream
		got.ToClient -= before.ToClient
		got.Waiting -= before.Waiting
		got.Pipes = 0 // a loop may keep some
		if got == want {
			return
		}
	}
	t.Fatalf("%s: got %+v, want %+v", what, got, want)
}

// TestCountsBytes: what a stream delivers is counted while the stream goes on.
func TestCountsBytes(t *testing.T) {
	for name, e := range map[string]Engine{"of this system": New(nil, nil), "portable": Portable{}} {
		t.Run(name, func(t *testing.T) {
			before := Count()
			l := relayed(t, e, "tcp", Stream{ToUpstream: Direction{Pending: []byte("pending")}})
			counted(t, "pending", before, Counts{ToUpstream: 7})
			send(t, l.client, "hello")
			counted(t, "to the upstream", before, Counts{ToUpstream: 12})
			send(t, l.upstream, "answer")
			counted(t, "to the client", before, Counts{ToUpstream: 12, ToClient: 6})
			bulk := random(4<<20, 3)
			go func() { _ = sendCut(l.upstream, bulk) }()
			receives(t, l.client, "answer"+string(bulk))
			counted(t, "in bulk", before, Counts{ToUpstream: 12, ToClient: 6 + 4<<20})
		})
	}
}

// TestCountsWaiting: a client's connection is counted while it waits for a request, whatever
// happens to it then.
func TestCountsWaiting(t *testing.T) {
	tests := []struct {
		name string
		end  func(*keeper)
	}{
		{"the client leaves", nil},
		{"a drain", func(k *keeper) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			k.streams.Drain(ctx)
		}},
		{"a request for somebody else", nil},
	}
	for _, network := range []string{"tcp", "tls"} { // the engine of this system, and the portable one
		for _, test := range tests {
			t.Run(network+", "+test.name, func(t *testing.T) {
				waiting := func(what string, before Counts, want int64) {
					t.Helper()
					now := Count()
					counted(t, what, Counts{ToUpstream: now.ToUpstream, ToClient: now.ToClient, Waiting: before.Waiting}, Counts{Waiting: want})
				}
				before := Count()
				var elsewhere atomic.Bool
				client, k := kept(t, network, site, func(k *keeper) {
					k.elsewhere = func([]byte) bool { return elsewhere.Load() }
				})
				r := bufio.NewReader(client)
				for range 3 {
					_, _ = ask(t, client, r, "GET", "/a", "")
					<-k.ended
					waiting("after a response", before, 1)
				}
				switch {
				case test.end != nil:
					test.end(k)
				case test.name == "the client leaves":
					client.Close()
				default:
					elsewhere.Store(true)
					_, _ = ask(t, client, r, "GET", "/a", "")
					<-k.ended
					waiting("in another session", before, 1)
					client.Close()
				}
				waiting("at the end", before, 0)
			})
		}
	}
}
