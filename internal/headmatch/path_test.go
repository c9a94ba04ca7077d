package headmatch

import (
	"strings"
	"testing"
)

func TestPath(t *testing.T) {
	tests := []struct {
		name, pattern, target string
		want                  Answer
	}{
		{"equal", "/chat", "/chat", Yes},
		{"not equal", "/chat", "/chats", No},
		{"query", "/chat", "/chat?a=/b", Yes},
		{"absolute form", "/chat", "http://a/chat", Yes},
		{"letter case", "/chat", "/CHAT", Yes},
		{"encoded", "/chat", "/%63h%41t", Yes},
		{"encoded slash", "/chat/room", "/chat%2Froom", Yes},
		{"encoded percent", "/chat*", "/%2563hat", No},
		{"slashes", "/chat/room", "//chat///room", Yes},
		{"encoded slash beside a slash", "/chat/room", "/chat/%2froom", Yes},
		{"slash at the end", "/chat", "/chat/", No},
		{"slash at the end in both", "/chat/", "/chat/", Yes},

		{"everything", "*", "/chat", Yes},
		{"everything, a path that is not compared", "*", "/caf%C3%A9", Yes},
		{"prefix", "/chat/*", "/chat/room", Yes},
		{"prefix alone", "/chat/*", "/chat/", Yes},
		{"not the prefix", "/chat/*", "/chat", No},
		{"suffix", "*.php", "/index.PHP", Yes},
		{"not the suffix", "*.php", "/index.php/x", No},
		{"within", "*oo*", "/chat/room", Yes},
		{"not within", "*oo*", "/chat/rom", No},
		{"two asterisks alone", "**", "/", Yes},
		{"glob", "/*/room", "/chat/room", Yes},
		{"glob does not cross a slash", "/*/room", "/a/b/room", No},
		{"glob with a question mark", "/ch?t", "/chat", Yes},
		{"glob with a class", "/ch[a-c]t", "/chbt", Yes},
		{"glob with an escape", `/foo\*bar`, "/foo*bar", Yes},
		{"broken glob", "/foo[", "/foo[", No},
		{"asterisks at both ends and between", "*a*b*", "/axb", No},
		{"a class before an asterisk is text", "/ch[a-c]t*", "/ch[a-c]tter", Yes},
		{"empty pattern", "", "/", No},
		{"no slash at the beginning", "chat", "/chat", No},

		{"dots before a name", "/..a/.b/c", "/..a/.b/c", Yes},
		{"three dots", "/...", "/...", Yes},
		{"dot at the end of a name", "/a./", "/a./", Yes},
		{"dot segment", "/chat", "/a/../chat", Unsure},
		{"dot segment of one dot", "/chat", "/./chat", Unsure},
		{"encoded dot segment", "/chat", "/a/%2e%2e/chat", Unsure},
		{"dot segment between encoded slashes", "/chat", "/a%2f..%2fchat", Unsure},
		{"dot segment at the end", "/chat", "/chat/.", Unsure},
		{"two dots at the end", "/chat", "/chat/..", Unsure},
		{"beyond ASCII", "/caf*", "/caf%C3%A9", Unsure},
		{"the first byte beyond ASCII", "/*", "/%80", Unsure},
		{"the last byte of ASCII", "/*", "/%7F", Yes},
		{"asterisk form", "/*", "*", Unsure},
		{"no path", "/", "http://a", Unsure},
		{"1024 bytes", "/long/*", "/" + strings.Repeat("long/", 204) + "abc", Yes},
		{"1025 bytes", "/long/*", "/" + strings.Repeat("long/", 204) + "abcd", Unsure},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			method := "GET "
			if test.target == "*" {
				method = "OPTIONS "
			}
			check(t, Path([]string{test.pattern}), method+test.target+" HTTP/1.1\r\nHost: a\r\n\r\n", test.want)
		})
	}
}

func TestPathPatterns(t *testing.T) {
	const head = "GET /chat HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, patterns := range [][]string{{"/other", "/chat"}, {"/*/x", "/c*"}, {"/other", "/c?at"}, {"/other", "*"}} {
		check(t, Path(patterns), head, Yes)
	}
	check(t, Path([]string{"/other", "/c*/t"}), head, No)
	check(t, Path(nil), head, No)
	for _, pattern := range []string{"/a%2fb", "/%", "//chat", "/chat//*", "/café", "/\u212a"} {
		if Path([]string{"/chat", pattern}) != nil {
			t.Errorf("%s: got a matcher, want nil", pattern)
		}
	}
}
