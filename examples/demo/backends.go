package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image/png"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// addresses are those of the servers behind the port.
type addresses struct{ echo, pictures, tcp string }

var (
	// defaultPorts are where demo.caddyfile looks if its placeholders are not set.
	defaultPorts = addresses{echo: "127.0.0.1:9001", pictures: "127.0.0.1:9002", tcp: "127.0.0.1:9003"}

	// anyPorts are whichever are free.
	anyPorts = addresses{echo: "127.0.0.1:0", pictures: "127.0.0.1:0", tcp: "127.0.0.1:0"}
)

// backends are the running servers behind the port. They know nothing of streamprox.
type backends struct {
	addresses addresses
	ctx       context.Context // done when the servers stop
	cancel    context.CancelFunc

	mu      sync.Mutex // held to add to serving, and to cancel
	serving sync.WaitGroup
}

// startBackends starts the servers on the given addresses. The caller stops them.
func startBackends(on addresses) (*backends, error) {
	b := new(backends)
	b.ctx, b.cancel = context.WithCancel(context.Background())
	for _, server := range []struct {
		name, on string
		at       *string
		serve    func(net.Listener)
	}{
		{"echo", on.echo, &b.addresses.echo, func(ln net.Listener) { b.serveWebSocket(ln, "echo", echo) }},
		{"pictures", on.pictures, &b.addresses.pictures, func(ln net.Listener) { b.serveWebSocket(ln, "pictures", pictures) }},
		{"tcp", on.tcp, &b.addresses.tcp, b.serveTCP},
	} {
		ln, err := net.Listen("tcp", server.on)
		if err != nil {
			b.stop()
			return nil, fmt.Errorf("starting the server %s: %w", server.name, err)
		}
		*server.at = ln.Addr().String()
		b.serving.Go(func() { server.serve(ln) })
	}
	return b, nil
}

// stop ends the servers and their connections, and waits until they have.
func (b *backends) stop() {
	b.mu.Lock()
	b.cancel()
	b.mu.Unlock()
	b.serving.Wait()
}

// enter reports whether the servers still run. If so, stop waits for serving.Done.
func (b *backends) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ctx.Err() != nil {
		return false
	}
	b.serving.Add(1)
	return true
}

// serveWebSocket speaks to each WebSocket client, after telling it who answers.
func (b *backends) serveWebSocket(ln net.Listener, name string, speak func(context.Context, *websocket.Conn) error) {
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !b.enter() { // http.Server forgets the connections that leave HTTP
				return
			}
			defer b.serving.Done()
			w.Header().Set("X-Destination", name)
			conn, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			defer conn.CloseNow()
			hello, _ := json.Marshal(map[string]string{"destination": name, "address": ln.Addr().String()})
			if conn.Write(b.ctx, websocket.MessageText, hello) == nil {
				_ = speak(b.ctx, conn)
			}
		}),
	}
	defer context.AfterFunc(b.ctx, func() { server.Close() })()
	_ = server.Serve(ln) // until stop
}

// echo returns each message until the client leaves.
func echo(ctx context.Context, conn *websocket.Conn) error {
	for {
		kind, message, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		if err := conn.Write(ctx, kind, message); err != nil {
			return err
		}
	}
}

// pictures sends ten pictures a second, each as one PNG file, until the client leaves.
func pictures(ctx context.Context, conn *websocket.Conn) error {
	ctx = conn.CloseRead(ctx)
	tick := time.NewTicker(time.Second / 10)
	defer tick.Stop()
	encoder := png.Encoder{CompressionLevel: png.BestSpeed}
	picture := newPicture()
	var file bytes.Buffer
	for frame := 0; ; frame++ {
		drawPlasma(picture, float64(frame)/10)
		file.Reset()
		if err := encoder.Encode(&file, picture); err != nil {
			return err
		}
		if err := conn.Write(ctx, websocket.MessageBinary, file.Bytes()); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// serveTCP greets each client before it has said anything, as SSH, SMTP and MySQL
// servers do, and then returns each of its lines.
func (b *backends) serveTCP(ln net.Listener) {
	defer context.AfterFunc(b.ctx, func() { ln.Close() })()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return // stop
		}
		b.serving.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(b.ctx, func() { conn.Close() })()
			fmt.Fprintf(conn, "hello from tcp on %s: each of your lines comes back\n", ln.Addr())
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				if _, err := fmt.Fprintf(conn, "%s\n", lines.Bytes()); err != nil {
					return
				}
			}
		})
	}
}
