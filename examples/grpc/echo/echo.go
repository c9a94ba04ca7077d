// Package echo is a gRPC server that returns what it gets, and a client of it. The service
// is the one that gRPC's implementations test each other with.
package echo

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// Name is the name that the server's certificate is for.
const Name = "grpc.localhost"

// Certificate returns a new certificate for Name, signed by itself.
func Certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{Name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

// NewServer returns a server with the certificate, which does not serve yet.
func NewServer(certificate tls.Certificate) *grpc.Server {
	s := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&certificate)))
	testpb.RegisterTestServiceServer(s, server{})
	return s
}

// server returns what it gets.
type server struct {
	testpb.UnimplementedTestServiceServer
}

// UnaryCall returns one message.
func (server) UnaryCall(_ context.Context, request *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return &testpb.SimpleResponse{Payload: request.GetPayload()}, nil
}

// FullDuplexCall returns each message as it comes.
func (server) FullDuplexCall(stream testpb.TestService_FullDuplexCallServer) error {
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: request.GetPayload()}); err != nil {
			return err
		}
	}
}

// Dial returns a client of the server behind the address, which asks for Name and
// trusts the authorities. With none it trusts everybody.
func Dial(address string, authorities *x509.CertPool) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		ServerName:         Name,
		RootCAs:            authorities,
		InsecureSkipVerify: authorities == nil,
	})))
}

// Talk sends the lines of in, all of them in one stream, and writes each to out when it
// has come back.
func Talk(ctx context.Context, client *grpc.ClientConn, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := testpb.NewTestServiceClient(client).FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		err := stream.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: lines.Bytes()}})
		if err != nil && !errors.Is(err, io.EOF) { // io.EOF: Recv says why
			return err
		}
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s\n", response.GetPayload().GetBody())
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	_, err = stream.Recv()
	switch {
	case err == nil:
		return errors.New("a message that nobody sent")
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}
