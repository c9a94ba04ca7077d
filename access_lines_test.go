package streamprox

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/streamprox/caddy-streamprox/internal/account"
)

// gatedOutput is an output of a log that takes nothing until its gate is open.
type gatedOutput struct {
	called, gate chan struct{}

	mu    sync.Mutex
	taken strings.Builder
}

func (o *gatedOutput) Write(p []byte) (int, error) {
	select {
	case o.called <- struct{}{}:
	default:
	}
	<-o.gate
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.taken.Write(p)
}

func (*gatedOutput) Sync() error { return nil }

// TestLineQueue: a line waits for nobody, lines keep their order, and no more wait than may.
func TestLineQueue(t *testing.T) {
	out := &gatedOutput{called: make(chan struct{}, 1), gate: make(chan struct{})}
	encoder := zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "msg", TimeKey: "ts", EncodeTime: zapcore.RFC3339TimeEncoder})
	l := &ledger{logger: zap.New(zapcore.NewCore(encoder, out, zap.InfoLevel))}
	var q lineQueue
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const tooMany = 10
	for i := range maxUnwritten + tooMany {
		q.add(accessLine{l, "ended", account.Reading{Summary: account.Summary{ID: account.ID(i), Started: began}, Age: time.Minute}})
	}
	<-out.called
	if got := q.lost.Load(); got != tooMany {
		t.Errorf("%d lines were lost, want %d", got, tooMany)
	}
	q.flush(time.Millisecond) // is not long enough
	q.flush(1000 * time.Hour) // so that nobody waits again
	close(out.gate)
	q.inVain = false
	q.flush(time.Minute)
	out.mu.Lock()
	lines := strings.Split(strings.TrimSpace(out.taken.String()), "\n")
	out.mu.Unlock()
	if len(lines) != maxUnwritten {
		t.Fatalf("%d lines were written, want %d", len(lines), maxUnwritten)
	}
	for i, line := range lines {
		// The time is that of the end, not that of writing.
		if want := fmt.Sprintf(`{"ts":"2026-01-02T03:05:05Z","msg":"ended","id":%q,`, account.ID(i)); !strings.HasPrefix(line, want) {
			t.Fatalf("line %d is %s, want %s…", i, line, want)
		}
	}
	if q.unwritten.Load() != 0 || q.idle != nil || q.waiting != nil {
		t.Errorf("%d lines are left", q.unwritten.Load())
	}
	q.flush(time.Minute) // has nothing to wait for
}
