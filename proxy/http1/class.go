package http1

import (
	"encoding/binary"
	"unsafe"
)

// Classes of bytes.
const (
	token   = 1 << iota // of a method or field name (RFC 9110, section 5.6.2)
	visible             // of a request target: printable, or not ASCII
	inText              // of a field value: visible, space and tab
)

var class = classes()

func classes() (t [256]uint8) {
	for c := range t {
		switch {
		case c == '\t' || c == ' ':
			t[c] |= inText
		case c > ' ' && c != 0x7f:
			t[c] |= visible | inText
		}
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		t[c] |= token
	}
	return t
}

// all says whether every byte of b is of a class.
func all(b []byte, of uint8) bool {
	for _, c := range b {
		if class[c]&of == 0 {
			return false
		}
	}
	return true
}

// text says whether every byte of b may stand in a field value. It looks at eight at once, and again one by one where
// there may be a control character.
func text(b []byte) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		control := (x - ones*0x20) &^ x & high
		del := x ^ ones*0x7f
		del = (del - ones) &^ del & high
		if control|del != 0 && !all(b[:8], inText) {
			return false
		}
		b = b[8:]
	}
	return all(b, inText)
}

// trim returns b without the optional white space around it.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// digits reads b as a decimal number of at most 18 digits.
func digits(b string) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for i := range len(b) {
		if b[i] < '0' || b[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(b[i]-'0')
	}
	return n, true
}

// IsToken says whether s is a method or the name of a field (RFC 9110, section 5.6.2).
func IsToken(s string) bool {
	for i := range len(s) {
		if class[s[i]]&token == 0 {
			return false
		}
	}
	return s != ""
}

// IsText says whether s may be the value of a field, white space around it apart.
func IsText(s string) bool { return text(unsafe.Slice(unsafe.StringData(s), len(s))) }

// Number reads s as a decimal number of at most 18 digits.
func Number(s string) (int64, bool) { return digits(s) }
