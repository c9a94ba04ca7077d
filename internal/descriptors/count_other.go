//go:build !linux && !darwin

package descriptors

import "errors"

// Limit returns how many descriptors the process may have, if there is a limit.
func Limit() (n uint64, limited bool) { return 0, false }

func count() (open uint64, err error) { return 0, errors.ErrUnsupported }
