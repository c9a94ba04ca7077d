package streamprox

import "testing"

// TestNamedHTTPAppInListenerWrapper checks that a name is not looked up before the
// HTTP app, which is being provisioned, can be asked.
func TestNamedHTTPAppInListenerWrapper(t *testing.T) {
	for _, name := range []string{"", "web", "nobody", "web:80"} {
		_, err := loadCaddyfile(t, "{\n servers :8080 {\n listener_wrappers {\n layer4 {\n route {\n inspect {\n route {\n http_app "+name+"\n }\n }\n }\n }\n }\n }\n}\n"+
			"http://:8080 {\n respond outer\n}\nhttp://:80 {\n bind streamprox/web\n respond inner\n}\n")
		if err != nil {
			t.Errorf("http_app %s: got error %v, want none", name, err)
		}
	}
}

func TestHTTPAppJSONErrors(t *testing.T) {
	app := func(fields string) string { return `{"handler":"http_app"` + fields + `}` }
	checkJSON(t, []jsonCase{
		{"nothing", app(``), ""},
		{"wait 0", app(`,"wait":0`), "wait: 0s is not more than 0"},
		{"park", app(`,"park":"10s"`), ""},
		{"park 0", app(`,"park":0`), ""},
		{"park negative", app(`,"park":"-1s"`), "park: -1s is less than 0"},
		{"wait negative", app(`,"wait":"-1s"`), "wait: -1s is not more than 0"},
		{"reuse pin", app(`,"reuse":"pin"`), ""},
		{"reuse reinspect", app(`,"reuse":"reinspect"`), ""},
		{"reuse close", app(`,"reuse":"close"`), ""},
		{"reuse unknown", app(`,"reuse":"always"`), `reuse: unknown value "always": use reinspect, close or pin`},
		{"unknown field", app(`,"name":"web"`), "name"},
		{"listener without name", app(`,"listener":":80"`), `listener ":80": use <name> or <name>:<port>`},
		{"listener with a bad port", app(`,"listener":"web:http"`), `listener "web:http": use <name> or <name>:<port>`},
		{"listener without port", app(`,"listener":"web:"`), `listener "web:"`},
		{"listener with two colons", app(`,"listener":"web:80:81"`), `listener "web:80:81"`},
	})
}
