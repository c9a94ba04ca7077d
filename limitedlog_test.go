package streamprox

import (
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// TestLimitedLog: of each kind one line at most in an interval, which says how often it
// has happened.
func TestLimitedLog(t *testing.T) {
	type line struct {
		message string
		count   int64
	}
	refused, slow := lineKind{"not reached", "a:1", "refused"}, lineKind{"not reached", "a:1", "timeout"}
	for name, test := range map[string]struct {
		count string // the field that holds it
		log   func(l *limitedLog, logger *zap.Logger, kind lineKind)
		// The kinds that are logged before each interval, and the lines they make.
		kinds [][]lineKind
		lines [][]line
	}{
		"failures": {
			"failures",
			func(l *limitedLog, logger *zap.Logger, kind lineKind) { l.failure(logger.Warn, kind) },
			[][]lineKind{{refused, refused, refused, slow, refused}, {refused, refused}, {slow}, {refused}},
			[][]line{{{"not reached", 1}, {"not reached", 1}}, {{"not reached", 4}}, {{"not reached", 1}}, {{"not reached", 2}}},
		},
		"refusals": {
			"total",
			func(l *limitedLog, logger *zap.Logger, kind lineKind) { l.refusal(logger, kind.reason) },
			[][]lineKind{{refused, refused, slow}, {slow, refused}, {}, {refused}},
			[][]line{{{"refused", 1}}, {{"timeout", 4}}, nil, {{"refused", 6}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				core, observed := observer.New(zapcore.DebugLevel)
				var l limitedLog
				for i, kinds := range test.kinds {
					for _, kind := range kinds {
						test.log(&l, zap.New(core), kind)
					}
					var got []line
					for _, entry := range observed.TakeAll() {
						got = append(got, line{entry.Message, entry.ContextMap()[test.count].(int64)})
					}
					if !slices.Equal(got, test.lines[i]) {
						t.Errorf("interval %d: got %v, want %v", i, got, test.lines[i])
					}
					time.Sleep(logInterval)
				}
			})
		})
	}
}

// TestLimitedLogFields: a failure says where it was, and why.
func TestLimitedLogFields(t *testing.T) {
	core, observed := observer.New(zapcore.DebugLevel)
	var l limitedLog
	l.failure(zap.New(core).Error, lineKind{"not reached", "a:1", "refused"}, zap.String("remote", "b:2"))
	l.failure(zap.New(core).Error, lineKind{message: "no address"})
	got := observed.TakeAll()
	for i, want := range []map[string]any{
		{"remote": "b:2", "upstream": "a:1", "reason": "refused", "failures": int64(1)},
		{"failures": int64(1)},
	} {
		if fields := got[i].ContextMap(); got[i].Level != zapcore.ErrorLevel || !maps.Equal(fields, want) {
			t.Errorf("got %s with %v, want an error with %v", got[i].Level, fields, want)
		}
	}
}
