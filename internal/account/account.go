// Package account keeps the accounts of requests and streams: who, where to, how much, since
// when, and why it ended. A [Record] is of one that is under way. A [Table] has those that
// are, for whoever wants to see or end them.
//
//	book := &account.Book{Table: table, Log: log}
//	record := book.Begin(account.Summary{Client: client, Host: host, …})
//	record.Meter().Delivered(account.Down, n) // for each piece
//	record.Change(func(s *account.Summary) { s.Upstream = "10.0.0.5:9000" })
//	…
//	reading, _ := record.End(true)
//
// A piece that is delivered costs two atomic additions, no lock and no memory.
package account

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unique"
)

// ID names a request or a stream, in this process and among others.
type ID uint64

// String returns 16 hexadecimal digits.
func (id ID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// ParseID is the reverse of String.
func ParseID(s string) (ID, error) {
	id, err := strconv.ParseUint(s, 16, 64)
	if err != nil || len(s) != 16 {
		return 0, fmt.Errorf("%.40q is not an id of 16 hexadecimal digits", s)
	}
	return ID(id), nil
}

// NewID returns an ID: the upper half is of the process, and random, the lower one counts.
func NewID() ID { return ID(process)<<32 | ID(lastID.Add(1)) }

var (
	process = func() uint32 {
		var b [4]byte
		_, _ = rand.Read(b[:]) // never fails
		return binary.NativeEndian.Uint32(b[:])
	}()
	lastID atomic.Uint32
)

// Meter counts what a request or a stream has delivered. Others may read it meanwhile. The
// zero Meter is ready, and so is a nil one, which counts nothing.
type Meter struct {
	up, down atomic.Int64 // bytes
	last     atomic.Int64 // when a byte was last delivered, or it began: nanoseconds since Epoch
	first    atomic.Int64 // when the response began, likewise; 0: not yet
	status   atomic.Int32 // of the response; 0: none yet, or not known
}

// Direction is where bytes go.
type Direction bool

// The directions.
const (
	Up   Direction = true // to the upstream, or the server
	Down Direction = false
)

// Epoch is what the times of meters are measured from.
var Epoch = time.Now()

// Delivered counts n bytes.
func (m *Meter) Delivered(to Direction, n int64) {
	if m != nil {
		m.DeliveredAt(to, n, time.Since(Epoch))
	}
}

// DeliveredAt is Delivered for those who know the time, since Epoch.
func (m *Meter) DeliveredAt(to Direction, n int64, at time.Duration) {
	if m == nil {
		return
	}
	if to == Up {
		m.up.Add(n)
	} else {
		m.down.Add(n)
	}
	m.last.Store(int64(at))
}

// Responded notes the status of the response, when that begins. 0, and all but the first one,
// are no matter.
func (m *Meter) Responded(status int) {
	if m != nil && status != 0 && m.status.Load() == 0 {
		m.first.Store(int64(time.Since(Epoch)))
		m.status.Store(int32(status))
	}
}

// reset makes m that of another request, which began at that time since Epoch.
func (m *Meter) reset(began time.Duration) {
	m.up.Store(0)
	m.down.Store(0)
	m.first.Store(0)
	m.status.Store(0)
	m.last.Store(int64(began))
}

// State is what a request or a stream is doing.
type State uint8

// The states.
const (
	Open    State = iota // it is with its destination
	Dialing              // it waits for a connection to an upstream
	Ended
	Waiting // a connection of relay has no request under way
	Parked  // neither has one that has left the HTTP server
)

// String returns the state in a word, for the API.
func (s State) String() string {
	return [...]string{"open", "dialing", "ended", "waiting", "parked"}[s]
}

// Summary is what is known of a request or a stream. Strings that are not known are "".
type Summary struct {
	ID      ID
	Started time.Time // when its first byte came
	State   State

	Client, Local net.Addr

	Outcome     string // what inspect found it to be
	Route       string // the name of the route that took it, or its number
	Destination string // relay, http_app, http_respond; inspect where it answered itself
	Upstream    string // the server of relay, as configured; the listener of http_app
	Engine      string // what has carried it: known at the end

	// Of a request. Of Method and Host no more than 64 KiB are kept.
	Method, Host, Path, Proto string
	head                      string // Method, Host and Path, or ""

	Cause string // why it ended, as far as that is known before its end
	Err   error  // the error behind it

	// In whole microseconds, rounded up, and no more than 71 minutes.
	Inspected time.Duration // how long inspection took
	Dialed    time.Duration // how long it took to get a connection to the upstream; 0: none was dialled
}

// Request sets Method, Host and Path to what head consists of, in that order: the lengths are
// of the first two. So a record keeps head, and no copy.
func (s *Summary) Request(head string, method, host int) {
	s.head = head
	s.Method, s.Host, s.Path = head[:method], head[method:][:host], head[method+host:]
}

// Record is the account of a request or a stream under way. An idle stream keeps it, so it has
// what a Summary has in other forms, which are smaller.
type Record struct {
	book  *Book
	meter Meter

	mu         sync.Mutex
	end        func()  // ends what the record is of; nil: that is to be ended by its meter
	prev, next *Record // in the shard of the table; nil: not there

	id                ID
	started           time.Duration // since Epoch
	ends              Ends
	kind              unique.Handle[kind]
	upstream          string
	head              string // method, host and path, as one object
	method, host      uint16 // how many bytes of head
	state             State
	inspected, dialed micros
	late              *late // nil: nothing of it is known
}

// kind is what many records have in common.
type kind struct{ outcome, route, destination, proto string }

// late is what is mostly not known before the end.
type late struct {
	engine, cause string
	err           error
}

// micros is a duration in microseconds, rounded up. What is more than 71 minutes is that.
type micros uint32

func microsOf(d time.Duration) micros {
	d = min(max(d, 0), math.MaxUint32*time.Microsecond)
	return micros((d + time.Microsecond - 1) / time.Microsecond)
}

func (m micros) duration() time.Duration { return time.Duration(m) * time.Microsecond }

// summary returns what is known at that time, but for the addresses. r is locked.
func (r *Record) summary(now time.Time) Summary {
	common := r.kind.Value()
	s := Summary{
		ID:          r.id,
		Started:     now.Add(r.started - now.Sub(Epoch)), // by the clock as it is set now
		State:       r.state,
		Outcome:     common.outcome,
		Route:       common.route,
		Destination: common.destination,
		Upstream:    r.upstream,
		Proto:       common.proto,
		Inspected:   r.inspected.duration(),
		Dialed:      r.dialed.duration(),
	}
	s.Request(r.head, int(r.method), int(r.host))
	if r.late != nil {
		s.Engine, s.Cause, s.Err = r.late.engine, r.late.cause, r.late.err
	}
	return s
}

// set makes s what is known, but for what is constant. r is locked.
func (r *Record) set(s *Summary) {
	common := kind{s.Outcome, s.Route, s.Destination, s.Proto}
	if r.kind == (unique.Handle[kind]{}) || r.kind.Value() != common {
		r.kind = unique.Make(common)
	}
	r.state, r.upstream = s.State, s.Upstream
	r.inspected, r.dialed = microsOf(s.Inspected), microsOf(s.Dialed)
	method, host := s.Method[:min(len(s.Method), math.MaxUint16)], s.Host[:min(len(s.Host), math.MaxUint16)]
	r.method, r.host = uint16(len(method)), uint16(len(host))
	if r.head = s.head; !consists(r.head, method, host, s.Path) {
		r.head = method + host + s.Path
	}
	if s.Engine == "" && s.Cause == "" && s.Err == nil {
		r.late = nil
	} else {
		r.late = &late{s.Engine, s.Cause, s.Err}
	}
}

// consists reports whether s consists of a, b and c.
func consists(s, a, b, c string) bool {
	return len(s) == len(a)+len(b)+len(c) && s[:len(a)] == a && s[len(a):][:len(b)] == b && s[len(a)+len(b):] == c
}

// ID returns the ID of what is under way, or was last; 0 for a nil record.
func (r *Record) ID() ID {
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.id
}

// Route returns the route of what is under way, or was last; "" for a nil record.
func (r *Record) Route() string {
	if r == nil {
		return ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kind.Value().route
}

// Log returns that of the record's book. It is constant.
func (r *Record) Log() any { return r.book.Log }

// Ends returns the addresses of the connection, which are constant.
func (r *Record) Ends() *Ends { return &r.ends }

// Meter returns the meter of the record, nil for a nil record.
func (r *Record) Meter() *Meter {
	if r == nil {
		return nil
	}
	return &r.meter
}

// Change changes what is known. The ID, Started and the addresses are constant, and the latter
// not there. change must not keep the summary. It does nothing to a nil record.
func (r *Record) Change(change func(*Summary)) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := summaries.Get().(*Summary)
	*s = r.summary(time.Now())
	change(s)
	r.set(s)
	*s = Summary{}
	summaries.Put(s)
}

// summaries holds unused ones, all zero, to be changed.
var summaries = sync.Pool{New: func() any { return new(Summary) }}

// Reading is a Summary with what its meter says.
type Reading struct {
	Summary
	Up, Down  int64         // bytes
	Status    int           // 0: not known
	FirstByte time.Duration // from Started to the beginning of the response; 0: there is none
	Idle      time.Duration // since a byte was last delivered; with none, since Started
	Age       time.Duration
}

// Read returns what is known now. Of a record that has ended that is little.
func (r *Record) Read() Reading {
	r.mu.Lock()
	reading := r.read()
	r.mu.Unlock()
	reading.Client, reading.Local = r.ends.Client(), r.ends.Local()
	return reading
}

// read is Read without the addresses. r is locked.
func (r *Record) read() Reading {
	at := time.Now()
	now := at.Sub(Epoch)
	reading := Reading{Summary: r.summary(at)}
	reading.Up, reading.Down = r.meter.up.Load(), r.meter.down.Load()
	reading.Status = int(r.meter.status.Load())
	reading.Age = now - r.started
	reading.Idle = now - time.Duration(r.meter.last.Load())
	if first := time.Duration(r.meter.first.Load()); first != 0 {
		reading.FirstByte = max(reading.Age-(now-first), 0)
	}
	return reading
}

// shards is how many parts a table has, each with a lock of its own.
const shards = 64

// Table has the records of what is under way. The zero Table is ready.
type Table struct {
	shards [shards]shard
}

type shard struct {
	mu   sync.Mutex
	head Record // of a ring; its links are nil as long as it is unused
	n    int
	_    [64]byte // no two locks in one line of a cache
}

// Book begins the records of a table that have one log.
type Book struct {
	Table *Table
	Log   any // what who began a record needs to log it
}

// Begin adds an account. Without an ID and a time the summary gets them.
func (b *Book) Begin(s Summary) *Record {
	r := &Record{book: b, ends: EndsOf(s.Client, s.Local)}
	r.begin(s)
	return r
}

// Again makes r, which has ended, the account of the next request on the same connection, to the
// same destination: the addresses, Destination and Upstream stay.
func (r *Record) Again(s Summary) {
	r.mu.Lock()
	s.Destination, s.Upstream = r.kind.Value().destination, r.upstream
	r.mu.Unlock()
	r.begin(s)
}

func (r *Record) begin(s Summary) {
	if s.ID == 0 {
		s.ID = NewID()
	}
	if s.Started.IsZero() {
		s.Started = time.Now()
	}
	began := s.Started.Sub(Epoch)
	r.meter.reset(began)
	r.mu.Lock()
	r.id, r.started = s.ID, began
	r.set(&s)
	r.mu.Unlock()
	sh := r.book.Table.shard(s.ID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.head.next == nil {
		sh.head.prev, sh.head.next = &sh.head, &sh.head
	}
	r.prev, r.next = sh.head.prev, &sh.head
	r.prev.next, r.next.prev = r, r
	sh.n++
}

// shard returns the part of the table that has the record with that ID.
func (t *Table) shard(id ID) *shard { return &t.shards[id%shards] }

// End takes the record out of its table, and returns what is known at the end, but for the
// addresses; unless whole, only the method, the bytes and the cause. It reports false if that
// has been done. The record does not keep what the next request on the connection has no use
// for.
func (r *Record) End(whole bool) (reading Reading, first bool) {
	if r == nil {
		return Reading{}, false
	}
	r.mu.Lock()
	if r.state == Ended {
		r.mu.Unlock()
		return Reading{}, false
	}
	r.state = Ended
	if whole {
		reading = r.read()
	} else {
		reading.ID, reading.Method = r.id, r.head[:r.method]
		reading.Up, reading.Down = r.meter.up.Load(), r.meter.down.Load()
		if r.late != nil {
			reading.Cause = r.late.cause
		}
	}
	r.head, r.method, r.host, r.late = "", 0, 0, nil
	r.mu.Unlock()
	sh := r.book.Table.shard(reading.ID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	r.prev.next, r.next.prev = r.next, r.prev
	r.prev, r.next = nil, nil
	sh.n--
	return reading, true
}

// EndBy sets what ends what the record is of, which must not wait. Nil: nobody but who knows
// its meter can.
func (r *Record) EndBy(end func()) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end = end
}

// Kill ends the request or the stream with that ID for that cause, by what EndBy has set.
// Where that is nil it only notes the cause. It reports false, and does nothing, if the record
// is not of that any more.
func (r *Record) Kill(id ID, cause string) bool {
	r.mu.Lock()
	if r.id != id || r.state == Ended {
		r.mu.Unlock()
		return false
	}
	switch {
	case r.late == nil:
		r.late = &late{cause: cause}
	case r.late.cause == "":
		r.late.cause = cause
	}
	end := r.end
	r.mu.Unlock()
	if end != nil {
		end()
	}
	return true
}

// Len returns how many records there are.
func (t *Table) Len() (n int) {
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		n += sh.n
		sh.mu.Unlock()
	}
	return n
}

// All returns the records of what is under way now. Some may end meanwhile.
func (t *Table) All() (all []*Record) {
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		all = slices.Grow(all, sh.n)
		if sh.head.next != nil {
			for r := sh.head.next; r != &sh.head; r = r.next {
				all = append(all, r)
			}
		}
		sh.mu.Unlock()
	}
	return all
}

// Find returns the record with that ID, nil if there is none.
func (t *Table) Find(id ID) *Record {
	sh := t.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.head.next == nil {
		return nil
	}
	for r := sh.head.next; r != &sh.head; r = r.next {
		if r.id == id { // which does not change while it is in the table
			return r
		}
	}
	return nil
}
