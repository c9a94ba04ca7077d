package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
)

// check says what is wrong with a response. One that stays quiet has no content yet.
func check(r *http.Response, quiet bool) error {
	if r.StatusCode != http.StatusOK && r.StatusCode != http.StatusSwitchingProtocols {
		return errors.New("the response is " + r.Status)
	}
	if r.StatusCode == http.StatusOK && !quiet && r.ContentLength < bodySize {
		return fmt.Errorf("the response has %d bytes", r.ContentLength)
	}
	return nil
}

// reply is what a client has got of a reply.
type reply struct {
	got   int    // bytes
	head  []byte // while it is incomplete
	known bool   // the head is complete, or there is none
	left  int    // of the content, once the head is known
	last  bool   // the server closes the connection after it
}

// add adds what has come. It returns true if that completes the reply.
func (r *reply) add(piece []byte, heads *heads) (bool, error) {
	r.got += len(piece)
	r.left -= len(piece)
	if !r.known {
		text := piece
		if len(r.head) > 0 {
			r.head = append(r.head, piece...)
			text = r.head
		}
		end := bytes.Index(text, []byte("\r\n\r\n"))
		if end < 0 {
			if len(r.head) == 0 {
				r.head = append(r.head, piece...)
			}
			return false, nil
		}
		end += len("\r\n\r\n")
		length, last, err := heads.parse(text[:end])
		if err != nil {
			return false, err
		}
		r.known, r.last, r.left = true, last, length-(len(text)-end)
	}
	if r.left < 0 {
		return false, fmt.Errorf("%d bytes more than the reply", -r.left)
	}
	return r.left == 0, nil
}

// heads parses the heads of replies. It remembers one, since most of them are equal, and
// the clients must cost less than what they measure.
type heads struct {
	text   []byte
	length int
	last   bool
}

// parse returns the length of the content that follows a head, and whether the server
// closes the connection after it.
func (h *heads) parse(head []byte) (length int, last bool, err error) {
	if bytes.Equal(head, h.text) {
		return h.length, h.last, nil
	}
	response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), nil)
	if err != nil {
		return 0, false, err
	}
	if err := check(response, false); err != nil {
		return 0, false, err
	}
	h.text = append(h.text[:0], head...)
	h.length, h.last = int(response.ContentLength), response.Close
	return h.length, h.last, nil
}
