package streamprox

import (
	"net"
	"sync"
	"testing"
)

// textAddr is an address as its text.
type textAddr string

func (textAddr) Network() string  { return "tcp" }
func (a textAddr) String() string { return string(a) }

func TestPendingLimits(t *testing.T) {
	v4 := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1000} }
	unix := &net.UnixAddr{Name: "/run/client.sock", Net: "unix"}
	tests := []struct {
		name     string
		limits   pendingLimits
		clients  []net.Addr
		want     []bool
		wantKept int // addresses that are counted
	}{
		{
			name:    "no limits",
			clients: []net.Addr{v4("10.0.0.1"), v4("10.0.0.1"), v4("10.0.0.1")},
			want:    []bool{true, true, true},
		},
		{
			name:    "total, whoever they are",
			limits:  pendingLimits{max: 2},
			clients: []net.Addr{v4("10.0.0.1"), unix, v4("10.0.0.2"), nil},
			want:    []bool{true, true, false, false},
		},
		{
			name:     "per IPv4 address",
			limits:   pendingLimits{maxPerIP: 1},
			clients:  []net.Addr{v4("10.0.0.1"), v4("10.0.0.2"), v4("10.0.0.1"), v4("10.0.0.3")},
			want:     []bool{true, true, false, true},
			wantKept: 3,
		},
		{
			name:   "per IPv6 /64",
			limits: pendingLimits{maxPerIP: 2},
			clients: []net.Addr{
				v4("2001:db8::1"), v4("2001:db8::ffff:0:0:2"), v4("2001:db8::3"), v4("2001:db8:0:1::1"),
			},
			want:     []bool{true, true, false, true},
			wantKept: 2,
		},
		{
			name:     "IPv6 zones are one network",
			limits:   pendingLimits{maxPerIP: 1},
			clients:  []net.Addr{textAddr("[fe80::1%eth0]:1"), textAddr("[fe80::2%eth1]:1")},
			want:     []bool{true, false},
			wantKept: 1,
		},
		{
			name:     "an IPv4 address mapped to IPv6 is the IPv4 address",
			limits:   pendingLimits{maxPerIP: 1},
			clients:  []net.Addr{textAddr("[::ffff:10.0.0.1]:1"), v4("10.0.0.1"), v4("::ffff:10.0.0.1"), textAddr("[::ffff:10.0.0.2]:1")},
			want:     []bool{true, false, false, true},
			wantKept: 2,
		},
		{
			name:    "Unix peers are exempt",
			limits:  pendingLimits{maxPerIP: 1},
			clients: []net.Addr{unix, unix, &net.UnixAddr{}, textAddr("@"), nil},
			want:    []bool{true, true, true, true, true},
		},
		{
			name:     "both limits",
			limits:   pendingLimits{max: 2, maxPerIP: 1},
			clients:  []net.Addr{v4("10.0.0.1"), v4("10.0.0.1"), v4("10.0.0.2"), v4("10.0.0.3")},
			want:     []bool{true, false, true, false},
			wantKept: 2,
		},
	}
	for i := range tests {
		test := &tests[i]
		t.Run(test.name, func(t *testing.T) {
			p := &test.limits
			var leaves []func()
			for i, client := range test.clients {
				leave, ok := p.enter(client)
				if ok != test.want[i] {
					t.Errorf("connection %d from %v: got admitted %t, want %t", i, client, ok, test.want[i])
				}
				if ok {
					leaves = append(leaves, leave)
				}
			}
			if got := len(p.perIP); got != test.wantKept {
				t.Errorf("addresses counted: got %d, want %d", got, test.wantKept)
			}
			for _, leave := range leaves {
				leave()
			}
			if p.total != 0 || len(p.perIP) != 0 {
				t.Errorf("after all have left: got total %d and addresses %v, want none", p.total, p.perIP)
			}
		})
	}
}

func TestPendingLimitsLeavingAdmitsTheNext(t *testing.T) {
	client := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}
	for name, p := range map[string]*pendingLimits{
		"total":  {max: 1},
		"per IP": {maxPerIP: 1},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range 3 {
				leave, ok := p.enter(client)
				if !ok {
					t.Fatalf("round %d: got refused, want admitted", i)
				}
				if _, ok := p.enter(client); ok {
					t.Fatalf("round %d: got a second connection admitted, want it refused", i)
				}
				leave()
			}
		})
	}
}

func TestPendingLimitsConcurrently(t *testing.T) {
	p := &pendingLimits{max: 10, maxPerIP: 3}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			client := &net.TCPAddr{IP: net.IPv4(10, 0, 0, byte(g%2)), Port: g}
			for range 500 {
				if leave, ok := p.enter(client); ok {
					leave()
				}
			}
		})
	}
	wg.Wait()
	if p.total != 0 || len(p.perIP) != 0 {
		t.Errorf("after all have left: got total %d and addresses %v, want none", p.total, p.perIP)
	}
}
