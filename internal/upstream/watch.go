package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

const (
	// watchDelay is how long a dial may take before anybody looks whether the client
	// is still there: most take less.
	watchDelay = 50 * time.Millisecond

	// watchLimit bounds, in bytes, what is read from a client that is waiting. Beyond it
	// only a reset is noticed.
	watchLimit = 64 << 10
)

// clientWatch notices that a client resets its connection while a server is being dialled.
// A socket tells that only to those who read from it, so it reads ahead. The end of the
// client's sending is no reason to end a dial: a client that has sent all it has to send may
// well wait for an answer. It is a reason not to begin another round.
type clientWatch struct {
	conn    net.Conn
	pending []byte      // what was read and is still to be sent
	ended   atomic.Bool // the client has finished sending
}

// start begins to watch after watchDelay. The context is cancelled when the client goes
// away, or with parent. After stop, pending is complete and the connection as it was.
func (w *clientWatch) start(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	ended := make(chan struct{})
	timer := time.AfterFunc(watchDelay, func() {
		defer close(ended)
		w.read(ctx, cancel)
	})
	return ctx, func() {
		if !timer.Stop() {
			// The watch is in a read, or about to begin one.
			_ = w.conn.SetReadDeadline(time.Unix(1, 0))
			<-ended
			_ = w.conn.SetReadDeadline(time.Time{})
		}
		cancel()
	}
}

// read reads ahead until the limit or the end of the client's sending, and then waits for
// a reset; the deadline that stop sets ends both. It calls gone when the connection breaks.
func (w *clientWatch) read(ctx context.Context, gone context.CancelFunc) {
	buf := make([]byte, 4<<10)
	for begin := len(w.pending); len(w.pending)-begin < watchLimit; {
		n, err := w.conn.Read(buf)
		w.pending = append(w.pending, buf[:n]...)
		if errors.Is(err, io.EOF) {
			w.ended.Store(true)
			break
		}
		switch {
		case err == nil && ctx.Err() == nil:
		case err == nil, errors.Is(err, os.ErrDeadlineExceeded):
			return
		default:
			gone()
			return
		}
	}
	if socket.AwaitHangUp(w.conn) != nil {
		gone()
	}
}
