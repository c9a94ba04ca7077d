package streamprox

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// warned is a warning as the tests compare it: where, and a part of what it says.
type warned struct{ server, route, message string }

// checkWarned compares the warnings that name a fix with those wanted.
func checkWarned(t *testing.T, lines []string, want []warned) {
	t.Helper()
	var got []warned
	for _, line := range lines {
		var entry struct{ Server, Route, Msg, Fix, Handler string }
		_ = json.Unmarshal([]byte(line), &entry)
		if entry.Fix == "" || entry.Server == "" {
			t.Errorf("got warning %s, which names no server or no fix", line)
		}
		got = append(got, warned{entry.Server, entry.Route, entry.Msg + "; " + entry.Fix + "; " + entry.Handler})
	}
	same := slices.EqualFunc(got, want, func(g, w warned) bool {
		return g.server == w.server && g.route == w.route && strings.Contains(g.message, w.message)
	})
	if !same {
		t.Errorf("got warnings %q, want %q", got, want)
	}
}

// wrapperOf puts layer4 routes, and options before them, into the listener wrapper of
// the servers.
func wrapperOf(options, routes string) string {
	return "{\n servers {\n " + options + "\n listener_wrappers {\n layer4 {\n " + routes + "\n }\n }\n }\n}\n"
}

// inInspect puts options and routes into the inspect of a layer4 server, with the site that
// an http_app among them names.
func inInspect(inspect string) string {
	config := inRoute("inspect {\n" + inspect + "\n}")
	if strings.Contains(inspect, "http_app web") {
		config += siteWeb
	}
	return config
}

// inInspectRoute puts handlers into the route of such an inspect.
func inInspectRoute(handlers string) string { return inInspect("route {\n" + handlers + "\n}") }

// inLayer4 puts routes into a layer4 server.
func inLayer4(routes string) string { return "{\n layer4 {\n :8080 {\n" + routes + "\n}\n}\n}\n" }

// Sites: on the virtual network, and beside it.
const (
	siteWeb   = "http://:80 {\n bind streamprox/web\n respond hello\n}\n"
	siteAPI   = "http://:80 {\n bind streamprox/api\n respond hello\n}\n"
	siteOuter = "http://:8080 {\n respond outer\n}\n"
)

// rewriteHost is a rewrite_head.
const rewriteHost = "rewrite_head {\n host a\n}\n"

// checkCase is a configuration and the warnings that it loads with.
type checkCase struct {
	name, config string
	want         []warned
}

// runCheckCases loads the configurations.
func runCheckCases(t *testing.T, tests []checkCase) {
	t.Helper()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			warnings, err := loadCaddyfile(t, test.config)
			checkError(t, err, "")
			checkWarned(t, warnings, test.want)
		})
	}
}

// oneWarning is the only warning, about a route.
func oneWarning(route, message string) []warned { return []warned{{"srv0", route, message}} }

// TestExamplesLoadWithoutWarnings checks that what the examples do is what is advised.
func TestExamplesLoadWithoutWarnings(t *testing.T) {
	var files []string
	for _, pattern := range []string{"examples/*/*.caddyfile", "examples/*/Caddyfile"} {
		found, _ := filepath.Glob(pattern)
		files = append(files, found...)
	}
	if len(files) < 15 {
		t.Fatalf("found only %q", files)
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			config := string(raw)
			var want []warned
			switch filepath.Base(filepath.Dir(file)) {
			case "protocol":
				t.Skip("it has a handler of its own")
			case "existing-sites":
				sites, err := os.ReadFile(filepath.Join(filepath.Dir(file), "sites.conf"))
				if err != nil {
					t.Fatal(err)
				}
				config = strings.Replace(config, "import sites.conf", string(sites), 1)
			case "everything": // its site is to have HTTP/2
				want = []warned{{"srv0", "0/inspect/1", "a connection of HTTP/2 carries many requests"}}
			}
			warnings, err := loadCaddyfile(t, config)
			checkError(t, err, "")
			checkWarned(t, warnings, want)
		})
	}
}

// TestChecksRunOnce checks that each configuration is looked at once, again when it is
// loaded again, and that nothing is kept of it.
func TestChecksRunOnce(t *testing.T) {
	config := inRoute("inspect {\nroute {\nproxy 10.0.0.5:80\n}\n}\ninspect {\n@a ssh\nroute @a {\nrelay 10.0.0.5:80\n}\n}")
	for range 2 {
		warnings, err := loadCaddyfile(t, config)
		checkError(t, err, "")
		checkWarned(t, warnings, []warned{{"srv0", "0/inspect/0", "the handler keeps the connection"}})
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		kept := 0
		checked.Range(func(any, any) bool { kept++; return true })
		if kept == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d configurations are kept", kept)
		}
	}
}
