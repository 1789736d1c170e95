package http2

import (
	"strconv"

	"trellis/proxy/http1"
)

// Heads of answers are written without a dynamic table (RFC 7541): it would keep copies of what answers hold, for each
// connection, to save some hundred bytes of an answer.

// statusIndex is where the static table has a status.
var statusIndex = map[int]byte{200: 8, 204: 9, 206: 10, 304: 11, 400: 12, 404: 13, 500: 14}

// nameIndex is where the static table has the name of a field of an answer.
var nameIndex = map[string]byte{
	"accept-ranges": 18, "age": 21, "allow": 22, "access-control-allow-origin": 20, "cache-control": 24, "content-disposition": 25,
	"content-encoding": 26, "content-language": 27, "content-length": 28, "content-location": 29, "content-range": 30,
	"content-type": 31, "date": 33, "etag": 34, "expires": 36, "last-modified": 44, "link": 45, "location": 46,
	"proxy-authenticate": 48, "refresh": 52, "retry-after": 53, "server": 54, "set-cookie": 55, "strict-transport-security": 56,
	"vary": 59, "via": 60, "www-authenticate": 61,
}

func appendStatus(b []byte, status int) []byte {
	if i := statusIndex[status]; i > 0 {
		return append(b, 0x80|i)
	}
	b = append(b, 8, 3)
	return strconv.AppendInt(b, int64(status), 10)
}

// appendField appends a field as a literal that nobody is to index; a cookie as one that nobody may.
func appendField(b []byte, f *http1.Field) []byte {
	var low [64]byte
	name := low[:0]
	for i := range len(f.Name) {
		c := f.Name[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		name = append(name, c)
	}
	i := nameIndex[string(name)]
	kind := byte(0)
	if i == 55 {
		kind = 0x10
	}
	if i > 0 {
		b = appendInt(b, kind, 4, int(i))
	} else {
		b = append(b, kind)
		b = appendInt(b, 0, 7, len(name))
		b = append(b, name...)
	}
	b = appendInt(b, 0, 7, len(f.Value))
	return append(b, f.Value...)
}

// appendInt appends a number with a prefix of so many bits (RFC 7541, section 5.1).
func appendInt(b []byte, first byte, bits, n int) []byte {
	most := 1<<bits - 1
	if n < most {
		return append(b, first|byte(n))
	}
	b = append(b, first|byte(most))
	for n -= most; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}
