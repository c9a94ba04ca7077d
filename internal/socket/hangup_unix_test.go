//go:build unix

package socket

import (
	"io"
	"net"
	"testing"
	"time"
)

// TestAwaitHangUp: a reset is noticed behind bytes that nobody reads, and an end of sending
// is none.
func TestAwaitHangUp(t *testing.T) {
	for _, network := range []string{"tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			near, far := connect(t, network)
			send(t, far, "unread")
			if err := CloseWrite(far); err != nil {
				t.Fatal(err)
			}
			if !NoticesHangUp(near) {
				t.Error("it says that it notices nothing")
			}
			if err := HangUp(near); err != nil {
				t.Errorf("before: got error %v", err)
			}
			noticed := make(chan error)
			go func() { noticed <- AwaitHangUp(near) }()
			Reset(far)
			if err := <-noticed; !IsReset(err) {
				t.Errorf("got error %v, want a reset", err)
			}
		})
	}
}

// TestAwaitHangUpEnds: a deadline ends the wait, and closing does; without a socket there
// is none.
func TestAwaitHangUpEnds(t *testing.T) {
	near, far := connect(t, "tcp")
	noticed := make(chan error)
	await := func() { noticed <- AwaitHangUp(near) }
	go await()
	_ = near.SetReadDeadline(time.Unix(1, 0))
	if err := <-noticed; err != nil {
		t.Errorf("at a deadline: got error %v", err)
	}
	_ = near.SetReadDeadline(time.Now().Add(patience))
	send(t, far, "x")
	if _, err := io.ReadFull(near, make([]byte, 1)); err != nil {
		t.Errorf("reading after it: got error %v", err)
	}
	go await()
	near.Close()
	if err := <-noticed; err != nil {
		t.Errorf("when it is closed: got error %v", err)
	}
	if err := HangUp(near); err != nil {
		t.Errorf("of a closed one: got error %v", err)
	}

	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	if NoticesHangUp(pipe) || AwaitHangUp(pipe) != nil || HangUp(pipe) != nil {
		t.Error("something was noticed without a socket")
	}
}

func TestLostPeer(t *testing.T) {
	near, far := connect(t, "tls")
	if err := CloseWrite(far); err != nil {
		t.Fatal(err)
	}
	receivesEnd(t, near, "")
	if LostPeer(near) {
		t.Error("lost at an end of sending")
	}
	Reset(far)
	if err := AwaitHangUp(near); !IsReset(err) { // which takes the error
		t.Fatalf("got error %v, want a reset", err)
	}
	if !LostPeer(near) {
		t.Error("not lost after a reset")
	}
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	if LostPeer(pipe) {
		t.Error("lost without a socket")
	}
}

func TestUnread(t *testing.T) {
	near, far := connect(t, "tls")
	if Unread(near) {
		t.Error("unread before anything was sent")
	}
	send(t, far, "x")
	for deadline := time.Now().Add(patience); !Unread(near); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("what was sent never is unread")
		}
	}
	if _, err := io.ReadFull(near, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if Unread(near) {
		t.Error("unread after all was read")
	}
	if Unread(unknownWrapper{near}) {
		t.Error("unread without a socket")
	}
}
