package socket

import "sync"

// The sizes of pooled buffers, in bytes.
const (
	FirstSize = 2 << 10  // for first bytes: holds nearly every request head and ClientHello
	SmallSize = 4 << 10  // for a read
	LargeSize = 64 << 10 // for a read where bytes come in bulk
)

var (
	firstBuffers = sync.Pool{New: func() any { return new([FirstSize]byte) }}
	smallBuffers = sync.Pool{New: func() any { return new([SmallSize]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([LargeSize]byte) }}
)

// TakeBuffer returns a pooled buffer of one of the sizes, cut to at most max bytes. Its
// capacity is the size.
func TakeBuffer(size int, max int64) []byte {
	var b []byte
	switch size {
	case FirstSize:
		b = firstBuffers.Get().(*[FirstSize]byte)[:]
	case SmallSize:
		b = smallBuffers.Get().(*[SmallSize]byte)[:]
	default:
		b = largeBuffers.Get().(*[LargeSize]byte)[:]
	}
	return b[:min(int64(len(b)), max)]
}

// GiveBack returns a buffer, however cut at its end, to the pool of its size. Nobody else
// may have it. One of another size, or nil, it leaves to the garbage collector.
func GiveBack(b []byte) {
	switch cap(b) {
	case FirstSize:
		firstBuffers.Put((*[FirstSize]byte)(b[:FirstSize]))
	case SmallSize:
		smallBuffers.Put((*[SmallSize]byte)(b[:SmallSize]))
	case LargeSize:
		largeBuffers.Put((*[LargeSize]byte)(b[:LargeSize]))
	}
}
