package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// A reply is complete at its last byte, however it is cut, and a byte more is an error.
func TestReply(t *testing.T) {
	message := func(head string) string { return "HTTP/1.1 " + head + "\r\n\r\n" + body }
	for _, test := range []struct {
		name, text string
		last       bool
	}{
		{"kept", message("200 OK\r\nContent-Length: 1024"), false},
		{"closed", message("200 OK\r\nContent-Length: 1024\r\nConnection: close"), true},
		{"upgraded", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", false},
	} {
		for cut := range len(test.text) {
			var r reply
			var h heads
			first, err := r.add([]byte(test.text[:cut]), &h)
			if err != nil || first {
				t.Fatalf("%s, %d bytes: complete %t, %v", test.name, cut, first, err)
			}
			second, err := r.add([]byte(test.text[cut:]), &h)
			if err != nil || !second || r.last != test.last {
				t.Fatalf("%s, cut at %d: complete %t, last %t, %v", test.name, cut, second, r.last, err)
			}
			if _, err := r.add([]byte("x"), &h); err == nil {
				t.Fatalf("%s, cut at %d: a byte too many is no error", test.name, cut)
			}
		}
	}
	for _, head := range []string{"404 Not Found\r\nContent-Length: 1024", "200 OK\r\nContent-Length: 5", "200 OK"} {
		var r reply
		if _, err := r.add([]byte(message(head)), &heads{}); err == nil {
			t.Errorf("%q is no error", head)
		}
	}
}

// The clients connect again where the server closes after a reply, whether it says so or
// not, and count that. A connection that is closed before any reply is an error.
func TestReconnect(t *testing.T) {
	const requests = 100
	for _, test := range []struct {
		name    string
		replies int // on each connection
		field   string
		opened  int // at least
		fails   bool
	}{
		{"kept", 2 * requests, "", 0, false},
		{"said", 1, "Connection: close\r\n", requests - 4, false},
		{"not said", 10, "", requests/10 - 4, false},
		{"no reply", 0, "", 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { listener.Close() })
			go serveSome(listener, test.replies, test.field)
			done, _, err := job{Kind: jobExchange, Address: listener.Addr().String(), Request: requestHead,
				Connections: 4, Duration: patience, Count: requests}.run()
			if test.fails {
				if !errors.Is(err, io.EOF) {
					t.Fatalf("got %+v, %v, want %v", done, err, io.EOF)
				}
				return
			}
			if err != nil || done.Exchanges < requests || done.Opened < test.opened || test.opened == 0 && done.Opened > 0 {
				t.Errorf("got %+v, %v, want %d exchanges, and %d connections or some more", done, err, requests, test.opened)
			}
		})
	}
}

// serveSome gives each connection so many replies, with a field, and closes it.
func serveSome(listener net.Listener, replies int, field string) {
	for {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			r := bufio.NewReader(c)
			for range replies {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s", field, len(body), body); err != nil {
					return
				}
			}
			// A request that nobody reads would make the end a reset.
			if replies == 0 {
				_, _ = http.ReadRequest(r)
			}
		}()
	}
}

// Of held connections, those count as open that neither side has closed.
func TestRelease(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go serveSome(listener, 10, "")
	held, err := job{Kind: jobHold, Address: listener.Addr().String(), Request: requestHead, Connections: 3}.hold()
	if err != nil {
		t.Fatal(err)
	}
	// The rest of its replies, and so its end, are asked for.
	ended := held[1].(*net.TCPConn)
	if _, err := io.WriteString(ended, strings.Repeat(requestHead, 9)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, ended); err != nil {
		t.Fatal(err)
	}
	if open := release(held); open != 2 {
		t.Errorf("%d are open, want 2", open)
	}
}
