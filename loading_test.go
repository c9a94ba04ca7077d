package streamprox

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/mholt/caddy-l4/layer4"
)

// How the tests load configurations and handlers.

// configLogs receives what modules log while a configuration of these tests loads.
var configLogs configLog

func init() {
	caddy.RegisterModule(new(configLogWriter))
	caddy.RegisterModule(new(configProbe))
}

// configLog keeps the log lines of one configuration.
type configLog struct {
	mu   sync.Mutex
	b    bytes.Buffer
	last string // all lines that were taken last
}

func (l *configLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (*configLog) Close() error { return nil }

// take returns the warnings of this package's modules, and forgets all lines.
func (l *configLog) take(t testing.TB) []string {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var warnings []string
	for line := range strings.Lines(l.b.String()) {
		var entry struct{ Level, Logger, Msg string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if strings.HasPrefix(entry.Logger, "layer4.") && entry.Level != "debug" && entry.Level != "info" {
			warnings = append(warnings, strings.TrimSpace(line))
		}
	}
	l.last = l.b.String()
	l.b.Reset()
	return warnings
}

// configLogWriter is a Caddy log writer that writes to configLogs.
type configLogWriter struct{}

func (*configLogWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.streamprox_config_test", New: func() caddy.Module { return new(configLogWriter) }}
}
func (*configLogWriter) WriterKey() string                   { return "streamprox_config_test" }
func (*configLogWriter) String() string                      { return "streamprox_config_test" }
func (*configLogWriter) OpenWriter() (io.WriteCloser, error) { return &configLogs, nil }

// configProbe is an app that calls probe while a configuration loads.
type configProbe struct{}

var probe func(caddy.Context)

func (*configProbe) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "streamprox_config_probe", New: func() caddy.Module { return new(configProbe) }}
}

func (*configProbe) Provision(ctx caddy.Context) error {
	probe(ctx)
	return nil
}

func (*configProbe) Start() error { return nil }
func (*configProbe) Stop() error  { return nil }

// configOf returns a configuration of the given apps that logs to configLogs from a level on.
func configOf(t testing.TB, apps, level string) *caddy.Config {
	t.Helper()
	var appsRaw caddy.ModuleMap
	if err := json.Unmarshal([]byte(apps), &appsRaw); err != nil {
		t.Fatalf("%v in %s", err, apps)
	}
	home, err := json.Marshal(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &caddy.Config{
		Admin:      &caddy.AdminConfig{Disabled: true},
		StorageRaw: json.RawMessage(`{"module":"file_system","root":` + string(home) + `}`),
		AppsRaw:    appsRaw,
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{
			WriterRaw:  json.RawMessage(`{"output":"streamprox_config_test"}`),
			EncoderRaw: json.RawMessage(`{"format":"json"}`),
			Level:      level,
		}}}},
	}
}

// loadApps provisions a configuration of the given apps and returns the warnings of
// this package's modules.
func loadApps(t *testing.T, apps string) (warnings []string, err error) {
	t.Helper()
	config := configOf(t, apps, "")
	configLogs.take(t)
	err = caddy.Validate(config)
	return configLogs.take(t), err
}

// provisionApps returns a context of a configuration with these apps, which are provisioned
// and do not run. The modules that are loaded in it are cleaned up when the test ends.
// Warnings go to configLogs.
func provisionApps(t testing.TB, apps string) caddy.Context {
	t.Helper()
	config, err := caddy.ProvisionContext(configOf(t, apps, "WARN"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(config)
	t.Cleanup(func() {
		cancel()
		// Only Caddy could cancel the context of the apps.
		if tls, err := config.AppIfConfigured("tls"); err == nil {
			_ = tls.(caddy.CleanerUpper).Cleanup()
		}
	})
	return ctx
}

// loadHandler loads a handler of layer4 from its JSON, without any app around it.
func loadHandler(t testing.TB, name, config string) layer4.NextHandler {
	t.Helper()
	return loadHandlerIn(t, provisionApps(t, "{}"), name, config)
}

// loadHandlerIn loads a handler of layer4 from its JSON.
func loadHandlerIn(t testing.TB, ctx caddy.Context, name, config string) layer4.NextHandler {
	t.Helper()
	module, err := ctx.LoadModuleByID("layer4.handlers."+name, json.RawMessage(config))
	if err != nil {
		t.Fatalf("loading %s %s: %v", name, config, err)
	}
	return module.(layer4.NextHandler)
}

// adaptConfig returns the apps of a Caddyfile.
func adaptConfig(caddyfile string) (apps string, err error) {
	raw, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	if err != nil {
		return "", err
	}
	var config struct {
		Apps json.RawMessage `json:"apps"`
	}
	err = json.Unmarshal(raw, &config)
	return string(config.Apps), err
}

// loadCaddyfile adapts and provisions a Caddyfile.
func loadCaddyfile(t *testing.T, caddyfile string) (warnings []string, err error) {
	t.Helper()
	apps, err := adaptConfig(caddyfile)
	if err != nil {
		t.Fatalf("adapting: %v\n%s", err, caddyfile)
	}
	return loadApps(t, apps)
}

// inRoute puts handlers, as in a Caddyfile, into the route of a layer4 server.
func inRoute(handlers string) string {
	return "{\n layer4 {\n :8080 {\n route {\n" + handlers + "\n}\n}\n}\n}\n"
}

// inServer puts handlers, as JSON, into the route of a layer4 server.
func inServer(handlers string) string {
	return `"layer4":{"servers":{"srv0":{"listen":["127.0.0.1:0"],"routes":[{"handle":[` + handlers + `]}]}}}`
}

// checkError checks that err says want, or that there is none if want is empty.
func checkError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("got error %v, want none", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("got error %v, want one with %q", err, want)
	}
}

// checkWarnings checks that there is exactly one warning and that it says text, or
// that there is none.
func checkWarnings(t *testing.T, got []string, want bool, text string) {
	t.Helper()
	switch {
	case !want && len(got) > 0:
		t.Errorf("got warnings %q, want none", got)
	case want && (len(got) != 1 || !strings.Contains(got[0], text) || !strings.Contains(got[0], `"level":"warn"`)):
		t.Errorf("got warnings %q, want one with %q", got, text)
	}
}

// about returns the lines that say text.
func about(lines []string, text string) []string {
	return slices.DeleteFunc(lines, func(line string) bool { return !strings.Contains(line, text) })
}

// jsonCase is a handler of layer4 in JSON, and a part of the error with which it is refused;
// "" if it is not.
type jsonCase struct{ name, handler, want string }

// checkJSON loads each handler in the route of a layer4 server.
func checkJSON(t *testing.T, tests []jsonCase) {
	t.Helper()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := loadApps(t, "{"+inServer(test.handler)+"}")
			checkError(t, err, test.want)
		})
	}
}
