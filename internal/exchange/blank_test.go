package exchange

import "testing"

// TestBlank checks what is left out between two requests, in whatever pieces it comes.
func TestBlank(t *testing.T) {
	const post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab"
	for _, test := range []struct {
		in    string
		blank Blank
		after string
		want  string
	}{
		{post, 0, "\r\nGET", "\r\nGET"},
		{post, 4, "GET", "GET"},
		{post, 4, "\r\nGET", "GET"},
		{post, 4, "\n\n\r\rGET", "GET"},
		{post, 4, "\r\n\r\n\nGET", "\nGET"},
		{post, 4, "\r\nG\r\n", "G\r\n"},
		{post, 4, " \r\nGET", " \r\nGET"},
		{post, 4, "\r\n", ""},
		{"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n", 4, "\r\nbytes", "\r\nbytes"},
		{upgrade, 4, "\r\nframes", "\r\nframes"},
	} {
		for cut := range len(test.after) + 1 {
			var x Exchange
			_, got := begin(t, &x, test.in+test.after[:cut], func(r *Request) { r.Blank = test.blank })
			for i := range test.after[cut:] {
				_, ahead := x.Request([]byte(test.after[cut+i : cut+i+1]))
				got += string(ahead)
			}
			if got != test.want {
				t.Errorf("%q, cut at %d: got %q, want %q", test.after, cut, got, test.want)
			}
		}
	}
}
