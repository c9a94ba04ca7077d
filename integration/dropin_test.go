package integration

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/mholt/caddy-l4/modules/l4proxy"
)

// TestRelayTakesTheConfigurationOfProxy checks that a Caddyfile with every option of
// caddy-l4's proxy adapts to the same JSON, but for the name of the handler, once that
// word is changed.
func TestRelayTakesTheConfigurationOfProxy(t *testing.T) {
	data, err := os.ReadFile("caddyfile_adapt/relay_every_option_of_proxy.caddytest")
	if err != nil {
		t.Fatal(err)
	}
	relay, _, _ := strings.Cut(string(data), "----------\n")
	proxy := strings.Replace(relay, "relay ", "proxy ", 1)
	want := strings.Replace(adaptedJSON(t, proxy), `"handler": "proxy"`, `"handler": "relay"`, 1)
	if got := adaptedJSON(t, relay); got != want {
		t.Errorf("got:\n%s\nwant that of proxy:\n%s", got, want)
	}

	var handler map[string]any
	found := false
	for _, value := range walk(adapt(t, proxy)) {
		if object, ok := value.(map[string]any); ok && object["handler"] == "proxy" {
			handler, found = object, true
		}
	}
	if !found {
		t.Fatal("no proxy in the adapted configuration")
	}
	for _, missing := range unset(reflect.TypeFor[l4proxy.Handler](), handler, "") {
		t.Errorf("the Caddyfile lacks an option for %s", missing)
	}
}

// walk returns a JSON value and all values in it.
func walk(value any) []any {
	all := []any{value}
	switch value := value.(type) {
	case map[string]any:
		for _, v := range value {
			all = append(all, walk(v)...)
		}
	case []any:
		for _, v := range value {
			all = append(all, walk(v)...)
		}
	}
	return all
}

// unset returns the fields of a struct of l4proxy that a JSON value does not set, in
// arrays in none of the elements.
func unset(typ reflect.Type, value any, path string) []string {
	switch typ.Kind() {
	case reflect.Pointer:
		return unset(typ.Elem(), value, path)
	case reflect.Slice:
		merged := make(map[string]any)
		elements, _ := value.([]any)
		for _, element := range elements {
			fields, ok := element.(map[string]any)
			if !ok {
				return nil
			}
			for name, v := range fields {
				merged[name] = v
			}
		}
		return unset(typ.Elem(), merged, path)
	case reflect.Struct:
		if !strings.HasSuffix(typ.PkgPath(), "/l4proxy") {
			return nil
		}
	default:
		return nil
	}
	var missing []string
	object, _ := value.(map[string]any)
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		if v, ok := object[name]; !ok {
			missing = append(missing, path+name)
		} else if typ.Field(i).Type != reflect.TypeFor[json.RawMessage]() {
			missing = append(missing, unset(typ.Field(i).Type, v, path+name+".")...)
		}
	}
	return missing
}

// TestRelayRefusesTee checks that what proxy does with several addresses of an upstream
// is an error that says what relay does.
func TestRelayRefusesTee(t *testing.T) {
	const config = "{\n layer4 {\n :8080 {\n route {\n proxy {\n upstream 10.0.0.5:9000 10.0.0.6:9000\n }\n }\n }\n }\n}"
	adapter := caddyconfig.GetAdapter("caddyfile")
	if _, _, err := adapter.Adapt([]byte(config), nil); err != nil {
		t.Fatalf("proxy: %v", err)
	}
	_, _, err := adapter.Adapt([]byte(strings.Replace(config, "proxy", "relay", 1)), nil)
	if err == nil || !strings.Contains(err.Error(), "relay sends a stream to one server") {
		t.Errorf("got error %v, want one that says so", err)
	}
}
