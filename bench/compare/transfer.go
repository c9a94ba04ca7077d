package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"time"
)

// bulk moves bytes on all connections at once.
func (j job) bulk() (result, error) {
	conns := make([]net.Conn, j.Connections)
	readers := make([]*bufio.Reader, j.Connections)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	for i := range conns {
		var err error
		if conns[i], readers[i], _, err = j.dial(i); err != nil {
			return result{}, err
		}
		// A bound that no transfer comes near.
		if err := conns[i].SetDeadline(time.Now().Add(4 * patience)); err != nil {
			return result{}, err
		}
	}
	before, err := cpuTime(j.PIDs)
	if err != nil {
		return result{}, err
	}
	began := time.Now()
	err = parallel(len(conns), len(conns), func(i int) error {
		switch j.Kind {
		case jobDown:
			return down(conns[i], readers[i], j.Bytes)
		case jobUp:
			return up(conns[i], readers[i], j.Bytes)
		}
		return j.fetch(conns[i], readers[i])
	})
	if err != nil {
		return result{}, err
	}
	seconds := time.Since(began).Seconds()
	after, err := cpuTime(j.PIDs)
	if err != nil {
		return result{}, err
	}
	return result{
		Bytes:   j.Bytes * int64(len(conns)),
		Seconds: seconds,
		CPU:     (after - before).Seconds(),
	}, nil
}

// down says that it is ready and reads n bytes.
func down(c net.Conn, r io.Reader, n int64) error {
	if _, err := c.Write([]byte{1}); err != nil {
		return err
	}
	return swallow(r, n)
}

// swallow reads n bytes.
func swallow(r io.Reader, n int64) error {
	got, err := io.CopyBuffer(discard{}, io.LimitReader(reader{r}, n), make([]byte, buffer))
	if err == nil && got < n {
		err = fmt.Errorf("%d bytes of %d", got, n)
	}
	return err
}

// up sends n bytes and waits for the one that acknowledges them.
func up(c net.Conn, r *bufio.Reader, n int64) error {
	piece := make([]byte, buffer)
	for n > 0 {
		written, err := c.Write(piece[:min(n, buffer)])
		if err != nil {
			return err
		}
		n -= int64(written)
	}
	_, err := r.ReadByte()
	return err
}

// fetch sends the request again and again until it has read the bytes of the job.
func (j job) fetch(c net.Conn, r *bufio.Reader) error {
	for n := j.Bytes; n > 0; {
		response, err := j.request(c, r)
		if err != nil {
			return err
		}
		if response.ContentLength > n {
			return fmt.Errorf("%d bytes are no multiple of the file's %d", j.Bytes, response.ContentLength)
		}
		// The body is read past net/http, whose reader copies 4 KiB at a time.
		if err := swallow(r, response.ContentLength); err != nil {
			return err
		}
		n -= response.ContentLength
	}
	return nil
}
