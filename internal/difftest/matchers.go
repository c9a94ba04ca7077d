// Package difftest holds what the differential tests of the HTTP matchers share:
// configurations of matchers, and requests that are hard to read alike. Nothing but
// tests imports it.
package difftest

import (
	"encoding/json"
	"fmt"
	"strings"
)

// FilesToken stands in matcher sets for the directory with the files of [Files].
const FilesToken = "FILES"

// Files are the files that matcher sets look for.
var Files = []string{"chat", "index.php", "foo bar"}

// MatcherSets returns configurations of http_request: each is a JSON array of matcher
// sets, of which one must match.
func MatcherSets() []string {
	sets := []string{
		`[]`,
		`[{"path":["/chat"],"method":["POST"]},{"host":["b.example.com"]},{"expression":"{http.request.uri.query.a} == '1'"}]`,
		manyHosts(),
	}
	for set := range strings.Lines(matcherSets) {
		if set = strings.TrimSpace(set); set != "" {
			sets = append(sets, "["+set+"]")
		}
	}
	return sets
}

// manyHosts has more than a hundred names, which MatchHost then sorts.
func manyHosts() string {
	names := []string{"*.EXAMPLE.com", "Example.COM", "[::1]"}
	for i := range 120 {
		names = append(names, fmt.Sprintf("Host%d.example.ORG", i))
	}
	constant, _ := json.Marshal(names)
	dynamic, _ := json.Marshal(append(names, "{http.request.header.X-Tag}.example.net"))
	return fmt.Sprintf(`[{"host":%s,"not":[{"host":%s}]},{"host":%s}]`, dynamic, constant, constant)
}

// matcherSets are sets of HTTP matchers, one a line.
const matcherSets = `
{}
{"method":["GET"]}
{"method":["get","Post"]}
{"method":["CONNECT"]}
{"method":["OPTIONS","PROPFIND"]}
{"method":["{http.request.method}"]}
{"method":[]}

{"path":["/"]}
{"path":["*"]}
{"path":["/chat","*"]}
{"path":["/*"]}
{"path":["/chat"]}
{"path":["/CHAT"]}
{"path":["/chat*"]}
{"path":["/chat/*"]}
{"path":["/Chat/Room"]}
{"path":["*/room"]}
{"path":["*.php"]}
{"path":["*oo*"]}
{"path":["**"]}
{"path":["*/"]}
{"path":["/*/room"]}
{"path":["/*/"]}
{"path":["/ch*t"]}
{"path":["/ch?t"]}
{"path":["/ch[a-c]t"]}
{"path":["/ch[a-c]t*"]}
{"path":["*[1]"]}
{"path":["/foo\\[1\\]"]}
{"path":["/foo\\*bar"]}
{"path":["/foo[*]bar"]}
{"path":["/foo["]}
{"path":["/*/*/*"]}
{"path":["*a*b*"]}
{"path":["/*a*b*"]}
{"path":["//chat"]}
{"path":["//chat*"]}
{"path":["/chat//room"]}
{"path":["*//*"]}
{"path":["/a//*b"]}
{"path":["/foo%2fbar"]}
{"path":["/foo%2Fbar"]}
{"path":["/foo%40bar"]}
{"path":["/%63hat"]}
{"path":["/foo/%*"]}
{"path":["/%*/room"]}
{"path":["/chat%2f*"]}
{"path":["/%25*"]}
{"path":["/%"]}
{"path":["/100%"]}
{"path":["*%2f*"]}
{"path":["//%2f*"]}
{"path":["/caf\u00e9"]}
{"path":["/CAF\u00c9*"]}
{"path":["/k"]}
{"path":["/\u212a"]}
{"path":["/\ufffd"]}
{"path":["*i*"]}
{"path":["/.well-known/*"]}
{"path":["/..."]}
{"path":["*."]}
{"path":["/a./"]}
{"path":["/foo bar"]}
{"path":["/foo+bar"]}
{"path":["/a;b"]}
{"path":["/index.php","/x.php/*"]}
{"path":["chat"]}
{"path":[""]}
{"path":["."]}
{"path":["/chat/"]}
{"path":["/chat/."]}
{"path":["/a/../chat"]}
{"path":[]}
{"path":["/{http.request.uri.query.a}"]}
{"path":["/{http.request.method}*"]}
{"path":["{http.request.uri.path}"]}
{"path":["/{http.request.uri.path.0}/*"]}
{"path":["/{unknown}chat"]}
{"path":["/\\{chat"]}
{"path":["/chat}"]}

{"path_regexp":{"pattern":"^/chat(/|$)"}}
{"path_regexp":{"name":"re","pattern":"(?i)^/ch(.)t"},"vars":{"{http.request.method}":["GET"]}}
{"path_regexp":{"pattern":"//"}}
{"path_regexp":{"pattern":"\\.$"}}
{"path_regexp":{"pattern":"[^\\x00-\\x7f]"}}

{"host":["example.com"]}
{"host":["EXAMPLE.COM"]}
{"host":["example.com."]}
{"host":["example.com:8080"]}
{"host":["*.example.com"]}
{"host":["*.*.example.com"]}
{"host":["*"]}
{"host":["*.com"]}
{"host":["a.*.com"]}
{"host":["a*.example.com"]}
{"host":["*."]}
{"host":[""]}
{"host":["::1"]}
{"host":["[::1]"]}
{"host":["[::1"]}
{"host":["2001:DB8::1"]}
{"host":["127.0.0.1"]}
{"host":["_sip.example.com"]}
{"host":["b\u00fccher.example"]}
{"host":["\u212aelvin.example"]}
{"host":["xn--bcher-kva.example"]}
{"host":["{http.request.header.X-Tag}.example.com"]}
{"host":["{http.request.host}"]}
{"host":["example.com","*.example.com","localhost"]}
{"host":[]}

{"header":{"X-Tag":["one"]}}
{"header":{"x-tag":["one","two"]}}
{"header":{"X-Tag":["*"]}}
{"header":{"X-Tag":["**"]}}
{"header":{"X-Tag":[""]}}
{"header":{"X-Tag":["one*"]}}
{"header":{"X-Tag":["*one"]}}
{"header":{"X-Tag":["*one*"]}}
{"header":{"X-Tag":["o*e"]}}
{"header":{"X-Tag":["caf\u00e9"]}}
{"header":{"X-Tag":["*\u00e9*"]}}
{"header":{"X-Tag":[]}}
{"header":{"X-Tag":null}}
{"header":{"X-Tag":["{http.request.method}"]}}
{"header":{"X-Tag":["one"],"X-Other":null}}
{"header":{"X-Tag":["one"],"x-tag":["two"]}}
{"header":{"X_Tag":["one"]}}
{"header":{"X_Tag":null}}
{"header":{"X.Tag":[]}}
{"header":{"X.Tag":null}}
{"header":{"X-Tag_A":["*"]}}
{"header":{"x tag":null}}
{"header":{"x tag":["*"]}}
{"header":{"Host":["example.com"]}}
{"header":{"host":["*.com"]}}
{"header":{"Host":["*:8080"]}}
{"header":{"Host":[]}}
{"header":{"Host":null}}
{"header":{"Host":["example.com"],"host":["EXAMPLE.com"]}}
{"header":{"Connection":["*Upgrade*"],"Upgrade":["websocket"]}}
{"header":{"Connection":["close"]}}
{"header":{"Content-Length":["5"]}}
{"header":{"Content-Length":null}}
{"header":{"Content-Length":[]}}
{"header":{"Transfer-Encoding":["chunked"]}}
{"header":{"Transfer-Encoding":["*"]}}
{"header":{"Transfer-Encoding":null}}
{"header":{"Trailer":["*"]}}
{"header":{"Trailer":null}}
{"header":{"Cache-Control":["no-cache"]}}
{"header":{"Cache-Control":null}}
{"header":{"Pragma":["no-cache"]}}
{"header":{"Pragma":[]}}
{"header":{"Expect":["100-continue"]}}
{"header":{"Cookie":["*sid=abc*"]}}
{"header":{"":null}}
{"header":{"":["*"]}}
{"header":{}}
{"header_regexp":{"X-Tag":{"pattern":"^[a-z]+$"}}}
{"header_regexp":{"Host":{"pattern":"(?i)^example\\.com(:\\d+)?$"}}}
{"header_regexp":{"Transfer-Encoding":{"pattern":"chunked"}}}
{"header_regexp":{"X_Tag":{"pattern":""}}}
{"header_regexp":{"X.Tag":{"pattern":""}}}
{"header_regexp":{"X-Tag":{"pattern":"^$"}}}

{"query":{"a":["1"]}}
{"query":{"a":["*"]}}
{"query":{"a":["1","2"]}}
{"query":{"a":[""]}}
{"query":{"a":[]}}
{"query":{"a":null}}
{"query":{"":["*"]}}
{"query":{"*":["*"]}}
{"query":{"A":["1"]}}
{"query":{"a":["1"],"b":["*"]}}
{"query":{"a":["x y"]}}
{"query":{"a":["+"]}}
{"query":{"a b":["*"]}}
{"query":{"a":["\u00e9"]}}
{"query":{"a":["1*"]}}
{"query":{"a":["a=b"]}}
{"query":{}}
{"query":{"a":["{http.request.host}"]}}
{"query":{"{http.request.header.X-Tag}":["*"]}}
{"query":{"a[]":["1"]}}

{"protocol":"http"}
{"protocol":"https"}
{"protocol":"http/1.0"}
{"protocol":"http/1.0+"}
{"protocol":"http/1.1"}
{"protocol":"http/1.1+"}
{"protocol":"http/2"}
{"protocol":"http/2+"}
{"protocol":"http/3+"}
{"protocol":"grpc"}
{"protocol":"GRPC"}
{"protocol":"gopher"}
{"tls":{}}
{"tls":{"handshake_complete":true}}
{"tls":{"handshake_complete":false}}

{"remote_ip":{"ranges":["127.0.0.0/8"]}}
{"remote_ip":{"ranges":["10.0.0.0/8","::1"]}}
{"remote_ip":{"ranges":["127.0.0.1"]}}
{"client_ip":{"ranges":["127.0.0.0/8"]}}
{"client_ip":{"ranges":["10.0.0.0/8","::1"]}}
{"client_ip":{"ranges":["192.0.2.1","127.0.0.1/32"]}}

{"not":[]}
{"not":[{}]}
{"not":[{"path":["/chat*"]}]}
{"not":[{"path":["/caf\u00e9*"]},{"path":["/chat"]}]}
{"not":[{"header":{"X-Tag":["one"]},"method":["GET"]}]}
{"not":[{"host":["*.example.com"]},{"query":{"a":["*"]}}]}
{"not":[{"not":[{"method":["GET"],"path":["/*"]}]}]}
{"not":[{"tls":{}}]}
{"not":[{"header":{"Cache-Control":[]}}]}
{"not":[{"query":{"a":["1"]}}],"host":["example.com"]}

{"expression":"path('/chat*')"}
{"expression":"{http.request.method} == 'GET'"}
{"expression":"header({'X-Tag': ['one', 'two']}) || query({'a': '*'})"}
{"expression":"host('example.com', '*.example.com') && !method('POST')"}
{"expression":"protocol('https')"}
{"expression":"remote_ip('127.0.0.0/8') && client_ip('127.0.0.0/8')"}
{"expression":"path_regexp('^/ch.t') && header_regexp('X-Tag', '^o')"}
{"expression":"vars({'client_ip': '127.0.0.1'}) && path('/*/')"}
{"expression":"file({'root': 'FILES', 'try_files': ['/chat']}) && method('HEAD')"}
{"expression":{"expr":"{http.request.header.X-Tag} == 'one'","name":"named"}}
{"expression":"{http.request.uri.query.a} in ['1', 'x y']"}
{"expression":"url_pattern('/chat/:room')"}
{"file":{"root":"FILES"}}
{"file":{"root":"FILES","try_files":["{http.request.uri.path}/","/chat"]},"method":["PUT"]}
{"file":{"root":"FILES","try_files":["/none"]}}
{"file":{"root":"FILES","try_files":["{http.request.uri.path}.php","{http.request.uri.path}"],"try_policy":"largest_size"}}
{"file":{"root":"FILES","split_path":[".php"]}}
{"url_pattern":{"pattern":"/chat/:room"}}
{"url_pattern":{"pattern":"/CHAT*","ignore_case":true}}
{"url_pattern":{"pattern":"http://example.com/*"}}
{"url_pattern":{"pattern":"/*?a=:value"}}
{"url_pattern":{"pattern":"//chat"}}
{"vars":{"{http.request.method}":["GET","HEAD"]}}
{"vars":{"{http.request.host}":["example.com"]}}
{"vars":{"{http.request.hostport}":["example.com:8080"]}}
{"vars":{"{http.request.port}":["8080"]}}
{"vars":{"{http.request.host.labels.1}":["example"]}}
{"vars":{"{http.request.scheme}":["https"]}}
{"vars":{"{http.request.proto}":["HTTP/1.0"]}}
{"vars":{"{http.request.uri}":["/chat?a=1"]}}
{"vars":{"{http.request.orig_uri}":["/chat"]}}
{"vars":{"{http.request.uri.path.file}":["room"]}}
{"vars":{"{http.request.uri.query}":["a=1"]}}
{"vars":{"{http.request.cookie.sid}":["abc"]}}
{"vars":{"{http.request.header.Host}":[""]}}
{"vars":{"{http.request.header.X_Tag}":["one"]}}
{"vars":{"{http.request.header.X-Tag}":["one,two"]}}
{"vars":{"{http.request.header.Cache-Control}":["no-cache"]}}
{"vars":{"{http.request.remote.host}":["127.0.0.1"]}}
{"vars":{"{http.request.local.host}":["127.0.0.1"]}}
{"expression":"int({http.request.remote.port}) % 3 == 0"}
{"expression":"int({http.request.local.port}) % 3 == int({http.request.remote.port}) % 3"}
{"expression":"int({http.request.local.port}) % 3 == 0"}
{"vars":{"{http.request.tls.version}":["tls1.3"]}}
{"vars":{"{http.request.tls.resumed}":["true"]}}
{"vars":{"{http.request.tls.server_name}":["example.com"]}}
{"vars":{"{http.shutting_down}":["false"]}}
{"vars":{"{http.time_until_shutdown}":[""]}}
{"vars":{"client_ip":["127.0.0.1"]}}
{"vars":{"trusted_proxy":["false"]}}
{"vars":{"{http.vars.unset}":["x"]}}
{"vars":{"unset":[""]}}
{"vars_regexp":{"{http.request.uri.path}":{"pattern":"^/chat"}}}
{"vars_regexp":{"{http.request.uri}":{"name":"uri","pattern":"%2[fF]"}}}
{"vars_regexp":{"client_ip":{"pattern":"^127\\."}}}

{"path":["/chat*"],"method":["GET"],"host":["example.com"]}
{"path":["/chat*"],"header":{"Connection":["*Upgrade*"],"Upgrade":["websocket"]}}
{"path":["/chat*"],"query":{"a":["*"]},"expression":"{http.request.proto} == 'HTTP/1.1'"}
`
