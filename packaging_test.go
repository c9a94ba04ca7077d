package streamprox

import (
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"gopkg.in/yaml.v3"
)

// TestPackagedVersions compares the versions that packaging and documents name with
// those of go.mod.
func TestPackagedVersions(t *testing.T) {
	mod := packaged(t, "go.mod")
	goVersion := first(t, mod, `(?m)^go (\d+\.\d+)`)
	caddyVersion := first(t, mod, `github\.com/caddyserver/caddy/v2 (v\S+)`)
	l4Version := first(t, mod, `github\.com/mholt/caddy-l4 (v\S+)`)

	for _, test := range []struct {
		file, pattern, want string
	}{
		{"Dockerfile", `FROM .*golang:([\d.]+)-`, goVersion},
		{".github/workflows/ci.yml", `container: golang:([\d.]+)-`, goVersion},
		{".github/workflows/ci.yml", `go-version: "(.*)"`, goVersion},
		{".github/workflows/release.yml", `go-version: "(.*)"`, goVersion},
		{"README.md", `Go (\d+\.\d+) or newer`, goVersion},
		{"CONTRIBUTING.md", `Go (\d+\.\d+) or newer`, goVersion},
		{"CONTRIBUTING.md", `Caddy (v[\d.]+\d)`, caddyVersion},
		{"CONTRIBUTING.md", `caddy-l4 (v[\d.]+\d)`, l4Version},
		{"xcaddy.json", `"caddy_version": "(.*)"`, caddyVersion},
		{"tools/go.mod", `(?m)^go (\d+\.\d+)`, goVersion},
		{"bench/go.mod", `(?m)^go (\d+\.\d+)`, goVersion},
		{"contrib/check/go.mod", `(?m)^go (\d+\.\d+)`, goVersion},
	} {
		found := regexp.MustCompile(test.pattern).FindAllStringSubmatch(packaged(t, test.file), -1)
		if len(found) == 0 {
			t.Errorf("%s: nothing matches %s", test.file, test.pattern)
		}
		for _, match := range found {
			if match[1] != test.want {
				t.Errorf("%s: got %q, want %q as in go.mod", test.file, match[0], test.want)
			}
		}
	}

	var builder struct {
		Plugins []struct {
			Path    string `json:"module_path"`
			Version string `json:"version"`
		} `json:"plugins"`
		Flags string `json:"build_flags"`
	}
	if err := json.Unmarshal([]byte(packaged(t, "xcaddy.json")), &builder); err != nil {
		t.Fatal(err)
	}
	for _, plugin := range builder.Plugins {
		if plugin.Path == "github.com/mholt/caddy-l4" && plugin.Version != l4Version {
			t.Errorf("xcaddy.json: got caddy-l4 %s, want %s as in go.mod", plugin.Version, l4Version)
		}
	}
	tags := first(t, builder.Flags, `(-tags=\S+)`)
	for _, file := range []string{"Dockerfile", ".ci/run", ".ci/release", ".github/workflows/ci.yml"} {
		if !strings.Contains(packaged(t, file), tags) {
			t.Errorf("%s: no %s, which xcaddy.json has", file, tags)
		}
	}
}

// TestYAML parses every YAML file of the repository, and looks at what the workflows do.
func TestYAML(t *testing.T) {
	seen := make(map[string]map[string]any)
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "testdata" || entry.Name() == "dist") {
			return fs.SkipDir
		}
		if ext := filepath.Ext(path); entry.IsDir() || ext != ".yml" && ext != ".yaml" {
			return nil
		}
		file := filepath.ToSlash(path)
		decoder := yaml.NewDecoder(strings.NewReader(packaged(t, file)))
		for {
			var document any
			if err := decoder.Decode(&document); err != nil {
				if err != io.EOF {
					t.Errorf("%s: %v", file, err)
				}
				return nil
			}
			seen[file] = asMap(document)
		}
	})
	if err != nil {
		t.Fatal(err)
	}

	for file, commands := range map[string][]string{
		".github/workflows/ci.yml":      {"go test ./...", ".ci/run", "docker build", "-config ../xcaddy.json"},
		".github/workflows/release.yml": {".ci/release", "go test ./..."},
	} {
		runs := ""
		for name, job := range asMap(seen[file]["jobs"]) {
			job := asMap(job)
			if job["runs-on"] == nil || job["timeout-minutes"] == nil {
				t.Errorf("%s: job %s has no runs-on or no timeout-minutes", file, name)
			}
			steps, _ := job["steps"].([]any)
			for _, step := range steps {
				run, _ := asMap(step)["run"].(string)
				runs += run + "\n"
			}
		}
		for _, command := range commands {
			if !strings.Contains(runs, command) {
				t.Errorf("%s: no step runs %q", file, command)
			}
		}
		if seen[file]["on"] == nil || seen[file]["permissions"] == nil {
			t.Errorf("%s: does not say when it runs, or what it may do", file)
		}
	}
	test := asMap(asMap(seen[".github/workflows/ci.yml"]["jobs"])["test"])
	want := []any{"ubuntu-latest", "macos-latest", "windows-latest"}
	if got := asMap(asMap(test["strategy"])["matrix"])["os"]; !reflect.DeepEqual(got, want) {
		t.Errorf("ci.yml tests on %v, want %v", got, want)
	}
	for _, form := range []string{"bug.yml", "idea.yml"} {
		form := seen[".github/ISSUE_TEMPLATE/"+form]
		if form["name"] == nil || form["description"] == nil || form["body"] == nil {
			t.Errorf("an issue form lacks name, description or body: %v", form)
		}
	}
}

// TestDockerfile checks what a mistake in it would cost most.
func TestDockerfile(t *testing.T) {
	file := packaged(t, "Dockerfile")
	_, final, ok := strings.Cut(file, "\nFROM alpine:")
	if !ok {
		t.Fatal("no final stage")
	}
	for _, line := range []string{
		"USER 65532:65532",
		"VOLUME /data /config",
		"ENV XDG_DATA_HOME=/data XDG_CONFIG_HOME=/config",
		"EXPOSE 80 443 443/udp",
		"HEALTHCHECK ",
		`"http://127.0.0.1:2019/metrics"]`,
		`CMD ["caddy", "run", `,
	} {
		if !strings.Contains(final, line) {
			t.Errorf("no %q", line)
		}
	}
	// What chown does after VOLUME is lost.
	if strings.Index(final, "chown") > strings.Index(final, "VOLUME") {
		t.Error("VOLUME before the folders have their owner")
	}
	for _, copied := range regexp.MustCompile(`(?m)^COPY (contrib\S+)`).FindAllStringSubmatch(final, -1) {
		packaged(t, copied[1])
	}

	source := packaged(t, "contrib/docker/Caddyfile")
	if formatted := string(caddyfile.Format([]byte(source))); formatted != source {
		t.Error("contrib/docker/Caddyfile is not formatted; run 'caddy fmt --overwrite' on it")
	}
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(source), nil)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("contrib/docker/Caddyfile: %v, warnings %v", err, warnings)
	}
	var config caddy.Config
	if err := json.Unmarshal(adapted, &config); err != nil {
		t.Fatal(err)
	}
	config.Admin = &caddy.AdminConfig{Disabled: true}
	config.StorageRaw, err = json.Marshal(map[string]string{"module": "file_system", "root": t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&config); err != nil {
		t.Errorf("contrib/docker/Caddyfile: %v", err)
	}
}

// TestSystemdUnits has systemd verify the units, with a program that exists in place of
// those that they start.
func TestSystemdUnits(t *testing.T) {
	for file, lines := range map[string][]string{
		"contrib/systemd/caddy-streamprox.service": {
			"Type=notify", "ExecReload=/usr/local/bin/caddy-streamprox reload ", "LimitNOFILE=", "AmbientCapabilities=CAP_NET_BIND_SERVICE",
		},
		"examples/ssh-behind-proxy/sshd-mmproxy.service": {
			"ExecStart=/usr/bin/go-mmproxy -l 127.0.0.1:2222 ", "LimitNOFILE=", "AmbientCapabilities=CAP_NET_RAW",
		},
	} {
		t.Run(file, func(t *testing.T) {
			unit := packaged(t, file)
			for _, line := range lines {
				if !strings.Contains(unit, "\n"+line) {
					t.Errorf("no line %s", line)
				}
			}
			analyze, err := exec.LookPath("systemd-analyze")
			if err != nil || runtime.GOOS != "linux" {
				t.Skip("no systemd-analyze in PATH; install the package systemd")
			}
			verified := filepath.Join(t.TempDir(), filepath.Base(file))
			programs := regexp.MustCompile(`(?m)^(Exec\w+=[-+]*)/\S+`)
			if err := os.WriteFile(verified, []byte(programs.ReplaceAllString(unit, "$1/bin/true")), 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(analyze, "verify", "--man=no", verified).CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
				t.Errorf("systemd-analyze verify: %v\n%s", err, out)
			}
		})
	}
}

// TestContribIsListed: each file in contrib, or its folder, has a link from the README or a page
// of the documentation; contrib/check is for the tests.
func TestContribIsListed(t *testing.T) {
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	said := ""
	for _, page := range append(pages, "README.md") {
		said += packaged(t, filepath.ToSlash(page))
	}
	err = filepath.WalkDir("contrib", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			if entry != nil && entry.Name() == "check" {
				return fs.SkipDir
			}
			return err
		}
		file := filepath.ToSlash(path)
		folder := file[:strings.LastIndexByte(file, '/')]
		if !strings.Contains(said, file+")") && (folder == "contrib" || !strings.Contains(said, folder+")") && !strings.Contains(said, filepath.Base(file)+"`")) {
			t.Errorf("%s is not listed", file)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// packaged returns a file of the repository, with LF at the ends of lines.
func packaged(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.FromSlash(file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(data), "\r\n", "\n")
}

// first returns the first group of the first match of pattern in s.
func first(t *testing.T, s, pattern string) string {
	t.Helper()
	match := regexp.MustCompile(pattern).FindStringSubmatch(s)
	if match == nil {
		t.Fatalf("nothing matches %s", pattern)
	}
	return match[1]
}

// asMap returns v as a mapping of YAML, nil if it is none.
func asMap(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}
