package streamprox

import (
	"testing"
	"testing/synctest"
	"time"
)

// deadlines notes the read deadlines that are set.
type deadlines []time.Time

func (d *deadlines) SetReadDeadline(t time.Time) error {
	*d = append(*d, t)
	return nil
}

// TestReadClock checks whose deadline holds when.
func TestReadClock(t *testing.T) {
	var (
		never  time.Time
		past   = time.Unix(1, 0)
		server = time.Now().Add(time.Hour)
		head   = time.Now().Add(time.Minute)
	)
	for _, test := range []struct {
		name string
		do   func(*readClock)
		want []time.Time // the deadlines that were set
	}{
		{"the server's, of the message", func(c *readClock) { _ = c.setServer(server) }, []time.Time{server}},
		{"the same twice", func(c *readClock) { _ = c.setServer(server); _ = c.setServer(server) }, []time.Time{server}},
		{"none while a handler runs", func(c *readClock) { _ = c.setServer(server); c.enter(watching) }, []time.Time{server, never}},
		{"inspect's, while a handler runs", func(c *readClock) { c.enter(watching); _ = c.setServer(server); _ = c.setHead(head) }, []time.Time{head}},
		{"the server's, of an idle client", func(c *readClock) { c.enter(awaiting); _ = c.setServer(server) }, []time.Time{server}},
		{"inspect's, from the first byte on", func(c *readClock) { c.enter(awaiting); _ = c.setServer(server); _ = c.setHead(head) }, []time.Time{server, head}},
		{"the server's again", func(c *readClock) {
			_ = c.setServer(server)
			c.enter(watching)
			_ = c.setHead(head)
			c.enter(delivering)
		}, []time.Time{server, never, head, server}},
		{"an interruption at any time", func(c *readClock) { c.enter(watching); _ = c.setHead(head); _ = c.setServer(past) }, []time.Time{head, past}},
		{"after an interruption", func(c *readClock) {
			c.enter(watching)
			_ = c.setHead(head)
			_ = c.setServer(past)
			_ = c.setServer(never)
		}, []time.Time{head, past, head}},
		{"none once it has stopped", func(c *readClock) { _ = c.setServer(server); c.stop(); _ = c.setServer(past); c.enter(watching) }, []time.Time{server}},
	} {
		var set deadlines
		c := new(readClock)
		c.init(&set)
		test.do(c)
		if len(set) != len(test.want) {
			t.Errorf("%s: got %v, want %v", test.name, set, test.want)
			continue
		}
		for i, want := range test.want {
			if !set[i].Equal(want) {
				t.Errorf("%s: got %v, want %v", test.name, set, test.want)
			}
		}
	}
}

// TestReadClockWakes checks what ends the wait for an interruption.
func TestReadClockWakes(t *testing.T) {
	for name, wake := range map[string]func(*readClock){
		"interrupted": func(c *readClock) { _ = c.setServer(time.Unix(1, 0)) },
		"stopped":     (*readClock).stop,
	} {
		synctest.Test(t, func(t *testing.T) {
			c := new(readClock)
			c.init(new(deadlines))
			woken := false
			go func() {
				c.waitInterrupt()
				woken = true
			}()
			_ = c.setServer(time.Now().Add(time.Hour))
			_ = c.setHead(time.Now().Add(time.Minute))
			synctest.Wait()
			if woken {
				t.Errorf("%s: woken before", name)
			}
			wake(c)
			synctest.Wait()
			if !woken {
				t.Errorf("%s: not woken", name)
			}
		})
	}
}
