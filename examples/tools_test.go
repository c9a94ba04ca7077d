package examples

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// tool returns the path of a program. Without it the test is skipped, but not where all
// tests must run.
func tool(t *testing.T, name, debianPackage string) string {
	t.Helper()
	for _, file := range []string{name, "/usr/sbin/" + name} { // where Debian has its servers
		if path, err := exec.LookPath(file); err == nil {
			return path
		}
	}
	missing(t, name, debianPackage)
	return ""
}

// missing skips a test that needs a program of the given Debian package, or fails where
// all tests must run.
func missing(t *testing.T, name, debianPackage string) {
	t.Helper()
	if os.Getenv("STREAMPROX_E2E") != "" {
		t.Fatalf("%s is not installed, and STREAMPROX_E2E is set; install the package %s", name, debianPackage)
	}
	t.Skipf("needs %s, which is not installed; install the package %s", name, debianPackage)
}

// output is what a program writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// program runs a program until the test ends.
func program(t *testing.T, cmd *exec.Cmd) *output {
	t.Helper()
	written := new(output)
	cmd.Stdout, cmd.Stderr = written, written
	cmd.WaitDelay = time.Second // for children that it leaves behind
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(cmd.Path), written)
		}
	})
	return written
}

// answers waits until something listens on the address.
func answers(t *testing.T, address string) {
	t.Helper()
	eventually(t, "a server on "+address, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within %s", what, patience)
		}
	}
}
