package docs

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestCommands runs the commands that a page shows after a configuration, and compares
// what they print.
func TestCommands(t *testing.T) {
	curl := tool(t, "curl", "curl")
	compared := 0
	for _, b := range allBlocks(t) {
		if !slices.ContainsFunc(b.output, func(shown string) bool { return strings.HasPrefix(shown, "$ ") }) {
			continue
		}
		if b.key == "operations.md#what-an-operator-asks" {
			continue // TestOperationsPage of integration runs them
		}
		t.Run(b.key, func(t *testing.T) {
			check := func(r *running, b *block) error {
				n, err := r.commands(b.output, curl)
				compared += n
				return err
			}
			if err := b.run(claim{of: b.key, check: check}, b, t.TempDir()); err != nil {
				t.Errorf("%s: %v", b.place, err)
			}
		})
	}
	if compared == 0 {
		t.Error("no command is shown with what it prints")
	}
}

// replays says that a command of a page is run by TestReplayPage of the module.
const replays = "caddy streamprox replay "

// commands runs the commands that a page shows, and says how many printed what it shows.
func (r *running) commands(output []string, curl string) (compared int, err error) {
	for _, shown := range output {
		for session := range strings.SplitSeq("\n"+shown, "\n$ ") {
			command, want, _ := strings.Cut(session, "\n")
			arguments, isCurl := strings.CutPrefix(command, "curl ")
			switch {
			case !strings.HasPrefix(shown, "$ "), command == "", command == "./caddy run --config Caddyfile", strings.Contains(command, explains), strings.HasPrefix(command, replays):
				continue
			case !isCurl && want == "": // the claims say what comes of it
				continue
			case !isCurl:
				return compared, fmt.Errorf("nobody has run %q", command)
			}
			got, err := r.curl(curl, arguments)
			if err != nil {
				return compared, fmt.Errorf("%s: %w", command, err)
			}
			begin, isCut := strings.CutSuffix(want, "...\n")
			if isCut && !strings.HasPrefix(got, begin) || !isCut && strings.TrimSuffix(got, "\n") != strings.TrimSuffix(want, "\n") {
				return compared, fmt.Errorf("%s: got\n%s\nwant\n%s", command, got, want)
			}
			compared++
		}
	}
	return compared, nil
}

// curl runs curl, which connects to where the ports of the page are here.
func (r *running) curl(path, arguments string) (string, error) {
	args := []string{"--silent", "--max-time", fmt.Sprint(patience.Seconds())}
	for port, here := range r.ports {
		args = append(args, "--connect-to", ":"+port+":127.0.0.1:"+here)
	}
	for argument := range strings.FieldsSeq(arguments) {
		args = append(args, strings.Trim(argument, "'"))
	}
	got, err := exec.Command(path, args...).Output()
	return strings.ReplaceAll(string(got), "\r\n", "\n"), err
}

// TestPrinted tests what start-here.md shows as printed without a configuration that runs.
func TestPrinted(t *testing.T) {
	blocks, err := blocksOf("start-here.md")
	if err != nil {
		t.Fatal(err)
	}
	words := func(text string) string { return strings.Join(strings.Fields(text), " ") }
	shown := false
	for _, b := range blocks {
		for _, output := range b.output {
			if !strings.Contains(output, "both listen on") {
				continue
			}
			shown = true
			unbound, err := b.with([]string{"\tbind streamprox/web\n", ""})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := unbound.load(); err == nil || !strings.Contains(words(err.Error()), words(output)) {
				t.Errorf("got error %v, want %s", err, output)
			}
		}
	}
	if !shown {
		t.Error("the page does not show the error")
	}

	source, err := os.ReadFile("start-here.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := regexp.MustCompile("(?s)caddy list-modules \\| grep -E '([^']+)'\n```\n\n```\n(.*?)```").FindStringSubmatch(string(source))
	if listed == nil {
		t.Fatal("the page does not list modules")
	}
	var got strings.Builder
	for _, module := range caddy.Modules() {
		if regexp.MustCompile(listed[1]).MatchString(module) {
			fmt.Fprintln(&got, module)
		}
	}
	if got.String() != listed[2] {
		t.Errorf("modules: got\n%swant\n%s", &got, listed[2])
	}
}

// TestSocketCommands tests that ss understands the commands of the pages.
func TestSocketCommands(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("ss is a program of Linux")
	}
	ss, found := tool(t, "ss", "iproute2"), 0
	for _, path := range pages(t) {
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range regexp.MustCompile("(?:\n|`)ss (-[a-z]+)(?: '([^']+)')?").FindAllStringSubmatch(string(source), -1) {
			found++
			args := command[1:2] // the filter is a second argument, if there is one
			if command[2] != "" {
				args = command[1:]
			}
			if out, err := exec.Command(ss, args...).CombinedOutput(); err != nil {
				t.Errorf("%s: %s: %v: %s", path, strings.TrimLeft(command[0], "`\n"), err, out)
			}
		}
	}
	if found == 0 {
		t.Error("no command")
	}
}

// TestWrapperAddresses tests the table of sites and of the addresses that their wrappers
// need.
func TestWrapperAddresses(t *testing.T) {
	source, err := os.ReadFile("troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(source), "| site | wrapper |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	adapted := func(site, bind, wrapper string) bool {
		t.Helper()
		b := &block{language: "caddyfile", text: fmt.Sprintf(`{
	%s {
		protocols h1
		listener_wrappers {
			layer4 {
				route {
					inspect {
						route {
							http_app
						}
					}
				}
			}
		}
	}
}

%s {
	%s
	respond "the site"
}
`, wrapper, site, bind)}
		config, err := b.config()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(config), "listener_wrappers")
	}
	row := regexp.MustCompile("^\\| (?:`([^`]+)`|…)(?: with `(bind [^`]+)`)? \\| `(servers [^`]+)` \\|$")
	var site string
	rows := 0
	for line := range strings.SplitSeq(table, "\n") {
		found := row.FindStringSubmatch(line)
		if found == nil {
			t.Fatalf("another row: %s", line)
		}
		if found[1] != "" {
			site = found[1]
		}
		bind := found[2]
		if bind == "" {
			bind = "log"
		}
		if !adapted(site, bind, found[3]) {
			t.Errorf("%s: the wrapper is not applied", line)
		}
		if adapted(site, bind, found[3]+"0") {
			t.Errorf("%s: a wrapper for another port is applied", line)
		}
		rows++
	}
	if rows == 0 {
		t.Error("no rows")
	}
}

// tool returns the path of a program. Without it the test is skipped, but not where all
// tests must run.
func tool(t *testing.T, name, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("STREAMPROX_E2E") != "" {
		t.Fatalf("%s is not installed, and STREAMPROX_E2E is set; install the package %s", name, debianPackage)
	}
	t.Skipf("needs %s, which is not installed; install the package %s", name, debianPackage)
	return ""
}
