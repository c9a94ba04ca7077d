package main

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	streamprox "github.com/streamprox/caddy-streamprox"
)

// TestModulesInCI compares the modules that .ci/run looks for in a built Caddy with
// those that the plugin registers.
func TestModulesInCI(t *testing.T) {
	script, err := os.ReadFile("../../.ci/run")
	if err != nil {
		t.Fatal(err)
	}
	list := regexp.MustCompile(`(?s)for id in \\\r?\n(.*?); do`).FindSubmatch(script)
	if list == nil {
		t.Fatal(".ci/run has no list of modules")
	}
	got := strings.Fields(strings.ReplaceAll(string(list[1]), `\`, " "))

	want := []string{"layer4"}
	plugin := reflect.TypeFor[streamprox.Inspect]().PkgPath()
	for _, id := range caddy.Modules() {
		info, err := caddy.GetModule(id)
		if err != nil {
			t.Fatal(err)
		}
		module := reflect.TypeOf(info.New())
		if module.Kind() == reflect.Pointer && module.Elem().PkgPath() == plugin {
			want = append(want, id)
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf(".ci/run looks for\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
