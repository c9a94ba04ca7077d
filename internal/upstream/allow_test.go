package upstream

import (
	"net/netip"
	"testing"
)

func TestDialAllow(t *testing.T) {
	allow, err := ParseAllow([]string{"Example.org", "*.example.org", "10.0.0.0/8", "192.0.2.1", "2001:db8::/32"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"example.org":       true,
		"a.example.org":     true,
		"a.b.example.org":   false,
		"badexample.org":    false,
		"example.org.evil":  false,
		"org":               false,
		"":                  false,
		"10.0.0.5":          false,
		"*.example.org":     true, // itself, which no client can ask for
		"example.org:80":    false,
		"aexample.org":      false,
		"a.example.org.org": false,
	} {
		if got := allow.host(name); got != want {
			t.Errorf("host %q: got %t, want %t", name, got, want)
		}
	}
	for addr, want := range map[string]bool{
		"10.255.0.1":       true,
		"11.0.0.1":         false,
		"192.0.2.1":        true,
		"192.0.2.2":        false,
		"2001:db8::1":      true,
		"2001:db9::1":      false,
		"127.0.0.1":        false,
		"::1":              false,
		"::ffff:10.0.0.1":  false, // unmapped before it is asked for
		"2001:db8::1%eth0": false,
	} {
		if got := allow.address(netip.MustParseAddr(addr)); got != want {
			t.Errorf("address %s: got %t, want %t", addr, got, want)
		}
	}
}
