package opening_test

import (
	"fmt"
	"time"

	"github.com/streamprox/caddy-streamprox/internal/httphead"
	"github.com/streamprox/caddy-streamprox/internal/opening"
)

// A request arrives in three packets.
func Example() {
	limits := opening.Limits{Bytes: 16 << 10, SilentTimeout: 15 * time.Second, Timeout: 10 * time.Second}
	packets := []string{"GET /chat HT", "TP/1.1\r\nHost: exam", "ple.com\r\n\r\n"}

	var o opening.Opening
	o.Begin(limits, httphead.Options{}, time.Now())
	for _, packet := range packets {
		n := copy(o.Room(), packet) // as a read that returns n
		o.Received(n, time.Now())
		fmt.Println(o.Certain())
	}
	fmt.Printf("%s %s\n", o.Outcome(), o.Head.Path.Of(o.Data()))
	// Output:
	// false
	// false
	// true
	// http /chat
}
