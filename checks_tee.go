package streamprox

// A tee behind what has read bytes of the stream: it would deliver these bytes twice.

// refuseTee refuses a tee behind what has read bytes, if a handler of this package gets the
// stream from it.
func (c *checker) refuseTee(h *configHandler) {
	if h.route.inInspect() {
		c.refuse(h.route, "tee in a route of inspect would deliver twice the bytes that inspect has read; put tee before inspect, in a route without matchers")
		return
	}
	ours := named("inspect", "http_app", "relay", "rewrite_head", "http_respond")
	if read := h.readBefore(); read != "" && (has(h, ours) || h.followedBy(ours)) {
		c.refuse(h.route, "tee would deliver twice the bytes that %s has read; put tee before it, in a route without matchers", read)
	}
}

// readBefore names what may have read bytes of the stream before h gets it, or returns "".
func (h *configHandler) readBefore() string {
	route := h.route
	read := ""
	if around := route.list.in; around != nil {
		read = around.readBefore()
	}
	for i := range route.list.routes[:route.index] {
		read = route.list.routes[i].readAfter(read)
	}
	if name := reader(route.Match); name != "" {
		read = "the matcher " + name
	}
	for i := range route.Handle[:h.index] {
		read = route.Handle[i].readAfter(read)
	}
	return read
}

// readAfter names what may have read bytes of a stream that comes out of the handler, if read
// has before it.
func (h *configHandler) readAfter(read string) string {
	switch h.Name {
	case "inspect":
		return "inspect"
	case "tls", "proxy_protocol":
		return "" // they take all that has been read
	case "subroute":
		for i := range h.inner.routes {
			read = h.inner.routes[i].readAfter(read)
		}
	}
	return read
}

// readAfter names what may have read bytes of a stream that the route has taken, or not.
func (r *configRoute) readAfter(read string) string {
	if name := reader(r.Match); name != "" {
		read = "the matcher " + name
	}
	after := read
	for i := range r.Handle {
		after = r.Handle[i].readAfter(after)
	}
	if after == "" && len(r.Match) > 0 {
		return read
	}
	return after
}
