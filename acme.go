package streamprox

import (
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
)

// unbindACME removes addresses of the virtual network from the ACME issuers of the
// configuration. The Caddyfile adapter makes a site's bind address the address on
// which its issuer listens for challenges; on this network there is nothing to
// listen on. Without an address the issuer finds that the port is taken, by the
// layer4 server in front, and the HTTP app answers the challenge that arrives there.
func unbindACME(ctx caddy.Context) error {
	app, err := ctx.AppIfConfigured("tls")
	if err != nil {
		if errors.Is(err, caddy.ErrNotConfigured) {
			return nil
		}
		return err
	}
	tlsApp := app.(*caddytls.TLS)
	if tlsApp.Automation == nil {
		return nil
	}
	for _, policy := range tlsApp.Automation.Policies {
		var changed bool
		for _, issuer := range policy.Issuers {
			wrapper, ok := issuer.(interface{ GetACMEIssuer() *caddytls.ACMEIssuer })
			if !ok {
				continue
			}
			acme := wrapper.GetACMEIssuer()
			if acme == nil || acme.Challenges == nil || !strings.HasPrefix(acme.Challenges.BindHost, networkName+"/") {
				continue
			}
			acme.Challenges.BindHost = ""
			if err := acme.Provision(ctx); err != nil {
				return fmt.Errorf("provisioning ACME issuer again: %w", err)
			}
			changed = true
		}
		if !changed {
			continue
		}
		if err := policy.RebuildCertMagic(tlsApp); err != nil {
			return fmt.Errorf("rebuilding automation policy: %w", err)
		}
	}
	return nil
}
