// Package streamprox puts many protocols behind one port of a Caddy server.
//
// A connection arrives; inspect buffers its first packets, reads the HTTP head
// (or sees that it is TLS, SSH, silence), a route decides, and the buffered bytes
// are replayed to the destination: Caddy's own HTTP app in the same process
// (http_app), or a remote server (relay). It is a plugin on top of caddy-l4, whose
// matchers and handlers all work inside inspect.
//
//	{
//		layer4 {
//			:8080 {
//				route {
//					inspect {
//						@chat http_request path /chat/*
//						route @chat {
//							relay 10.0.0.5:9000 10.0.0.6:9000
//						}
//						@ssh inspected silent other
//						route @ssh {
//							relay 127.0.0.1:22
//						}
//						route {
//							http_app web
//						}
//					}
//				}
//			}
//		}
//	}
//
//	http://:80 {
//		bind streamprox/web
//		root * /srv/www
//		file_server
//	}
//
// In a route of inspect each HTTP/1 request is routed, not only the first one of a
// connection, which moves from one destination to another as its requests say. relay follows
// the framing of a request and its response; then the client's connection waits for the next
// request. The connection to the server is this client's own. An upgrade that the server
// accepts, and what is no HTTP, is a raw stream. http_app lets the HTTP server read no further
// than the request that it has: the next head is read by inspect first.
//
// A connection passes through the package in one direction: handler_inspect.go reads its
// head (receive.go, internal/opening) and chooses a route (route.go); handler_rewrite.go
// edits the head, where a route asks for it; handler_http_app.go hands the connection to a
// listener of the virtual network (internal/handover), or handler_relay.go asks a pool
// (internal/upstream) for a connection to an upstream and hands both ends to internal/relay;
// handler_respond.go answers instead. handler_site.go tells a site about its request.
// stream.go makes what handlers get, replay.go and
// reinspect.go what the HTTP server gets, relayed.go what the engine asks between two requests.
// From there one way leads back to the beginning: what turn.go keeps of a request inspects
// the next one on the connection. docs/architecture.md has pictures of it.
package streamprox

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

func init() {
	socket.SeeThrough(unwrap)

	caddy.RegisterModule(new(Inspect))
	caddy.RegisterModule(new(HTTPApp))
	caddy.RegisterModule(new(Relay))
	caddy.RegisterModule(new(RewriteHead))
	caddy.RegisterModule(new(HTTPRespond))
	caddy.RegisterModule(new(MatchHTTPRequest))
	caddy.RegisterModule(new(MatchInspected))
	caddy.RegisterModule(new(HeaderSelection))
	caddy.RegisterModule(new(CookieSelection))
	caddy.RegisterModule(new(URIHashSelection))
	caddy.RegisterModule(new(AdminAPI))
	caddy.RegisterModule(new(SitePlaceholders))

	caddy.RegisterNetwork(networkName, listen)
	caddy.RegisterNetwork(networkNameHTTP3, listenPacket)
	caddyhttp.RegisterNetworkHTTP3(networkName, networkNameHTTP3)
}
