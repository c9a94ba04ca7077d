package socket

import "strings"

// IsTCP reports whether a network of that name, as in package net, is TCP.
func IsTCP(network string) bool {
	return network == "tcp" || network == "tcp4" || network == "tcp6"
}

// IsDatagram reports whether what is sent over a network of that name, as in Caddy, is
// datagrams.
func IsDatagram(network string) bool {
	return strings.HasPrefix(network, "udp") || network == "unixgram" || network == "fdgram" || strings.HasPrefix(network, "ip")
}
