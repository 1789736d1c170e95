package http1

import "strings"

// Field is one field line.
type Field struct {
	Name  string // as it was written
	Value string // without white space around it
	Kind  Kind
}

// Kind tells the fields apart that have to do with the message itself or with the connection; all others are Other.
type Kind uint8

// The kinds, by the name of the field.
const (
	Other Kind = iota
	Connection
	ContentLength
	Expect
	Host
	HTTP2Settings
	KeepAlive
	ProxyAuthenticate
	ProxyAuthorization
	ProxyConnection
	TE
	Trailer
	TransferEncoding
	Upgrade
)

// HopByHop says whether the field is about one connection only and never travels on (RFC 9110, section 7.6.1).
func (k Kind) HopByHop() bool {
	switch k {
	case Connection, HTTP2Settings, KeepAlive, ProxyAuthenticate, ProxyAuthorization, ProxyConnection, TE, Trailer,
		TransferEncoding, Upgrade:
		return true
	}
	return false
}

// KindOf returns the kind of a field's name, in any case.
func KindOf(name string) Kind {
	switch len(name) {
	case 2:
		return either(name, "Te", TE)
	case 4:
		return either(name, "Host", Host)
	case 6:
		return either(name, "Expect", Expect)
	case 7:
		if name[0]|0x20 == 't' {
			return either(name, "Trailer", Trailer)
		}
		return either(name, "Upgrade", Upgrade)
	case 10:
		if name[0]|0x20 == 'k' {
			return either(name, "Keep-Alive", KeepAlive)
		}
		return either(name, "Connection", Connection)
	case 14:
		if name[0]|0x20 == 'h' {
			return either(name, "Http2-Settings", HTTP2Settings)
		}
		return either(name, "Content-Length", ContentLength)
	case 16:
		return either(name, "Proxy-Connection", ProxyConnection)
	case 17:
		return either(name, "Transfer-Encoding", TransferEncoding)
	case 18:
		return either(name, "Proxy-Authenticate", ProxyAuthenticate)
	case 19:
		return either(name, "Proxy-Authorization", ProxyAuthorization)
	}
	return Other
}

func either(name, known string, k Kind) Kind {
	if equalFold(name, known) {
		return k
	}
	return Other
}

// equalFold is strings.EqualFold for ASCII. Neither side may hold a byte that is no token's.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	if a == b {
		return true
	}
	for i := range len(a) {
		x, y := a[i], b[i]
		if x != y && (x^y != 0x20 || x|0x20 < 'a' || x|0x20 > 'z') {
			return false
		}
	}
	return true
}

// Is says whether the field has that name, in any case.
func (f *Field) Is(name string) bool { return equalFold(f.Name, name) }

// Header holds field lines in the order in which they came. Names are compared without regard to case.
type Header []Field

// Get returns the value of the first field of that name, "" if there is none.
func (h Header) Get(name string) string {
	for i := range h {
		if len(h[i].Name) == len(name) && h[i].Is(name) {
			return h[i].Value
		}
	}
	return ""
}

// Only returns the value of the one field of that name; ok is false when there is none or more than one.
func (h Header) Only(name string) (value string, ok bool) {
	for i := range h {
		if len(h[i].Name) == len(name) && h[i].Is(name) {
			if ok {
				return "", false
			}
			value, ok = h[i].Value, true
		}
	}
	return value, ok
}

// Has says whether there is a field of that name.
func (h Header) Has(name string) bool {
	for i := range h {
		if len(h[i].Name) == len(name) && h[i].Is(name) {
			return true
		}
	}
	return false
}

// Values returns the values of all fields of that name, in order.
func (h Header) Values(name string) []string {
	var values []string
	for i := range h {
		if h[i].Is(name) {
			values = append(values, h[i].Value)
		}
	}
	return values
}

// Add appends a field.
func (h *Header) Add(name, value string) { *h = append(*h, Field{name, value, KindOf(name)}) }

// Del removes every field of that name. The bytes of the others stay where they are.
func (h *Header) Del(name string) {
	kept := (*h)[:0]
	for _, f := range *h {
		if !f.Is(name) {
			kept = append(kept, f)
		}
	}
	*h = kept
}

// Set removes every field of that name and appends one.
func (h *Header) Set(name, value string) {
	h.Del(name)
	h.Add(name, value)
}

// HasToken says whether the fields of that name, lists with commas, have the token, in any case.
func (h Header) HasToken(name, token string) bool {
	for i := range h {
		if len(h[i].Name) == len(name) && h[i].Is(name) {
			for part := range Tokens(h[i].Value) {
				if equalFold(part, token) {
					return true
				}
			}
		}
	}
	return false
}

// Tokens iterates over the members of a list with commas, empty ones left out.
func Tokens(list string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for list != "" {
			var part string
			part, list, _ = strings.Cut(list, ",")
			if part = strings.Trim(part, " \t"); part != "" && !yield(part) {
				return
			}
		}
	}
}

// parseField reads one field line, without its end.
func parseField(line []byte) (Field, *Error) {
	colon := 0
	for colon < len(line) && class[line[colon]]&token != 0 {
		colon++
	}
	switch {
	case colon == 0 && len(line) > 0 && (line[0] == ' ' || line[0] == '\t'):
		return Field{}, bad("a field line is folded, or begins with white space")
	case colon == len(line) || line[colon] != ':':
		return Field{}, bad("malformed field name")
	case colon == 0:
		return Field{}, bad("a field has no name")
	}
	value := trim(line[colon+1:])
	if !text(value) {
		return Field{}, bad("a field value has a control character")
	}
	name := str(line[:colon])
	return Field{name, str(value), KindOf(name)}, nil
}
