package streamprox

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// incoming is what an opening arrives on.
type incoming interface {
	io.Reader
	SetReadDeadline(time.Time) error
}

// receive reads from conn until the outcome of o is certain. An error is one of conn.
func receive(o *opening.Opening, conn incoming, first *socket.Reader) error {
	if o.Certain() {
		return nil
	}
	r := countReading(o)
	defer r.done()
	for !o.Certain() {
		if err := receivePacket(o, conn, first); err != nil {
			return err
		}
		r.update()
	}
	return nil
}

// receivePacket reads from conn once, and tells o what has arrived before its deadline: a
// packet, the end, or nothing. The first packet comes from first, which reads from conn too
// and needs no buffer while it waits. An error is one of conn.
func receivePacket(o *opening.Opening, conn incoming, first *socket.Reader) error {
	if err := conn.SetReadDeadline(o.Deadline()); err != nil {
		return err
	}
	if len(o.Data()) == 0 {
		p, err := first.ReadFirst(o.Limits().Bytes)
		if len(p) == 0 {
			return receiveNothing(o, err)
		}
		o.First(p, time.Now())
		return nil
	}
	n, err := conn.Read(o.Room())
	if n == 0 {
		return receiveNothing(o, err)
	}
	o.Received(n, time.Now())
	return nil
}

// receiveNothing tells o why nothing has arrived, or returns the error if there is another
// reason than the end or the deadline.
func receiveNothing(o *opening.Opening, err error) error {
	switch {
	case errors.Is(err, io.EOF):
		o.End()
	case errors.Is(err, os.ErrDeadlineExceeded):
		o.Expire()
	default:
		return noProgress(err)
	}
	return nil
}

// noProgress turns a read without bytes and without error, which io.Reader permits but
// discourages, into an error.
func noProgress(err error) error {
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}
