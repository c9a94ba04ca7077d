package relay

import (
	"os"
	"sync"
)

// New returns the engine to use on this system: [Event] on Linux, elsewhere
// [Portable]. Its streams are registered in streams; nil: nowhere. It calls warn, which
// may be nil, when it runs short of something and makes do without: from a goroutine of
// its own, at most once a minute.
//
// The environment variable STREAMPROX_ENGINE=portable chooses [Portable] everywhere, so
// that a whole test suite can be run with it. It is read once.
func New(streams *Registry, warn func(message string, err error)) Engine {
	if wantsPortable() {
		return Portable{Streams: streams}
	}
	return newEngine(streams, warn)
}

var wantsPortable = sync.OnceValue(func() bool { return os.Getenv("STREAMPROX_ENGINE") == "portable" })
