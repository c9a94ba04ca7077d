package streamprox

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// AdminAPI has the endpoints of this package in Caddy's admin API, under /streamprox/.
type AdminAPI struct{}

// CaddyModule returns the Caddy module information.
func (*AdminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.streamprox",
		New: func() caddy.Module { return new(AdminAPI) },
	}
}

// adminEndpoints are the endpoints: path, method, and what answers. A path that ends in a slash
// has what is below it.
var adminEndpoints = []struct {
	path, method string
	serve        func(http.ResponseWriter, *http.Request) error
}{
	{"/streamprox/streams", http.MethodGet, serveStreams},
	{"/streamprox/streams", http.MethodDelete, serveEndStreams},
	{"/streamprox/streams/", http.MethodGet, serveStream},
	{"/streamprox/streams/", http.MethodDelete, serveEndStream},
	{"/streamprox/stats", http.MethodGet, serveStats},
	{"/streamprox/upstreams", http.MethodGet, serveUpstreams},
	{"/streamprox/upstreams/", http.MethodPost, serveDrain},
	{"/streamprox/explain", http.MethodPost, serveExplain},
}

// Routes implements caddy.AdminRouter.
func (*AdminAPI) Routes() (routes []caddy.AdminRoute) {
	for _, e := range adminEndpoints {
		if slices.ContainsFunc(routes, func(r caddy.AdminRoute) bool { return r.Pattern == e.path }) {
			continue // with another method
		}
		routes = append(routes, caddy.AdminRoute{Pattern: e.path, Handler: caddy.AdminHandlerFunc(serveAdmin)})
	}
	return routes
}

// serveAdmin answers a request to one of the endpoints.
func serveAdmin(w http.ResponseWriter, r *http.Request) error {
	var methods []string
	for _, e := range adminEndpoints {
		if r.URL.Path != e.path && !(strings.HasSuffix(e.path, "/") && strings.HasPrefix(r.URL.Path, e.path)) {
			continue
		}
		if r.Method == e.method {
			return e.serve(w, r)
		}
		methods = append(methods, e.method)
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	return apiError(http.StatusMethodNotAllowed, fmt.Errorf("%s takes %s", r.URL.Path, strings.Join(methods, " and ")))
}

// apiError is an error of the admin API with that status.
func apiError(status int, err error) error { return caddy.APIError{HTTPStatus: status, Err: err} }

// writeJSON answers with a value.
func writeJSON(w http.ResponseWriter, value any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(value)
}

// Interface guards
var _ caddy.AdminRouter = (*AdminAPI)(nil)
