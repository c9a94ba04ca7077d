package docs

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/coder/websocket"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/streamprox/caddy-streamprox/internal/freeport"
)

// patience bounds every wait for something that should happen soon.
const patience = 20 * time.Second

// running is a Caddy that runs the configuration of a block. What a reader would have is
// moved to this machine, and nothing else is changed: ports to free ones of loopback,
// servers to stubs, files to a temporary folder, and certificates come from Caddy itself.
type running struct {
	dir       string
	ports     map[string]string // those of the page, and those here
	tried     map[string]bool   // ports of the page to which something was sent
	listening []string          // ports of the page on which a server of the configuration listens
	names     []string          // those of sites
	secure    []string          // those for which Caddy obtains certificates
	servers   map[string]string // addresses of the page, and those here
	down      []string          // servers that are not there
	stubs     []*stub
	release   []func() // for ports here
	logs      *logBuffer
	client    string // the address of the client that connected last
}

// errCaddyRaces is of a configuration that is not run with the race detector: Caddy 2.11.9
// starts its HTTP app before its TLS app if it so happens, and lets it manage certificates.
// The events of that read what the start of the TLS app writes.
var errCaddyRaces = errors.New("not with the race detector: Caddy may use its TLS app before that is started")

// run runs the configuration of the block, with the logs and the storage of another one if
// that is not the same, checks the claim, and stops.
func (b *block) run(c claim, options *block, dir string) (err error) {
	r := &running{dir: dir, ports: make(map[string]string), tried: make(map[string]bool), servers: make(map[string]string), down: c.down}
	defer r.close()
	changed, err := b.with(c.change)
	if err != nil {
		return err
	}
	config, err := changed.fields()
	if err != nil {
		return err
	}
	if options != b {
		more, err := options.fields()
		if err != nil {
			return err
		}
		maps.Copy(config, more)
	}
	if err := writeFiles(dir); err != nil {
		return err
	}
	for _, address := range c.also {
		if err := r.serve(address); err != nil {
			return err
		}
	}
	if err := r.move(config); err != nil {
		return err
	}
	if raceDetector && len(r.secure) > 0 {
		return errCaddyRaces
	}
	raw, err := json.Marshal(config)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\nlogs:\n%s", err, r.logs.last())
		}
	}()
	var run caddy.Config
	if err := caddy.StrictUnmarshalJSON(raw, &run); err != nil {
		return err
	}
	if err := caddy.Run(&run); err != nil {
		return fmt.Errorf("running: %w", err)
	}
	loading := len(r.logs.String())
	err = r.obtained()
	if err == nil {
		err = r.hold(c, options)
	}
	if c.asItIs() {
		err = errors.Join(err, r.probe())
	}
	if stopping := caddy.Stop(); stopping != nil {
		err = errors.Join(err, fmt.Errorf("stopping: %w", stopping))
	}
	return errors.Join(err, faults(r.logs.String(), loading, c.mayLog))
}

// writeFiles writes the files that blocks name.
func writeFiles(dir string) error {
	key, err := x509.MarshalPKCS8PrivateKey(stubCertificate.PrivateKey)
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"srv/www/index.html":  []byte("the page in /srv/www"),
		"srv/certificate.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: stubCertificate.Certificate[0]}),
		"srv/key.pem":         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// obtained waits until Caddy has the certificates for its sites.
func (r *running) obtained() error {
	app, err := caddy.ActiveContext().App("tls")
	if err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		missing := slices.DeleteFunc(slices.Clone(r.secure), app.(*caddytls.TLS).HasCertificateForSubject)
		if len(missing) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("no certificate for %s", missing)
		}
	}
}

// hold says in what the claim does not hold.
func (r *running) hold(c claim, b *block) (err error) {
	for _, try := range c.tries {
		err = errors.Join(err, compare(try, r.try(try[0]), "{client}", r.client))
	}
	if c.check != nil {
		err = errors.Join(err, c.check(r, b))
	}
	return err
}

// compare says in what an answer is not as the try has it, whose texts have a placeholder.
func compare(try []string, got, placeholder, value string) error {
	for i, want := range try[1:] {
		want, unwanted := strings.CutPrefix(want, "!")
		want = strings.ReplaceAll(want, placeholder, value)
		if i == 0 && !strings.HasPrefix(got, want) || i > 0 && strings.Contains(got, want) == unwanted {
			return fmt.Errorf("%q: got\n%s\nwant %q, where %s is %q", try[0], got, try[1:], placeholder, value)
		}
	}
	return nil
}

// probe sends a request, with TLS and without, to each port on which a server of the
// configuration listens and to which nothing has been sent. The answer is a status, TLS, or
// the end; and one of them is a status.
func (r *running) probe() error {
	name := append(r.names, "example.com")[0]
	for _, port := range r.listening {
		if r.tried[port] {
			continue
		}
		answered := false
		for _, scheme := range []string{"http", "https"} {
			send := fmt.Sprintf("GET %s://%s:%s/", scheme, name, port)
			got := r.try(send)
			switch {
			case got[0] >= '2' && got[0] <= '4':
				answered = true
			case got == "closed", strings.Contains(got, "tls: "), strings.Contains(got, "malformed HTTP"):
			default:
				return fmt.Errorf("%s: got %s", send, got)
			}
		}
		if !answered {
			return fmt.Errorf("port %s answers no request", port)
		}
	}
	return nil
}

// with returns the block with changes to its text.
func (b *block) with(changes []string) (*block, error) {
	changed := *b
	for change := range slices.Chunk(changes, 2) {
		if !strings.Contains(changed.text, change[0]) {
			return nil, fmt.Errorf("the block does not hold %q", change[0])
		}
		changed.text = strings.ReplaceAll(changed.text, change[0], change[1])
	}
	return &changed, nil
}

// fields returns the configuration of the block.
func (b *block) fields() (config map[string]any, err error) {
	raw, err := b.config()
	if err != nil {
		return nil, err
	}
	return config, json.Unmarshal(raw, &config)
}

// move changes the configuration into one that can run here.
func (r *running) move(config map[string]any) error {
	apps, _ := config["apps"].(map[string]any)
	for _, app := range []string{"http", "layer4"} {
		for _, server := range servers(apps[app]) {
			if app == "http" {
				r.name(server)
			}
			for i, address := range list(server["listen"]) {
				moved, err := r.listen(address.(string))
				if err != nil {
					return err
				}
				list(server["listen"])[i] = moved
			}
		}
	}
	if app, ok := apps["http"].(map[string]any); ok {
		for field, port := range map[string]string{"http_port": "80", "https_port": "443"} {
			moved, err := r.port(port)
			if err != nil {
				return err
			}
			app[field], _ = strconv.Atoi(moved)
		}
		certificates, ok := apps["tls"].(map[string]any)
		if !ok {
			certificates = make(map[string]any)
			apps["tls"] = certificates
		}
		certificates["automation"] = map[string]any{"policies": []any{
			map[string]any{"issuers": []any{map[string]any{"module": "internal"}}},
		}}
		apps["pki"] = map[string]any{"certificate_authorities": map[string]any{"local": map[string]any{"install_trust": false}}}
	}
	if err := r.moveValues(config); err != nil {
		return err
	}
	config["admin"] = noAdmin
	r.log(config)
	return nil
}

// name notes the names of the sites of an HTTP server.
func (r *running) name(server map[string]any) {
	for _, hosts := range values(server["routes"], "host") {
		for _, name := range list(hosts) {
			r.names = append(r.names, name.(string))
			if slices.ContainsFunc(list(server["listen"]), func(a any) bool { return strings.HasSuffix(a.(string), ":443") }) {
				r.secure = append(r.secure, name.(string))
			}
		}
	}
}

// noAdmin is a configuration of Caddy's admin endpoint.
var noAdmin = map[string]any{"disabled": true, "config": map[string]any{"persist": false}}

// log lets the tests see what is logged, and beside that what the block itself logs.
func (r *running) log(config map[string]any) {
	logging, _ := config["logging"].(map[string]any)
	logs, _ := logging["logs"].(map[string]any)
	all := make(map[string]any)
	maps.Copy(all, logs)
	for _, log := range logs {
		log := log.(map[string]any)
		if writer, ok := log["writer"].(map[string]any); ok && writer["output"] == "stdout" {
			log["writer"] = map[string]any{"output": "file", "filename": filepath.Join(r.dir, "stdout")}
		}
	}
	all["docs"], r.logs = newLog("DEBUG")
	all["default"] = map[string]any{"writer": map[string]any{"output": "discard"}}
	config["logging"] = map[string]any{"logs": all}
}

// moveValues moves servers, names with ports, and files, at any depth.
func (r *running) moveValues(value any) (err error) {
	switch value := value.(type) {
	case []any:
		for i, element := range value {
			if text, ok := element.(string); ok {
				value[i] = r.file(text)
			}
			err = errors.Join(err, r.moveValues(element))
		}
	case map[string]any:
		for key, element := range value {
			if text, ok := element.(string); ok {
				value[key] = r.file(text)
			}
			err = errors.Join(err, r.moveValues(element))
		}
		for i, address := range list(value["dial"]) { // of relay and proxy
			if list(value["dial"])[i], err = r.dialled(address.(string)); err != nil {
				return err
			}
		}
		if address, ok := value["dial"].(string); ok { // of reverse_proxy
			if value["dial"], err = r.dialled(address); err != nil {
				return err
			}
		}
		if options, ok := value["tls"].(map[string]any); ok && value["dial"] != nil {
			options["ca"] = map[string]any{
				"provider":         "inline",
				"trusted_ca_certs": []any{base64.StdEncoding.EncodeToString(stubCertificate.Certificate[0])},
			}
		}
		if name, ok := value["listener"].(string); ok && value["handler"] == "http_app" {
			if name, port, found := strings.Cut(name, ":"); found {
				moved, err := r.port(port)
				if err != nil {
					return err
				}
				value["listener"] = name + ":" + moved
			}
		}
	}
	return err
}

// dialled returns what stands here for the address of a server.
func (r *running) dialled(address string) (string, error) {
	if err := r.serve(address); err != nil {
		return "", err
	}
	return cmp.Or(r.servers[address], address), nil
}

// file returns where a file of the page is here, and any other text as it is.
func (r *running) file(name string) string {
	for _, root := range []string{"/srv/", "/var/", "/mnt/"} {
		if strings.HasPrefix(name, root) {
			return filepath.Join(r.dir, filepath.FromSlash(name))
		}
	}
	return name
}

// listen returns where a server listens here.
func (r *running) listen(address string) (string, error) {
	parsed, err := caddy.ParseNetworkAddress(address)
	if err != nil {
		return "", err
	}
	old := strconv.FormatUint(uint64(parsed.StartPort), 10)
	port, err := r.port(old)
	if err != nil {
		return "", err
	}
	if parsed.Network == "streamprox" {
		return caddy.JoinNetworkAddress(parsed.Network, parsed.Host, port), nil
	}
	if !slices.Contains(r.listening, old) {
		r.listening = append(r.listening, old)
	}
	return "127.0.0.1:" + port, nil
}

// port returns what a port of the page is here.
func (r *running) port(old string) (string, error) {
	if r.ports[old] == "" {
		address, err := r.freeAddress()
		if err != nil {
			return "", err
		}
		_, r.ports[old], _ = net.SplitHostPort(address)
	}
	return r.ports[old], nil
}

// serve starts a stub in place of a server, unless there is one, or the address is that of
// a server of the configuration.
func (r *running) serve(address string) error {
	if r.servers[address] != "" || strings.Contains(address, "{") {
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if host == "127.0.0.1" && slices.Contains(r.listening, port) {
		r.servers[address] = "127.0.0.1:" + r.ports[port]
		return nil
	}
	here, err := r.freeAddress()
	if err != nil {
		return err
	}
	if !slices.Contains(r.down, address) {
		s, err := newStub(address, here)
		if err != nil {
			return err
		}
		r.stubs = append(r.stubs, s)
	}
	if _, err := netip.ParseAddr(host); err != nil { // a name, which the stub of DNS resolves
		here = strings.Replace(here, "127.0.0.1", host, 1)
	}
	r.servers[address] = here
	return nil
}

// freeAddress returns an address that is nobody else's while the configuration runs.
func (r *running) freeAddress() (string, error) {
	address, release, err := freeport.Find()
	if err == nil {
		r.release = append(r.release, release)
	}
	return address, err
}

func (r *running) close() {
	for _, s := range r.stubs {
		s.close()
	}
	for _, release := range r.release {
		release()
	}
}

// try sends what a line of a claim says and returns what comes back: of an HTTP response
// its status, protocol, fields, who issued the server's certificate, and the body.
//
//	GET https://example.com/     a request of HTTP/1.1; fields follow on lines of their own
//	h2 GET https://example.com/  of HTTP/2; also h3, h2c, and any, which offers 1.1 and 2
//	WebSocket ws://example.com/  opens one, sends a message and gets it back
//	SSH :22                      what an SSH client begins with
//	send :22 "text"              these bytes
//	silent :22                   connects and waits for a line
//	from 10.1.2.3 ...            the same behind a header of the PROXY protocol
//
// A server of the page in angle brackets stands for the address that it has here.
func (r *running) try(send string) string {
	send = r.here(send)
	proxied := ""
	if rest, ok := strings.CutPrefix(send, "from "); ok {
		proxied, send, _ = strings.Cut(rest, " ")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	kind, rest, _ := strings.Cut(send, " ")
	switch kind {
	case "SSH", "send", "silent":
		conn, err := r.dial(ctx, strings.Fields(rest)[0], proxied)
		if err != nil {
			return failure(err)
		}
		defer conn.Close()
		return converse(conn, kind, rest)
	case "h3":
		transport := &http3.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Dial: r.dialQUIC}
		defer transport.Close()
		return request(ctx, transport, rest)
	}
	transport := r.transport(proxied)
	defer transport.CloseIdleConnections()
	switch kind {
	case "h2":
		transport.Protocols.SetHTTP2(true)
	case "h2c":
		transport.Protocols.SetUnencryptedHTTP2(true)
	case "any":
		transport.Protocols.SetHTTP1(true)
		transport.Protocols.SetHTTP2(true)
	default:
		transport.Protocols.SetHTTP1(true)
		rest = send
	}
	if kind == "WebSocket" {
		return talk(ctx, transport, strings.TrimPrefix(send, "WebSocket "))
	}
	return request(ctx, transport, rest)
}

// here returns what is sent with the servers that it names where they are here.
func (r *running) here(send string) string {
	for address, here := range r.servers {
		send = strings.ReplaceAll(send, "<"+address+">", here)
	}
	return send
}

// transport returns a client for the ports of the page. It keeps its connections.
func (r *running) transport(proxied string) *http.Transport {
	return &http.Transport{
		DialContext:     func(ctx context.Context, _, address string) (net.Conn, error) { return r.dial(ctx, address, proxied) },
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		Protocols:       new(http.Protocols),
	}
}

// dial connects to a port of the page.
func (r *running) dial(ctx context.Context, address, proxied string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if r.ports[port] == "" {
		return nil, fmt.Errorf("the configuration has no port %s", port)
	}
	r.tried[port] = true
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+r.ports[port])
	if err != nil {
		return nil, err
	}
	r.client = conn.LocalAddr().String()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if proxied != "" {
		fmt.Fprintf(conn, "PROXY TCP4 %s 192.0.2.1 1000 80\r\n", proxied)
	}
	return conn, nil
}

func (r *running) dialQUIC(ctx context.Context, address string, tlsConfig *tls.Config, config *quic.Config) (*quic.Conn, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	return quic.DialAddrEarly(ctx, "127.0.0.1:"+r.ports[port], tlsConfig, config)
}

// converse sends what is no HTTP and returns what comes back.
func converse(conn net.Conn, kind, rest string) string {
	var err error
	switch kind {
	case "SSH":
		_, err = io.WriteString(conn, "SSH-2.0-client\r\n")
	case "send":
		var text string
		_, text, _ = strings.Cut(rest, " ")
		if text, err = strconv.Unquote(text); err == nil {
			_, err = io.WriteString(conn, text)
		}
	case "silent": // a server that speaks first waits for an answer
		line := make([]byte, 1024)
		n, err := conn.Read(line)
		if n == 0 {
			return failure(err)
		}
		return string(line[:n])
	}
	if err != nil {
		return failure(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || len(got) == 0 {
		return string(got) + failure(err)
	}
	return string(got)
}

// request sends an HTTP request, described by its method, its URL and its fields.
func request(ctx context.Context, transport http.RoundTripper, description string) string {
	first, fields, _ := strings.Cut(description, "\n")
	method, target, _ := strings.Cut(first, " ")
	req, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return failure(err)
	}
	for _, field := range strings.FieldsFunc(fields, func(r rune) bool { return r == '\n' }) {
		name, value, _ := strings.Cut(field, ": ")
		if name == "Host" {
			req.Host = value
		} else {
			req.Header.Add(name, value)
		}
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return failure(err)
	}
	defer resp.Body.Close()
	got := bytes.NewBufferString(fmt.Sprintf("%d %s\n", resp.StatusCode, resp.Proto))
	_ = resp.Header.Write(got)
	if resp.Close {
		got.WriteString("Connection: close\n")
	}
	if resp.TLS != nil {
		fmt.Fprintf(got, "certificate by: %s\n", resp.TLS.PeerCertificates[0].Issuer.CommonName)
	}
	got.WriteByte('\n')
	if _, err := io.Copy(got, resp.Body); err != nil {
		got.WriteString(failure(err))
	}
	return got.String()
}

// talk opens a WebSocket. It returns what the server says and, after that, what comes back.
func talk(ctx context.Context, transport *http.Transport, target string) string {
	conn, _, err := websocket.Dial(ctx, target, &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		return failure(err)
	}
	defer conn.CloseNow()
	_, greeting, err := conn.Read(ctx)
	if err == nil {
		err = conn.Write(ctx, websocket.MessageText, []byte("message"))
	}
	var echo []byte
	if err == nil {
		_, echo, err = conn.Read(ctx)
	}
	if err == nil {
		err = conn.Close(websocket.StatusNormalClosure, "")
	}
	if err != nil {
		return failure(err)
	}
	return string(greeting) + "\n" + string(echo)
}

// failure says what an error is: "closed" of an end or a reset.
func failure(err error) string {
	var urlError *url.Error
	if errors.As(err, &urlError) {
		err = urlError.Err
	}
	if err == nil || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return "closed"
	}
	for _, text := range []string{"EOF", "server closed idle connection", "forcibly closed", "connection was aborted"} {
		if strings.Contains(err.Error(), text) { // of net/http, which wraps nothing, and of Windows
			return "closed"
		}
	}
	return "error: " + err.Error()
}

// faults returns the logged lines that say that something is wrong: errors, and, once the
// configuration is loaded, warnings of layer4. Those that hold a permitted text do not count.
func faults(logs string, loading int, permitted []string) (err error) {
	at, found := 0, 0
	for line := range strings.Lines(logs) {
		at += len(line)
		var entry struct{ Level, Logger string }
		if json.Unmarshal([]byte(line), &entry) != nil ||
			entry.Level != "error" && (entry.Level != "warn" || at <= loading || !strings.HasPrefix(entry.Logger, "layer4")) ||
			slices.ContainsFunc(permitted, func(text string) bool { return strings.Contains(line, text) }) {
			continue
		}
		if found++; found <= 5 {
			err = errors.Join(err, fmt.Errorf("logged: %s", strings.TrimSpace(line)))
		}
	}
	return err
}

// servers returns the servers of an app.
func servers(app any) (found []map[string]any) {
	fields, _ := app.(map[string]any)
	servers, _ := fields["servers"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		found = append(found, servers[name].(map[string]any))
	}
	return found
}

// list returns a JSON array, or nil.
func list(value any) []any {
	elements, _ := value.([]any)
	return elements
}

// values returns the values of a key, at any depth.
func values(value any, key string) (found []any) {
	switch value := value.(type) {
	case []any:
		for _, element := range value {
			found = append(found, values(element, key)...)
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(value)) {
			if name == key {
				found = append(found, value[name])
			}
			found = append(found, values(value[name], key)...)
		}
	}
	return found
}
