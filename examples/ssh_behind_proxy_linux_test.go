package examples

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// TestSSHBehindProxy has a client with an address of loopback. It needs no route, and
// also runs in a container.
func TestSSHBehindProxy(t *testing.T) {
	mmproxy, regex := tool(t, "go-mmproxy", "go-mmproxy"), tool(t, "fail2ban-regex", "fail2ban")
	transparent(t)
	server, port, mmport := startSSH(t), freeport.Get(t), freeport.Get(t)
	program(t, exec.Command(mmproxy, "-v", "1", "-l", "127.0.0.1:"+mmport, "-4", "127.0.0.1:"+server.port))
	answers(t, "127.0.0.1:"+mmport)
	t.Setenv("PORT", port)
	t.Setenv("MMPROXY_PORT", mmport)
	run(t, "ssh-behind-proxy/Caddyfile")

	// go-mmproxy takes the client's port too. Only a client of this machine has it still,
	// so both have to permit that.
	dialer := net.Dialer{
		Timeout:   patience,
		LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 7)},
		Control: func(_, _ string, conn syscall.RawConn) (err error) {
			_ = conn.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
			})
			return err
		},
	}
	conn, err := dialer.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _, _, err = ssh.NewClientConn(conn, "sshd", &ssh.ClientConfig{
		User:            "nosuch",
		Auth:            []ssh.AuthMethod{ssh.Password("wrong")},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err == nil || !strings.Contains(err.Error(), "unable to authenticate") {
		t.Fatalf("got %v, want a refusal", err)
	}
	failed := fmt.Sprintf("Failed password for invalid user nosuch from 127.0.0.7 port %d ", conn.LocalAddr().(*net.TCPAddr).Port)
	eventually(t, "line in sshd's log: "+failed, func() bool { return strings.Contains(server.log.String(), failed) })

	log := &syslog{from: server.log, file: filepath.Join(t.TempDir(), "auth.log")}
	log.write(t)
	out, err := exec.Command(regex, "--out", "ip", log.file, "sshd").CombinedOutput()
	banned := slices.Compact(strings.Fields(string(out)))
	if want := []string{"127.0.0.7"}; err != nil || !slices.Equal(banned, want) {
		t.Errorf("fail2ban would ban %q (%v), want %q", banned, err, want)
	}
}

// inNetwork is set in the process that TestSSHBehindProxyNetwork begins.
const inNetwork = "STREAMPROX_TEST_IN_NETWORK"

// TestSSHBehindProxyNetwork has clients with addresses of their own, behind a link, on
// a machine with the routes of the unit, and fail2ban on it. All of it runs in a network
// that nobody else sees, and with the ports of the files.
func TestSSHBehindProxyNetwork(t *testing.T) {
	if os.Getenv(inNetwork) != "" {
		testSSHNetwork(t)
		return
	}
	tool(t, "curl", "curl")
	tool(t, "fail2ban-server", "fail2ban")
	tool(t, "go-mmproxy", "go-mmproxy")
	tool(t, "ip", "iproute2")
	tool(t, "nft", "nftables")
	tool(t, "ssh", "openssh-client")
	tool(t, "sshd", "openssh-server")
	apart := []string{"--net", "--pid", "--fork", "--kill-child", "--mount-proc"}
	if out, err := exec.Command("unshare", append(apart, "true")...).CombinedOutput(); err != nil {
		t.Skipf("needs a network of its own, which this user may not make (%v: %s)", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", append(apart, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")...)
	cmd.Env = append(os.Environ(), inNetwork+"=1", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("%v\n%s", err, out)
	}
}

func testSSHNetwork(t *testing.T) {
	// The clients' side of the link belongs to a network that lasts as long as this process.
	clients := exec.Command("sleep", "3600")
	clients.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	program(t, clients)
	there := fmt.Sprint(clients.Process.Pid)
	atClients := func(command ...string) *exec.Cmd {
		return exec.Command("nsenter", append([]string{"--net", "--target", there}, command...)...)
	}
	command(t, exec.Command("ip", "link", "set", "lo", "up"))
	command(t, exec.Command("ip", "link", "add", "clients", "type", "veth", "peer", "name", "server", "netns", there))
	command(t, exec.Command("ip", "addr", "add", "203.0.113.1/24", "dev", "clients"))
	command(t, exec.Command("ip", "link", "set", "clients", "up"))
	command(t, atClients("ip", "addr", "add", "203.0.113.7/24", "dev", "server"))
	command(t, atClients("ip", "addr", "add", "203.0.113.8/24", "dev", "server"))
	command(t, atClients("ip", "link", "set", "server", "up"))
	addresses := map[string]string{"203.0.113.7": "203.0.113.1"} // a client's, and the server's
	if _, err := os.Stat("/proc/net/if_inet6"); err == nil {
		command(t, exec.Command("ip", "addr", "add", "2001:db8::1/64", "dev", "clients", "nodad"))
		command(t, atClients("ip", "addr", "add", "2001:db8::7/64", "dev", "server", "nodad"))
		addresses["2001:db8::7"] = "2001:db8::1"
	}

	startUnit(t, "ssh-behind-proxy/sshd-mmproxy.service")
	answers(t, "127.0.0.1:2222")
	server := startSSHOn(t, "22")
	run(t, "ssh-behind-proxy/Caddyfile")
	askpass := filepath.Join(server.dir, "askpass")
	if err := os.WriteFile(askpass, []byte("#!/bin/sh\necho wrong\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	// logIn says as whom sshd sees the client.
	logIn := func(from, to, user string, options ...string) (client string, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, "nsenter", slices.Concat([]string{"--net", "--target", there,
			"ssh", "-F", "none", "-p", "8080", "-b", from, "-i", filepath.Join(server.dir, "user"), "-o", "ConnectTimeout=20",
			"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=" + filepath.Join(server.dir, "known")},
			options, []string{user + "@" + to, "echo $SSH_CLIENT"})...)
		cmd.Env = append(os.Environ(), "SSH_ASKPASS="+askpass, "SSH_ASKPASS_REQUIRE=force")
		out, err := cmd.Output()
		client, _, _ = strings.Cut(string(out), " ")
		return client, err
	}
	for from, to := range addresses {
		if got, err := logIn(from, to, "root"); err != nil || got != from {
			t.Errorf("from %s: sshd sees %q (%v)", from, got, err)
		}
	}

	log := &syslog{from: server.log, file: filepath.Join(server.dir, "auth.log")}
	log.write(t)
	bans := startFail2ban(t, log.file)
	for range 2 {
		_, err := logIn("203.0.113.8", "203.0.113.1", "nosuch", "-o", "PreferredAuthentications=password", "-o", "NumberOfPasswordPrompts=1")
		if err == nil {
			t.Fatal("logged in with a wrong password")
		}
	}
	eventually(t, "ban of the client", func() bool {
		log.write(t)
		return strings.Contains(command(t, exec.Command("nft", "list", "ruleset")), "{ 203.0.113.8 }")
	})
	if _, err := logIn("203.0.113.8", "203.0.113.1", "root"); err == nil {
		t.Error("logged in from a banned address")
	}
	if got, err := logIn("203.0.113.7", "203.0.113.1", "root"); err != nil || got != "203.0.113.7" {
		t.Errorf("another client, after the ban: sshd sees %q (%v)", got, err)
	}
	if n := strings.Count(bans.String(), "] Ban "); n != 1 {
		t.Errorf("%d bans, want 1", n)
	}
	// The ban is one of sshd's port.
	got, err := atClients("curl", "-sS", "--max-time", "20", "--interface", "203.0.113.8", "http://203.0.113.1:8080/").Output()
	if want := "The site. Your address is 203.0.113.8.\n"; err != nil || string(got) != want {
		t.Errorf("the site, after the ban: got %q, %v, want %q", got, err, want)
	}
}

// startUnit does what systemd does with a unit, until the test ends: the commands before
// and after it as root, the program as nobody with the capability that the unit names.
func startUnit(t *testing.T, file string) {
	t.Helper()
	unit, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	commands := make(map[string][][]string)
	for _, line := range regexp.MustCompile(`(?m)^(ExecStart|ExecStartPre|ExecStopPost|AmbientCapabilities)=[-+]*(.+)$`).FindAllStringSubmatch(string(unit), -1) {
		commands[line[1]] = append(commands[line[1]], strings.Fields(line[2]))
	}
	if len(commands["ExecStart"]) != 1 || len(commands["AmbientCapabilities"]) != 1 {
		t.Fatalf("%s: no program, or no capability", file)
	}
	before := routing(t)
	for _, args := range commands["ExecStartPre"] {
		command(t, exec.Command(args[0], args[1:]...))
	}
	t.Cleanup(func() {
		for _, args := range commands["ExecStopPost"] {
			command(t, exec.Command(args[0], args[1:]...))
		}
		if after := routing(t); after != before {
			t.Errorf("the routes at the end:\n%s\nbefore:\n%s", after, before)
		}
	})
	capability := strings.ToLower(strings.TrimPrefix(commands["AmbientCapabilities"][0][0], "CAP_"))
	program(t, exec.Command("setpriv", append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs",
		"--inh-caps=-all,+" + capability, "--ambient-caps=-all,+" + capability, "--bounding-set=-all,+" + capability},
		commands["ExecStart"][0]...)...))
}

// routing returns the rules, which name the tables in use.
func routing(t *testing.T) string {
	t.Helper()
	return command(t, exec.Command("ip", "-4", "rule")) + command(t, exec.Command("ip", "-6", "rule"))
}

// startFail2ban runs fail2ban with the configuration of its package, until the test
// ends. Its jail for sshd bans at the second failure in the file.
func startFail2ban(t *testing.T, file string) *output {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"action.d", "fail2ban.conf", "filter.d", "jail.conf", "paths-common.conf", "paths-debian.conf"} {
		if err := os.Symlink(filepath.Join("/etc/fail2ban", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"fail2ban.local": fmt.Sprintf("[DEFAULT]\nlogtarget = STDOUT\ndbfile = None\nsocket = %[1]s/socket\npidfile = %[1]s/pid\n", dir),
		"jail.local":     fmt.Sprintf("[DEFAULT]\nbanaction = nftables\n\n[sshd]\nenabled = true\nbackend = polling\nlogpath = %s\nmaxretry = 2\n", file),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	written := program(t, exec.Command(tool(t, "fail2ban-server", "fail2ban"), "-c", dir, "-f", "start"))
	eventually(t, "jail", func() bool { return strings.Contains(written.String(), "Jail 'sshd' started") })
	return written
}

// syslog writes what a program has said to a file, as a syslog daemon does.
type syslog struct {
	from    *output
	file    string
	written int // bytes
}

// write writes the lines that are new.
func (s *syslog) write(t *testing.T) {
	t.Helper()
	text := s.from.String()
	lines := text[s.written : strings.LastIndexByte(text, '\n')+1]
	s.written += len(lines)
	file, err := os.OpenFile(s.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for line := range strings.Lines(lines) {
		fmt.Fprintf(file, "%s host sshd[100]: %s\n", time.Now().Format(time.Stamp), strings.TrimSpace(line))
	}
}

// transparent skips a test where this process may not connect from addresses that are
// not the machine's.
func transparent(t *testing.T) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.SetsockoptInt(fd, syscall.SOL_IP, syscall.IP_TRANSPARENT, 1); err != nil {
		t.Skipf("needs the capability CAP_NET_RAW: %v", err)
	}
}

// command runs a command that has to succeed, and returns what it writes.
func command(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}
