package examples

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/streamprox/caddy-streamprox/examples/grpc/echo"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

func testGRPC(t *testing.T) {
	address, authorities := grpcServer(t)
	plain, secure := freeport.Get(t), freeport.Get(t)
	t.Setenv("GRPC", address)
	t.Setenv("HTTP_PORT", plain)
	t.Setenv("HTTPS_PORT", secure)
	run(t, "grpc/Caddyfile")
	site := "https://localhost:" + secure + "/"
	obtained(t, site)

	// It trusts the certificate of the gRPC server alone.
	conn := grpcClient(t, "127.0.0.1:"+secure, authorities)
	client := testpb.NewTestServiceClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()

	t.Run("calls", func(t *testing.T) {
		for _, want := range []string{"", "small", string(bytes.Repeat([]byte("large "), 1<<18))} {
			got, err := client.UnaryCall(ctx, &testpb.SimpleRequest{Payload: &testpb.Payload{Body: []byte(want)}})
			if err != nil || string(got.GetPayload().GetBody()) != want {
				t.Errorf("got %.20q, %v, want %.20q", got.GetPayload().GetBody(), err, want)
			}
		}
		// The server's own errors arrive as it sends them.
		if _, err := client.EmptyCall(ctx, new(testpb.Empty)); status.Code(err) != codes.Unimplemented {
			t.Errorf("a method that the server lacks: got %v, want the code Unimplemented", err)
		}
	})

	t.Run("stream and site", func(t *testing.T) {
		stream := begin(t, ctx, client)
		for _, http2 := range []bool{true, false} {
			stream.exchange(t, fmt.Sprintf("before the site with HTTP/2: %t", http2))
			proto := map[bool]string{true: "HTTP/2.0", false: "HTTP/1.1"}[http2]
			client, local := newTLSClient(t, http2)
			got := get(t, client, site)
			if want := fmt.Sprintf("The site, with %s. Your address is %s.\n", proto, *local); got.body != want {
				t.Errorf("%s: got %q, want %q", proto, got.body, want)
			}
		}
		other := begin(t, ctx, client)
		for i := range 5 {
			stream.exchange(t, fmt.Sprintf("one %d", i))
			other.exchange(t, fmt.Sprintf("other %d", i))
		}
		other.end(t)
		stream.exchange(t, "after the other's end")
		stream.end(t)
	})

	t.Run("reload", func(t *testing.T) {
		stream := begin(t, ctx, client)
		stream.exchange(t, "before")
		t.Setenv("HTTP_PORT", freeport.Get(t)) // so that the configuration is another one
		if err := caddy.Run(adapt(t, "grpc/Caddyfile")); err != nil {
			t.Fatal(err)
		}
		stream.exchange(t, "after")
		stream.end(t)
	})

	t.Run("command", func(t *testing.T) {
		in, lines := io.Pipe()
		answers, out := io.Pipe()
		client := grpcClient(t, "127.0.0.1:"+secure, nil)
		ended := make(chan error, 1)
		go func() {
			ended <- echo.Talk(ctx, client, in, out)
			in.Close()
			out.Close()
		}()
		read := bufio.NewReader(answers)
		for _, want := range []string{"hello\n", "\n", "again\n"} {
			_, _ = io.WriteString(lines, want)
			if got, err := read.ReadString('\n'); got != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		}
		lines.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// grpcServer runs the gRPC server until the test ends. It returns who signed its
// certificate.
func grpcServer(t *testing.T) (address string, authorities *x509.CertPool) {
	t.Helper()
	certificate, err := echo.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := echo.NewServer(certificate)
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("gRPC server: %v", err)
		}
	})
	authorities = x509.NewCertPool()
	authorities.AddCert(certificate.Leaf)
	return ln.Addr().String(), authorities
}

func grpcClient(t *testing.T, address string, authorities *x509.CertPool) *grpc.ClientConn {
	t.Helper()
	conn, err := echo.Dial(address, authorities)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// grpcStream is a stream of messages both ways.
type grpcStream struct {
	testpb.TestService_FullDuplexCallClient
}

func begin(t *testing.T, ctx context.Context, client testpb.TestServiceClient) grpcStream {
	t.Helper()
	stream, err := client.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return grpcStream{stream}
}

// exchange sends a message and waits until it comes back.
func (s grpcStream) exchange(t *testing.T, message string) {
	t.Helper()
	if err := s.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: []byte(message)}}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Recv()
	if err != nil || string(got.GetPayload().GetBody()) != message {
		t.Fatalf("got %q, %v, want %q", got.GetPayload().GetBody(), err, message)
	}
}

// end says that no message follows, and waits for the server's end.
func (s grpcStream) end(t *testing.T) {
	t.Helper()
	if err := s.CloseSend(); err != nil {
		t.Error(err)
	}
	if got, err := s.Recv(); err != io.EOF {
		t.Errorf("at the end: got %v, %v, want EOF", got, err)
	}
}
