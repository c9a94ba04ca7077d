package docs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A claim is what a page says of a block, as something to send and what comes back.
type claim struct {
	of     string     // the key of the block
	change []string   // pairs: a text of the block, and what stands there instead
	on     string     // the key of another block, which runs with the logs and the storage of this one
	down   []string   // servers that are not there
	also   []string   // servers that the block does not name
	tries  [][]string // see try; then how the answer begins, and what else it holds, or with '!' does not
	check  func(*running, *block) error
	mayLog []string // what warnings and errors hold that belong to it
}

// asItIs reports whether the claim is of the block as the page has it.
func (c claim) asItIs() bool { return c.change == nil && c.down == nil && c.on == "" }

// claimsOf returns the claims of a block, one of them of the block as it is.
func claimsOf(key string) (found []claim) {
	for _, c := range claims {
		if c.of == key {
			found = append(found, c)
		}
	}
	if !slices.ContainsFunc(found, claim.asItIs) {
		found = append([]claim{{of: key}}, found...)
	}
	return found
}

// The answers of the sites that many blocks have.
const (
	page    = "the page in /srv/www"
	ofCaddy = "Server: Caddy"
)

// claims are what the pages say of their blocks.
var claims = []claim{
	// README.md
	{of: "README.md#which-layout-is-mine", tries: [][]string{
		{"GET https://example.com/", "200 HTTP/1.1", ofCaddy, page},
		{"any GET https://example.com/", "200 HTTP/1.1", page},
		{"GET https://example.com/chat/room", "200", "10.0.0.5:9000 got GET /chat/room HTTP/1.1", "Host: example.com"},
		{"WebSocket wss://example.com/chat/room", "10.0.0.5:9000 got GET /chat/room", "\nmessage"},
		{"GET https://example.com/..%2f", "400"},
		{"GET http://example.com/", "308", "Location: https://example.com/"},
	}},
	{of: "README.md#which-layout-is-mine", change: []string{":443", ":80", "\t\tprotocols h1\n", "", "\nexample.com", "\nhttp://example.com"}, tries: [][]string{
		{"GET http://example.com/", "200", ofCaddy, page},
		{"GET http://example.com/chat/room", "200", "10.0.0.5:9000 got GET /chat/room"},
	}},
	{of: "README.md#which-layout-is-mine 2", tries: [][]string{
		{"GET http://example.com:8080/", "200", ofCaddy, page},
		{"GET http://example.com:8080/chat/room", "200", ":9000 got GET /chat/room"},
		{"WebSocket ws://example.com:8080/chat/room", "10.0.0.", ":9000 got GET /chat/room", "\nmessage"},
		{"SSH :8080", "SSH-2.0-127.0.0.1:22\r\n", `got "SSH-2.0-client`},
		{"GET http://example.com:8080/..%2f", "400", "!" + ofCaddy},
	}},
	{of: "README.md#which-layout-is-mine 2", check: keeps(
		[]string{"GET http://example.com:8080/chat/a", "200", ":9000 got GET /chat/a", "!Connection"},
		[]string{"GET http://example.com:8080/", "200", ofCaddy, page},
		[]string{"GET http://example.com:8080/chat/b", "200", ":9000 got GET /chat/b", "!from: {from}\n"},
	)},
	{of: "README.md#which-layout-is-mine", tries: [][]string{
		{"GET https://example.com/chat/room", "200", "Connection: close"},
	}},
	{of: "README.md#which-layout-is-mine", change: []string{"\t\t\t\t\t\t\trelay 10.0.0.5:9000\n", "\t\t\t\t\t\t\trelay 10.0.0.5:9000 {\n\t\t\t\t\t\t\t\treuse reinspect\n\t\t\t\t\t\t\t\tupstream_keepalive 1m\n\t\t\t\t\t\t\t}\n"}, check: keeps(
		[]string{"GET https://example.com/", "200", ofCaddy, page},
		[]string{"GET https://example.com/chat/a", "200", ":9000 got GET /chat/a", "!Connection"},
		[]string{"GET https://example.com/chat/b", "200", ":9000 got GET /chat/b", "from: {from}\n"},
	)},
	{of: "README.md#which-layout-is-mine 2", change: brief, tries: [][]string{
		{"silent :8080", "SSH-2.0-127.0.0.1:22\r\n"},
	}},
	{of: "README.md#which-layout-is-mine 3", tries: [][]string{
		{"any GET https://example.com/", "200 HTTP/2.0", ofCaddy, page},
		{"GET https://example.com/", "200 HTTP/1.1", page},
		{"GET http://example.com/", "308", "Location: https://example.com/"},
		{"SSH :443", "SSH-2.0-127.0.0.1:22\r\n"},
		{"SSH :80", "SSH-2.0-127.0.0.1:22\r\n"},
	}},
	{of: "README.md#which-layout-is-mine 3", change: brief, tries: [][]string{
		{"silent :443", "SSH-2.0-127.0.0.1:22\r\n"},
	}},
	{of: "README.md#which-layout-is-mine 4", tries: [][]string{
		{"any GET https://example.com/", "200 HTTP/1.1", ofCaddy, page},
		{"GET https://example.com/chat/room", "200", "10.0.0.5:9000 got GET /chat/room HTTP/1.1"},
		{"WebSocket wss://example.com/chat/room", "10.0.0.5:9000 got GET /chat/room", "\nmessage"},
		{"GET http://example.com/", "308", "Location: https://example.com/"},
		{"SSH :443", "SSH-2.0-127.0.0.1:22\r\n"},
	}},

	// start-here.md: most of it are the commands that it shows
	{of: "start-here.md#4-a-path-for-another-server-and-ssh", tries: [][]string{
		{"SSH :8080", "SSH-2.0-127.0.0.1:22\r\n"},
		{"GET http://127.0.0.1:9000/x", "200", "The chat server. You asked for /x."},
	}},
	{of: "start-here.md#4-a-path-for-another-server-and-ssh", change: brief, tries: [][]string{
		{"silent :8080", "SSH-2.0-127.0.0.1:22\r\n"},
	}},
	{of: "start-here.md#5-see-who-answered", on: "start-here.md#4-a-path-for-another-server-and-ssh", check: showsDecisions},
	{of: "start-here.md#6-https", tries: [][]string{
		{"any GET https://example.com/", "200 HTTP/2.0", ofCaddy, page},
		{"GET http://example.com/x", "308", "Location: https://example.com/x"},
		{"SSH :443", "SSH-2.0-127.0.0.1:22\r\n"},
	}},

	// recipes.md
	{of: "recipes.md#a-whole-caddyfile-behind-layer4", tries: [][]string{
		{"any GET https://example.com/", "200 HTTP/2.0", ofCaddy, page},
		{"GET https://www.example.com/x", "302", "Location: https://example.com/x"},
		{"GET http://example.com/", "308", "Location: https://example.com/"},
	}},
	{of: "recipes.md#websockets-by-path-and-http2-for-the-site", tries: [][]string{
		{"any GET https://example.com/", "200 HTTP/2.0", ofCaddy, page},
		{"WebSocket wss://example.com/chat/room", "10.0.0.5:9000 got GET /chat/room", "\nmessage"},
		{"any GET https://example.com/chat/", "404 HTTP/2.0", ofCaddy},
		{"GET https://example.com/", "200 HTTP/1.1", ofCaddy, page},
	}},
	{of: "recipes.md#tls-ended-by-layer4", tries: [][]string{
		{"any GET https://example.com/", "200 HTTP/1.1", ofCaddy, page, "certificate by: Caddy Local"},
		{"GET https://example.com/chat/room", "200", "10.0.0.5:9000 got GET /chat/room", "X-Forwarded-Proto: https"},
		{"WebSocket wss://example.com/chat/room", "10.0.0.5:9000 got GET /chat/room", "\nmessage"},
	}},
	{of: "recipes.md#tls-ended-by-layer4", change: longer("\t\t\t\t\t\t"), check: keeps(
		[]string{"GET https://example.com/chat/a", "200", "10.0.0.5:9000 got GET /chat/a", "!Connection"},
		[]string{"GET https://example.com/", "200", ofCaddy, page},
		[]string{"GET https://example.com/chat/b", "200", "10.0.0.5:9000 got GET /chat/b", "!from: {from}\n"},
		[]string{"GET https://example.com/chat/c", "200", "10.0.0.5:9000 got GET /chat/c", "from: {from}\n"},
	)},
	{of: "recipes.md#tls-ended-by-layer4", change: []string{"bind streamprox/certificates\n", "bind streamprox/certificates\n\ttls /srv/certificate.pem /srv/key.pem\n"}, tries: [][]string{
		{"GET https://example.com/", "200", page, "certificate by: the stubs"},
	}},
	{of: "recipes.md#http3-beside-it", tries: [][]string{
		{"h3 GET https://example.com/", "200 HTTP/3.0", ofCaddy, page},
		{"any GET https://example.com/", "200 HTTP/2.0", ofCaddy, page},
		{"GET http://example.com/", "308", "Location: https://example.com/"},
	}},
	{of: "recipes.md#a-server-that-wants-its-own-host-and-path", tries: [][]string{
		{"GET http://example.com/echo/room\nOrigin: http://example.com", "200", "echo.example.org:80 got GET /room HTTP/1.1", "Host: echo.example.org\n", "Origin: http://echo.example.org\n"},
		{"GET http://example.com/echo", "200", "echo.example.org:80 got GET / HTTP/1.1"},
		{"GET http://example.com/echox", "404"},
	}},
	{of: "recipes.md#tell-a-server-the-clients-address", tries: [][]string{
		{"GET http://example.com/api/x\nX-Forwarded-For: 192.0.2.7\nX-Real-IP: 192.0.2.7\nForwarded: for=192.0.2.7", "200", "10.0.0.5:9000 got GET /api/x",
			"X-Forwarded-For: 127.0.0.1\n", "X-Forwarded-Host: example.com\n", "X-Forwarded-Proto: http\n", "!192.0.2.7"},
	}},
	{of: "recipes.md#tell-a-server-the-clients-address 2", tries: [][]string{
		{"SSH :80", "SSH-2.0-127.0.0.1:2222\r\n", "from: {client}"},
	}},
	{of: "recipes.md#tell-a-server-the-clients-address 3", tries: [][]string{
		{"GET http://example.com:8080/", "200", ofCaddy, "You are 127.0.0.1."},
		{"from 10.1.2.3 GET http://example.com:8080/", "closed"},
	}},
	{of: "recipes.md#tell-a-server-the-clients-address 3", change: []string{"10.0.0.0/8", "127.0.0.0/8"}, tries: [][]string{
		{"from 10.1.2.3 GET http://example.com:8080/", "200", "You are 10.1.2.3."},
		{"GET http://example.com:8080/", "closed"},
	}},
	{of: "recipes.md#tell-a-server-the-clients-address 3", change: []string{"\t\t\t\t\tfallback_policy REJECT\n", ""}, tries: [][]string{
		{"from 10.1.2.3 GET http://example.com:8080/", "200", "You are 10.1.2.3."},
	}},
	{of: "recipes.md#https-to-the-server", tries: [][]string{
		{"GET http://example.com/api/x", "200", "api.example.org:443 got GET /api/x", "Host: api.example.org\n", "tls: api.example.org\n"},
	}},
	{of: "recipes.md#https-to-the-server", change: []string{"upstream api", "upstream_keepalive 1m\n\t\tupstream api"}, check: keeps(
		[]string{"GET http://example.com/api/a", "200", "api.example.org:443 got GET /api/a", "!Connection"},
		[]string{"GET http://example.com/api/b", "200", "api.example.org:443 got GET /api/b", "from: {from}\n"},
	)},
	{of: "recipes.md#several-servers-with-health-checks", tries: [][]string{
		{"GET http://example.com/x", "200", ":9000 got GET /x"},
	}},
	{of: "recipes.md#several-servers-with-health-checks", down: []string{"10.0.0.5:9000"}, check: always("10.0.0.6:9000"), mayLog: []string{"upstream not reached"}},
	{of: "recipes.md#several-servers-with-health-checks", down: []string{"10.0.0.6:9000"}, check: always("10.0.0.5:9000"), mayLog: []string{"upstream not reached"}},
	{of: "recipes.md#the-same-server-for-the-same-user", check: sticks("GET http://example.com/x\nCookie: sid=%d")},
	{of: "recipes.md#ntlm-and-negotiate", check: keeps(
		[]string{"GET http://intranet.example.com/a", "200", "10.0.0.5:80 got GET /a", "!Connection"},
		[]string{"GET http://intranet.example.com/b", "200", "10.0.0.5:80 got GET /b", "from: {from}\n"},
	)},
	{of: "recipes.md#ntlm-and-negotiate", change: []string{"upstream_keepalive 2m", "upstream_keepalive 0"}, check: keeps(
		[]string{"GET http://intranet.example.com/a", "200", "10.0.0.5:80 got GET /a", "!Connection: close\n\n"},
		[]string{"GET http://intranet.example.com/b", "200", "10.0.0.5:80 got GET /b", "!from: {from}\n"},
	)},
	{of: "recipes.md#ntlm-and-negotiate", change: []string{"upstream_keepalive 2m", "reuse close"}, tries: [][]string{
		{"GET http://intranet.example.com/a", "200", "10.0.0.5:80 got GET /a", "Connection: close\n\n"},
	}},
	{of: "recipes.md#a-server-named-by-the-request", also: []string{"app.example.org:9000", "app.example.com:9000"}, tries: [][]string{
		{"GET http://example.com/x\nHost: <app.example.org:9000>", "200", "app.example.org:9000 got GET /x"},
		{"GET http://example.com/x\nHost: <app.example.com:9000>", "502"},
	}, mayLog: []string{"address refused"}},
	{of: "recipes.md#socketio", tries: [][]string{
		{"GET http://example.com/socket.io/?EIO=4&transport=polling", "200", "127.0.0.1:9000 got GET /socket.io/?EIO=4&transport=polling"},
		{"WebSocket ws://example.com/socket.io/?EIO=4&transport=websocket", "127.0.0.1:9000 got GET /socket.io/", "\nmessage"},
	}},
	{of: "recipes.md#socketio 2", tries: [][]string{
		{"any GET https://example.com/socket.io/?EIO=4&transport=polling", "200 HTTP/2.0", "127.0.0.1:9000 got GET /socket.io/", "Via: "},
		{"WebSocket wss://example.com/socket.io/?EIO=4&transport=websocket", "127.0.0.1:9000 got GET /socket.io/", "X-Forwarded-Proto: https", "!Via: ", "\nmessage"},
		{"GET https://example.com/socket.io/?EIO=4&transport=polling", "200 HTTP/1.1", "127.0.0.1:9000 got GET /socket.io/", "X-Forwarded-Proto: https", "!Via: "},
		{"any GET https://example.com/", "200 HTTP/2.0", ofCaddy, page},
	}},
	{of: "recipes.md#ssh-beside-a-site", tries: [][]string{
		{"SSH :80", "SSH-2.0-127.0.0.1:22\r\n", `got "SSH-2.0-client`},
		{"GET http://example.com/", "404"},
	}},
	{of: "recipes.md#ssh-beside-a-site", change: []string{"@ssh ssh\n", "@ssh inspected silent other\n"}, tries: [][]string{
		{"SSH :80", "SSH-2.0-127.0.0.1:22\r\n"},
		{`send :80 "EHLO example.com\r\n"`, "SSH-2.0-127.0.0.1:22\r\n"},
	}},
	{of: "recipes.md#sshd-and-fail2ban-see-the-client", tries: [][]string{
		{"SSH :80", "SSH-2.0-127.0.0.1:2222\r\n", "from: {client}"},
	}},
	{of: "recipes.md#mqtt-postgres-and-others", tries: [][]string{
		{`send :80 "\x00\x00\x00\x08\x04\xd2\x16\x2f"`, "127.0.0.1:5432 got"},
		{`send :80 "\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"`, "127.0.0.1:1883 got"},
		{"GET http://example.com/", "404"},
	}},
	{of: "recipes.md#tls-for-another-server-by-name", tries: [][]string{
		{"GET https://git.example.com:80/x", "200", "10.0.0.7:443 got GET /x", "tls: git.example.com", "certificate by: the stubs"},
		{"GET https://other.example.com:80/x", "closed"},
	}},
	{of: "recipes.md#grpc", tries: [][]string{
		{"h2 GET https://grpc.example.com:80/x", "200 HTTP/2.0", "127.0.0.1:50051 got GET /x HTTP/2.0", "tls: grpc.example.com", "certificate by: the stubs"},
		{"h2 GET https://example.com:80/x", "closed"},
	}},
	{of: "recipes.md#grpc 2", tries: [][]string{
		{"h2c GET http://example.com/x", "200 HTTP/2.0", "127.0.0.1:50051 got GET /x HTTP/2.0"},
		{"GET http://example.com/x", "404"},
	}},
	{of: "recipes.md#answer-without-a-server", tries: [][]string{
		{"GET http://example.com/private/x", "403"},
		{"GET http://example.com/old/x?y=z", "301", "Location: https://example.org/old/x?y=z"},
		{"GET http://example.com/", "404"},
	}},
	{of: "recipes.md#bounds-for-clients-that-are-slow-or-silent", tries: [][]string{
		{"GET http://example.com/", "200", "the site"},
		{"GET http://example.com/\nX-Long: " + strings.Repeat("x", 8<<10), "431"},
	}, check: boundsClients(50), mayLog: []string{"too many connections under inspection"}},
	{of: "recipes.md#bounds-for-clients-that-are-slow-or-silent", change: []string{"timeout 5s", "timeout 100ms"}, tries: [][]string{
		{`send :80 "GET / HTTP/1.1\r\nHost:"`, "HTTP/1.1 408"},
	}},
	{of: "recipes.md#only-from-some-networks", tries: [][]string{
		{"GET http://example.com/admin/x", "403"},
	}},
	{of: "recipes.md#only-from-some-networks", change: []string{"10.0.0.0/8", "127.0.0.0/8"}, tries: [][]string{
		{"GET http://example.com/admin/x", "200", "10.0.0.5:9000 got GET /admin/x"},
	}},

	// coming-from.md
	{of: "coming-from.md#haproxy", tries: [][]string{
		{"SSH :8080", "SSH-2.0-127.0.0.1:22\r\n"},
		{"GET http://example.com:8080/x", "200", "127.0.0.1:8081 got GET /x"},
	}},
	{of: "coming-from.md#caddy-l4s-proxy", tries: [][]string{
		{"GET http://example.com:8080/chat/room", "200", "10.0.0.5:9000 got GET /chat/room"},
		{"SSH :8080", "SSH-2.0-127.0.0.1:22\r\n"},
		{"GET http://example.com:8080/", "200", ofCaddy, "the site"},
		{"GET http://example.com:8081/", "200", ofCaddy, "the site"},
	}},
	{of: "coming-from.md#caddy-l4s-proxy 2", tries: [][]string{
		{"GET http://example.com:8080/chat/room", "200", "10.0.0.5:9000 got GET /chat/room"},
		{"SSH :8080", "SSH-2.0-127.0.0.1:22\r\n"},
		{"GET http://example.com:8080/", "200", ofCaddy, "the site"},
	}},
	{of: "coming-from.md#streamprox-and-twisted", tries: [][]string{
		{"GET http://example.com:8080/google/x", "200", "www.google.com:80 got GET /google/x"},
		{"GET http://example.com:8080/google", "200", "www.google.com:80 got GET /google"},
		{"GET http://example.com:8080/foo", "401", ofCaddy, "Www-Authenticate: Basic"},
		{"GET http://example.com:8080/bar", "200", ofCaddy, "bar"},
	}},

	// the pages of modules
	{of: "http_app.md#http_app 2", tries: [][]string{
		{"GET http://example.com/", "200", ofCaddy, "Connection: close", "the site"},
	}},
	{of: "http_app.md#http_app 4", tries: [][]string{
		{"GET http://example.com:8080/", "200", ofCaddy, page},
	}},
	{of: "http_app.md#http_app 5", tries: [][]string{
		{"GET http://example.com:8080/", "200", ofCaddy, page},
	}},
	{of: "http_respond.md#http_respond", tries: [][]string{
		{"GET http://example.com/gone/x", "410", "no longer here", "Connection: close"},
		{"GET http://example.com/old/x?y=z", "301", "Location: https://example.com/old/x?y=z"},
	}},
	{of: "http_respond.md#http_respond 2", tries: [][]string{
		{"GET http://example.com/", "301", "Location: https://example.org/", "Content-Type: text/plain; charset=utf-8", "moved"},
	}},
	{of: "inspect.md#inspect 2", tries: [][]string{
		{"GET http://example.com/chat/room", "200", "10.0.0.5:9000 got GET /chat/room"},
		{"SSH :80", "SSH-2.0-127.0.0.1:22\r\n"},
		{"GET http://example.com/", "200", "the site"},
		{"GET http://example.com/chat/room\nX-Long: " + strings.Repeat("x", 24<<10), "200"},
		{"GET http://example.com/chat/room\nX-Long: " + strings.Repeat("x", 32<<10), "431"},
	}},
	{of: "inspect.md#inspect 2", change: []string{"silent_timeout 5s", "silent_timeout 100ms"}, tries: [][]string{
		{"silent :80", "SSH-2.0-127.0.0.1:22\r\n"},
	}},
	{of: "inspect.md#http_request", tries: [][]string{
		{"GET http://example.com/chat/room", "200", "@chat"},
		{"GET http://api.example.com/", "200", "@api"},
		{"DELETE http://api.example.com/", "404"},
		{"GET http://example.com/", "404"},
	}},
	{of: "inspect.md#where-it-works", tries: [][]string{
		{"any GET https://example.com/", "200 HTTP/1.1", "the site"},
	}},
	{of: "relay.md#relay 2", check: func(r *running, _ *block) error {
		for range 20 {
			got := r.try("GET http://example.com/x")
			if !strings.HasPrefix(got, "200") || !strings.Contains(got, "\nfrom: "+r.client+"\n") ||
				strings.Contains(got, "10.0.0.6:9443 got") != strings.Contains(got, "tls: api.example.com") {
				return fmt.Errorf("got %s", got)
			}
		}
		return nil
	}},
	{of: "relay.md#relay 2", down: []string{"10.0.0.5:9000"}, tries: [][]string{
		{"GET http://example.com/x", "200", "10.0.0.6:9443 got GET /x", "tls: api.example.com", "from: {client}"},
		{"GET http://example.com/x\nConnection: Upgrade\nUpgrade: mqtt", "200", "Upgrade: mqtt"},
		{"GET http://example.com/x\nConnection: Upgrade\nUpgrade: other", "200", "!Upgrade:"},
	}, mayLog: []string{"upstream is down", "upstream not reached"}},
	{of: "relay.md#relay 2", check: keeps(
		[]string{"GET http://example.com/a", "200", "got GET /a", "!Connection"},
		[]string{"GET http://example.com/b", "200", "got GET /b", "from: {from}\n"}, // the client's address, of the PROXY protocol
	)},
	{of: "relay.md#policies-that-know-the-request", change: []string{"cookie sid", "cookie sid\n\tupstream_keepalive 1m"}, check: keeps(
		[]string{"GET http://example.com/a\nCookie: sid=1", "200", "got GET /a", "!Connection"},
		[]string{"GET http://example.com/b\nCookie: sid=1", "200", "got GET /b", "from: {from}\n"},
	)},
	{of: "relay.md#policies-that-know-the-request", check: sticks("GET http://example.com/x\nCookie: sid=%d")},
	{of: "relay.md#policies-that-know-the-request", change: []string{"cookie sid", "header X-Tenant"}, check: sticks("GET http://example.com/x\nX-Tenant: %d")},
	{of: "relay.md#policies-that-know-the-request", change: []string{"cookie sid", "uri_hash"}, check: sticks("GET http://example.com/x?%d")},
	{of: "relay.md#addresses-that-depend-on-the-connection", also: []string{"app.example.org:9000", "app.example.com:9000", "10.1.2.3:9000"}, tries: [][]string{
		{"GET http://example.com/x\nHost: <app.example.org:9000>", "200", "app.example.org:9000 got GET /x"},
		{"GET http://example.com/x\nHost: <app.example.com:9000>", "502"},
		{"GET http://example.com/x\nHost: <10.1.2.3:9000>", "502"},
	}, mayLog: []string{"address refused"}},
	{of: "relay.md#addresses-that-depend-on-the-connection", also: []string{"app.example.org:9000"}, check: keeps(
		[]string{"GET http://example.com/a\nHost: <app.example.org:9000>", "200", "app.example.org:9000 got GET /a", "!Connection"},
		[]string{"GET http://example.com/b\nHost: <app.example.org:9000>", "200", "app.example.org:9000 got GET /b", "!from: {from}\n"},
	)},
	{of: "relay.md#addresses-that-depend-on-the-connection", change: []string{"10.0.0.0/8", "127.0.0.0/8"},
		also: []string{"app.example.com:9000", "10.1.2.3:9000"}, tries: [][]string{
			{"GET http://example.com/x\nHost: <10.1.2.3:9000>", "200", "10.1.2.3:9000 got GET /x"},
			{"GET http://example.com/x\nHost: <app.example.com:9000>", "200", "app.example.com:9000 got GET /x"},
		}},
	{of: "rewrite_head.md#rewrite_head 2", tries: [][]string{
		{"GET http://example.com/echo/x?y\nCookie: a=b\nX-Forwarded-For: 192.0.2.7", "200", "10.0.0.5:9000 got GET /x?y", "Host: echo.example.org\n",
			"Origin: http://echo.example.org\n", "X-Tag: one\n", "X-Forwarded-For: 127.0.0.1\n", "X-Forwarded-Host: example.com\n", "X-Forwarded-Proto: http\n", "!Cookie", "!192.0.2.7"},
		{"GET http://example.com/echo", "200", "got GET / HTTP/1.1"},
		{"GET http://example.com/Ech%6F//x", "200", "got GET /x HTTP/1.1"},
		{"GET http://example.com/echox", "200", "got GET /echox HTTP/1.1"},
		{"GET http://example.com/echo%2Fx", "200", "got GET /echo%2Fx HTTP/1.1"},
		{"GET http://example.com/x/echo", "200", "got GET /x/echo HTTP/1.1"},
	}},
	{of: "rewrite_head.md#rewrite_head 2", change: []string{"10.0.0.0/8", "127.0.0.0/8"}, tries: [][]string{
		{"GET http://example.com/x\nX-Forwarded-For: 192.0.2.7\nX-Forwarded-Proto: https", "200", "X-Forwarded-For: 192.0.2.7, 127.0.0.1\n", "X-Forwarded-Proto: https\n"},
	}},

	// the other pages
	{of: "security.md#what-is-not-promised", tries: [][]string{
		{"GET http://example.com/admin/", "403"},
		{"GET http://example.com/admin", "403"},
		{"GET http://example.com/admin;x/", "200", "10.0.0.5:9000 got GET /admin;x/"},
	}},
	{of: "security.md#what-is-not-promised 2", tries: [][]string{
		{"GET http://example.com/static/x", "200", "10.0.0.5:9000 got GET /static/x"},
		{"GET http://example.com/chat/x", "200", "10.0.0.5:9000 got GET /chat/x"},
		{"GET http://example.com/admin;x/", "403"},
		{"GET http://example.com/admin/", "403"},
	}},
	{of: "more-than-one-machine.md#more-than-one-machine", tries: [][]string{
		{"any GET https://example.com/", "200 HTTP/1.1", ofCaddy, page},
		{"GET http://example.com/", "308", "Location: https://example.com/"},
		{"SSH :443", "SSH-2.0-10.0.1.7:22\r\n"},
		{"WebSocket wss://example.com/chat/room", "10.0.1.", ":9000 got GET /chat/room", "\nmessage"},
		{"GET http://example.com:8081/ready", "200", "ready"},
		{"GET http://example.com:8081/", "404"},
		{`from 192.0.2.7 send :80 "GET / HTTP/1.1\r\n"`, "SSH-2.0-10.0.1.7:22\r\n"}, // the header is no HTTP
	}, check: sticks("GET https://example.com/chat/%d")},
	{of: "more-than-one-machine.md#more-than-one-machine", change: []string{"10.0.0.0/24", "127.0.0.0/8"}, tries: [][]string{
		{"from 192.0.2.7 GET https://example.com/", "200", page},
		{"from 192.0.2.7 SSH :443", "SSH-2.0-10.0.1.7:22\r\n"},
		{"GET https://example.com/", "closed"},
		// The command LOCAL of version 2.
		{`send :80 "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n"`, "HTTP/1.1 308"},
	}},
	{of: "more-than-one-machine.md#more-than-one-machine", change: []string{`/ready "ready"`, "/ready 503"}, tries: [][]string{
		{"GET http://example.com:8081/ready", "503"},
	}},
	{of: "more-than-one-machine.md#certificates", on: "README.md#which-layout-is-mine 3", check: stores("mnt/shared/caddy")},
	{of: "metrics.md#metrics", tries: [][]string{
		{"GET http://example.com:8080/chat/room", "200", "10.0.0.5:9000 got GET /chat/room"},
		{"GET http://example.com:9180/", "200", `caddy_streamprox_inspections_total{outcome="http",route="chat"}`,
			`caddy_streamprox_dials_total{result="connected",upstream="`},
	}},
	{of: "operations.md#logs", on: "README.md#which-layout-is-mine 2", check: logsDecisions},
	{of: "operations.md#stop", tries: [][]string{
		{"GET http://example.com:8081/", "200", "ready"},
	}},
}

// longer keeps connections to a server, whose line is indented so, for so long that a slow
// machine is no reason to end them.
func longer(indent string) []string {
	return []string{indent + "relay 10.0.0.5:9000\n", indent + "relay 10.0.0.5:9000 {\n" + indent + "\tupstream_keepalive 1m\n" + indent + "}\n"}
}

// brief makes silence short.
var brief = []string{"inspect {\n", "inspect {\n\t\t\t\t\tsilent_timeout 100ms\n\n"}

// always checks that one server gets all requests, also those that another one refused.
func always(server string) func(*running, *block) error {
	return func(r *running, _ *block) error {
		for range 100 {
			if got := r.try("GET http://example.com/x"); !strings.Contains(got, server+" got GET /x") {
				return fmt.Errorf("want %s, got %s", server, got)
			}
			if strings.Contains(r.logs.String(), "upstream not reached") {
				return nil
			}
		}
		return errors.New("the other server was not asked")
	}
}

// keeps checks that requests have these answers when they are sent one after the other on
// one connection of the client. "{from}" is where the last server behind relay saw its
// request come from.
func keeps(tries ...[]string) func(*running, *block) error {
	return func(r *running, _ *block) error {
		transport := r.transport("")
		transport.Protocols.SetHTTP1(true)
		defer transport.CloseIdleConnections()
		from := "nowhere"
		for i, try := range tries {
			var conn httptrace.GotConnInfo
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			got := request(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
				GotConn: func(info httptrace.GotConnInfo) { conn = info },
			}), transport, r.here(try[0]))
			cancel()
			if err := compare(try, got, "{from}", from); err != nil {
				return err
			}
			if i > 0 && !conn.Reused {
				return fmt.Errorf("%q: the connection was not kept for it", try[0])
			}
			if _, after, ok := strings.Cut(got, "\nfrom: "); ok {
				from, _, _ = strings.Cut(after, "\n")
			}
		}
		return nil
	}
}

// sticks checks that requests with the same number have the same server, and that others
// have another one.
func sticks(format string) func(*running, *block) error {
	return func(r *running, _ *block) error {
		servers := make(map[string]bool)
		for i := range 32 {
			request, first := fmt.Sprintf(format, i), ""
			for range 3 {
				_, body, _ := strings.Cut(r.try(request), "\n\n")
				server, _, ok := strings.Cut(body, " got GET ")
				if !ok || first != "" && server != first {
					return fmt.Errorf("%q: got %q after %q", request, body, first)
				}
				first = server
			}
			servers[first] = true
		}
		if len(servers) != 2 {
			return fmt.Errorf("all of them went to %v", servers)
		}
		return nil
	}
}

// boundsClients checks that so many connections of an address can be silent at once.
func boundsClients(limit int) func(*running, *block) error {
	const more = 10
	return func(r *running, _ *block) error {
		type answer struct {
			conn int
			open bool
		}
		conns, answers := make([]net.Conn, limit+more), make(chan answer, limit+more)
		for i := range conns {
			conn, err := r.dial(context.Background(), "example.com:80", "")
			if failure(err) == "closed" && err != nil { // reset before it was here
				answers <- answer{i, false}
				continue
			}
			if err != nil {
				return err
			}
			defer conn.Close()
			conns[i] = conn
			go func() {
				_, err := io.ReadFull(conn, make([]byte, 1))
				answers <- answer{i, err == nil}
			}()
		}
		closed := make(map[int]bool)
		for range more {
			closed[(<-answers).conn] = true
		}
		for i, conn := range conns {
			if !closed[i] {
				fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
			}
		}
		for range limit {
			if got := <-answers; !got.open {
				return fmt.Errorf("more than %d of %d connections are closed", more, len(conns))
			}
		}
		return nil
	}
}

// stores checks that the certificate of example.com is in a folder of the page.
func stores(folder string) func(*running, *block) error {
	return func(r *running, _ *block) error {
		_, err := os.Stat(filepath.Join(r.dir, filepath.FromSlash(folder), "certificates", "local", "example.com"))
		return err
	}
}

// decide lets the configuration log each kind of decision.
func decide(r *running) {
	for _, send := range []string{
		"GET http://localhost:8080/", "GET http://localhost:8080/chat/room", "GET http://localhost:8080/..%2f", "SSH :8080",
	} {
		r.try(send)
	}
}

// logsDecisions checks that what inspect and relay decide is in a file, and nothing else.
func logsDecisions(r *running, _ *block) error {
	decide(r)
	return eventually(func() error {
		logged, err := os.ReadFile(filepath.Join(r.dir, "var", "log", "caddy", "decisions.log"))
		if err != nil {
			return err
		}
		found := make(map[string]int)
		for line := range strings.Lines(string(logged)) {
			var entry struct{ Logger, Msg string }
			if err := json.Unmarshal([]byte(line), &entry); err != nil {
				return err
			}
			found[entry.Logger+" "+entry.Msg]++
		}
		if len(found) != 2 || found["layer4.handlers.inspect inspected"] != 4 || found["layer4.handlers.relay stream ended"] != 2 {
			return fmt.Errorf("logged: %v", found)
		}
		return nil
	})
}

// logNumber is what differs each time in a line that a page shows.
var logNumber = regexp.MustCompile(`(127\.0\.0\.1:|"read": |"written": |"duration": )[0-9.e-]+`)

// showsDecisions checks that the lines which the page shows are logged.
func showsDecisions(r *running, b *block) error {
	decide(r)
	if len(b.output) != 1 {
		return fmt.Errorf("the page has %d outputs", len(b.output))
	}
	return eventually(func() error {
		logged, err := os.ReadFile(filepath.Join(r.dir, "stdout"))
		if err != nil {
			return err
		}
		var missing error
		for line := range strings.Lines(logNumber.ReplaceAllString(b.output[0], "$1#")) {
			if !strings.Contains(logNumber.ReplaceAllString(string(logged), "$1#"), "\t"+line) {
				missing = errors.Join(missing, fmt.Errorf("not logged: %s", line))
			}
		}
		if missing != nil {
			missing = fmt.Errorf("%w\nlogged:\n%s", missing, logged)
		}
		return missing
	})
}

// eventually waits until there is no error.
func eventually(check func() error) (err error) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = check(); err == nil {
			return nil
		}
	}
	return err
}
