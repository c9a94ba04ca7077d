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

	// workers are the processes that it starts. It ends them when it is asked to end.
	workers int

	// app says that it answers requests itself, at site and files. The others relay, at
	// streams and requests.
	app bool

	// once says that a connection carries one request.
	once bool

	// watched says that somebody asks Caddy for its metrics and its streams.
	watched bool
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

	relayRouted  = "streamprox inspect, relay"
	relayFirst   = "streamprox inspect, relay reuse pin: not routed"
	reverseProxy = "Caddy reverse_proxy"
	haproxyHTTP  = "HAProxy mode http"
	nginxProxy   = "nginx proxy_pass"

	native       = "Caddy's own listener"
	appReinspect = "streamprox inspect, http_app"
	appPin       = "streamprox inspect, http_app reuse pin"
	appBare      = "streamprox http_app alone"
	wrapper      = "caddy-l4 listener wrapper, empty route"
)

// The head that all clients send: of a request, and of one that opens a stream.
const (
	requestHead = "GET /app/item HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: compare\r\nAccept: */*\r\n\r\n"
	eventsHead  = "GET /app/events HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: compare\r\nAccept: text/event-stream\r\n\r\n"
	fileHead    = "GET /file HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: compare\r\nAccept: */*\r\n\r\n"
	streamHead  = "GET /app/%s HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: compare\r\n" +
		"Connection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

// pinning is a handler that looks at the first request of a connection.
const pinning = "inspect {\n@app http_request path /app/*\nroute @app {\nrelay %s {\nreuse pin\n}\n}\n}"

// relays carry streams and requests to the servers behind them. Those that look at
// requests choose by path.
var relays = []contender{
	{name: relayPin, caddyfile: relayCaddyfile(pinning)},
	{name: relayClose, once: false, caddyfile: relayCaddyfile("inspect {\n@app http_request path /app/*\n" +
		"route @app {\nrelay %s {\nreuse close\n}\n}\n}")},
	{name: relayBare, caddyfile: relayCaddyfile("relay %s")},
	{name: proxyPath, caddyfile: relayCaddyfile("subroute {\n@app http path /app/*\nroute @app {\nproxy %s\n}\n}")},
	{name: proxyBare, caddyfile: relayCaddyfile("proxy %s")},
	{name: haproxyCopy, program: "haproxy", command: haproxyCommand("mode tcp", haproxyStreams)},
	{name: haproxySplice, program: "haproxy", command: haproxyCommand("mode tcp\n\toption splice-auto", haproxyStreams)},
}

// proxies route each request by its path, and make a stream of a WebSocket.
var proxies = []contender{
	{name: relayRouted, once: false, caddyfile: relayCaddyfile("inspect {\n@app http_request path /app/*\n" +
		"route @app {\nrelay %s\n}\n}")},
	{name: reverseProxy, caddyfile: reverseProxyCaddyfile},
	{name: haproxyHTTP, program: "haproxy", command: haproxyCommand("mode http\n\toption http-no-delay", haproxyRequests)},
	{name: nginxProxy, program: "nginx", workers: 2, command: nginxProxyCommand},
}

// crowded are the proxies that have many connections, few of them busy.
var crowded = []contender{proxies[0], proxies[2]}

// notRouted is beside the proxies, and sends the requests after the first one wherever that
// went.
var notRouted = contender{name: relayFirst, caddyfile: relayCaddyfile(pinning)}

// inspectApp is Caddy's HTTP app behind streamprox, and ownListener without it.
var (
	inspectApp  = contender{name: appReinspect, app: true, caddyfile: appCaddyfile("inspect {\nroute {\nhttp_app %s\n}\n}")}
	ownListener = contender{name: native, app: true, caddyfile: func(p places) string { return nativeCaddyfile(p, "") }}
)

// apps hand connections to Caddy's HTTP app.
var apps = []contender{
	inspectApp,
	{name: appPin, app: true, caddyfile: appCaddyfile("inspect {\nroute {\nhttp_app %s {\nreuse pin\n}\n}\n}")},
	{name: appBare, app: true, caddyfile: appCaddyfile("http_app %s")},
	ownListener,
	{name: wrapper, app: true, caddyfile: func(p places) string {
		return nativeCaddyfile(p, "listener_wrappers {\nlayer4 {\nroute\n}\n}\n")
	}},
}

// global are the options of every Caddy.
func global(p places, options string) string {
	return fmt.Sprintf("{\nadmin %s\npersist_config off\n%s}\n", p.admin, options)
}

// relayCaddyfile returns a configuration with two ports and the handler on each.
func relayCaddyfile(handler string) func(places) string {
	return func(p places) string { return relayOptionsCaddyfile(p, "", handler) }
}

// relayOptionsCaddyfile is relayCaddyfile with global options.
func relayOptionsCaddyfile(p places, options, handler string) string {
	return global(p, options+"layer4 {\n"+
		p.streams+" {\nroute {\n"+fmt.Sprintf(handler, p.streamBackend)+"\n}\n}\n"+
		p.requests+" {\nroute {\n"+fmt.Sprintf(handler, p.requestBackend)+"\n}\n}\n}\n")
}

// reverseProxyCaddyfile returns a configuration with the two ports of a relay as sites. By
// default Caddy keeps 32 connections to a server, fewer than there are clients, which costs it a
// fifth of the processor time of a request.
func reverseProxyCaddyfile(p places) string {
	site := func(listen, backend string) string {
		return "http://:" + port(listen) + " {\nbind 127.0.0.1\nreverse_proxy /app/* " + backend + " {\n" +
			"transport http {\nkeepalive_idle_conns_per_host 64\n}\n}\n}\n"
	}
	return global(p, "") + site(p.streams, p.streamBackend) + site(p.requests, p.requestBackend)
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
