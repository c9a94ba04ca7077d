package streamprox

import "testing"

// TestCustody checks who has a connection after what was done with it, and what the last of
// that is told.
func TestCustody(t *testing.T) {
	takeBack := func(c *custody) { c.takeBack() }
	hijack := (*custody).hijack
	end := func(c *custody) { c.close() }
	for _, test := range []struct {
		name   string
		before []func(*custody)
		taken  bool   // takeBack succeeds
		closed uint32 // what close returns, without that
	}{
		{"the server has it", nil, true, 0},
		{"inspect has it", []func(*custody){takeBack}, false, withInspect},
		{"a hijacker has it", []func(*custody){hijack}, false, withHijacker},
		{"it is closed", []func(*custody){end}, false, wasClosed},
		{"inspect has it, and the server has closed it", []func(*custody){takeBack, end}, false, withInspect | wasClosed},
		{"a hijacker has closed it", []func(*custody){hijack, end}, false, withHijacker | wasClosed},
		{"hijacked when inspect has it", []func(*custody){takeBack, hijack}, false, withInspect},
		{"hijacked when it is closed", []func(*custody){end, hijack}, false, wasClosed},
	} {
		var taking, closing custody
		for _, do := range test.before {
			do(&taking)
			do(&closing)
		}
		if got := taking.takeBack(); got != test.taken {
			t.Errorf("%s: takeBack: got %v, want %v", test.name, got, test.taken)
		}
		if got, _ := closing.close(); got != test.closed {
			t.Errorf("%s: close: got %b, want %b", test.name, got, test.closed)
		}
	}

	var c custody
	c.reads.Add(1)
	if _, reading := c.close(); !reading {
		t.Error("closed while it is read: not told")
	}
}
