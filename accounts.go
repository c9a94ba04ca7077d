package streamprox

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/account"
	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/relay"
	"github.com/streamprox/caddy-streamprox/internal/socket"
)

// accounts has those of all requests and streams of the process that are under way: from
// the decision of inspect on, or from relay and http_app on where nothing is inspected.
var accounts account.Table

// unlogged begins the accounts that no access log has.
var unlogged = account.Book{Table: &accounts}

// What an account calls a destination of this package.
const (
	toRelay   = "relay"
	toHTTPApp = "http_app"
	toRespond = "http_respond"
	toInspect = "inspect" // answers itself
)

// What an account says of the client, at most.
const (
	maxAccountMethod = 32
	maxAccountHost   = 255
	maxAccountPath   = 512
)

// openAccount opens the account of a request, or of a stream that begins with something else,
// when inspect has decided. Where inspect is inside inspect, its route is added.
func (in *inspection) openAccount() {
	in.keepDecision()
	t := in.turn
	if t.record != nil {
		if in.route >= 0 {
			name := in.inspect.routeName(in.route)
			t.record.Change(func(s *account.Summary) { s.Route = strings.TrimPrefix(s.Route+"/"+name, "/") })
		}
		return
	}
	s := in.summary()
	s.Client, s.Local = in.conn.RemoteAddr(), in.conn.LocalAddr()
	t.record = in.inspect.ledger.accounts().Begin(s)
	conn := t.conn
	t.record.EndBy(func() { socket.Reset(conn) })
	logOpened(t.record)
}

// summary returns what is known of the request when inspect has decided, but for the addresses.
func (in *inspection) summary() account.Summary {
	s := account.Summary{
		ID:        in.turn.accountID(),
		Started:   in.started,
		Outcome:   in.Outcome().String(),
		Inspected: in.took,
	}
	if in.route >= 0 {
		s.Route = in.inspect.routeName(in.route)
	}
	if err := in.Head.Err(); err != nil {
		s.Cause, s.Err = in.Outcome().String(), err
	}
	if in.Outcome() != opening.HTTP {
		return s
	}
	method, host, path := in.Head.Method.Of(in.Data()), in.Head.Host.Of(in.Data()), in.Head.Path.Of(in.Data())
	method, host, path = method[:min(len(method), maxAccountMethod)], host[:min(len(host), maxAccountHost)], path[:min(len(path), maxAccountPath)]
	// One string for all: an idle stream keeps it.
	all := string(append(append(append(make([]byte, 0, len(method)+len(host)+len(path)), method...), host...), path...))
	s.Request(all, len(method), len(host))
	if s.Proto = "HTTP/1.1"; in.Head.Minor == 0 {
		s.Proto = "HTTP/1.0"
	}
	return s
}

// accountID returns the id of the request, the same from the first call on.
func (t *turn) accountID() account.ID {
	if t.id == 0 {
		t.id = account.NewID()
	}
	return t.id
}

// takeRecord leaves the account of the request to the caller, who closes it. It is nil if
// there is none.
func (t *turn) takeRecord() *account.Record {
	record := t.record
	t.record = nil
	return record
}

// openRaw opens the account of a stream that was not inspected.
func openRaw(cx *layer4.Connection, conn net.Conn, l *ledger) *account.Record {
	record := l.accounts().Begin(account.Summary{Client: cx.RemoteAddr(), Local: cx.LocalAddr()})
	record.EndBy(func() { socket.Reset(conn) })
	logOpened(record)
	return record
}

// closeAccount closes an account, and logs it if that is asked for. cause and err are why
// it ended, unless a reason is known that came before. A nil record has no account, and one that
// is closed stays closed.
func closeAccount(record *account.Record, cause string, err error, engine string) {
	if record == nil {
		return
	}
	l := ledgerOf(record)
	reading, first := record.End(l != nil)
	if !first {
		return
	}
	if reading.Cause == "" {
		reading.Cause, reading.Err = cause, err
	}
	reading.Engine = engine
	totals.add(reading)
	if l != nil {
		reading.Client, reading.Local = record.Ends().Client(), record.Ends().Local()
		l.write("ended", reading)
	}
}

// closeRelayed closes the account of what relay has carried.
func closeRelayed(record *account.Record, a relay.Account) {
	closeAccount(record, a.Cause.String(), a.Err, a.Engine)
}

// noteCause notes why a request or a stream does not get where it should, before it ends,
// unless a reason is known that came before.
func noteCause(record *account.Record, cause string, err error) {
	record.Change(func(s *account.Summary) {
		if s.Cause == "" {
			s.Cause, s.Err = cause, err
		}
	})
}

// openNext makes record, which has ended, the account of the next request on its connection,
// which goes where the one before went.
func (in *inspection) openNext(record *account.Record) {
	record.Again(in.summary())
	logOpened(record)
}

// AccessLog is which lines an access log has: one for each request, and for each stream that
// is none, at its end. The logger is `streamprox.access`.
type AccessLog struct {
	// Another line at the start.
	Start bool `json:"start,omitempty"`

	// Another line each time that it has lasted so long again. Default: 0, none.
	Every caddy.Duration `json:"every,omitempty"`
}

// ledger writes an access log. A nil one writes nothing.
type ledger struct {
	options AccessLog
	logger  *zap.Logger
	book    account.Book
}

// accounts returns what begins the accounts that l writes about.
func (l *ledger) accounts() *account.Book {
	if l == nil {
		return &unlogged
	}
	return &l.book
}

// ledgerOf returns what writes about an account, or nil.
func ledgerOf(record *account.Record) *ledger {
	l, _ := record.Log().(*ledger)
	return l
}

// accessLogModule gives the access log its name.
type accessLogModule struct{}

// CaddyModule returns the name of the access log as that of a module, which it is not.
func (accessLogModule) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "streamprox.access"}
}

// newLedger returns what writes the access log, nil if there is none.
func newLedger(ctx caddy.Context, options *AccessLog) (*ledger, error) {
	if options == nil {
		return nil, nil
	}
	if options.Every < 0 {
		return nil, fmt.Errorf("log: every %s is less than 0", time.Duration(options.Every))
	}
	l := &ledger{options: *options, logger: ctx.Logger(accessLogModule{})}
	l.book = account.Book{Table: &accounts, Log: l}
	if every := time.Duration(options.Every); every > 0 {
		go l.repeat(ctx, every)
	}
	return l, nil
}

// leastRepeat is how often repeat looks at most: each time it looks at all accounts.
const leastRepeat = 10 * time.Millisecond

// repeat is a goroutine that logs what lasts, as long as the configuration is there or one of
// its requests or streams is.
func (l *ledger) repeat(ctx caddy.Context, every time.Duration) {
	ticker := time.NewTicker(max(min(every, max(every/10, time.Second)), leastRepeat))
	defer ticker.Stop()
	replaced := ctx.Done()
	for last := time.Now(); ; {
		var now time.Time
		select {
		case now = <-ticker.C:
		case <-replaced:
			now, replaced = time.Now(), nil // with nothing under way, nothing of it is kept longer
		}
		mine := 0
		for _, record := range accounts.All() {
			if ledgerOf(record) != l {
				continue
			}
			mine++
			reading := record.Read()
			if reading.State != account.Ended && now.Sub(reading.Started)/every > last.Sub(reading.Started)/every {
				l.write("continues", reading)
			}
		}
		last = now
		if mine == 0 && ctx.Err() != nil {
			return
		}
	}
}

// logOpened writes the line at the start, if that is asked for.
func logOpened(record *account.Record) {
	if l := ledgerOf(record); l != nil && l.options.Start {
		l.write("started", record.Read())
	}
}

// write lets a line be written, unless no log has it.
func (l *ledger) write(message string, r account.Reading) {
	if l.logger.Core().Enabled(zap.InfoLevel) {
		accessLines.add(accessLine{l, message, r})
	}
}

// print writes a line. Fields are named as in Caddy's access log where it has them.
func (l *ledger) print(message string, r *account.Reading) {
	entry := l.logger.Check(zap.InfoLevel, message)
	if entry == nil {
		return
	}
	entry.Time = r.Started.Add(r.Age)
	fields := make([]zap.Field, 0, 20)
	add := func(name, value string) {
		if value != "" {
			fields = append(fields, zap.String(name, value))
		}
	}
	fields = append(fields, zap.Stringer("id", r.ID))
	if address, err := netip.ParseAddrPort(addressOf(r.Client)); err == nil {
		add("remote_ip", address.Addr().Unmap().String())
		fields = append(fields, zap.Uint16("remote_port", address.Port()))
	} else {
		add("remote", addressOf(r.Client))
	}
	add("local", addressOf(r.Local))
	add("outcome", r.Outcome)
	add("route", r.Route)
	add("destination", r.Destination)
	add("upstream", r.Upstream)
	add("proto", r.Proto)
	add("method", r.Method)
	add("host", r.Host)
	add("path", r.Path)
	if r.Status != 0 {
		fields = append(fields, zap.Int("status", r.Status))
	}
	fields = append(fields,
		zap.Int64("bytes_read", r.Up),
		zap.Int64("size", r.Down),
		zap.Duration("duration", r.Age))
	if r.Outcome != "" {
		fields = append(fields, zap.Duration("inspection", r.Inspected))
	}
	if r.Dialed != 0 {
		fields = append(fields, zap.Duration("dial", r.Dialed))
	}
	if r.FirstByte != 0 {
		fields = append(fields, zap.Duration("first_byte", r.FirstByte))
	}
	add("engine", r.Engine)
	add("cause", r.Cause)
	if r.Err != nil {
		fields = append(fields, zap.Error(r.Err))
	}
	entry.Write(fields...)
}

// addressOf returns an address as text, "" for none.
func addressOf(address net.Addr) string {
	if address == nil {
		return ""
	}
	return address.String()
}

// logRefusal writes the line of a connection that is reset before it is inspected.
func (l *ledger) logRefusal(cx *layer4.Connection, cause string) {
	if l == nil {
		return
	}
	l.write("refused", account.Reading{Summary: account.Summary{
		ID: account.NewID(), Started: time.Now(), Client: cx.RemoteAddr(), Local: cx.LocalAddr(),
		Destination: toInspect, Cause: cause,
	}})
}
