package main

import (
	"fmt"
	"strings"
)

// contender is one program, or one configuration of Caddy, in the tables.
type contender struct {
	name string

	// caddyfile returns the configuration, if it is Caddy.
	caddyfile func(places) string

	// command returns how to start it, if it is not. It may write files into the
	// directory.
	command func(dir string, p places) ([]string, error)

	// program is what has to be installed.
	program string

	// once says that a connection carries one request.
	once bool
}

// places are the addresses and files of a contender.
type places struct {
	admin string // of Caddy

	// streams and requests are where a relay listens for what goes to streamBackend and
	// to requestBackend.
	streams, requests             string
	streamBackend, requestBackend string

	// site and files are where an HTTP server listens. On the second one Caddy lets the
	// kernel send the file that is in root.
	site, files string
	root        string
}

// Names of contenders to which goals refer.
const (
	relayPin      = "streamprox inspect, relay reuse pin"
	relayClose    = "streamprox inspect, relay reuse close"
	relayBare     = "streamprox relay alone"
	proxyPath     = "caddy-l4 http, proxy"
	proxyBare     = "caddy-l4 proxy alone"
	haproxyCopy   = "HAProxy"
	haproxySplice = "HAProxy splice-auto"

	native       = "Caddy's own listener"
	appReinspect = "streamprox inspect, http_app"
	appPin       = "streamprox inspect, http_app reuse pin"
	appBare      = "streamprox http_app alone"
	wrapper      = "caddy-l4 listener wrapper, empty route"
)

// The head that all clients send: of a request, and of one that opens a stream.
const (
	requestHead = "GET /app/item HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: compare\r\nAccept: */*\r\n\r\n"
	fileHead    = "GET /file HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: compare\r\nAccept: */*\r\n\r\n"
	streamHead  = "GET /app/%s HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: compare\r\n" +
		"Connection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

// relays carry streams and requests to the servers behind them. Those that look at
// requests choose by path.
var relays = []contender{
	{name: relayPin, caddyfile: relayCaddyfile("inspect {\n@app http_request path /app/*\nroute @app {\n" +
		"relay %s {\nreuse pin\n}\n}\n}")},
	{name: relayClose, once: true, caddyfile: relayCaddyfile("inspect {\n@app http_request path /app/*\n" +
		"route @app {\nrelay %s\n}\n}")},
	{name: relayBare, caddyfile: relayCaddyfile("relay %s")},
	{name: proxyPath, caddyfile: relayCaddyfile("subroute {\n@app http path /app/*\nroute @app {\nproxy %s\n}\n}")},
	{name: proxyBare, caddyfile: relayCaddyfile("proxy %s")},
	{name: haproxyCopy, program: "haproxy", command: haproxyCommand("")},
	{name: haproxySplice, program: "haproxy", command: haproxyCommand("option splice-auto")},
}

// apps hand connections to Caddy's HTTP app.
var apps = []contender{
	{name: appReinspect, caddyfile: appCaddyfile("inspect {\nroute {\nhttp_app %s\n}\n}")},
	{name: appPin, caddyfile: appCaddyfile("inspect {\nroute {\nhttp_app %s {\nreuse pin\n}\n}\n}")},
	{name: appBare, caddyfile: appCaddyfile("http_app %s")},
	{name: native, caddyfile: func(p places) string { return nativeCaddyfile(p, "") }},
	{name: wrapper, caddyfile: func(p places) string {
		return nativeCaddyfile(p, "listener_wrappers {\nlayer4 {\nroute\n}\n}\n")
	}},
}

// global are the options of every Caddy.
func global(p places, options string) string {
	return fmt.Sprintf("{\nadmin %s\npersist_config off\n%s}\n", p.admin, options)
}

// relayCaddyfile returns a configuration with two ports and the handler on each.
func relayCaddyfile(handler string) func(places) string {
	return func(p places) string {
		return global(p, "layer4 {\n"+
			p.streams+" {\nroute {\n"+fmt.Sprintf(handler, p.streamBackend)+"\n}\n}\n"+
			p.requests+" {\nroute {\n"+fmt.Sprintf(handler, p.requestBackend)+"\n}\n}\n}\n")
	}
}

// appCaddyfile returns a configuration with two ports and the handler on each.
func appCaddyfile(handler string) func(places) string {
	return func(p places) string {
		return global(p, "servers streamprox/files:81 {\ntimeouts {\nwrite_idle -1s\n}\n}\n"+
			"layer4 {\n"+
			p.site+" {\nroute {\n"+fmt.Sprintf(handler, "site")+"\n}\n}\n"+
			p.files+" {\nroute {\n"+fmt.Sprintf(handler, "files")+"\n}\n}\n}\n") +
			"http://:80 {\nbind streamprox/site\n" + site(p) + "}\n" +
			"http://:81 {\nbind streamprox/files\n" + site(p) + "}\n"
	}
}

// nativeCaddyfile returns a configuration whose HTTP app has the ports.
func nativeCaddyfile(p places, options string) string {
	return global(p, "servers "+p.site+" {\n"+options+"}\n"+
		"servers "+p.files+" {\n"+options+"timeouts {\nwrite_idle -1s\n}\n}\n") +
		"http://:" + port(p.site) + " {\nbind 127.0.0.1\n" + site(p) + "}\n" +
		"http://:" + port(p.files) + " {\nbind 127.0.0.1\n" + site(p) + "}\n"
}

// port returns the port of an address.
func port(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

// site is what is served: a file, and a constant for everything else.
func site(p places) string {
	return "handle /file {\nroot * " + p.root + "\nfile_server\n}\nrespond \"" + body + "\"\n"
}

// haproxyCommand starts HAProxy in TCP mode with as many threads as the others have cores
// on a machine of two.
func haproxyCommand(option string) func(string, places) ([]string, error) {
	return func(dir string, p places) ([]string, error) {
		text := fmt.Sprintf(`global
	nbthread 2
	maxconn %d
	maxpipes 200
defaults
	mode tcp
	timeout connect 5s
	timeout client 1h
	timeout server 1h
	%s
listen streams
	bind %s backlog 4096
	server backend %s
listen requests
	bind %s backlog 4096
	server backend %s
`, mostStreams+100, option, p.streams, p.streamBackend, p.requests, p.requestBackend)
		config, err := write(dir, "haproxy-"+port(p.streams)+".cfg", text)
		return []string{"haproxy", "-db", "-f", config}, err
	}
}

// nginxConfig makes nginx the server behind the relays.
func nginxConfig(dir, address string) string {
	return fmt.Sprintf(`daemon off;
master_process off;
worker_rlimit_nofile %d;
pid %s/nginx.pid;
error_log stderr crit;
events {
	worker_connections %[1]d;
}
http {
	access_log off;
	client_body_temp_path %[2]s/body;
	proxy_temp_path %[2]s/proxy;
	fastcgi_temp_path %[2]s/fastcgi;
	uwsgi_temp_path %[2]s/uwsgi;
	scgi_temp_path %[2]s/scgi;
	keepalive_requests 1000000000;
	keepalive_timeout 1h;
	server {
		listen %s backlog=4096;
		location / {
			return 200 "%s";
		}
	}
}
`, mostStreams+100, dir, address, body)
}
