package descriptors

import (
	"errors"
	"os"
	"runtime"
	"testing"
	"time"
)

// upTo is a limit.
func upTo(n uint64) func() (uint64, bool) {
	return func() (uint64, bool) { return n, true }
}

func TestReserve(t *testing.T) {
	for _, test := range []struct {
		limit  uint64
		enough int64
	}{
		{0, 0},
		{256, 128},
		{1024, 768},
		{20_000, 18_750},
		{1 << 20, 1<<20 - 4096},
	} {
		if got := newWatch(upTo(test.limit), nil).enough.Load(); got != test.enough {
			t.Errorf("of %d: got %d, want %d", test.limit, got, test.enough)
		}
	}
	w := newWatch(func() (uint64, bool) { return 0, false }, nil)
	if w.saw(1 << 40); w.isScarce() {
		t.Error("scarce without a limit")
	}
}

// TestWatch: descriptors are counted when a high one has been seen, and then once in a
// while until there are enough.
func TestWatch(t *testing.T) {
	limit, open := uint64(1024), uint64(0)
	var failure error
	counts := 0
	w := newWatch(func() (uint64, bool) { return limit, true }, func() (uint64, error) {
		counts++
		return open, failure
	})
	check := func(what string, scarce bool, counted int) {
		t.Helper()
		if got := w.isScarce(); got != scarce || counts != counted {
			t.Errorf("%s: scarce %v, counted %d times; want %v and %d", what, got, counts, scarce, counted)
		}
	}
	soon := func() {
		w.next = time.Since(epoch) + time.Hour
		w.calm.Store(int64(w.next))
	}
	later := func() {
		w.next = 0
		w.calm.Store(0)
	}

	open = 1000
	w.saw(767)
	check("a low one", false, 0)
	w.saw(768)
	check("a high one", true, 1)
	soon()
	check("soon after", true, 1)
	later()
	failure = errExhausted
	check("when there is none to count with", true, 2)
	later()
	failure, open = nil, 500
	check("when there are enough", false, 3)
	soon()
	w.saw(800)
	check("a high one from before", false, 3)
	later()
	open = 800
	w.saw(800)
	check("a high one", true, 4)
	later()
	limit = 2048
	check("when there may be more", false, 5)
	later()
	failure = errors.New("no such directory")
	w.saw(2000)
	check("where they cannot be counted", false, 6)
}

// TestWatchDoesNotWait: while one counts, others are told that descriptors are scarce.
func TestWatchDoesNotWait(t *testing.T) {
	counting, goOn := make(chan struct{}), make(chan struct{})
	w := newWatch(upTo(1024), func() (uint64, error) {
		close(counting)
		<-goOn
		return 1, nil
	})
	w.saw(1000)
	counted := make(chan bool)
	go func() { counted <- w.isScarce() }()
	<-counting
	if !w.isScarce() {
		t.Error("not scarce while they are counted")
	}
	close(goOn)
	if <-counted {
		t.Error("scarce with one open")
	}
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
	if n, ok := Limit(); !ok || n < after {
		t.Errorf("limit: got %d (%v) with %d open", n, ok, after)
	}
}
