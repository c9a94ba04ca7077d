package upstream

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/pires/go-proxyproto"
)

// Active checks by HTTP: a request, and what its answer must be. Their meaning is that of
// Caddy's reverse_proxy.

// HTTPCheck is the request of an active check, and what a server that is up answers.
type HTTPCheck struct {
	Method string
	URI    *url.URL    // path and query
	Header http.Header // may hold placeholders: those that Caddy's reverse_proxy knows here
	Body   string      // may hold placeholders

	Status  int            // below 10: the class; 0: that of 2xx
	Content *regexp.Regexp // what the content must match; nil: none is read
	MaxSize int64          // the content beyond, in bytes, is not read
}

// maxCheckHead bounds, in bytes, the head of an answer to a check, with those of the responses
// before the final one.
const maxCheckHead = 64 << 10

// targetPlaceholder stands for the address of the server in the fields of a check.
const targetPlaceholder = "http.reverse_proxy.active.target_upstream"

// httpCheck checks a server by HTTP.
type httpCheck struct {
	*HTTPCheck
	via    *Server            // the server as it is reached for checks
	name   string             // in few words
	asked  string             // all that makes a difference to the answer
	header *proxyproto.Header // of the PROXY protocol; nil: none
}

// setCheck sets check, if the server is to be checked by HTTP.
func (s *Server) setCheck(ctx caddy.Context, options *Options) error {
	if options.HealthChecks == nil || options.HealthChecks.HTTP == nil || s.perClient {
		return nil
	}
	// It is reached as for streams, but for the port.
	via := *s
	via.fixed = s.checkTarget(options.HealthChecks.Port)
	if via.fixed.port != s.fixed.port {
		via.tls = nil // tls_except_ports may say otherwise of this port
		if err := via.setTLS(ctx); err != nil {
			return err
		}
	}
	c := &httpCheck{HTTPCheck: options.HealthChecks.HTTP, via: &via}
	port := ""
	if via.fixed.port != s.fixed.port {
		port = ":" + via.fixed.port
	} else if options.ProxyProtocol != 0 {
		// Of nobody's connection: LOCAL, or UNKNOWN in version 1.
		c.header = &proxyproto.Header{Version: options.ProxyProtocol, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}
	}
	c.name = c.Method + " " + port + c.URI.RequestURI()
	content := ""
	if c.Content != nil {
		content = c.Content.String()
	}
	asked, err := json.Marshal([]any{c.name, c.Header, c.Body, c.Status, content, c.MaxSize, via.tls != nil, via.fixed.serverName, c.header != nil})
	if err != nil {
		return err
	}
	c.asked = string(asked)
	s.check = c
	_, err = c.request(ctx)
	return err
}

// probe asks the server, and says what is wrong with its answer. It reads no more than
// maxCheckHead, and MaxSize of the content, within the time that ctx gives.
func (c *httpCheck) probe(ctx context.Context) error {
	request, err := c.request(ctx)
	if err != nil {
		return err
	}
	conn, err := c.via.dial(ctx, nil, c.header, "")
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	if err := request.Write(conn); err != nil {
		return fmt.Errorf("sending the request: %w", err)
	}
	limited := &io.LimitedReader{R: conn, N: maxCheckHead}
	r := bufio.NewReader(limited)
	response, err := finalResponse(r, request)
	switch {
	case err != nil && limited.N == 0:
		return fmt.Errorf("the head of its answer is longer than %d bytes", maxCheckHead)
	case err != nil:
		return fmt.Errorf("reading the answer: %w", err)
	}
	if want := c.Status; want == 0 && !caddyhttp.StatusCodeMatches(response.StatusCode, 2) || want != 0 && !caddyhttp.StatusCodeMatches(response.StatusCode, want) {
		return fmt.Errorf("it answers with status %d", response.StatusCode)
	}
	if c.Content == nil {
		return nil
	}
	// What frames the content counts too: chunks may be of one byte each, with extensions.
	limited.N = 16*c.MaxSize + maxCheckHead
	content, err := io.ReadAll(io.LimitReader(response.Body, c.MaxSize))
	if err != nil {
		return fmt.Errorf("reading the content of its answer: %w", err)
	}
	if !c.Content.Match(content) {
		return errors.New("the content of its answer does not match")
	}
	return nil
}

// finalResponse reads up to the head of the response that is no 1xx.
func finalResponse(r *bufio.Reader, request *http.Request) (*http.Response, error) {
	for {
		response, err := http.ReadResponse(r, request)
		if err != nil || response.StatusCode >= 200 || response.StatusCode == http.StatusSwitchingProtocols {
			return response, err
		}
	}
}

// request returns the request of one check.
func (c *httpCheck) request(ctx context.Context) (*http.Request, error) {
	repl := caddy.NewReplacer()
	repl.Set(targetPlaceholder, caddy.NewReplacer().ReplaceKnown(c.via.config.Dial[0], ""))
	var body io.Reader
	if c.Body != "" {
		body = strings.NewReader(repl.ReplaceKnown(c.Body, ""))
	}
	to := url.URL{Scheme: "http", Host: c.via.fixed.checkedHost(), Path: c.URI.Path, RawPath: c.URI.RawPath, RawQuery: c.URI.RawQuery}
	request, err := http.NewRequestWithContext(ctx, c.Method, to.String(), body)
	if err != nil {
		return nil, err
	}
	request.Close = true
	for name, values := range c.Header {
		name = repl.ReplaceAll(name, "")
		for _, value := range values {
			value = repl.ReplaceKnown(value, "")
			if http.CanonicalHeaderKey(name) == "Host" {
				request.Host = value
				break
			}
			request.Header.Add(name, value)
		}
	}
	return request, nil
}
