package integration

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// TestOperationsPage runs the commands with which docs/operations.md answers what an operator
// asks, and compares what they print. With STREAMPROX_PRINT it shows what they print.
func TestOperationsPage(t *testing.T) {
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("needs sh")
	}
	source, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, page, _ := strings.Cut(string(source), "## What an operator asks\n")
	page, _, _ = strings.Cut(page, "\n## ")
	_, config, _ := strings.Cut(page, "```caddyfile\n")
	config, _, _ = strings.Cut(config, "```")

	// The page has other addresses and files than there are here.
	dir := t.TempDir()
	logged, admin := filepath.Join(dir, "streams.log"), freeport.Address(t)
	address, upstream := freeport.Address(t), backend(t, serveChat)
	here := strings.NewReplacer("127.0.0.1:8080", address, "127.0.0.1:9000", upstream, "/var/log/caddy/streams.log", logged, " new.caddyfile", " "+filepath.Join(dir, "new.caddyfile"))
	there := strings.NewReplacer(address, "127.0.0.1:8080", upstream, "127.0.0.1:9000")
	config = strings.Replace(here.Replace(config), "{\n", "{\n\tadmin "+admin+"\n\tpersist_config off\n", 1)
	changed := strings.Replace(config, "\t@chat", "\t@room http_request path /chat/room/*\nroute @room {\nrelay 127.0.0.1:9001\n}\n\t@chat", 1)
	if err := os.WriteFile(filepath.Join(dir, "new.caddyfile"), []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	startProcess(t, config)

	// What the page shows has happened, one after the other.
	chat := dial(t, address)
	_, _ = io.WriteString(chat, strings.Replace(strings.Replace(upgradeRequest, "/ws/%d", "/chat/1", 1), "Example.com", "example.com", 1))
	if _, err := io.ReadFull(chat, make([]byte, len(switched))); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/about", "/chat/room/1"} {
		conn := dial(t, address)
		_, _ = io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")
		if got, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 200") {
			t.Fatalf("%s: got %q (%v)", path, got, err)
		}
	}
	accessLog{logged}.await(t, "the chat room", func(l accessLine) bool { return l.Path == "/chat/room/1" })

	id := ""
	ran := 0
	for _, shown := range strings.Split(page, "```\n$ ")[1:] {
		shown, _, _ = strings.Cut(shown, "```")
		command, want, _ := strings.Cut(shown, "\n")
		ran++
		ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
		defer cancel()
		script := `caddy() { "$PROGRAM" "$@" --address "$ADMIN"; }; `
		cmd := exec.CommandContext(ctx, shell, "-c", script+anyID.ReplaceAllString(here.Replace(command), cmp.Or(id, "$0")))
		cmd.Env = append(os.Environ(), "PROGRAM="+buildCaddy(t), "ADMIN="+admin, "HOME="+dir)
		var out, problem bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &problem
		if err := cmd.Run(); err != nil && !strings.HasPrefix(command, "caddy streamprox replay ") {
			t.Fatalf("%s: %v %s%s", command, err, &out, &problem)
		}
		got := there.Replace(out.String())
		if os.Getenv("STREAMPROX_PRINT") != "" {
			t.Logf("$ %s\n%s", command, got)
		}
		if withoutNumbers(got) != withoutNumbers(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", command, got, want)
		}
		id = cmp.Or(id, anyID.FindString(got))
	}
	if ran != 5 {
		t.Errorf("%d commands are shown, want 5", ran)
	}
	isKilled(t, "the chat", chat)
}

// serveChat is a server with WebSockets that also answers requests.
func serveChat(conn net.Conn) {
	data := make([]byte, 4096)
	n, _ := conn.Read(data)
	if !bytes.Contains(data[:n], []byte("Upgrade: websocket")) {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nroom\n")
		return
	}
	_, _ = io.WriteString(conn, switched)
	_, _ = io.Copy(io.Discard, conn)
}

var (
	anyID    = regexp.MustCompile(`\b[0-9a-f]{16}\b`)
	anyOther = regexp.MustCompile(`127\.0\.0\.1:\d{5}|"remote_port":\d+|"(ts|duration|inspection|dial|first_byte)":[0-9.e-]+|\b[0-9.]+ (B|KiB)(/s)?|\b[0-9]+m?s\b| +`)
)

// withoutNumbers returns what is printed without what is different each time.
func withoutNumbers(text string) string {
	text = anyOther.ReplaceAllStringFunc(anyID.ReplaceAllString(text, "ID"), func(s string) string {
		name, _, isField := strings.Cut(s, `":`)
		switch {
		case isField:
			return name
		case strings.Trim(s, " ") == "":
			return " "
		}
		return "#"
	})
	return strings.TrimSpace(text)
}
