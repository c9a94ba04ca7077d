package streamprox

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// TestFailureLog: a line every so often for each kind of failure, which says how many it
// stands for.
func TestFailureLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, lines := observer.New(zapcore.DebugLevel)
		logger := zap.New(core)
		var failures failureLog
		refused, slow := failureKind{"not reached", "a:1", "refused"}, failureKind{"not reached", "a:1", "timeout"}
		counts := func() (counts []int64) {
			for _, line := range lines.TakeAll() {
				counts = append(counts, line.ContextMap()["failures"].(int64))
			}
			return counts
		}
		expect := func(what string, want ...int64) {
			t.Helper()
			got := counts()
			if len(got) != len(want) {
				t.Fatalf("%s: got lines for %v failures, want %v", what, got, want)
			}
			for i := range want {
				if got[i] != want[i] {
					t.Errorf("%s: got lines for %v failures, want %v", what, got, want)
				}
			}
		}
		for range 5 {
			failures.log(logger.Warn, refused)
		}
		failures.log(logger.Warn, slow)
		expect("at first", 1, 1)
		time.Sleep(failureInterval)
		failures.log(logger.Warn, refused)
		expect("later", 5)
		failures.log(logger.Warn, refused)
		expect("at once after that")
	})
}
