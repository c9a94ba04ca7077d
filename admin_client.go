package streamprox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// maxAdminAnswer bounds, in bytes, an answer of the admin API.
const maxAdminAnswer = 16 << 20

// adminClient asks the admin API of a running Caddy. It speaks as caddycmd.AdminAPIRequest
// does, and besides can be cancelled, keeps its connections and knows the status of an error:
// what asks every second needs all three.
type adminClient struct {
	address string // as given
	origin  string // of requests
	sent    bool   // the origin is sent: a Unix socket has none
	http    *http.Client
}

// adminError is an error that the admin API answered.
type adminError struct {
	status int
	text   string // may hold what a client has sent
}

func (e *adminError) Error() string { return printable(e.text) }

// addAdminFlags adds the flags that say where the admin API is, named as Caddy's own.
func addAdminFlags(command *cobra.Command) {
	command.Flags().String("address", "", "Address of the administration listener, if not the default")
	command.Flags().StringP("config", "c", "", "Configuration file that names the address of the administration listener")
	command.Flags().StringP("adapter", "a", "", "Name of config adapter to apply")
}

// adminClientOf returns a client for the admin API that the flags name.
func adminClientOf(command *cobra.Command) (*adminClient, error) {
	fl := caddycmd.Flags{FlagSet: command.Flags()}
	file, adapter := fl.String("config"), fl.String("adapter")
	if file == "" && adapter != "" {
		return nil, errors.New("--adapter: name the file with --config")
	}
	address, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), nil, file, adapter)
	if err != nil {
		return nil, err
	}
	return newAdminClient(address)
}

// newAdminClient returns a client for the admin API at that address.
func newAdminClient(address string) (*adminClient, error) {
	at, err := caddy.ParseNetworkAddress(address)
	if err != nil {
		return nil, fmt.Errorf("admin address %q: %w", address, err)
	}
	if at.PortRangeSize() > 1 || at.IsFdNetwork() {
		return nil, fmt.Errorf("admin address %q: not one that can be dialled", address)
	}
	c := &adminClient{address: address, origin: "http://" + at.JoinHostPort(0), sent: true}
	dialled := at.JoinHostPort(0)
	if at.IsUnixNetwork() {
		// The host that Caddy takes on a Unix socket, where it wants no origin.
		c.origin, c.sent, dialled = "http://127.0.0.1", false, unixPath(at.Host)
	}
	c.http = &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, at.Network, dialled)
			},
			IdleConnTimeout: 10 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// do sends a request. The body, if there is one, is JSON.
func (c *adminClient) do(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.origin+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if c.sent {
		request.Header.Set("Origin", c.origin)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		var inURL *url.Error // which repeats the whole URL
		if errors.As(err, &inURL) {
			err = inURL.Err
		}
		return nil, fmt.Errorf("asking the admin API at %s: %w", c.address, err)
	}
	return response, nil
}

// call sends a request and returns the body of the answer. An answer that says no is an
// adminError.
func (c *adminClient) call(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	response, err := c.do(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAdminAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer of the admin API at %s: %w", c.address, err)
	}
	if len(answer) > maxAdminAnswer {
		return nil, fmt.Errorf("the answer of the admin API at %s has more than %d bytes", c.address, maxAdminAnswer)
	}
	if response.StatusCode/100 == 2 {
		return answer, nil
	}
	var said struct{ Error string }
	switch {
	case json.Unmarshal(answer, &said) == nil && said.Error != "":
		return nil, &adminError{response.StatusCode, said.Error}
	case response.StatusCode == http.StatusNotFound:
		route, _, _ := strings.Cut(path, "?")
		return nil, &adminError{response.StatusCode, fmt.Sprintf("the Caddy at %s has no %s: it runs without this plugin, or with an older one", c.address, route)}
	}
	return nil, &adminError{response.StatusCode, fmt.Sprintf("the admin API at %s answers %s", c.address, response.Status)}
}

// ask is call with an answer that is JSON.
func (c *adminClient) ask(ctx context.Context, method, path string, body []byte, into any) error {
	answer, err := c.call(ctx, method, path, body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("the answer of the admin API at %s: %w", c.address, err)
	}
	return nil
}

// close closes the connections that are idle.
func (c *adminClient) close() { c.http.CloseIdleConnections() }
