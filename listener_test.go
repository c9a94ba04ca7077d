package streamprox

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// listenVirtually opens a listener on host:80 of the virtual network.
func listenVirtually(t testing.TB, host string) net.Listener {
	t.Helper()
	l, err := listen(context.Background(), networkName, host, "80", 0, net.ListenConfig{})
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	ln := l.(net.Listener)
	t.Cleanup(func() { ln.Close() })
	return ln
}

func TestPacketListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := listenPacket(context.Background(), networkNameHTTP3, "web", "443", 0, net.ListenConfig{})
		if err != nil {
			t.Fatalf("listening: %v", err)
		}
		p := l.(*packetListener)
		if got := p.LocalAddr().String(); got != "web" {
			t.Errorf("address: got %q, want %q: with a port, HTTP/3 would be advertised", got, "web")
		}
		if got := p.LocalAddr().Network(); got != networkNameHTTP3 {
			t.Errorf("network: got %q, want %q", got, networkNameHTTP3)
		}
		if n, err := p.WriteTo([]byte("packet"), p.LocalAddr()); n != 6 || err != nil {
			t.Errorf("writing: got %d, %v, want 6 bytes dropped without error", n, err)
		}

		var read error
		returned := false
		go func() {
			_, _, read = p.ReadFrom(make([]byte, 1))
			returned = true
		}()
		time.Sleep(time.Hour)
		synctest.Wait()
		if returned {
			t.Fatalf("reading returned %v before the listener was closed", read)
		}
		for range 2 {
			if err := p.Close(); err != nil {
				t.Errorf("closing: %v", err)
			}
		}
		synctest.Wait()
		if !returned || !errors.Is(read, net.ErrClosed) {
			t.Errorf("after close: got returned %t with %v, want net.ErrClosed", returned, read)
		}
	})
}

func TestJoinAddr(t *testing.T) {
	tests := []struct {
		name    string
		host    string
		ports   string
		offset  uint
		want    string
		wantErr string
	}{
		{name: "port", host: "web", ports: "80", want: "web:80"},
		{name: "range", host: "web", ports: "80-82", want: "web:80"},
		{name: "in a range", host: "web", ports: "80-82", offset: 2, want: "web:82"},
		{name: "port 0", host: "web", ports: "0", want: "web:0"},
		{name: "name with colons", host: "a:b", ports: "80", want: "[a:b]:80"},
		{name: "no name", ports: "80", wantErr: "bind streamprox/web"},
		{name: "no port", host: "web", wantErr: "parsing port of streamprox/web"},
		{name: "no number", host: "web", ports: "http", wantErr: "parsing port of streamprox/web"},
		{name: "too large", host: "web", ports: "65536", wantErr: "parsing port of streamprox/web"},
		{name: "negative", host: "web", ports: "-1", wantErr: "parsing port of streamprox/web"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := joinAddr(test.host, test.ports, test.offset)
			switch {
			case test.wantErr == "" && err != nil:
				t.Errorf("got error %v, want %q", err, test.want)
			case test.wantErr != "" && (err == nil || !strings.Contains(err.Error(), test.wantErr)):
				t.Errorf("got error %v, want one with %q", err, test.wantErr)
			case got != test.want:
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
