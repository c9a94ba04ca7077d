package httphead

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"
)

// fields returns n field lines of four bytes.
func fields(n int) string { return strings.Repeat("z:\r\n", n) }

// requestModes are all ways to read a whole request head.
var requestModes = []Options{{}, {Lenient: true}, {Later: true}, {Lenient: true, Later: true}}

func TestMaxFields(t *testing.T) {
	for _, o := range requestModes {
		full := start + fields(maxFields-1)
		r := read(o, full+"\r\n", len(start), len(full))
		check(t, r, full+"\r\n", HTTP, nil, 0)
		if len(r.Fields) != maxFields {
			t.Errorf("%+v: got %d fields, want %d", o, len(r.Fields), maxFields)
		}

		// It is too large as soon as there is one more name, whatever follows.
		for _, more := range []string{"z:", "z:\r\n\r\n", "z:" + strings.Repeat("\x00", 100), "z:\r\n" + fields(1<<16)} {
			r = read(o, full+more, len(start), len(full), len(full)+1)
			check(t, r, full+more, TooLarge, ErrFields, len(full)+2)
			if !r.Partial() {
				t.Errorf("%+v, %.10q: its sender is said not to understand an answer", o, more)
			}
			if r.Read([]byte(full+more)) != TooLarge {
				t.Errorf("%+v, %.10q: the verdict does not stay", o, more)
			}
		}
		check(t, read(o, full+"z"), full+"z", More, nil, 0)
		check(t, read(o, full+"z z:"), full+"z z:", Malformed, ErrNameSpace, len(full)+2)

		o.LineOnly = true
		check(t, read(o, full+fields(1000)), full, HTTP, nil, len(get))
	}
	feed(t, Options{}, start+fields(maxFields)+"\r\n")

	folded := start + "z:" + strings.Repeat("\r\n a", 1000) + "\r\n\r\n"
	check(t, read(Options{Lenient: true}, folded), folded, HTTP, nil, 0)
}

func TestMaxResponseFields(t *testing.T) {
	full := ok + fields(maxResponseFields)
	if r := readResponse(full+"\r\n", len(ok), 2000); r.head.verdict != HTTP || len(r.Fields) != maxResponseFields {
		t.Errorf("got %v, %v, %d fields, want %v, %d", r.head.verdict, r.Err(), len(r.Fields), HTTP, maxResponseFields)
	}
	for _, more := range []string{"z:", "z:\n\n", fields(1 << 16)} {
		if r := readResponse(full+more, len(ok), len(full)+1); r.head.verdict != Malformed || r.Err() != ErrFields || r.head.pos != len(full)+1 {
			t.Errorf("%.10q: got %v, %v at %d, want %v, %v at %d", more, r.head.verdict, r.Err(), r.head.pos, Malformed, ErrFields, len(full)+1)
		}
	}
}

func TestMaxElements(t *testing.T) {
	list := func(n int) string { return "a" + strings.Repeat(", a", n-1) }
	for name, tooMany := range map[string]*Error{"Connection": ErrOptions, "Upgrade": ErrUpgrades} {
		other := "Upgrade"
		if name == other {
			other = "Connection"
		}
		tests := []struct {
			name    string
			fields  string
			err     *Error
			lenient bool // only a lenient reader accepts it, or gets so far
		}{
			{"all that are read", name + ": " + list(maxElements) + "\r\n", accepted, false},
			{"one more", name + ": " + list(maxElements+1) + "\r\n", tooMany, false},
			{"in other letters", strings.ToUpper(name) + ":" + list(maxElements+1) + "\r\n", tooMany, false},
			{"many more", name + ": " + list(1<<15) + "\r\n", tooMany, false},
			{"in two fields", name + ": " + list(30) + "\r\nX: a\r\n" + name + ": a,b\r\n", accepted, false},
			{"one more in a second field", name + ": " + list(30) + "\r\nX: a\r\n" + name + ": a,b,c\r\n", tooMany, false},
			{"one in each field", strings.Repeat(name+": a\r\n", maxElements), accepted, false},
			{"one in each of too many fields", strings.Repeat(name+": a\r\n", maxElements+1), tooMany, false},
			{"empty", name + ":" + strings.Repeat(",", maxElements-1) + "\r\n", accepted, false},
			{"one more, empty", name + ":" + strings.Repeat(" ,", maxElements) + "\r\n", tooMany, false},
			{"both lists", name + ": " + list(maxElements) + "\r\n" + other + ": " + list(maxElements) + "\r\n", accepted, false},
			{"beside the other list", other + ": " + list(maxElements) + "\r\n" + name + ": " + list(maxElements+1) + "\r\n", tooMany, false},
			{"other lists", "Connectio: " + list(100) + "\r\nUpgrades: " + list(100) + "\r\nTrailer: " + list(100) + "\r\nAccept-Language: " + list(100) + "\r\n", accepted, false},
			{"folded", name + ":" + strings.Repeat("\r\n a,", maxElements-1) + "\r\nX: " + list(100) + "\r\n", accepted, true},
			{"one more, folded", name + ":" + strings.Repeat("\r\n a,", maxElements) + "\r\n", tooMany, true},
			{"one more, in a fold of a second field", name + ": " + list(30) + "\r\n" + name + ": a,\r\n b,c\r\n", tooMany, true},
			{"a folded list after it", name + ": " + list(maxElements) + "\r\nX: a\r\n " + list(100) + "\r\n", accepted, true},
		}
		for _, test := range tests {
			t.Run(name+", "+test.name, func(t *testing.T) {
				in := start + test.fields + "\r\n"
				for _, o := range requestModes {
					if test.lenient && !o.Lenient {
						continue
					}
					r := read(o, in, len(in)/2)
					if test.err == accepted {
						check(t, r, in, HTTP, nil, 0)
					} else { // with the line that holds the last one
						check(t, r, in, Malformed, test.err, len(in)-len("\r\n"))
					}
				}
				if test.lenient {
					return // no response is folded
				}
				r := readResponse(ok+test.fields+"\r\n", len(ok)+3)
				if (r.Err() == nil) != (test.err == accepted) || r.Err() != nil && r.Err() != test.err {
					t.Errorf("response: got %v, want %v", r.Err(), test.err)
				}
			})
		}
	}
}

// TestFieldMemory holds what is kept of a head beside its bytes, however many fields are
// in how few bytes, to a constant.
func TestFieldMemory(t *testing.T) {
	const size = int(unsafe.Sizeof(Field{}))
	for _, bytes := range []int{1 << 10, 16 << 10, 1 << 20} {
		for _, o := range requestModes {
			r := read(o, start+fields(bytes/4), 100, 1000)
			if got := cap(r.Fields) * size; got > 8<<10 {
				t.Errorf("%+v, %d bytes: %d bytes of fields, want at most 8 KiB", o, bytes, got)
			}
		}
		r := readResponse(ok+fields(bytes/4), 100, 1000)
		if got := cap(r.Fields) * size; got > 32<<10 {
			t.Errorf("response of %d bytes: %d bytes of fields, want at most 32 KiB", bytes, got)
		}
	}
}

// crowded returns a head of size bytes, half of it connection options, half of it fields
// that each of them may name.
func crowded(size int) []byte {
	return []byte(start + "Connection: a" + strings.Repeat(",a", size/4) + "\r\n" + strings.Repeat("z:\r\n", size/8) + "\r\n")
}

// crowdedUpgrade returns a head of size bytes, half of it protocols to upgrade to, half
// of it fields among which to look for their key.
func crowdedUpgrade(size int) []byte {
	return []byte(start + upgrades + "Upgrade: websocket" + strings.Repeat(",websocket", size/20) + "\r\n" + strings.Repeat("z:\r\n", size/8) + "\r\n")
}

// crowdedWithin returns the head of about size bytes that costs most of those that are
// accepted: each field has nearly the name of each connection option.
func crowdedWithin(size int) []byte {
	name := strings.Repeat("a", size/(maxFields+maxElements))
	return []byte(start + "Connection: " + name + "b" + strings.Repeat(","+name+"b", maxElements-1) + "\r\n" +
		strings.Repeat(name+"c:\r\n", maxFields-2) + "\r\n")
}

// BenchmarkCrowded reads heads whose cost grew with the square of their size, and passes
// them on unless they are refused.
func BenchmarkCrowded(b *testing.B) {
	f := &Forward{Upgrades: []string{"websocket"}}
	for _, size := range []int{16 << 10, 256 << 10} {
		for name, data := range map[string][]byte{"options": crowded(size), "protocols": crowdedUpgrade(size), "within": crowdedWithin(size)} {
			b.Run(fmt.Sprintf("%s/%dKiB", name, size>>10), func(b *testing.B) {
				var r Reader
				b.ReportAllocs()
				for b.Loop() {
					r.Reset(Options{})
					if r.Read(data) == HTTP {
						_, _ = f.Request(&r, data)
					}
				}
			})
		}
	}
}
