//go:build !linux && !darwin

package descriptors

import "errors"

func limit() (n uint64, limited bool) { return 0, false }

func count() (open uint64, err error) { return 0, errors.ErrUnsupported }
