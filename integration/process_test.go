package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// builtCaddy is the directory of the command that buildCaddy has built, if it has.
var builtCaddy string

var caddyCommand = sync.OnceValues(func() (string, error) {
	var err error
	if builtCaddy, err = os.MkdirTemp("", "streamprox-caddy-"); err != nil {
		return "", err
	}
	path := filepath.Join(builtCaddy, "caddy")
	cmd := exec.Command("go", "build", "-tags", "nobadger,nomysql,nopgx", "-o", path, "../cmd/caddy")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

// buildCaddy returns the path of a caddy command built from this checkout, once for all tests.
func buildCaddy(t *testing.T) string {
	t.Helper()
	path, err := caddyCommand()
	if err != nil {
		t.Fatalf("building caddy: %v", err)
	}
	return path
}

// process is a Caddy in a process of its own, which ends with its test.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	output logBuffer
	exited chan struct{} // closed when it has exited, with err
	err    error
}

// startProcess runs Caddy with a Caddyfile, which leaves its log to go to stderr at level info
// or debug. env are further variables.
//
// It returns when the whole configuration runs. Servers accept before that, one after the
// other, and Caddy that is told to stop meanwhile starts all of them first.
func startProcess(t *testing.T, caddyfile string, env ...string) *process {
	t.Helper()
	return startLimited(t, 0, caddyfile, env...)
}

// startLimited is startProcess with so many descriptors, unless limit is 0.
func startLimited(t *testing.T, limit int, caddyfile string, env ...string) *process {
	t.Helper()
	program, home := buildCaddy(t), t.TempDir()
	config := filepath.Join(home, "Caddyfile")
	if err := os.WriteFile(config, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{program, "run", "--config", config, "--adapter", "caddyfile"}
	if limit > 0 {
		args = append([]string{"sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, limit)}, args...)
	}
	p := &process{t: t, cmd: exec.Command(args[0], args[1:]...), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "HOME="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home, "GOTRACEBACK=all")
	p.cmd.Env = append(p.cmd.Env, env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(p.end)
	eventually(t, "start of Caddy", func() bool {
		if p.hasExited() {
			t.Fatalf("caddy exited with %v", p.err)
		}
		return strings.Contains(p.output.String(), `"msg":"serving initial configuration"`)
	})
	return p
}

// end ends the process. If the test has failed, its goroutines say what it waits for.
func (p *process) end() {
	if p.t.Failed() && runtime.GOOS != "windows" {
		_ = p.cmd.Process.Signal(syscall.SIGABRT) // Caddy has SIGQUIT for itself
		select {
		case <-p.exited:
		case <-time.After(patience):
		}
	}
	_ = p.cmd.Process.Kill()
	<-p.exited
	if p.t.Failed() {
		p.t.Logf("caddy:\n%s", p.output.String())
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop tells the process to stop.
func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
}

// stopsHere skips a test where a process cannot be told to stop.
func stopsHere(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs SIGTERM, which Windows does not have")
	}
}

// hasExited reports whether the process has exited.
func (p *process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// exits waits until the process has exited, and reports that it could not stop as it should.
func (p *process) exits() {
	p.t.Helper()
	select {
	case <-p.exited:
		if p.err != nil {
			p.t.Errorf("caddy exited with %v", p.err)
		}
	case <-time.After(3 * patience / 2):
		p.t.Error("caddy does not exit")
	}
}

// cleanCaddy removes what buildCaddy has built.
func cleanCaddy() error {
	if builtCaddy == "" {
		return nil
	}
	return os.RemoveAll(builtCaddy)
}
