package integration

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddytest"
)

// updateAdapt writes what the adapter says into the golden files. Read the
// difference before it is committed.
var updateAdapt = flag.Bool("update-adapt", false, "write the JSON of caddyfile_adapt/*.caddytest anew")

// unavailable holds the golden files whose configuration adapts but cannot be loaded
// yet, or not here, with a part of the error.
var unavailable = map[string]string{
	"relay_tls.caddytest":                   "client.pem", // there is no such file
	"relay_every_option_of_proxy.caddytest": "client.pem",
}

// TestCaddyfileAdaptToJSON compares what Caddyfiles adapt to with golden files: the
// Caddyfile, a line of ten dashes, the JSON. Each is formatted, and loads.
func TestCaddyfileAdaptToJSON(t *testing.T) {
	files, err := filepath.Glob("caddyfile_adapt/*.caddytest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(strings.TrimSuffix(name, ".caddytest"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
			config, want, ok := strings.Cut(string(data), "----------\n")
			if !ok {
				t.Fatalf("%s: no line of ten dashes", file)
			}
			if got := string(caddyfile.Format([]byte(config))); got != config {
				t.Errorf("%s is not formatted; got:\n%s\nwant:\n%s", file, config, got)
			}
			if *updateAdapt {
				want = adaptedJSON(t, config)
				if err := os.WriteFile(file, []byte(config+"----------\n"+want+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if !caddytest.CompareAdapt(t, name, config, "caddyfile", localPaths(strings.TrimSpace(want))) {
				t.Errorf("%s adapts to something else", file)
			}

			err = validateCaddyfile(t, config)
			switch part := unavailable[name]; {
			case part == "" && err != nil:
				t.Errorf("loading: got error %v, want none", err)
			case part != "" && (err == nil || !strings.Contains(err.Error(), part)):
				t.Errorf("loading: got error %v, want one with %q", err, part)
			}
		})
	}
}

// adaptedJSON returns the JSON of a Caddyfile as golden files have it.
func adaptedJSON(t *testing.T, config string) string {
	t.Helper()
	raw, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		t.Fatalf("adapting: %v", err)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, raw, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return pretty.String()
}

// localPaths turns the path that file_server hides into that of this system.
func localPaths(config string) string {
	local, _ := json.Marshal("." + string(filepath.Separator) + "Caddyfile")
	return strings.ReplaceAll(config, `"./Caddyfile"`, string(local))
}

// validateCaddyfile provisions the configuration without starting it.
func validateCaddyfile(t *testing.T, caddyfile string) error {
	t.Helper()
	config := adapt(t, caddyfile)
	config["admin"] = map[string]any{"disabled": true, "config": map[string]any{"persist": false}}
	config["storage"] = map[string]any{"module": "file_system", "root": t.TempDir()}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	var parsed caddy.Config
	if err := caddy.StrictUnmarshalJSON(raw, &parsed); err != nil {
		t.Fatal(err)
	}
	return caddy.Validate(&parsed)
}
