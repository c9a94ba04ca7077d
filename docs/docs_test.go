// Package docs tests the documentation: each configuration in it loads, and each link
// leads somewhere.
package docs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
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
//	<!-- adapted -->            JSON that the Caddyfile block before it becomes
var marker = regexp.MustCompile(`^<!-- (?:(not run|error|warning|in): (.+)|(adapted)) -->$`)

// block is a fenced block of a Markdown file.
type block struct {
	place    string // file:line
	language string // caddyfile or json
	text     string
	marks    map[string]string // by their first words
	before   *block            // the Caddyfile block before it in its file, or nil
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "streamprox-docs-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv("XDG_CONFIG_HOME", dir)
	os.Setenv("XDG_DATA_HOME", dir)
	caddy.DefaultStorage.Path = caddy.AppDataDir()
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func TestConfigurations(t *testing.T) {
	for _, path := range pages(t) {
		blocks, err := blocksOf(path)
		if err != nil {
			t.Error(err)
		}
		for _, b := range blocks {
			t.Run(b.place, func(t *testing.T) {
				if err := b.check(t.TempDir()); err != nil {
					t.Error(err)
				}
			})
		}
	}
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
	var open, before *block
	marks := make(map[string]string)
	fence := "" // the language of a fence that is open
	for i, line := range strings.Split(source, "\n") {
		place := fmt.Sprintf("%s:%d", name, i+1)
		language, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case fence != "" && isFence:
			if open != nil {
				blocks = append(blocks, open)
				if open.language == "caddyfile" {
					before = open
				}
			}
			open, fence = nil, ""
		case open != nil:
			open.text += line + "\n"
		case fence != "":
		case isFence:
			fence = "other " + language
			if language == "caddyfile" || language == "json" {
				if !strings.HasPrefix(line, "```") {
					return blocks, fmt.Errorf("%s: a block of configuration is indented", place)
				}
				open = &block{place: place, language: language, marks: marks, before: before}
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
func (b *block) check(dir string) error {
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
	warnings, err := b.load(filepath.Join(dir, "log"))
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
func (b *block) load(logFile string) (warnings string, err error) {
	raw, err := b.config()
	if err != nil {
		return "", err
	}
	config := new(caddy.Config)
	if err := caddy.StrictUnmarshalJSON(raw, config); err != nil {
		return "", err
	}
	persist := false
	config.Admin = &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: &persist}}
	writer, err := json.Marshal(map[string]string{"output": "file", "filename": logFile})
	if err != nil {
		return "", err
	}
	config.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{
		WriterRaw:  writer,
		EncoderRaw: json.RawMessage(`{"format":"json"}`),
		Level:      "WARN",
	}}}}
	if err := caddy.Validate(config); err != nil {
		return "", err
	}
	logged, err := os.ReadFile(logFile)
	if err != nil && !os.IsNotExist(err) {
		return "", err
	}
	for line := range strings.Lines(string(logged)) {
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
	"route":   "{\nlayer4 {\n127.0.0.1:42000 {\nroute {\ninspect {\nroute {\n%s}\n}\n}\n}\n}\n}\n",
	"server":  "{\nlayer4 {\n127.0.0.1:42000 {\nroute {\n%s}\n}\n}\n}\n",
	"inspect": "{\nlayer4 {\n127.0.0.1:42000 {\nroute {\ninspect {\n%s}\n}\n}\n}\n}\n",
	"relay":   "{\nlayer4 {\n127.0.0.1:42000 {\nroute {\ninspect {\nroute {\nrelay 127.0.0.1:42001 {\n%s}\n}\n}\n}\n}\n}\n}\n",
	"options": "{\n%s}\n",
	"site":    "http://127.0.0.1:42002 {\n%s}\n",
}

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
	if in == "inspect" {
		text += unusedMatchers(text)
	}
	source := fmt.Sprintf(wrap, text)
	if !b.isWhole() && strings.Contains(b.text, "http_app web") {
		source += "\nhttp://:80 {\nbind streamprox/web\n}\n"
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
			route += fmt.Sprintf("route %s {\nclose\n}\n", name)
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
					err = b.check(t.TempDir())
				}
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
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

// anchors returns what the headings of a page are known by.
func anchors(t *testing.T, path string) (anchors []string) {
	t.Helper()
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(string(source), ""), -1) {
		anchor := notInAnchor.ReplaceAllString(strings.ToLower(found[1]), "")
		anchors = append(anchors, strings.ReplaceAll(anchor, " ", "-"))
	}
	return anchors
}
