package docs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/pires/go-proxyproto"
	"golang.org/x/net/dns/dnsmessage"
)

// stub stands in for a server of a page. It says who it is and what it got.
type stub struct {
	name     string // the server's address on the page
	listener net.Listener
	conns    chan net.Conn // to the HTTP server
	done     chan struct{}
	server   http.Server
	tasks    sync.WaitGroup
}

// rawPorts are those of servers that speak no HTTP. The first two speak first.
var rawPorts = []string{"22", "2222", "1883", "5432"}

func newStub(name, address string) (*stub, error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	s := &stub{name: name, listener: ln, conns: make(chan net.Conn), done: make(chan struct{})}
	s.server.Handler = http.HandlerFunc(s.answer)
	s.server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, conn)
	}
	s.server.Protocols = new(http.Protocols)
	s.server.Protocols.SetHTTP1(true)
	s.server.Protocols.SetUnencryptedHTTP2(true)
	s.tasks.Go(func() { _ = s.server.Serve(s) })
	s.tasks.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(patience))
			s.tasks.Go(func() { s.handle(conn) })
		}
	})
	return s, nil
}

// handle finds out what a connection carries: a header of the PROXY protocol, then TLS,
// HTTP or something else.
func (s *stub) handle(conn net.Conn) {
	_, port, _ := net.SplitHostPort(s.name)
	raw := slices.Index(rawPorts, port)
	if raw == 0 || raw == 1 {
		fmt.Fprintf(conn, "SSH-2.0-%s\r\n", s.name)
	}
	proxied := proxyproto.NewConn(conn, proxyproto.WithPolicy(proxyproto.USE))
	if raw >= 0 {
		defer conn.Close()
		message := make([]byte, 1024)
		n, _ := proxied.Read(message)
		fmt.Fprintf(conn, "%s got %q\nfrom: %s\n", s.name, message[:n], proxied.RemoteAddr())
		return
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(proxied, first); err != nil {
		conn.Close()
		return
	}
	stream := &webConn{Conn: &pushedBack{proxied, io.MultiReader(bytes.NewReader(first), proxied)}}
	if first[0] == 0x16 {
		secure := tls.Server(stream.Conn, &tls.Config{
			Certificates: []tls.Certificate{stubCertificate},
			NextProtos:   []string{"h2", "http/1.1"},
		})
		if err := secure.Handshake(); err != nil {
			conn.Close()
			return
		}
		stream.serverName = secure.ConnectionState().ServerName
		stream.Conn = proxyproto.NewConn(secure, proxyproto.WithPolicy(proxyproto.USE))
	}
	select {
	case s.conns <- stream:
	case <-s.done:
		conn.Close()
	}
}

// webConn is a connection with HTTP.
type webConn struct {
	net.Conn
	serverName string // of TLS
}

// connKey is the key of a request's webConn in its context.
type connKey struct{}

// pushedBack is a connection of which something was read before.
type pushedBack struct {
	net.Conn
	r io.Reader
}

func (p *pushedBack) Read(b []byte) (int, error) { return p.r.Read(b) }

// answer says what request came.
func (s *stub) answer(w http.ResponseWriter, r *http.Request) {
	got := bytes.NewBufferString(fmt.Sprintf("%s got %s %s %s\nHost: %s\n", s.name, r.Method, r.RequestURI, r.Proto, r.Host))
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		fmt.Fprintf(got, "%s: %s\n", name, strings.Join(r.Header[name], ", "))
	}
	fmt.Fprintf(got, "from: %s\n", r.RemoteAddr)
	if name := r.Context().Value(connKey{}).(*webConn).serverName; name != "" {
		fmt.Fprintf(got, "tls: %s\n", name)
	}
	if r.Header.Get("Upgrade") != "websocket" {
		_, _ = w.Write(got.Bytes())
		return
	}
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	kind, message := websocket.MessageText, got.Bytes()
	for err == nil {
		if err = conn.Write(ctx, kind, message); err == nil {
			kind, message, err = conn.Read(ctx)
		}
	}
}

// Accept gives the HTTP server its next connection.
func (s *stub) Accept() (net.Conn, error) {
	select {
	case conn := <-s.conns:
		return conn, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *stub) Addr() net.Addr { return s.listener.Addr() }
func (s *stub) Close() error   { return nil }

func (s *stub) close() {
	s.listener.Close()
	close(s.done)
	_ = s.server.Close()
	s.tasks.Wait()
}

// stubCertificate is that of every stub with TLS, and its own authority.
var stubCertificate = newCertificate("example.com", "*.example.com", "*.example.org")

func newCertificate(names ...string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "the stubs"},
		DNSNames:              names,
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// stubResolver says of every name that it stands for 127.0.0.1, and asks nobody.
var stubResolver = &net.Resolver{
	PreferGo: true,
	Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go resolve(server)
		return client, nil
	},
}

// resolve answers the questions on a connection in the form that DNS has over TCP, until
// the other side closes it.
func resolve(conn net.Conn) {
	defer conn.Close()
	for {
		var length uint16
		if binary.Read(conn, binary.BigEndian, &length) != nil {
			return
		}
		message := make([]byte, length)
		var m dnsmessage.Message
		if _, err := io.ReadFull(conn, message); err != nil || m.Unpack(message) != nil {
			return
		}
		m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
		for _, question := range m.Questions {
			if question.Type == dnsmessage.TypeA {
				m.Answers = append(m.Answers, dnsmessage.Resource{
					Header: dnsmessage.ResourceHeader{Name: question.Name, Type: question.Type, Class: question.Class, TTL: 1},
					Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
				})
			}
		}
		answer, err := m.AppendPack(make([]byte, 2))
		if err != nil {
			return
		}
		binary.BigEndian.PutUint16(answer, uint16(len(answer)-2))
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}
