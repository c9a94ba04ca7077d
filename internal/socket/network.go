package socket

import "strings"

// IsTCP reports whether a network, by its name in package net, is TCP.
func IsTCP(network string) bool {
	return network == "tcp" || network == "tcp4" || network == "tcp6"
}

// IsDatagram reports whether a network, by its name in Caddy, carries datagrams instead of
// streams.
func IsDatagram(network string) bool {
	return strings.HasPrefix(network, "udp") || network == "unixgram" || network == "fdgram" || strings.HasPrefix(network, "ip")
}
