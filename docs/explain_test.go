package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// explains says that a command of a page is run by TestExplainPage.
const explains = "| caddy streamprox explain "

// TestExplainPage runs the commands of explain.md, beside the Caddyfile of the page, and
// compares what they print.
func TestExplainPage(t *testing.T) {
	shell := tool(t, "sh", "dash")
	blocks, err := blocksOf("explain.md")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, b := range blocks {
		dir := t.TempDir()
		if err := os.Symlink(program, filepath.Join(dir, "caddy")); err != nil {
			t.Skip(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(b.text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, output := range b.output {
			command, want, _ := strings.Cut(strings.TrimPrefix(output, "$ "), "\n")
			if !strings.Contains(command, explains) {
				continue
			}
			run := exec.Command(shell, "-c", command)
			run.Dir = dir
			run.Env = append(os.Environ(), "PATH="+dir+string(os.PathListSeparator)+os.Getenv("PATH"))
			got, err := run.Output()
			if err != nil || string(got) != want {
				t.Errorf("%s: got %v\n%s\nwant\n%s", command, err, got, want)
			}
			ran++
		}
	}
	if ran == 0 {
		t.Error("the page shows no command")
	}
}
