package socket

import (
	"net"
	"testing"
)

// embedding has a socket's methods and may have others in their place.
type embedding struct{ *net.TCPConn }

func TestOf(t *testing.T) {
	tcp, _ := connect(t, "tcp")
	unix, _ := connect(t, "unix")
	tls, _ := connect(t, "tls")
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	unknown := unknownWrapper{tcp}
	for _, test := range []struct {
		name            string
		conn            net.Conn
		want, innermost net.Conn
	}{
		{"TCP", tcp, tcp, tcp},
		{"Unix", unix, unix, unix},
		{"TLS", tls, Innermost(tls), Innermost(tls)},
		{"no socket", pipe, nil, pipe},
		{"nothing", nil, nil, nil},
		{"an embedded socket", embedding{tcp.(*net.TCPConn)}, nil, embedding{tcp.(*net.TCPConn)}},
		{"a wrapper with NetConn", netConnWrapper{tcp}, tcp, tcp},
		{"a wrapper with Raw", rawWrapper{tcp}, tcp, tcp},
		{"a wrapper of SeeThrough", seenWrapper{tcp}, tcp, tcp},
		{"an unknown wrapper", unknown, nil, unknown},
		{"several", netConnWrapper{rawWrapper{seenWrapper{netConnWrapper{tcp}}}}, tcp, tcp},
		{"several, one unknown", netConnWrapper{seenWrapper{unknown}}, nil, unknown},
		{"a wrapper of nothing", netConnWrapper{nil}, nil, netConnWrapper{nil}},
	} {
		if got := Of(test.conn); got != test.want {
			t.Errorf("%s: got the socket %v, want %v", test.name, got, test.want)
		}
		if got := Innermost(test.conn); got != test.innermost {
			t.Errorf("%s: innermost: got %v, want %v", test.name, got, test.innermost)
		}
		if got, want := Is(test.conn), test.conn != nil && test.conn == test.want; got != want {
			t.Errorf("%s: is a socket: got %v, want %v", test.name, got, want)
		}
	}
	if _, ok := Of(tls).(*net.TCPConn); !ok {
		t.Errorf("TLS: got the socket %v, want that of TCP", Of(tls))
	}
}
