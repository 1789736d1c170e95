package proxy

import (
	"net/http"
	"strings"

	"trellis/proxy/http1"
)

// header holds the fields of a request or response, in the order in which they came.
type header = http1.Header

// forwarding says whether the field claims where a request came from, in any spelling that a CGI-like server would
// take for it: "X_Forwarded_For" is "X-Forwarded-For" to such a server.
func forwarding(name string) bool {
	if len(name) < 9 || name[0]|0x20 != 'x' && name[0]|0x20 != 'f' {
		return false
	}
	if strings.IndexByte(name, '_') >= 0 {
		name = strings.ReplaceAll(name, "_", "-")
	}
	return len(name) >= 12 && strings.EqualFold(name[:12], "X-Forwarded-") || strings.EqualFold(name, "Forwarded") ||
		strings.EqualFold(name, "X-Real-Ip")
}

// named returns the fields that Connection names, nil as a rule. Fields that the data plane sets or needs are never in
// it: a client could otherwise take them away from the upstream.
func named(h header) []string {
	var names []string
	for _, f := range h {
		if f.Kind != http1.Connection {
			continue
		}
		for name := range http1.Tokens(f.Value) {
			switch strings.ToLower(name) {
			case "close", "keep-alive", "upgrade", "te", "host", "content-length", "x-request-id", "authorization", "cookie",
				"traceparent", "tracestate":
				continue
			}
			if !forwarding(name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// announced returns the fields that a request announces behind its body, nil as a rule: of those, the ones that have a place there.
// No server takes the others, and what speaks HTTP/2 to instances refuses the whole request for them.
func announced(h header) []string {
	var names []string
	for i := range h {
		if h[i].Kind != http1.Trailer {
			continue
		}
		for name := range http1.Tokens(h[i].Value) {
			if f := (http1.Field{Name: name, Kind: http1.KindOf(name)}); isToken(name) && f.InTrailer() {
				names = append(names, name)
			}
		}
	}
	return names
}

// anyIs says whether one of the names is that of the field.
func anyIs(list []string, f *http1.Field) bool {
	for _, n := range list {
		if f.Is(n) {
			return true
		}
	}
	return false
}

// ofHTTP makes ours of net/http's.
func ofHTTP(from http.Header) header {
	h := make(header, 0, len(from)+4)
	for name, values := range from {
		for _, v := range values {
			h.Add(name, v)
		}
	}
	return h
}
