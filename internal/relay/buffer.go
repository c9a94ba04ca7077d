package relay

import (
	"net"
	"sync"
)

// A read takes a small buffer, and a large one while small ones would be filled.
const (
	smallSize = 4 << 10
	largeSize = 64 << 10
)

var (
	smallBuffers = sync.Pool{New: func() any { return new([smallSize]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeSize]byte) }}
)

// takeBuffer returns a pooled buffer, cut to at most max bytes.
func takeBuffer(large bool, max int64) []byte {
	var b []byte
	if large {
		b = largeBuffers.Get().(*[largeSize]byte)[:]
	} else {
		b = smallBuffers.Get().(*[smallSize]byte)[:]
	}
	return b[:min(int64(len(b)), max)]
}

// giveBack returns a buffer of takeBuffer, however cut at its end, or nil.
func giveBack(b []byte) {
	switch cap(b) {
	case smallSize:
		smallBuffers.Put((*[smallSize]byte)(b[:smallSize]))
	case largeSize:
		largeBuffers.Put((*[largeSize]byte)(b[:largeSize]))
	}
}

// source is where the bytes of one direction come from.
type source interface {
	// read waits for bytes and returns at most max of them, max > 0, in a buffer
	// that the caller gives back, also if there is an error.
	read(max int64) ([]byte, error)
}

// connSource reads from any connection. It holds a buffer while it waits.
type connSource struct {
	conn  net.Conn
	large bool
}

func (s *connSource) read(max int64) ([]byte, error) {
	buf := takeBuffer(s.large, max)
	n, err := s.conn.Read(buf)
	s.large = n >= smallSize
	return buf[:n], err
}
