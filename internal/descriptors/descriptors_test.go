package descriptors

import (
	"errors"
	"os"
	"runtime"
	"testing"
	"time"
)

func TestReserve(t *testing.T) {
	for _, test := range []struct{ limit, enough uint64 }{
		{0, 0},
		{256, 128},
		{1024, 768},
		{20_000, 18_750},
		{1 << 20, 1<<20 - 4096},
	} {
		if got := newWatch(test.limit, true, nil).enough; got != test.enough {
			t.Errorf("of %d: got %d, want %d", test.limit, got, test.enough)
		}
	}
	w := newWatch(0, false, nil)
	if w.saw(1 << 40); w.isScarce() {
		t.Error("scarce without a limit")
	}
}

// TestWatch: descriptors are counted when a high one has been seen, and then once in a
// while until there are enough.
func TestWatch(t *testing.T) {
	var open uint64
	var failure error
	counts := 0
	w := newWatch(1024, true, func() (uint64, error) {
		counts++
		return open, failure
	})
	check := func(what string, scarce bool, counted int) {
		t.Helper()
		if got := w.isScarce(); got != scarce || counts != counted {
			t.Errorf("%s: scarce %v, counted %d times; want %v and %d", what, got, counts, scarce, counted)
		}
	}
	later := func() { w.counted = time.Now().Add(-recount) }

	open = 1000
	w.saw(767)
	check("a low one", false, 0)
	w.saw(768)
	check("a high one", true, 1)
	open = 500
	check("soon after", true, 1)
	later()
	failure = errors.New("none left to count with")
	check("when they cannot be counted", true, 2)
	later()
	failure = nil
	check("when there are enough", false, 3)
	w.saw(800)
	check("a high one of few", true, 3)
	later()
	check("when that is counted", false, 4)
}

func TestCount(t *testing.T) {
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skip("no count on this system")
	}
	before, err := count()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		file, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
	}
	after, err := count()
	if err != nil || after != before+3 {
		t.Errorf("got %d (%v) after %d, want three more", after, err, before)
	}
	if n, ok := limit(); !ok || n < after {
		t.Errorf("limit: got %d (%v) with %d open", n, ok, after)
	}
}
