package streamprox

import (
	"encoding/json"
	"reflect"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"
)

// Where the checks get their configuration from. While an app is provisioned, Caddy drops
// the JSON of each module that it has loaded. So the checks read the JSON of the whole app,
// which Caddy keeps until the app is provisioned, in a private field.

// appOf returns the *layer4.App or the *caddyhttp.App in which a handler is being
// provisioned, or nil.
func appOf(ctx caddy.Context) caddy.Module {
	for _, module := range slices.Backward(ctx.Modules()) {
		switch module.(type) {
		case *layer4.App, *caddyhttp.App:
			return module
		}
	}
	return nil
}

// layer4Servers returns the servers of the layer4 app as they are configured, or as much
// as is left of that.
func layer4Servers(ctx caddy.Context, app *layer4.App) map[string]layer4Server {
	raw := rawApp(ctx, "layer4")
	if raw == nil {
		raw, _ = json.Marshal(app)
	}
	return parseLayer4(raw)
}

// layer4ServersBeside returns the servers of the layer4 app beside the HTTP app that is being
// provisioned. If the layer4 app is yet to be provisioned, that must not begin from here: its
// handlers would take themselves for those of a listener wrapper.
func layer4ServersBeside(ctx caddy.Context) map[string]layer4Server {
	if raw := rawApp(ctx, "layer4"); raw != nil {
		return parseLayer4(raw)
	}
	module, err := ctx.AppIfConfigured("layer4")
	if err != nil {
		return nil
	}
	app, ok := module.(*layer4.App)
	if !ok {
		return nil
	}
	return layer4Servers(ctx, app)
}

// rawApp returns the JSON of an app that has not been provisioned to the end, or nil. It reads
// it from a private field of the configuration: what Caddy shows lacks the routes before the
// first handler of this package, which matter where tee is.
func rawApp(ctx caddy.Context, name string) json.RawMessage {
	config := reflect.ValueOf(ctx).FieldByName("cfg")
	if !config.IsValid() || config.Kind() != reflect.Pointer || config.IsNil() {
		return nil
	}
	apps := config.Elem().FieldByName("AppsRaw")
	if !apps.IsValid() || apps.Type() != reflect.TypeFor[caddy.ModuleMap]() {
		return nil
	}
	raw := apps.MapIndex(reflect.ValueOf(name))
	if !raw.IsValid() {
		return nil
	}
	return raw.Bytes()
}
