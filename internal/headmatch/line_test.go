package headmatch

import "testing"

func TestMethod(t *testing.T) {
	tests := []struct {
		name    string
		methods []string
		method  string
		want    Answer
	}{
		{"one", []string{"GET"}, "GET", Yes},
		{"the second", []string{"GET", "POST"}, "POST", Yes},
		{"another", []string{"GET"}, "PUT", No},
		{"the beginning of one", []string{"GETS"}, "GET", No},
		{"letter case", []string{"FOO"}, "foo", No},
		{"none", nil, "GET", No},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			check(t, Method(test.methods), test.method+" / HTTP/1.1\r\nHost: a\r\n\r\n", test.want)
		})
	}
}

func TestProtocol(t *testing.T) {
	tests := []struct {
		name                        string
		http10, http11, http11OnTLS Answer
	}{
		{"http", Yes, Yes, No},
		{"https", No, No, Yes},
		{"http/1.0", Yes, No, No},
		{"http/1.0+", Yes, Yes, Yes},
		{"http/1.1", No, Yes, Yes},
		{"http/1.1+", No, Yes, Yes},
		{"http/2", No, No, No},
		{"http/2+", No, No, No},
		{"http/3", No, No, No},
		{"grpc", No, No, No},
		{"gopher", No, No, No},
		{"", No, No, No},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := Protocol(test.name)
			check(t, m, "GET / HTTP/1.0\r\n\r\n", test.http10)
			check(t, m, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", test.http11)
			head := newHead(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			head.Reset(head.Data, head.Reader, true)
			if got := m(head); got != test.http11OnTLS {
				t.Errorf("after TLS: got %s, want %s", got, test.http11OnTLS)
			}
		})
	}
}

func TestProtocolGRPC(t *testing.T) {
	tests := []struct {
		name, fields string
		want         Answer
	}{
		{"grpc", "Content-Type: application/grpc\r\n", Yes},
		{"a suffix", "content-TYPE: application/grpc+proto\r\n", Yes},
		{"letter case of the value", "Content-Type: application/GRPC\r\n", No},
		{"another type", "Content-Type: application/json\r\n", No},
		{"the beginning of it", "Content-Type: application/grp\r\n", No},
		{"the first of two", "Content-Type: application/grpc\r\nContent-Type: text/plain\r\n", Yes},
		{"the second of two", "Content-Type: text/plain\r\nContent-Type: application/grpc\r\n", No},
		{"on two lines", "Content-Type: application/grpc\r\n +proto\r\n", Unsure},
		{"another field on two lines", "X: a\r\n b\r\nContent-Type: application/grpc\r\n", Yes},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			check(t, Protocol("grpc"), "POST / HTTP/1.1\r\nHost: a\r\n"+test.fields+"\r\n", test.want)
		})
	}
}
