// Package docs tests the documentation: each configuration in it runs and does what its
// page says, and each link leads somewhere.
package docs

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/mholt/caddy-l4"

	_ "github.com/streamprox/caddy-streamprox"
)

// A block of configuration is a whole one, or a fragment whose first word says where it
// belongs. A comment on the lines before a block changes what is expected of it:
//
//	<!-- not run: <reason> -->  it is only looked at
//	<!-- error: <text> -->      loading it fails, and the error holds the text
//	<!-- warning: <text> -->    loading it logs a warning that holds the text
//	<!-- in: relay -->          it holds options of that handler; of a site: 'site'
//	<!-- in: tls -->            a handler before inspect, which ends TLS
//	<!-- adapted -->            JSON that the Caddyfile block before it becomes
//
// Every other block runs, and claims says what comes of that.
var marker = regexp.MustCompile(`^<!-- (?:(not run|error|warning|in): (.+)|(adapted)) -->$`)

// block is a fenced block of a Markdown file.
type block struct {
	place    string // file:line
	key      string // file#heading, and its number if others are before it under that heading
	language string // caddyfile or json
	text     string
	marks    map[string]string // by their first words
	before   *block            // the Caddyfile block before it in its file, or nil
	output   []string          // what is shown after it: commands, and what is printed
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "streamprox" {
		caddycmd.Main() // as which TestExplainPage runs this program
		return
	}
	dir, err := os.MkdirTemp("", "streamprox-docs-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv("XDG_CONFIG_HOME", dir)
	os.Setenv("XDG_DATA_HOME", dir)
	caddy.DefaultStorage.Path = caddy.AppDataDir()
	net.DefaultResolver = stubResolver
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func TestConfigurations(t *testing.T) {
	blocks := allBlocks(t)
	byKey := make(map[string]*block)
	for _, b := range blocks {
		if byKey[b.key] != nil {
			t.Errorf("two blocks are %s", b.key)
		}
		byKey[b.key] = b
	}
	for _, b := range blocks {
		t.Run(b.key, func(t *testing.T) {
			if err := b.check(); err != nil {
				t.Fatalf("%s: %v", b.place, err)
			}
			if !b.runs() {
				return
			}
			for _, c := range claimsOf(b.key) {
				running := b
				if c.on != "" {
					if running = byKey[c.on]; running == nil {
						t.Fatalf("no block %s", c.on)
					}
				}
				if err := running.run(c, b, t.TempDir()); errors.Is(err, errCaddyRaces) {
					t.Skip(err)
				} else if err != nil {
					t.Errorf("%s: claim %q %q %q: %v", b.place, c.change, c.down, c.on, err)
				}
			}
		})
	}
	for _, c := range claims {
		if b := byKey[c.of]; b == nil || !b.runs() {
			t.Errorf("a claim of %s, where no block runs", c.of)
		}
	}
}

// allBlocks returns the blocks of all pages.
func allBlocks(t *testing.T) (blocks []*block) {
	t.Helper()
	for _, path := range pages(t) {
		found, err := blocksOf(path)
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, found...)
	}
	return blocks
}

// runs reports whether the block is run. One that is adapted runs as the block before it.
func (b *block) runs() bool {
	_, adapted := b.marks["adapted"]
	return b.marks["not run"] == "" && b.marks["error"] == "" && !adapted
}

// pages returns the paths of README.md and of all pages in this folder.
func pages(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("*.md")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	return append(paths, "../README.md")
}

// blocksOf returns the blocks of configuration in a Markdown file, and an error if there
// is one that would be overlooked.
func blocksOf(path string) ([]*block, error) {
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseBlocks(filepath.Base(path), string(source))
}

func parseBlocks(name, source string) (blocks []*block, err error) {
	var open, before, last *block
	marks := make(map[string]string)
	fence := "" // the language of a fence that is open
	under, count := name, 0
	output := ""
	for i, line := range strings.Split(source, "\n") {
		place := fmt.Sprintf("%s:%d", name, i+1)
		language, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		if title, isHeading := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); isHeading && fence == "" && line[0] == '#' {
			under, count, last = name+"#"+anchor(title), 0, nil
		}
		switch {
		case fence != "" && isFence:
			if open != nil {
				blocks = append(blocks, open)
				last = open
				if open.language == "caddyfile" {
					before = open
				}
			} else if fence == "other " && last != nil {
				last.output = append(last.output, output)
			}
			open, fence, output = nil, "", ""
		case open != nil:
			open.text += line + "\n"
		case fence != "":
			output += line + "\n"
		case isFence:
			fence = "other " + language
			if language == "caddyfile" || language == "json" {
				if !strings.HasPrefix(line, "```") {
					return blocks, fmt.Errorf("%s: a block of configuration is indented", place)
				}
				count++
				key := under
				if count > 1 {
					key = fmt.Sprint(under, " ", count)
				}
				open = &block{place: place, key: key, language: language, marks: marks, before: before}
				marks = make(map[string]string)
			}
		case strings.HasPrefix(line, "<!--"):
			found := marker.FindStringSubmatch(line)
			if found == nil {
				return blocks, fmt.Errorf("%s: unknown comment %q", place, line)
			}
			marks[found[1]+found[3]] = found[2]
		case line != "" && len(marks) > 0:
			return blocks, fmt.Errorf("%s: no block follows the comment before", place)
		}
	}
	if fence != "" || len(marks) > 0 {
		return blocks, fmt.Errorf("%s: a fence or a comment at the end", name)
	}
	return blocks, nil
}

// check says what is wrong with the block.
func (b *block) check() error {
	if b.marks["not run"] != "" {
		return nil
	}
	if b.language == "caddyfile" {
		if got := caddyfile.Format([]byte(b.text)); string(got) != b.text {
			return fmt.Errorf("not formatted; 'caddy fmt' writes\n%s", got)
		}
	}
	if _, adapted := b.marks["adapted"]; adapted {
		if err := b.isAdapted(); err != nil {
			return err
		}
	}
	warnings, err := b.load()
	if want := b.marks["error"]; want != "" {
		if err == nil || !strings.Contains(err.Error(), want) {
			return fmt.Errorf("got error %v, want one that holds %q", err, want)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if want := b.marks["warning"]; want != "" {
		if !strings.Contains(warnings, want) {
			return fmt.Errorf("got warnings %q, want one that holds %q", warnings, want)
		}
		return nil
	}
	if warnings != "" && b.isWhole() {
		return fmt.Errorf("loading warns:\n%s", warnings)
	}
	return nil
}

// load adapts and validates the block, in a whole configuration. It returns the warnings
// of layer4 and its modules, a line each.
func (b *block) load() (warnings string, err error) {
	fields, err := b.fields()
	if err != nil {
		return "", err
	}
	fields["admin"] = noAdmin
	log, logged := newLog("WARN")
	fields["logging"] = map[string]any{"logs": map[string]any{"default": log}}
	raw, err := json.Marshal(fields)
	if err != nil {
		return "", err
	}
	config := new(caddy.Config)
	if err := caddy.StrictUnmarshalJSON(raw, config); err != nil {
		return "", err
	}
	if err := caddy.Validate(config); err != nil {
		return "", err
	}
	for line := range strings.Lines(logged.String()) {
		if strings.Contains(line, "layer4") {
			warnings += line
		}
	}
	return warnings, nil
}

// isWhole reports whether the block is a configuration of its own.
func (b *block) isWhole() bool {
	if b.language == "json" {
		return strings.Contains(b.text, `"apps"`)
	}
	return b.wrapping() == ""
}

// wrapping returns what a fragment of a Caddyfile is a part of: "route", "inspect",
// "site" or the name of a handler with options. It is "" of a whole Caddyfile.
func (b *block) wrapping() string {
	if in := b.marks["in"]; in != "" {
		return in
	}
	var word string
	for line := range strings.Lines(b.text) {
		if fields := strings.Fields(line); len(fields) > 0 && !strings.HasPrefix(fields[0], "#") {
			word = fields[0]
			break
		}
	}
	if strings.HasPrefix(word, "@") || word == "route" {
		return "inspect"
	}
	if _, err := caddy.GetModule("layer4.handlers." + word); err == nil {
		return "route"
	}
	return ""
}

// wraps are Caddyfiles around fragments.
var wraps = map[string]string{
	"":        "%s",
	"route":   "{\nlayer4 {\n:80 {\nroute {\ninspect {\nroute {\n%s}\n}\n}\n}\n}\n}\n",
	"server":  "{\nlayer4 {\n:80 {\nroute {\n%s}\n}\n}\n}\n",
	"inspect": "{\nlayer4 {\n:80 {\nroute {\ninspect {\n%s}\n}\n}\n}\n}\n",
	"tls":     "{\nlayer4 {\n:443 {\nroute {\n%sinspect {\nroute {\nhttp_app web\n}\n}\n}\n}\n}\n}\nhttps://example.com {\nbind streamprox/certificates\n}\n",
	"relay":   "{\nlayer4 {\n:80 {\nroute {\ninspect {\nroute {\nrelay 10.0.0.5:9000 {\n%s}\n}\n}\n}\n}\n}\n}\n",
	"options": "{\n%s}\n",
	"site":    "http://127.0.0.1:42002 {\n%s}\n",
}

// site is what a fragment's http_app leads to.
const site = "\nhttp://:%s {\nbind streamprox/web\nrespond \"the site\"\n}\n"

// config returns the block as the JSON of a whole configuration.
func (b *block) config() ([]byte, error) {
	if b.language == "json" {
		return b.wholeJSON()
	}
	in := b.wrapping()
	if b.isBare("inspect") {
		in = "server"
	}
	wrap, ok := wraps[in]
	if !ok {
		return nil, fmt.Errorf("unknown place %q", in)
	}
	text := b.text
	switch {
	case in == "inspect":
		text += unusedMatchers(text)
	case b.isBare("rewrite_head"):
		text += "relay 10.0.0.5:9000\n"
	}
	source := fmt.Sprintf(wrap, text)
	if found := toSite.FindStringSubmatch(source); found != nil && !b.isWhole() {
		source += fmt.Sprintf(site, cmp.Or(found[1], "80"))
	}
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(source), map[string]any{"filename": b.place})
	if err != nil {
		return nil, fmt.Errorf("adapting: %w", err)
	}
	for _, warning := range warnings {
		if b.isWhole() {
			return nil, fmt.Errorf("adapting: warning: %s", warning)
		}
	}
	return config, nil
}

var (
	matcherName = regexp.MustCompile(`(?m)^(@\S+)`)
	routeNames  = regexp.MustCompile(`(?m)^route (@.*) \{`)
	toSite      = regexp.MustCompile(`http_app web(?::(\d+))?`)
)

// unusedMatchers returns a route with the matchers of a fragment that none of its routes
// uses: the adapter would leave them out.
func unusedMatchers(text string) (route string) {
	var used []string
	for _, found := range routeNames.FindAllStringSubmatch(text, -1) {
		used = append(used, strings.Fields(found[1])...)
	}
	for _, name := range matcherName.FindAllString(text, -1) {
		if !slices.Contains(used, name) {
			route += fmt.Sprintf("route %s {\nhttp_respond 200 %s\n}\n", name, name)
		}
	}
	return route
}

// isBare reports whether the block is a handler of that name and nothing around it.
func (b *block) isBare(name string) bool {
	return b.language == "caddyfile" && b.marks["in"] == "" && strings.HasPrefix(b.text, name)
}

// wholeJSON returns the block as a whole configuration. A fragment is a handler, a route
// of inspect, a matcher set, a policy of relay, a log or a storage.
func (b *block) wholeJSON() ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(b.text), &fields); err != nil {
		return nil, err
	}
	text := b.text
	switch {
	case fields["apps"] != nil:
		return []byte(text), nil
	case fields["module"] != nil:
		return []byte(`{"storage":` + text + `}`), nil
	case fields["writer"] != nil:
		return []byte(`{"logging":{"logs":{"log":` + text + `}}}`), nil
	case fields["policy"] != nil:
		text = `{"handler":"relay","upstreams":[{"dial":["127.0.0.1:42001"]}],"load_balancing":{"selection":` + text + `}}`
		fallthrough
	case fields["handler"] != nil && string(fields["handler"]) != `"inspect"`:
		text = `{"handle":[` + text + `]}`
		fallthrough
	case fields["match"] != nil, fields["handle"] != nil:
		text = `{"handler":"inspect","routes":[` + text + `]}`
	case fields["handler"] != nil:
	default:
		text = `{"handler":"inspect","routes":[{"match":[` + text + `]}]}`
	}
	return []byte(`{"apps":{"layer4":{"servers":{"srv0":{"listen":["127.0.0.1:42000"],"routes":[{"handle":[` + text + `]}]}}}}}`), nil
}

// isAdapted says how the JSON differs from what the Caddyfile block before it becomes.
func (b *block) isAdapted() error {
	if b.before == nil {
		return fmt.Errorf("no Caddyfile block is before it")
	}
	raw, err := b.before.config()
	if err != nil {
		return err
	}
	var whole, want any
	if err := json.Unmarshal(raw, &whole); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(b.text), &want); err != nil {
		return err
	}
	if !holds(whole, want) {
		var indented bytes.Buffer
		_ = json.Indent(&indented, raw, "", "\t")
		return fmt.Errorf("it is not what the Caddyfile at %s becomes:\n%s", b.before.place, &indented)
	}
	return nil
}

// holds reports whether a value is another one, or holds it at any depth.
func holds(value, part any) bool {
	if reflect.DeepEqual(value, part) {
		return true
	}
	switch value := value.(type) {
	case map[string]any:
		for _, v := range value {
			if holds(v, part) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(value, func(v any) bool { return holds(v, part) })
	}
	return false
}

// TestWrongBlocks tests that a block that is wrong is found.
func TestWrongBlocks(t *testing.T) {
	const fence = "```"
	page := func(language, text string) string { return fence + language + "\n" + text + fence + "\n" }
	for _, test := range []struct{ name, source, want string }{
		{"unknown directive", page("caddyfile", "http://:42000 {\n\tno_such\n}\n"), "unrecognized directive"},
		{"unknown option", page("caddyfile", "relay 127.0.0.1:1 {\n\tno_such\n}\n"), "no_such"},
		{"unknown matcher", page("caddyfile", "@a no_such\nroute @a {\n\tclose\n}\n"), "no_such"},
		{"unknown option of a matcher without a route", page("caddyfile", "@a http_request {\n\tno_such x\n}\n"), "no_such"},
		{"not formatted", page("caddyfile", "relay   127.0.0.1:1\n"), "not formatted"},
		{"refused when provisioned", page("caddyfile", "relay {l4.http.host}\n"), "dial_allow"},
		{"warning", page("caddyfile", "{\n\tlayer4 {\n\t\t127.0.0.1:42000 {\n\t\t\troute {\n\t\t\t\thttp_app web\n\t\t\t}\n\t\t}\n\t}\n}\n"), "no site is bound"},
		{"no warning", "<!-- warning: x -->\n" + page("caddyfile", "relay 127.0.0.1:1\n"), "want one that holds"},
		{"no error", "<!-- error: x -->\n" + page("caddyfile", "relay 127.0.0.1:1\n"), "want one that holds"},
		{"another error", "<!-- error: x -->\n" + page("caddyfile", "relay 127.0.0.1\n"), "want one that holds"},
		{"JSON with an unknown field", page("json", `{"handler":"relay","upstream":[]}`+"\n"), "unknown field"},
		{"JSON of another handler", page("caddyfile", "http_app web\n") + "\n<!-- adapted -->\n" + page("json", `{"handler":"http_app","listener":"other"}`+"\n"), "is not what"},
		{"no JSON", page("json", "{\n"), "unexpected end"},
		{"unknown comment", "<!-- not tested -->\n" + page("caddyfile", "x\n"), "unknown comment"},
		{"comment without a block", "<!-- adapted -->\n\nText.\n", "no block follows"},
		{"indented", "- x\n\n  " + fence + "caddyfile\n  relay\n  " + fence + "\n", "indented"},
		{"open fence", fence + "caddyfile\nrelay 127.0.0.1:1\n", "at the end"},
	} {
		t.Run(test.name, func(t *testing.T) {
			blocks, err := parseBlocks("page.md", test.source)
			for _, b := range blocks {
				if err == nil {
					err = b.check()
				}
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error that holds %q", err, test.want)
			}
		})
	}
}

// TestWrongClaims tests that a block which does not do what is said of it is found.
func TestWrongClaims(t *testing.T) {
	const whole = "{\n\tlayer4 {\n\t\t:8080 {\n\t\t\troute {\n\t\t\t\trelay 10.0.0.5:9000\n\t\t\t}\n\t\t}\n\t}\n}\n"
	for _, test := range []struct {
		name, text string
		claim      claim
		want       string
	}{
		{"another status", whole, claim{tries: [][]string{{"GET http://example.com:8080/", "404"}}}, `want ["404"]`},
		{"another answer", whole, claim{tries: [][]string{{"GET http://example.com:8080/", "200", "10.0.0.6:9000"}}}, "10.0.0.5:9000 got GET /"},
		{"an unwanted answer", whole, claim{tries: [][]string{{"GET http://example.com:8080/", "200", "!10.0.0.5:9000"}}}, "10.0.0.5:9000 got GET /"},
		{"a port that it does not have", whole, claim{tries: [][]string{{"GET http://example.com/", "200"}}}, "has no port 80"},
		{"a server that is not there", whole, claim{down: []string{"10.0.0.5:9000"}, tries: [][]string{{"GET http://example.com:8080/", "200"}}}, "closed"},
		{"nothing to change", whole, claim{change: []string{"no such text", ""}}, "does not hold"},
		{"no request is answered", "route {\n\tclose\n}\n", claim{}, "answers no request"},
		{"a status that says fault", "relay {l4.http.host} {\n\tdial_allow 192.0.2.1\n}\n", claim{}, "got 502"},
		{"an error in the log", "http_app other\n", claim{tries: [][]string{{"GET http://example.com/", "503"}}}, "no site is bound to that name"},
		{"a warning in the log", "relay 10.0.0.5:9000 10.0.0.6:9000 {\n\tlb_policy first\n}\n",
			claim{down: []string{"10.0.0.5:9000"}, tries: [][]string{{"GET http://example.com/", "200"}}}, "upstream not reached"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := &block{language: "caddyfile", text: test.text}
			if err := b.check(); err != nil {
				t.Fatal(err)
			}
			if err := b.run(test.claim, b, t.TempDir()); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error that holds %q", err, test.want)
			}
		})
	}
}

var (
	messageRow  = regexp.MustCompile("(?m)^\\| (`[^|]+`) \\|")
	variable    = regexp.MustCompile(` ?… ?|: `) // between the constant parts of a message
	quoted      = regexp.MustCompile("`([^`]+)`")
	link        = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	heading     = regexp.MustCompile("(?m)^#+ +(.+)$")
	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	fenced      = regexp.MustCompile("(?ms)^```.*?^```$")
)

// TestMessages tests that the messages which tables explain are those of the code.
func TestMessages(t *testing.T) {
	root, err := filepath.Glob("../*.go")
	if err != nil {
		t.Fatal(err)
	}
	internal, err := filepath.Glob("../internal/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	for _, path := range append(root, internal...) {
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(path, "_test.go") {
			code.Write(source)
		}
	}
	found := 0
	for _, path := range pages(t) {
		page, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, table := range strings.Split(string(page), "\n\n") {
			if !strings.HasPrefix(table, "| message |") {
				continue
			}
			for _, row := range messageRow.FindAllStringSubmatch(table, -1) {
				for _, message := range quoted.FindAllStringSubmatch(row[1], -1) {
					found++
					for _, part := range variable.Split(message[1], -1) {
						if !strings.Contains(code.String(), part) {
							t.Errorf("%s: no message holds %q", path, part)
						}
					}
				}
			}
		}
	}
	if found == 0 {
		t.Error("no table of messages")
	}
}

// TestLinks tests that each relative link leads to a file, and to a heading in it.
func TestLinks(t *testing.T) {
	for _, path := range pages(t) {
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range link.FindAllStringSubmatch(fenced.ReplaceAllString(string(source), ""), -1) {
			file, anchor, _ := strings.Cut(found[1], "#")
			if strings.Contains(file, ":") {
				continue
			}
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: link to %s: %v", path, found[1], err)
			} else if anchor != "" && !slices.Contains(anchors(t, target), anchor) {
				t.Errorf("%s: link to %s: no such heading", path, found[1])
			}
		}
	}
}

// TestExamplesAreListed tests that each example is linked from the first page.
func TestExamplesAreListed(t *testing.T) {
	source, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	err = filepath.WalkDir("../examples", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && (filepath.Ext(path) == ".caddyfile" || filepath.Base(path) == "Caddyfile") {
			found++
			if !strings.Contains(string(source), "]("+filepath.ToSlash(path)+")") {
				t.Errorf("README.md has no link to %s", path)
			}
		}
		return err
	})
	if err != nil || found == 0 {
		t.Errorf("found %d examples: %v", found, err)
	}
}

// TestOptionsAreDescribed tests that the page of each handler names all that its JSON may hold.
func TestOptionsAreDescribed(t *testing.T) {
	for _, handler := range []string{"inspect", "http_app", "relay", "rewrite_head", "http_respond"} {
		module, err := caddy.GetModule("layer4.handlers." + handler)
		if err != nil {
			t.Fatal(err)
		}
		path := handler + ".md"
		page, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		described := 0
		for _, field := range reflect.VisibleFields(reflect.TypeOf(module.New()).Elem()) {
			option, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if option == "" {
				continue
			}
			described++
			if named := regexp.MustCompile("(?m)(?:[`\"]|^\t)" + option + "\\b"); !named.Match(page) {
				t.Errorf("%s: nothing about %s", path, option)
			}
		}
		if described == 0 {
			t.Errorf("%s: the handler has no options", path)
		}
	}
}

// anchors returns what the headings of a page are known by.
func anchors(t *testing.T, path string) (anchors []string) {
	t.Helper()
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(string(source), ""), -1) {
		anchors = append(anchors, anchor(found[1]))
	}
	return anchors
}

// anchor returns what a heading is known by.
func anchor(title string) string {
	return strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(title), ""), " ", "-")
}
