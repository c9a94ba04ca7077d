package httphead

import (
	"encoding/binary"
	"math/bits"
)

// scan returns the index of the first byte of data, from i on, that is not in
// the class. It may be given a head start.
func scan(data []byte, i int, bit uint8) int {
	for i < len(data) && class[data[i]]&bit != 0 {
		i++
	}
	return i
}

// skipName is a head start for a field name, eight bytes at a time: it skips
// letters and hyphens, of which most names consist.
func skipName(data []byte, i int) int {
	for ; i+8 <= len(data); i += 8 {
		if stop := nonLetters(word(data, i)); stop != 0 {
			return i + first(stop)
		}
	}
	return i
}

// skipText is a head start for a field value or a line: it skips all but control
// bytes.
func skipText(data []byte, i int) int {
	for ; i+8 <= len(data); i += 8 {
		if stop := controls(word(data, i)); stop != 0 {
			return i + first(stop)
		}
	}
	return i
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// word returns the eight bytes of data from i on, the first one lowest. With the
// capacity given, slicing needs no instruction of its own.
func word(data []byte, i int) uint64 {
	return binary.LittleEndian.Uint64(data[i : i+8 : i+8])
}

// first returns the index of the first byte that is marked by its high bit.
func first(marks uint64) int { return bits.TrailingZeros64(marks) / 8 }

// nonLetters marks the bytes of x that are neither a letter nor a hyphen. No sum
// carries into the next byte: the high bits are clear before.
func nonLetters(x uint64) uint64 {
	folded := (x | ones*0x20) &^ highs
	letter := (folded + ones*(0x80-'a')) &^ (folded + ones*(0x7f-'z'))
	other := (x^ones*'-')&^highs + ones*0x7f
	return (other&^letter | x) & highs
}

// controls marks the first control byte of x. A difference borrows from the next
// byte only there, so a byte marked by mistake comes after it.
func controls(x uint64) uint64 {
	del := x ^ ones*0x7f
	return ((x-ones*' ')&^x | (del-ones)&^del) & highs
}
