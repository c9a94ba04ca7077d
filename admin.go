package streamprox

import (
	"encoding/json"
	"fmt"
	"net/http"
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

// adminMethods are what answers at a path, by the method of the request.
type adminMethods map[string]func(http.ResponseWriter, *http.Request) error

// adminEndpoints are the endpoints, by path. One that ends in a slash has what is below it.
var adminEndpoints = map[string]adminMethods{
	"/streamprox/streams":    {http.MethodGet: serveStreams, http.MethodDelete: serveEndStreams},
	"/streamprox/streams/":   {http.MethodGet: serveStream, http.MethodDelete: serveEndStream},
	"/streamprox/stats":      {http.MethodGet: serveStats},
	"/streamprox/upstreams":  {http.MethodGet: serveUpstreams},
	"/streamprox/upstreams/": {http.MethodPost: serveDrain},
	"/streamprox/explain":    {http.MethodPost: serveExplain},
	"/streamprox/replay":     {http.MethodPost: serveReplay},
}

// Routes implements caddy.AdminRouter.
func (*AdminAPI) Routes() (routes []caddy.AdminRoute) {
	for path, methods := range adminEndpoints {
		routes = append(routes, caddy.AdminRoute{Pattern: path, Handler: methods})
	}
	return routes
}

// ServeHTTP implements caddy.AdminHandler.
func (m adminMethods) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	if serve := m[r.Method]; serve != nil {
		return serve(w, r)
	}
	methods := sortedKeys(m)
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
var (
	_ caddy.AdminHandler = adminMethods(nil)
	_ caddy.AdminRouter  = (*AdminAPI)(nil)
)
