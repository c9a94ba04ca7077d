//go:build linux || darwin

package descriptors

import (
	"errors"
	"io"
	"os"
	"runtime"

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
	// Linux tells from 6.2 on without listing them, and without one to do it with.
	var stat unix.Stat_t
	if runtime.GOOS == "linux" && unix.Stat("/proc/self/fd", &stat) == nil && stat.Size > 0 {
		return uint64(stat.Size), nil
	}
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
