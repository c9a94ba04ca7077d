package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// engines are those of this system.
var engines = map[string]func(*Registry) Engine{"portable": newPortable}

// TestModel has many streams at once, of which each side sends, stalls, ends or resets
// as chance will have it. In whatever order that happens, each side gets what the other
// has sent, and its end as the end it was.
//
// Once through moves some 40 MB with each engine. With STREAMPROX_PROOF_BYTES it goes on
// until that many bytes have been delivered by each, as in
//
//	STREAMPROX_PROOF_BYTES=10000000000 go test -run Model -v -timeout 2h ./internal/relay
func TestModel(t *testing.T) {
	const streams = 60
	var proof int64
	if v := os.Getenv("STREAMPROX_PROOF_BYTES"); v != "" {
		var err error
		if proof, err = strconv.ParseInt(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	for name, newEngine := range engines {
		t.Run(name, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			registry := new(Registry)
			e := newEngine(registry)
			var delivered atomic.Int64
			rounds := uint64(0)
			for begin := true; begin || delivered.Load() < proof && !t.Failed(); begin = false {
				rounds++
				// A subtest for each round, so that its sockets are closed before the next.
				t.Run("round", func(t *testing.T) {
					var wg sync.WaitGroup
					for i := range streams {
						m := newModel(fmt.Sprintf("round %d, stream %d", rounds, i), rand.New(rand.NewPCG(seed+rounds, uint64(i))))
						l := relayed(t, e, m.network, Stream{IdleTimeout: time.Hour, HalfCloseTimeout: time.Hour})
						wg.Go(func() { delivered.Add(m.check(t, l)) })
					}
					wg.Wait()
				})
			}
			registry.Drain(context.Background())
			t.Logf("%d streams, %d bytes delivered and compared", rounds*streams, delivered.Load())
		})
	}
}

// model is a stream, and what each side does.
type model struct {
	name, network    string
	client, upstream *actor
}

// actor is one side of a model.
type actor struct {
	rng    *rand.Rand
	from   int   // where in the text its words begin
	length int64 // of what it sends, in bytes
	resets bool  // after that; else it ends sending
}

// text is what all actors send, over and over.
var text = random(1<<20, 9)

func newModel(name string, rng *rand.Rand) *model {
	m := &model{name: name, network: []string{"tcp", "tcp", "unix"}[rng.IntN(3)]}
	for _, a := range [...]**actor{&m.client, &m.upstream} {
		*a = &actor{
			rng:    rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64())),
			from:   rng.IntN(len(text)),
			length: rng.Int64N(1 << rng.IntN(24)),
		}
	}
	if m.network == "tcp" {
		m.client.resets = rng.IntN(6) == 0
		m.upstream.resets = !m.client.resets && rng.IntN(6) == 0
	}
	return m
}

// check plays both sides and compares what comes of it. It returns how many bytes were
// delivered.
func (m *model) check(t *testing.T, l *link) int64 {
	var wg sync.WaitGroup
	play := func(side string, c net.Conn, a, other *actor) {
		wg.Go(func() {
			var sending sync.WaitGroup
			var sendErr error
			sending.Go(func() { sendErr = a.send(c) })
			got, receiveErr := a.receive(c, other)
			sending.Wait()
			switch {
			case receiveErr == errWrongBytes:
				t.Errorf("%s, %s: wrong bytes after %d", m.name, side, got)
			case a.resets:
			case other.resets:
				// A socket tells of it once, whoever asks.
				if !socket.IsReset(sendErr) && !socket.IsReset(receiveErr) {
					t.Errorf("%s, %s: got errors %v (sending) and %v (receiving), want a reset", m.name, side, sendErr, receiveErr)
				}
			case sendErr != nil || receiveErr != io.EOF || got != other.length:
				t.Errorf("%s, %s: got errors %v (sending) and %v (receiving), and %d of %d bytes", m.name, side, sendErr, receiveErr, got, other.length)
			}
		})
	}
	play("client", l.client, m.client, m.upstream)
	play("upstream", l.upstream, m.upstream, m.client)
	wg.Wait()

	got, want := l.account(t), Account{ToUpstream: m.client.length, ToClient: m.upstream.length}
	switch {
	case m.client.resets:
		want.Cause = ClientReset
	case m.upstream.resets:
		want.Cause = UpstreamReset
	}
	if got.Cause != want.Cause {
		t.Errorf("%s: got cause %v (error %v), want %v", m.name, got.Cause, got.Err, want.Cause)
	}
	if abrupt := want.Cause != Finished; got.ToUpstream > want.ToUpstream || got.ToClient > want.ToClient ||
		!abrupt && (got.ToUpstream < want.ToUpstream || got.ToClient < want.ToClient) {
		t.Errorf("%s: got %d bytes up, %d down, want %d and %d (at most: %v)",
			m.name, got.ToUpstream, got.ToClient, want.ToUpstream, want.ToClient, abrupt)
	}
	return got.ToUpstream + got.ToClient
}

// send sends the actor's words in pieces, with pauses, and its end.
func (a *actor) send(c net.Conn) error {
	for sent := int64(0); sent < a.length; {
		piece := a.words(sent)
		piece = piece[:min(int64(len(piece)), a.length-sent, 1+a.rng.Int64N(1<<a.rng.IntN(20)))]
		n, err := c.Write(piece)
		sent += int64(n)
		if err != nil {
			return err
		}
		if a.rng.IntN(8) == 0 {
			time.Sleep(time.Duration(a.rng.IntN(2000)) * time.Microsecond)
		}
	}
	if a.resets {
		sendReset(c)
		return nil
	}
	return c.(closeWriter).CloseWrite()
}

// receive compares what comes with the other's words, with pauses, until there is an
// error, and returns how many bytes were right.
func (a *actor) receive(c net.Conn, other *actor) (got int64, err error) {
	rng := rand.New(rand.NewPCG(uint64(a.from), uint64(other.from))) // that of a is in use
	buf := make([]byte, 64<<10)
	for err == nil {
		var n int
		n, err = c.Read(buf[:1+rng.IntN(len(buf))])
		for p := buf[:n]; len(p) > 0; {
			words := other.words(got)
			words = words[:min(len(words), len(p))]
			if got+int64(len(words)) > other.length || !bytes.Equal(p[:len(words)], words) {
				return got, errWrongBytes
			}
			got += int64(len(words))
			p = p[len(words):]
		}
		if rng.IntN(64) == 0 {
			time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
		}
	}
	return got, err
}

var errWrongBytes = errors.New("wrong bytes")

// words returns what follows after the first sent bytes, up to the end of the text.
func (a *actor) words(sent int64) []byte {
	return text[(int64(a.from)+sent)%int64(len(text)):]
}
