package streamprox

import (
	"fmt"
	"sync"

	"go.uber.org/zap"
)

// reuse is what becomes of the requests that follow the first one on a connection.
type reuse uint8

const (
	reusePin       reuse = iota // they go where the first one went
	reuseClose                  // there are none: the connection ends with the response
	reuseReinspect              // each is routed
)

// parseReuse returns the reuse of that name.
func parseReuse(name string, def reuse) (reuse, error) {
	switch name {
	case "":
		return def, nil
	case "pin":
		return reusePin, nil
	case "close":
		return reuseClose, nil
	case "reinspect":
		return reuseReinspect, nil
	}
	return 0, fmt.Errorf("reuse: unknown value %q", name)
}

// unroutedLog says once that a handler has got a connection of which only the first
// request is routed, because no route of inspect has brought it.
type unroutedLog struct{ once sync.Once }

// log logs it: as a warning if the configuration has asked for something else.
func (u *unroutedLog) log(logger *zap.Logger, configured string) {
	u.once.Do(func() {
		if configured == "" {
			logger.Info("only the first request of a connection is routed: this handler is not in a route of inspect")
		} else {
			logger.Warn("only the first request of a connection is routed: reuse has no effect outside the routes of inspect",
				zap.String("reuse", configured))
		}
	})
}
