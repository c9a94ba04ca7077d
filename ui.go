package streamprox

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// The page that shows and steers streams in a browser. It is served on a loopback port by a
// process of its own, which asks the admin API in the browser's place: that API has no
// password, and refuses a browser that comes from elsewhere. Who may use the page is decided
// here:
//
//   - The address that the command prints holds a token, which works once. It is exchanged for
//     a cookie that lives as long as the process.
//   - A browser sends cookies to all ports of a host. The cookie is therefore for a path that
//     nobody knows, and no other server of the machine gets to see it.
//   - The host has to be the printed one, against names that are made to resolve to the
//     loopback address. The origin has to be the page's own, against pages of other ports.
//   - The browser may ask for no more than the page needs.

//go:embed ui
var uiFiles embed.FS

// uiPolicy lets the page load its own files and talk to its own server, and lets no script
// make elements of text.
const uiPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

const (
	// maxUIBody bounds, in bytes, what the page sends: maxExplained as base64, and more.
	maxUIBody = 256 << 10

	// uiPatience bounds how long the admin API may take.
	uiPatience = 20 * time.Second

	uiCookie = "streamprox_ui"

	// openPrinted is what a browser is told that has no cookie.
	openPrinted = "Open the address that `caddy streamprox ui` has printed. It works once; start the command again for another."
)

// uiServer serves the page.
type uiServer struct {
	client  *adminClient
	host    string // address and port, as the browser has to name them
	session string // the value of the cookie
	path    string // of the page, ending in /
	pages   http.Handler

	mu    sync.Mutex
	token string // empty once it was used
}

// uiCommand returns the command `caddy streamprox ui`.
func uiCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "ui",
		Short: "Shows and steers streams in a browser",
		Long: `
Serves a page on the loopback address until Ctrl-C, and prints where. The page shows the
streams and upstreams of the running Caddy, ends and drains them, and explains where given
bytes would go. The printed address works once.

The browser has to run on the same machine, or behind a tunnel with the same port on both ends.`,
		Example: `  caddy streamprox ui
  ssh -L 8900:127.0.0.1:8900 example.com caddy streamprox ui --port 8900`,
		Args: cobra.NoArgs,
		RunE: withClient(runUI),
	}
	command.Flags().Uint16("port", 0, "Port of the page; 0 takes a free one")
	addAdminFlags(command)
	return command
}

func runUI(ctx context.Context, command *cobra.Command, client *adminClient, _ []string) error {
	port, err := command.Flags().GetUint16("port")
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	ui := newUIServer(client, listener.Addr().String())
	server := &http.Server{
		Handler:           ui,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      uiPatience + 10*time.Second,
		MaxHeaderBytes:    16 << 10,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	fmt.Fprintln(command.OutOrStdout(), ui.address())
	fmt.Fprintln(command.ErrOrStderr(), "Open it in a browser: it works once. Ctrl-C ends the page.")
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = server.Close()
		<-ended
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// newUIServer returns what serves the page at that address.
func newUIServer(client *adminClient, host string) *uiServer {
	u := &uiServer{client: client, host: host, session: rand.Text(), token: rand.Text(), path: "/" + rand.Text() + "/"}
	mux := http.NewServeMux()
	for path, file := range map[string]struct{ name, contentType string }{
		"/{$}":    {"ui/index.html", "text/html; charset=utf-8"},
		"/ui.css": {"ui/ui.css", "text/css; charset=utf-8"},
		"/ui.js":  {"ui/ui.js", "text/javascript; charset=utf-8"},
	} {
		content, err := uiFiles.ReadFile(file.name)
		if err != nil {
			panic(err) // the files are in this program
		}
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", file.contentType)
			_, _ = w.Write(content)
		})
	}
	// What the page needs of the admin API, and no more.
	for _, pattern := range []string{
		"GET /streams",
		"GET /streams/{id}",
		"DELETE /streams/{id}",
		"GET /stats",
		"GET /upstreams",
		"POST /upstreams/{id}/drain",
		"POST /upstreams/{id}/undrain",
		"POST /explain",
	} {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" /api"+path, func(w http.ResponseWriter, r *http.Request) {
			u.pass(w, r, "/streamprox"+strings.ReplaceAll(path, "{id}", url.PathEscape(r.PathValue("id"))))
		})
	}
	u.pages = http.StripPrefix(strings.TrimSuffix(u.path, "/"), mux)
	return u
}

// address returns what a browser has to open.
func (u *uiServer) address() string { return "http://" + u.host + "/?token=" + u.token }

// ServeHTTP implements http.Handler.
func (u *uiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", uiPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	origin, hasOrigin := r.Header["Origin"]
	switch {
	case r.Host != u.host:
		http.Error(w, "another host than that of the page", http.StatusForbidden)
	case hasOrigin && (len(origin) != 1 || origin[0] != "http://"+u.host):
		http.Error(w, "another origin than that of the page", http.StatusForbidden)
	case !hasOrigin && r.Method != http.MethodGet:
		http.Error(w, "no origin", http.StatusForbidden)
	case r.URL.Path == "/" && r.Method == http.MethodGet:
		u.exchange(w, r)
	case !u.knows(r):
		http.Error(w, openPrinted, http.StatusForbidden)
	default:
		u.pages.ServeHTTP(w, r)
	}
}

// exchange gives a cookie for the token. A browser that loads a page before anybody asks for
// it has to leave the token for who does.
func (u *uiServer) exchange(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Sec-Purpose") != "" || !u.takes(r.URL.Query().Get("token")) {
		http.Error(w, openPrinted, http.StatusForbidden)
		return
	}
	http.SetCookie(w, &http.Cookie{Name: uiCookie, Value: u.session, Path: u.path, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	http.Redirect(w, r, u.path, http.StatusSeeOther)
}

// takes reports whether that is the token, which it uses up.
func (u *uiServer) takes(token string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.token == "" || subtle.ConstantTimeCompare([]byte(token), []byte(u.token)) != 1 {
		return false
	}
	u.token = ""
	return true
}

// knows reports whether a request has the cookie.
func (u *uiServer) knows(r *http.Request) bool {
	cookies := r.CookiesNamed(uiCookie)
	return len(cookies) == 1 && subtle.ConstantTimeCompare([]byte(cookies[0].Value), []byte(u.session)) == 1
}

// pass asks the admin API at a path, with the query and the body of the request.
func (u *uiServer) pass(w http.ResponseWriter, r *http.Request, path string) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxUIBody))
	if err != nil {
		writeUIError(w, http.StatusRequestEntityTooLarge, err.Error())
		return
	}
	if r.Method != http.MethodPost {
		body = nil
	}
	if r.Method == http.MethodGet && r.URL.RawQuery != "" {
		path += "?" + r.URL.Query().Encode()
	}
	ctx, cancel := context.WithTimeout(r.Context(), uiPatience)
	defer cancel()
	answer, err := u.client.call(ctx, r.Method, path, body)
	var said *adminError
	switch {
	case errors.As(err, &said):
		writeUIError(w, said.status, said.text)
	case err != nil:
		writeUIError(w, http.StatusBadGateway, err.Error())
	default:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	}
}

// writeUIError answers with an error as the admin API writes them.
func writeUIError(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": text})
}
