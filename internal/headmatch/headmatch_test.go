package headmatch

import (
	"bytes"
	"testing"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
)

// newHead returns a head, read strictly if that is possible.
func newHead(t *testing.T, text string) *Head {
	t.Helper()
	for _, lenient := range []bool{false, true} {
		reader := new(httphead.Reader)
		reader.Reset(httphead.Options{Lenient: lenient})
		if data := []byte(text); reader.Read(data) == httphead.HTTP {
			return &Head{Data: data, Reader: reader}
		}
	}
	t.Fatalf("%q is not accepted as a head", text)
	return nil
}

// check asserts what a matcher answers to a head.
func check(t *testing.T, m Matcher, text string, want Answer) {
	t.Helper()
	if m == nil {
		t.Fatal("there is no matcher for these arguments")
	}
	if got := m(newHead(t, text)); got != want {
		t.Errorf("%q: got %s, want %s", text, got, want)
	}
}

// TestHeadMoves checks that the bytes of a head may move between two questions, and that
// the path of one head is not taken for that of the next.
func TestHeadMoves(t *testing.T) {
	chat, api, get := Path([]string{"/chat"}), Path([]string{"/api"}), Method([]string{"GET"})
	ask := func(h *Head) (answers [3]Answer) {
		for i, m := range []Matcher{chat, api, get} {
			answers[i] = m(h)
		}
		return answers
	}
	first := newHead(t, "GET /chat HTTP/1.1\r\nHost: a\r\n\r\n")
	if got, want := ask(first), [3]Answer{Yes, No, Yes}; got != want {
		t.Errorf("first head: got %v, want %v", got, want)
	}
	first.Data = bytes.Clone(first.Data)
	if got, want := ask(first), [3]Answer{Yes, No, Yes}; got != want {
		t.Errorf("first head, moved: got %v, want %v", got, want)
	}
	second := newHead(t, "PUT /api HTTP/1.1\r\nHost: a\r\n\r\n")
	first.Reset(second.Data, second.Reader, false)
	if got, want := ask(first), [3]Answer{No, Yes, No}; got != want {
		t.Errorf("second head: got %v, want %v", got, want)
	}
}

// TestAllocations checks that no matcher allocates, whatever it answers.
func TestAllocations(t *testing.T) {
	matchers := map[string]Matcher{
		"method":   Method([]string{"GET"}),
		"path":     Path([]string{"/other", "/chat/*", "*/room", "/c*/r??m"}),
		"host":     Host([]string{"example.org", "*.example.com"}),
		"header":   Header(map[string][]string{"Origin": {"https://*"}, "Host": {"*:8080"}, "X-Tag": nil}),
		"query":    Query(map[string][]string{"a b": {"1", "é"}}),
		"grpc":     Protocol("grpc"),
		"protocol": Protocol("http/1.1"),
	}
	for name, text := range map[string]string{
		"match": "GET /Chat//Room%201?b&a+b=%C3%a9 HTTP/1.1\r\nHost: Chat.example.com:8080\r\nOrigin: https://a\r\nContent-Type: application/grpc\r\n\r\n",
		"none":  "PUT /x/.y HTTP/1.0\r\nX-Tag: one\r\nOrigin: http://a\r\nContent-Type: text/plain\r\n\r\n",
		"hard":  "GET /a/../caf%C3%A9?a=%zz HTTP/1.1\r\nHost: [::1]x\r\nOrigin: http:\r\n\t//a\r\nContent-Type: a\r\n /b\r\n\r\n",
	} {
		head := newHead(t, text)
		for kind, m := range matchers {
			n := testing.AllocsPerRun(10, func() {
				head.Reset(head.Data, head.Reader, false)
				m(head)
			})
			if n != 0 {
				t.Errorf("%s, %s: got %v allocations, want 0", name, kind, n)
			}
		}
	}
}
