package proxy

import (
	"strings"

	"trellis/proxy/http1"
)

// Classes of bytes in a request target.
const (
	plain      = 1 << iota // may stand in a path as it is
	unreserved             // means the same encoded or not (RFC 3986, section 2.3)
	inQuery                // may stand in a query as it is
)

var class = classes()

func classes() (t [256]byte) {
	mark := func(chars string, c byte) {
		for i := range len(chars) {
			t[chars[i]] |= c
		}
	}
	const alnum = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	mark(alnum+"-._~", plain|unreserved|inQuery)
	mark("!$&'()*+,;=:@/", plain|inQuery)
	mark("|[]^{}", plain|inQuery) // not allowed by RFC 3986, sent by browsers, and not ambiguous
	mark("?%\"<>`", inQuery)
	return t
}

// normalPath returns the one spelling of a path that routing, limits and the upstream see: unreserved characters
// decoded, other escapes in upper case. It refuses what two programs may read differently: an empty or a dot segment,
// a slash, backslash, NUL or control character in an escape, a doubly encoded one, an overlong UTF-8 sequence, a
// broken escape, and bytes that have no place in a path. A path that is normal already is returned as it is.
func normalPath(raw string) (string, bool) {
	if raw == "" || raw[0] != '/' {
		return "", false
	}
	for i := range len(raw) {
		c := raw[i]
		if c == '%' {
			return decodePath(raw, i)
		}
		if class[c]&plain == 0 || c == '/' && dubiousSegment(raw, i+1) {
			return "", false
		}
	}
	return raw, true
}

// dubiousSegment says whether the segment that starts at i is empty (and not the last), "." or "..".
func dubiousSegment(path string, i int) bool {
	rest := path[i:]
	if rest == "" {
		return false
	}
	if rest[0] == '/' {
		return true
	}
	if rest[0] != '.' {
		return false
	}
	rest = strings.TrimPrefix(rest[1:], ".")
	return rest == "" || rest[0] == '/' || rest[0] == ';' // "/..;/" is ".." to servlet containers
}

// decodePath is normalPath for a path with its first escape at i.
func decodePath(raw string, i int) (string, bool) {
	b := make([]byte, i, len(raw))
	copy(b, raw)
	for ; i < len(raw); i++ {
		c := raw[i]
		if c != '%' {
			if class[c]&plain == 0 {
				return "", false
			}
			b = append(b, c)
			continue
		}
		v, ok := escape(raw, i)
		if !ok {
			return "", false
		}
		switch {
		case v < 0x20 || v == 0x7f || v == '/' || v == '\\' || overlong(v, raw[i+3:]):
			return "", false
		case class[v]&unreserved != 0:
			b = append(b, v)
		default:
			b = append(b, '%', upperHex(raw[i+1]), upperHex(raw[i+2]))
		}
		i += 2
	}
	path := string(b)
	for j := range len(path) { // only now: what follows an encoded percent sign may have been encoded itself
		if path[j] == '/' && dubiousSegment(path, j+1) || strings.HasPrefix(path[j:], "%25") && doubly(path[j+3:]) {
			return "", false
		}
	}
	return path, true
}

// overlong says whether an encoded byte and what follows it begin a UTF-8 sequence that is longer than its character needs: to a lax
// decoder %e0%80%af is a slash.
func overlong(v byte, rest string) bool {
	var least byte // of what may follow
	switch v {
	case 0xc0, 0xc1:
		return true
	case 0xe0:
		least = 0xa0
	case 0xf0:
		least = 0x90
	case 0xf8:
		least = 0x88
	case 0xfc:
		least = 0x84
	default:
		return false
	}
	next, ok := escape(rest, 0)
	return ok && rest[0] == '%' && 0x80 <= next && next < least
}

// doubly says whether what follows an encoded percent sign makes it an encoded slash, backslash, dot, percent or
// control character to a program that decodes twice.
func doubly(rest string) bool {
	if len(rest) < 2 {
		return false
	}
	hi, ok1 := http1.Hex(rest[0])
	lo, ok2 := http1.Hex(rest[1])
	v := hi<<4 | lo
	return ok1 && ok2 && (v < 0x20 || v == '/' || v == '\\' || v == '.' || v == '%' || v == 0x7f)
}

func escape(s string, i int) (byte, bool) {
	if i+2 >= len(s) {
		return 0, false
	}
	hi, ok1 := http1.Hex(s[i+1])
	lo, ok2 := http1.Hex(s[i+2])
	return hi<<4 | lo, ok1 && ok2
}

func upperHex(c byte) byte {
	if 'a' <= c && c <= 'f' {
		return c - 'a' + 'A'
	}
	return c
}

// cleanQuery says whether a query has only bytes that may be written into a request line.
func cleanQuery(q string) bool {
	for i := range len(q) {
		if class[q[i]]&inQuery == 0 {
			return false
		}
	}
	return true
}

// opaqueTarget says whether a target can be passed on unread: it starts with a slash (or is "*") and can't break the
// request line.
func opaqueTarget(t string) bool {
	if t == "*" {
		return true
	}
	if t == "" || t[0] != '/' {
		return false
	}
	for i := range len(t) {
		if c := t[i]; c <= ' ' || c == 0x7f || c == '#' {
			return false
		}
	}
	return true
}

// normalHost returns the host of an authority as routing sees it: lower case, without port and final dot. It refuses
// an authority that is not a host with an optional port.
func normalHost(authority string) (string, bool) {
	host := authority
	if strings.HasPrefix(host, "[") {
		end := strings.IndexByte(host, ']')
		if end < 0 || !validPort(host[end+1:]) {
			return "", false
		}
		host = host[:end+1]
		for i := 1; i < len(host)-1; i++ {
			if _, ok := http1.Hex(host[i]); !ok && host[i] != ':' && host[i] != '.' {
				return "", false
			}
		}
		return lower(host), len(host) > 2
	}
	if colon := strings.IndexByte(host, ':'); colon >= 0 {
		if !validPort(host[colon:]) {
			return "", false
		}
		host = host[:colon]
	}
	host = strings.TrimSuffix(host, ".")
	for i := range len(host) {
		if c := host[i]; class[c]&unreserved == 0 || c == '~' {
			return "", false
		}
	}
	return lower(host), host != ""
}

// validPort takes what follows a host: nothing, or a colon and digits.
func validPort(s string) bool {
	if s == "" {
		return true
	}
	if s[0] != ':' || len(s) > 6 {
		return false
	}
	for i := 1; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// lower is strings.ToLower for ASCII; what is lower-case already is returned as it is.
func lower(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return strings.ToLower(s)
		}
	}
	return s
}
