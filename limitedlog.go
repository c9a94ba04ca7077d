package streamprox

import (
	"sync"
	"time"

	"go.uber.org/zap"
)

// logInterval is how often a line of one kind is written at most.
const logInterval = 10 * time.Second

// limitedLog writes lines about what may happen to every connection. Of each kind it writes
// at most one in logInterval, with the number of times it has happened. The zero value is
// ready.
type limitedLog struct {
	mu    sync.Mutex
	kinds map[lineKind]*occurrences
}

// lineKind is what a line is about. Clients do not choose any of it: there are few kinds.
type lineKind struct{ message, upstream, reason string }

// occurrences is how often something has happened.
type occurrences struct {
	total  int
	untold int       // since the last line
	logged time.Time // when that was written
}

// failure writes, by write, that something has failed: with the number of failures of that
// kind since the last line.
func (l *limitedLog) failure(write func(string, ...zap.Field), kind lineKind, fields ...zap.Field) {
	happened, due := l.note(kind)
	if !due {
		return
	}
	if kind.upstream != "" {
		fields = append(fields, zap.String("upstream", kind.upstream))
	}
	if kind.reason != "" {
		fields = append(fields, zap.String("reason", kind.reason))
	}
	write(kind.message, append(fields, zap.Int("failures", happened.untold))...)
}

// refusal warns that a connection was refused, with the number of all that were. All
// refusals of one limitedLog are of one kind, whatever the message.
func (l *limitedLog) refusal(logger *zap.Logger, message string) {
	if happened, due := l.note(lineKind{}); due {
		logger.Warn(message, zap.Int("total", happened.total))
	}
}

// note counts one more of a kind, and reports whether a line about it is due.
func (l *limitedLog) note(kind lineKind) (happened occurrences, due bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.kinds[kind]
	if o == nil {
		if l.kinds == nil {
			l.kinds = make(map[lineKind]*occurrences)
		}
		o = new(occurrences)
		l.kinds[kind] = o
	}
	o.total++
	o.untold++
	now := time.Now()
	if now.Sub(o.logged) < logInterval {
		return *o, false
	}
	happened = *o
	o.logged, o.untold = now, 0
	return happened, true
}
