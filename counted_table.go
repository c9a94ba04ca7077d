package streamprox

import (
	"context"
	"sync"
)

// table holds what is counted for each value of a label. It has a row as long as a
// configuration has the value, or something that was counted there goes on.
type table[T any] struct {
	make func() *T
	idle func(*T) bool // nothing goes on

	mu   sync.Mutex // nobody who counts takes it
	rows map[string]*tableRow[T]
}

type tableRow[T any] struct {
	counts *T
	users  int // configurations, more than once each
}

// use returns the row of a value that the configuration of ctx has.
func (t *table[T]) use(ctx context.Context, value string) *T {
	t.mu.Lock()
	defer t.mu.Unlock()
	row := t.rows[value]
	if row == nil {
		t.sweep()
		row = &tableRow[T]{counts: t.make()}
		if t.rows == nil {
			t.rows = make(map[string]*tableRow[T])
		}
		t.rows[value] = row
	}
	row.users++
	context.AfterFunc(ctx, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		row.users--
	})
	return row.counts
}

// each calls f for each row, and then forgets those that are no longer needed.
func (t *table[T]) each(f func(value string, counts *T)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for value, row := range t.rows {
		f(value, row.counts)
	}
	t.sweep()
}

// sweep forgets the rows that no configuration has and under which nothing goes on. t.mu is
// held.
func (t *table[T]) sweep() {
	for value, row := range t.rows {
		if row.users == 0 && t.idle(row.counts) {
			delete(t.rows, value)
		}
	}
}
