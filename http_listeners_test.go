package streamprox

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// httpServers returns an HTTP app of servers that listen on the given addresses;
// those whose name begins with "tls" have TLS.
func httpServers(servers map[string]string) string {
	all := make(map[string]any)
	for name, listen := range servers {
		server := map[string]any{
			"listen":          strings.Fields(listen),
			"routes":          []any{},
			"automatic_https": map[string]any{"disable": true},
		}
		if strings.HasPrefix(name, "tls") {
			server["tls_connection_policies"] = []any{map[string]any{}}
		}
		all[name] = server
	}
	raw, _ := json.Marshal(map[string]any{"servers": all})
	return `"http":` + string(raw)
}

func TestFindHTTPListeners(t *testing.T) {
	tests := []struct {
		name     string
		servers  map[string]string
		listener string
		plain    string
		tls      string
		wantErr  string
	}{
		{name: "one name", servers: map[string]string{"a": "streamprox/web:80"}, listener: "web", plain: "web:80"},
		{name: "the only name", servers: map[string]string{"a": "streamprox/web:80"}, plain: "web:80"},
		{name: "HTTP and HTTPS", servers: map[string]string{"a": "streamprox/web:80", "tls": "streamprox/web:443"}, listener: "web", plain: "web:80", tls: "web:443"},
		{name: "HTTP and HTTPS of the only name", servers: map[string]string{"a": "streamprox/web:80", "tls": "streamprox/web:443"}, plain: "web:80", tls: "web:443"},
		{name: "HTTPS server that listens on the HTTP port too", servers: map[string]string{"tls": "streamprox/web:80 streamprox/web:443"}, listener: "web", plain: "web:80", tls: "web:443"},
		{name: "HTTPS alone", servers: map[string]string{"tls": "streamprox/web:443"}, listener: "web", tls: "web:443"},
		{name: "sockets beside it", servers: map[string]string{"a": ":80 127.0.0.1:8080 streamprox/web:80 unix//run/web"}, plain: "web:80"},
		{name: "by port", servers: map[string]string{"a": "streamprox/web:80", "b": "streamprox/web:81"}, listener: "web:81", plain: "web:81", tls: "web:81"},
		{name: "by port, in a range", servers: map[string]string{"a": "streamprox/web:80-85"}, listener: "web:83", plain: "web:83", tls: "web:83"},
		{name: "by the port of HTTPS", servers: map[string]string{"a": "streamprox/web:80", "tls": "streamprox/web:443"}, listener: "web:443", plain: "web:443", tls: "web:443"},
		{name: "by a port that is not bound", servers: map[string]string{"a": "streamprox/web:80"}, listener: "web:81"},
		{name: "another name", servers: map[string]string{"a": "streamprox/web:80"}, listener: "other"},
		{name: "nothing bound", servers: map[string]string{"a": ":80"}},
		{name: "no HTTP app", listener: "web"},
		{name: "names that begin alike", servers: map[string]string{"a": "streamprox/web:80", "b": "streamprox/web-b:80", "tls": "streamprox/web:443"}, listener: "web", plain: "web:80", tls: "web:443"},
		{name: "several names", servers: map[string]string{"a": "streamprox/web:80", "b": "streamprox/api:80", "tls": "streamprox/web:443"},
			wantErr: "http_app needs a name, since several are bound to streamprox: api, web"},
		{name: "several HTTP listeners", servers: map[string]string{"a": "streamprox/web:80", "b": "streamprox/web:8080"}, listener: "web",
			wantErr: "http_app web: several HTTP listeners have that name (web:80, web:8080); name one of them with its port"},
		{name: "several HTTP listeners of the only name", servers: map[string]string{"a": "streamprox/web:80 streamprox/web:8080"},
			wantErr: "several HTTP listeners have that name (web:80, web:8080)"},
		{name: "several HTTPS listeners", servers: map[string]string{"a": "streamprox/web:80", "tls": "streamprox/web:443", "tls2": "streamprox/web:8443"}, listener: "web",
			wantErr: "http_app web: several HTTPS listeners have that name (web:443, web:8443); name one of them with its port"},
		{name: "a range", servers: map[string]string{"a": "streamprox/web:80-81"}, listener: "web", wantErr: "several HTTP listeners have that name (web:80, web:81)"},
		{name: "several listeners of another name", servers: map[string]string{"a": "streamprox/web:80", "b": "streamprox/api:80", "c": "streamprox/api:81"}, listener: "web", plain: "web:80"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			probe = func(ctx caddy.Context) {
				found, err := findHTTPListeners(ctx, test.listener)
				checkError(t, err, test.wantErr)
				if err != nil {
					return
				}
				if found.plain != test.plain || found.tls != test.tls {
					t.Errorf("got HTTP %q, HTTPS %q, want %q, %q",
						found.plain, found.tls, test.plain, test.tls)
				}
			}
			apps := `"streamprox_config_probe":{}`
			if test.servers != nil {
				apps += "," + httpServers(test.servers)
			}
			if _, err := loadApps(t, "{"+apps+"}"); err != nil {
				t.Errorf("loading: %v", err)
			}

			// As http_app itself does.
			handler := fmt.Sprintf(`{"handler":"http_app","listener":%q}`, test.listener)
			apps = inServer(handler)
			if test.servers != nil {
				apps += "," + httpServers(test.servers)
			}
			warnings, err := loadApps(t, "{"+apps+"}")
			checkError(t, err, test.wantErr)
			missing := test.plain == "" && test.tls == "" && test.wantErr == ""
			checkWarnings(t, about(warnings, "no site is bound to that name"), missing, "")
		})
	}
}

// TestSitesOnTheVirtualNetwork loads whole sites behind layer4, with automatic HTTPS.
func TestSitesOnTheVirtualNetwork(t *testing.T) {
	const layer4 = "{\n http_port %s\n layer4 {\n :80 :443 {\n route {\n http_app %s\n }\n }\n }\n}\n"
	tests := []struct {
		name, config, want string
		warns              bool
	}{
		{name: "a site with automatic HTTPS and its redirects", config: fmt.Sprintf(layer4, "80", "web") + "example.com {\n bind streamprox/web\n respond hello\n}\n"},
		{name: "with the only name", config: fmt.Sprintf(layer4, "80", "") + "example.com {\n bind streamprox/web\n respond hello\n}\n"},
		{name: "with another HTTP port", config: fmt.Sprintf(layer4, "8080", "web") + "example.com {\n bind streamprox/web\n respond hello\n}\n"},
		{name: "several sites of a name", config: fmt.Sprintf(layer4, "80", "web") + "example.com {\n bind streamprox/web\n respond hello\n}\nexample.net {\n bind streamprox/web\n respond hello\n}\nhttp:// {\n bind streamprox/web\n respond hello\n}\n"},
		{name: "site not bound", config: fmt.Sprintf(layer4, "80", "web") + "example.com {\n respond hello\n}\n", want: "layer4 server srv0 and HTTP server srv0 both listen on :443: the system would split clients between them at random; add the missing 'bind streamprox/<name>' to its sites"},
		{name: "site bound to another name", config: fmt.Sprintf(layer4, "80", "web") + "example.com {\n bind streamprox/other\n respond hello\n}\n", warns: true},
		{name: "no site", config: fmt.Sprintf(layer4, "80", "web"), warns: true},
		{name: "two sites on ports of their own", config: fmt.Sprintf(layer4, "80", "web") + "http://:8081 {\n bind streamprox/web\n respond hello\n}\nhttp://:8082 {\n bind streamprox/web\n respond hello\n}\n",
			want: "http_app web: several HTTP listeners have that name (web:8081, web:8082); name one of them with its port"},
		{name: "one of two sites by its port", config: fmt.Sprintf(layer4, "80", "web:8082") + "http://:8081 {\n bind streamprox/web\n respond hello\n}\nhttp://:8082 {\n bind streamprox/web\n respond hello\n}\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			warnings, err := loadCaddyfile(t, test.config)
			checkError(t, err, test.want)
			checkWarnings(t, about(warnings, "no site is bound to that name"), test.warns, "\"missing\":\"bind streamprox/web\"")
		})
	}
}
