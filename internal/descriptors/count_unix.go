//go:build linux || darwin

package descriptors

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Limit returns how many descriptors the process may have, if there is a limit.
func Limit() (n uint64, limited bool) {
	var limit unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	return limit.Cur, err == nil
}

// count returns how many descriptors are open.
func count() (open uint64, err error) {
	dir, err := os.Open("/dev/fd")
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		return 0, errExhausted
	}
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(1000)
		open += uint64(len(names))
		if errors.Is(err, io.EOF) {
			return open, nil
		}
		if err != nil {
			return 0, err
		}
	}
}
