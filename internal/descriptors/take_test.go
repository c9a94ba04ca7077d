package descriptors

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// table is a table of descriptors, of which the lowest free one is given out.
type table struct {
	mu     sync.Mutex
	used   []bool
	n, max int // open now, and at most
	counts atomic.Int64
}

func newTable(limit, open int) *table {
	tab := &table{used: make([]bool, limit)}
	for range open {
		tab.open()
	}
	return tab
}

func (tab *table) open() (fd uint64) {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	for fd, used := range tab.used {
		if !used {
			tab.used[fd] = true
			tab.n++
			tab.max = max(tab.max, tab.n)
			return uint64(fd)
		}
	}
	panic("descriptors are exhausted")
}

func (tab *table) close(fd uint64) {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	tab.used[fd] = false
	tab.n--
}

// count looks at one place after the other, as a listing does, while others open and
// close.
func (tab *table) count() (open uint64, err error) {
	tab.counts.Add(1)
	for fd := range tab.used {
		tab.mu.Lock()
		if tab.used[fd] {
			open++
		}
		tab.mu.Unlock()
		if fd%64 == 0 {
			runtime.Gosched()
		}
	}
	return open, nil
}

func (tab *table) watch() *watch {
	return newWatch(upTo(uint64(len(tab.used))), tab.count)
}

// TestTakeBurst: many who take at once get as many as there are, and no more.
func TestTakeBurst(t *testing.T) {
	for _, test := range []struct {
		name          string
		open, of      int
		seen, settled bool
	}{
		{"open and seen", 300, 560, true, true},
		{"open and not seen", 300, 560, false, true},
		{"not open yet", 300, 560, true, false},
		{"enough for all", 100, 560, true, true},
		{"all but one", 767, 100, true, true},
		{"none", 768, 100, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			const enough = 768
			tab := newTable(1024, 0)
			w := tab.watch()
			for range test.open {
				if fd := tab.open(); test.seen {
					w.saw(fd)
				}
			}
			var granted atomic.Int64
			begin := make(chan struct{})
			var all sync.WaitGroup
			for range test.of {
				all.Go(func() {
					<-begin
					if !w.take(1) {
						return
					}
					granted.Add(1)
					if test.settled {
						w.opened(tab.open())
					}
				})
			}
			close(begin)
			all.Wait()
			want := int64(min(enough-test.open, test.of))
			// Those that are open and not settled count twice.
			if got := granted.Load(); got > want || got < want/2 || !test.settled && got < want {
				t.Errorf("%d were granted, want %d or a few less", got, want)
			}
			if tab.max > max(enough, test.open) {
				t.Errorf("%d were open", tab.max)
			}
		})
	}
}

// TestTakeChurn: that many were opened and closed is no reason to refuse one, however
// long a count takes.
func TestTakeChurn(t *testing.T) {
	tab := newTable(1024, 100)
	w := tab.watch()
	counting := make(chan struct{})
	goOn := make(chan struct{})
	var slow atomic.Bool
	w.count = func() (uint64, error) {
		if slow.CompareAndSwap(true, false) {
			close(counting)
			<-goOn
		}
		return tab.count()
	}
	const workers, times = 32, 2000
	work := func() {
		for range times {
			if !w.take(2) {
				t.Error("refused while few are open")
				return
			}
			a, b := tab.open(), tab.open()
			w.opened(a)
			w.opened(b)
			tab.close(a)
			tab.close(b)
			w.saw(a) // late
		}
	}
	slow.Store(true)
	var all sync.WaitGroup
	for range workers {
		all.Go(work)
	}
	<-counting
	time.Sleep(10 * time.Millisecond) // so that they wait; those that do not are no failure
	close(goOn)
	all.Wait()
	if tab.max > 768 {
		t.Errorf("%d were open", tab.max)
	}
	if got := w.inFlight.Load(); got != 0 {
		t.Errorf("%d are in flight", got)
	}
	// Each one adds three, and half of the room is more than 250.
	if got := tab.counts.Load(); got > workers*times*3/250+10 {
		t.Errorf("counted %d times", got)
	}
}

// TestTakeEarly: descriptors are counted before anybody has to wait for it.
func TestTakeEarly(t *testing.T) {
	open, counts := uint64(100), atomic.Int64{}
	w := newWatch(upTo(1024), func() (uint64, error) { counts.Add(1); return open, nil })
	for range 100_000 {
		if !w.takeAtOnce(1) {
			// The first one, and where the count has not had its turn.
			if !w.take(1) {
				t.Fatal("refused")
			}
		}
		w.inFlight.Add(-1)
		runtime.Gosched()
	}
	if got := counts.Load(); got < 2 || got > 1000 {
		t.Errorf("counted %d times", got)
	}
}

// TestTakeRefused: when there are none, that holds for a while, and a low number that is
// seen does not change it.
func TestTakeRefused(t *testing.T) {
	open, counts := uint64(900), 0
	var failure error
	w := newWatch(upTo(1024), func() (uint64, error) { counts++; return open, failure })
	check := func(what string, want bool, counted int) {
		t.Helper()
		got := w.take(1)
		if got {
			w.inFlight.Add(-1)
		}
		if got != want || counts != counted {
			t.Errorf("%s: granted %v, counted %d times; want %v and %d", what, got, counts, want, counted)
		}
	}
	check("none", false, 1)
	w.next = time.Since(epoch) + time.Hour
	open = 10
	check("soon after", false, 1)
	w.next = 0
	check("later", true, 2)
	w.note(1000)
	open, failure = 0, errExhausted
	check("when there is none to count with", false, 3)
	w.next, failure = 0, errors.New("no such directory")
	check("where they cannot be counted", true, 4)
}

// TestOpenedMakesScarce: what was granted tells the door, too.
func TestOpenedMakesScarce(t *testing.T) {
	w := newWatch(upTo(1024), func() (uint64, error) { return 800, nil })
	w.inFlight.Add(1)
	w.opened(800)
	if !w.isScarce() {
		t.Error("not scarce")
	}
}

func TestTakeUnlimited(t *testing.T) {
	w := newWatch(func() (uint64, bool) { return 0, false }, func() (uint64, error) {
		t.Error("counted")
		return 0, errors.ErrUnsupported
	})
	for range 10_000 {
		if !w.take(100) {
			t.Fatal("refused without a limit")
		}
	}
}

// TestTakeAllocatesNothing on the way that all but a few go.
func TestTakeAllocatesNothing(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd := file.Fd()
	Take(1) // counts
	Unused(1)
	if got := testing.AllocsPerRun(10, func() {
		if Take(2) {
			Opened(fd)
			Unused(1)
		}
		Saw(fd)
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}
