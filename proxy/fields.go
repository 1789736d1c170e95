package proxy

import (
	"slices"
	"strings"

	"trellis/proxy/http1"
)

// fields makes a header of names and values.
func fields(pairs ...string) header {
	var h header
	for i := 0; i+1 < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

// removeFields takes the fields away whose name is one of those meant.
func removeFields(h *header, meant func(name string) bool) {
	*h = slices.DeleteFunc(*h, func(f http1.Field) bool { return meant(f.Name) })
}

// sameField says whether two field names are one to a server that reads "_" for "-", as CGI does.
func sameField(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		x, y := plainField(a[i]), plainField(b[i])
		if x != y {
			return false
		}
	}
	return true
}

func plainField(c byte) byte {
	switch {
	case c == '_':
		return '-'
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	}
	return c
}

// isToken says whether s is a field name (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; class[c]&unreserved == 0 && !strings.ContainsRune("!#$%&'*+^`|", rune(c)) {
			return false
		}
	}
	return s != ""
}

// ownField says whether a field is for the data plane alone to write, so that no route can set it.
func ownField(name string) bool {
	k := http1.KindOf(name)
	return k.HopByHop() || k == http1.Host || k == http1.ContentLength
}
