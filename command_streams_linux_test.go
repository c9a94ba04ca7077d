package streamprox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWatchOnTerminal runs the command on a terminal, and ends it as Ctrl-C does.
func TestWatchOnTerminal(t *testing.T) {
	s := steered(t)
	terminal, other := openTerminal(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), commandPatience)
	defer cancel()
	command := exec.CommandContext(ctx, program, "streamprox", "streams", "--watch", "--address", s.address())
	command.Stdin, command.Stdout, command.Stderr = other, other, other
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	other.Close()
	var seen bytes.Buffer
	shown := func(want string) bool {
		buffer := make([]byte, 4096)
		for !strings.Contains(seen.String(), want) {
			n, err := terminal.Read(buffer)
			seen.Write(buffer[:n])
			if err != nil {
				return strings.Contains(seen.String(), want)
			}
		}
		return true
	}
	if !shown("3 streams") {
		t.Errorf("no list: %q", seen.String())
	}
	s.add("7f3a9c0000000015", nil)
	if !shown("7f3a9c0000000015") {
		t.Errorf("the list is not drawn again: %q", seen.String())
	}
	if _, err := terminal.Write([]byte{3}); err != nil { // Ctrl-C
		t.Error(err)
	}
	if !shown(firstScreen) {
		t.Errorf("the first screen does not come back: %q", seen.String())
	}
	if err := command.Wait(); err != nil {
		t.Errorf("got %v: %q", err, seen.String())
	}
	ours := strings.NewReplacer(otherScreen, "", firstScreen, "", toTheTop, "", restOfLine, "", restOfAll, "").Replace(seen.String())
	if strings.ContainsAny(ours, "\x1b\u009b\u202e") {
		t.Errorf("the terminal was sent what a client sent: %q", ours)
	}
}

// openTerminal returns both ends of a terminal of 200 columns and 24 lines.
func openTerminal(t *testing.T) (terminal, other *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	err = errors.Join(err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0), unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 200}))
	terminal = os.NewFile(uintptr(fd), "terminal")
	t.Cleanup(func() { terminal.Close() })
	if err != nil {
		t.Fatal(err)
	}
	other, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return terminal, other
}
