package upstream

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// CheckAddress returns what is wrong with the address of a server, and what to write. It is
// for a configuration that is being parsed, where the values of placeholders are not known.
func CheckAddress(dial string) error {
	err := explainAddress(dial)
	if err == nil && !HasPlaceholder(dial) {
		err = new(Server).setAddress(dial)
	}
	return err
}

// explainAddress returns what to write for an address with a mistake that setAddress does
// not see or does not explain.
func explainAddress(dial string) error {
	if scheme, rest, ok := strings.Cut(dial, "://"); ok {
		return mistakenURL(strings.ToLower(scheme), rest)
	}
	network, address, hasNetwork := strings.Cut(dial, "/")
	switch {
	case strings.HasPrefix(network, "unix:"):
		return fmt.Errorf("write 'unix/%s'", strings.TrimPrefix(dial, "unix:"))
	case hasNetwork && (caddy.IsUnixNetwork(strings.ToLower(network)) || caddy.IsFdNetwork(strings.ToLower(network))):
		return nil
	case strings.HasPrefix(dial, "/"):
		return fmt.Errorf("for a Unix socket write 'unix/%s'", dial)
	case strings.Contains(dial, ","):
		return fmt.Errorf("addresses are separated by spaces, not commas: write '%s'",
			strings.Join(strings.FieldsFunc(dial, func(r rune) bool { return r == ',' }), " "))
	case HasPlaceholder(dial):
		return nil
	case hasNetwork && strings.ContainsAny(network, ":."):
		return fmt.Errorf("an address has no path: write '%s'; the path is that of the request", network)
	case hasNetwork && !socket.IsTCP(strings.ToLower(network)):
		return nil
	case !hasNetwork:
		address = dial
	}
	prefix := strings.TrimSuffix(dial, address) // with the slash
	host, port, err := net.SplitHostPort(address)
	switch {
	case net.ParseIP(address).To16() != nil && strings.Contains(address, ":"):
		if host, port, ok := portOfIPv6(address); ok {
			return fmt.Errorf("write an IPv6 address in brackets: '%s[%s]:%s', or '%[1]s[%[4]s]:80' if that is no port", prefix, host, port, address)
		}
		return fmt.Errorf("want one port: write '%s[%s]:80', or that on which the server listens", prefix, address)
	case err != nil && strings.Count(address, ":") > 1 && !strings.HasPrefix(address, "["):
		return errors.New("write an IPv6 address in brackets, as in [::1]:9000")
	case err != nil || port == "":
		return fmt.Errorf("want one port: write '%s:80', or that on which the server listens", strings.TrimSuffix(dial, ":"))
	case strings.Trim(port, "0123456789-") != "":
		if number, err := net.LookupPort("tcp", port); err == nil {
			return fmt.Errorf("a port is a number: write '%s%s'", prefix, net.JoinHostPort(host, strconv.Itoa(number)))
		}
		return fmt.Errorf("'%s' is no port: write its number, as in 10.0.0.5:9000", port)
	}
	if number, err := strconv.Atoi(port); err == nil && number > 65535 {
		return fmt.Errorf("port %s is above 65535", port)
	}
	return nil
}

// portOfIPv6 splits an IPv6 address without brackets if what follows its last colon is
// more likely a port.
func portOfIPv6(address string) (host, port string, ok bool) {
	i := strings.LastIndexByte(address, ':')
	host, port = address[:i], address[i+1:]
	number, err := strconv.Atoi(port)
	return host, port, err == nil && number >= 80 && net.ParseIP(host) != nil
}

// mistakenURL says what to write for a URL where the address of an upstream belongs.
func mistakenURL(scheme, rest string) error {
	if scheme == "unix" {
		return fmt.Errorf("an upstream is no URL: write 'unix/%s'", rest)
	}
	address, path, _ := strings.Cut(rest, "/")
	port, write := "80", "write '%s'"
	switch scheme {
	case "https", "wss":
		port, write = "443", "write 'upstream %s { tls }' in relay's block"
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(strings.Trim(address, "[]"), port)
	}
	err := fmt.Errorf("an upstream is no URL: "+write, address)
	if path != "" {
		err = fmt.Errorf("%w; the path is that of the request", err)
	}
	return err
}
