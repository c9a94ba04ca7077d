package streamprox

import "fmt"

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
