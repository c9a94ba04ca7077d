package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// prometheus is a Prometheus that scrapes Caddy each second, with the rules of contrib.
type prometheus struct {
	t       *testing.T
	address string
}

func startPrometheus(t *testing.T, scraped string) prometheus {
	t.Helper()
	program, promtool := tool(t, "prometheus"), tool(t, "promtool")
	p := prometheus{t, freeport.Address(t)}
	dir := t.TempDir()
	rules, err := filepath.Abs("../contrib/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "prometheus.yml")
	err = os.WriteFile(config, fmt.Appendf(nil, `
global: {scrape_interval: 1s, evaluation_interval: 1s}
scrape_configs:
  - job_name: caddy
    static_configs:
      - targets: [%q]
rule_files: [%q]
`, scraped, rules), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "check", "config", config).CombinedOutput(); err != nil {
		t.Fatalf("promtool check config: %v\n%s", err, out)
	}
	run(t, []string{"HOME=" + dir}, program, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+p.address, "--log.level=warn")
	return p
}

// get decodes what the API of Prometheus answers. It reports false while there is no answer.
func (p prometheus) get(path string, data any) bool {
	p.t.Helper()
	request, err := http.NewRequest("GET", "http://"+p.address+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode == http.StatusServiceUnavailable { // it begins
		return false
	}
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.Unmarshal(text, &answer); err != nil || answer.Status != "success" {
		p.t.Fatalf("%s: %s (%v)", path, text, err)
	}
	if err := json.Unmarshal(answer.Data, data); err != nil {
		p.t.Fatal(err)
	}
	return true
}

// finds reports whether an expression has a value that is a number.
func (p prometheus) finds(expr string) bool {
	p.t.Helper()
	var data struct {
		Result []struct{ Value [2]any }
	}
	if !p.get("/api/v1/query?query="+url.QueryEscape(expr), &data) {
		return false
	}
	for _, sample := range data.Result {
		if sample.Value[1] != "NaN" {
			return true
		}
	}
	return false
}

// visit makes some traffic of each kind.
func (m *metered) visit() {
	m.t.Helper()
	s := newScript(m.t, m.address)
	s.get("/site", "site")
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n" }
	for _, path := range []string{"/api", "/gone", "/mute", "/refused", "/elsewhere"} {
		m.exchange(m.address, get(path))
	}
	m.exchange(m.address, "GET / HTTP/1.1\r\n\r\n")
	fmt.Fprint(s.conn, strings.Repeat(get("/api"), 2)+strings.Repeat(get("/stale"), 2)+"GET /site HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	_, _ = io.Copy(io.Discard, s.r)
	hangUp(s)
}

// TestPrometheus: a real Prometheus scrapes Caddy. Each query of the dashboard finds something,
// and the rules work.
func TestPrometheus(t *testing.T) {
	source, err := os.ReadFile("../contrib/grafana/streamprox.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(source, &dashboard); err != nil {
		t.Fatal(err)
	}
	m := startMetered(t, "scraped")
	p := startPrometheus(t, m.admin)

	variables := strings.NewReplacer("$instance", ".*", "$__rate_interval", "1m")
	var left []string // queries that have found nothing
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			left = append(left, variables.Replace(target.Expr))
		}
	}
	if len(left) < 20 {
		t.Fatalf("the dashboard has %d queries", len(left))
	}
	defer func() {
		if t.Failed() {
			t.Logf("nothing is found by\n%s", strings.Join(left, "\n"))
		}
	}()
	eventually(t, "data for each query", func() bool {
		m.visit()
		left = slices.DeleteFunc(left, p.finds)
		return len(left) == 0
	})

	var found struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	eventually(t, "evaluation of the rules", func() bool {
		return p.get("/api/v1/rules", &found) && len(found.Groups) == 1 &&
			!slices.ContainsFunc(found.Groups[0].Rules, func(r struct{ Name, Health, LastError string }) bool { return r.Health == "unknown" })
	})
	for _, rule := range found.Groups[0].Rules {
		if rule.Health != "ok" {
			t.Errorf("%s: %s %s", rule.Name, rule.Health, rule.LastError)
		}
	}
	eventually(t, "alert", func() bool {
		return p.finds(`ALERTS{alertname="StreamproxUpstreamDown",upstream="` + m.gone + `"}`)
	})
}

// TestAlertRules: the rules say what they should, and nothing when all is well.
func TestAlertRules(t *testing.T) {
	promtool := tool(t, "promtool")
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		command := exec.Command(promtool, args...)
		command.Dir = "../contrib/prometheus"
		if out, err := command.CombinedOutput(); err != nil || !strings.Contains(string(out), "SUCCESS") {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
