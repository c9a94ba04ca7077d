package headmatch_test

import (
	"fmt"

	"github.com/streamprox/caddy-streamprox/internal/headmatch"
	"github.com/streamprox/caddy-streamprox/internal/httphead"
)

func Example() {
	data := []byte("GET /Chat/room%201?token=x HTTP/1.1\r\nHost: example.com:8080\r\nUpgrade: websocket\r\n\r\n")
	var reader httphead.Reader
	reader.Reset(httphead.Options{})
	if reader.Read(data) != httphead.HTTP {
		fmt.Println("not a head")
	}
	var head headmatch.Head
	head.Reset(data, &reader, false)

	chat := headmatch.Set{
		headmatch.Path([]string{"/chat/*"}),
		headmatch.Host([]string{"example.com", "*.example.com"}),
		headmatch.Header(map[string][]string{"Upgrade": {"websocket"}}),
	}
	fmt.Println(chat.Match(&head))
	fmt.Println(headmatch.Not([]headmatch.Set{chat})(&head))
	// Output:
	// yes
	// no
}
