package streamprox

import (
	"io"
	"net"
	"testing"
	"time"
)

// slowClose is a connection whose Close takes until it is told to go on.
type slowClose struct {
	net.Conn
	closing, goOn chan struct{}
}

func (c *slowClose) Close() error {
	close(c.closing)
	<-c.goOn
	return c.Conn.Close()
}

// TestReplayConnEndsWithItsLastCall checks that the end is told once, and not while a call
// of another goroutine is in progress.
func TestReplayConnEndsWithItsLastCall(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	slow := &slowClose{Conn: server, closing: make(chan struct{}), goOn: make(chan struct{})}
	ended := make(chan struct{})
	c := newReplayConn(slow, nil, func() { close(ended) }) // a second call would panic
	go c.Close()
	<-slow.closing
	read := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 2))
		read <- err
	}()
	select {
	case <-ended:
		t.Error("the end was told while the connection was being closed")
	case <-time.After(10 * time.Millisecond):
	}
	close(slow.goOn)
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("the end was never told")
	}
	if err := <-read; err == nil {
		t.Error("a read of what is closed succeeded")
	}
	if _, err := c.Write([]byte("late")); err != net.ErrClosed {
		t.Errorf("after the end: got %v, want %v", err, net.ErrClosed)
	}
	if _, err := c.ReadFrom(client); err == nil || err == io.EOF {
		t.Errorf("after the end: got %v, want an error", err)
	}
	if err := c.Close(); err != net.ErrClosed {
		t.Errorf("closed again: got %v, want %v", err, net.ErrClosed)
	}
}
