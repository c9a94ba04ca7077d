package account

import (
	"net"
	"net/netip"
)

// Ends are the addresses of a client's connection. As those of TCP, which mostly they are, they
// take no memory but their own; a net.Addr has two objects besides.
type Ends struct {
	client, local endpoint
	other         *[2]net.Addr // of client and local, where they are no endpoint; or nil
}

// endpoint is an IP address without a zone, IPv4 mapped to IPv6, and a port. Zero: it is none.
type endpoint struct {
	ip   [16]byte
	port uint16
}

// EndsOf returns the addresses of a connection. Either may be nil.
func EndsOf(client, local net.Addr) (e Ends) {
	var ok [2]bool
	e.client, ok[0] = endpointOf(client)
	e.local, ok[1] = endpointOf(local)
	if !ok[0] || !ok[1] {
		e.other = new([2]net.Addr)
		if !ok[0] {
			e.other[0] = client
		}
		if !ok[1] {
			e.other[1] = local
		}
	}
	return e
}

func endpointOf(address net.Addr) (e endpoint, ok bool) {
	if address == nil {
		return e, true
	}
	tcp, ok := address.(*net.TCPAddr)
	if !ok || tcp == nil || tcp.Zone != "" {
		return e, false
	}
	ip, ok := netip.AddrFromSlice(tcp.IP)
	if !ok || ip == netip.IPv6Unspecified() || tcp.Port != int(uint16(tcp.Port)) {
		return e, false
	}
	return endpoint{ip.As16(), uint16(tcp.Port)}, true
}

// Client returns the client's address, nil if there is none.
func (e *Ends) Client() net.Addr { return e.address(e.client, 0) }

// Local returns the address that the client has connected to, nil if there is none.
func (e *Ends) Local() net.Addr { return e.address(e.local, 1) }

func (e *Ends) address(of endpoint, i int) net.Addr {
	if of != (endpoint{}) {
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom16(of.ip).Unmap(), of.port))
	}
	if e.other != nil {
		return e.other[i]
	}
	return nil
}
