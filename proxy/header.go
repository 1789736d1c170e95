package proxy

import "strings"

// header holds the fields of a request or response; keys are in canonical form ("Content-Type").
type header map[string][]string

// get returns the first value of the field, "" if there is none; key is canonical.
func (h header) get(key string) string {
	if v := h[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// count returns how many field lines there are.
func (h header) count() int {
	n := 0
	for _, v := range h {
		n += len(v)
	}
	return n
}

// hasToken says whether the comma-separated field lists token, in any case; key is canonical, token lower-case.
func (h header) hasToken(key, token string) bool {
	for _, v := range h[key] {
		for v != "" {
			var part string
			part, v, _ = strings.Cut(v, ",")
			if strings.EqualFold(strings.Trim(part, " \t"), token) {
				return true
			}
		}
	}
	return false
}

// hopByHop says whether the field is about one connection only and never travels on (RFC 9110, section 7.6.1).
func hopByHop(key string) bool {
	switch key {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade", "Http2-Settings":
		return true
	}
	return false
}

// forwarding says whether the field claims where a request came from, in any spelling that a CGI-like server would
// take for it: "X_Forwarded_For" is "X-Forwarded-For" to such a server.
func forwarding(key string) bool {
	if len(key) < 9 || key[0] != 'X' && key[0] != 'F' {
		return false
	}
	if strings.IndexByte(key, '_') >= 0 {
		key = strings.ReplaceAll(key, "_", "-")
	}
	return len(key) >= 12 && strings.EqualFold(key[:12], "X-Forwarded-") || strings.EqualFold(key, "Forwarded") ||
		strings.EqualFold(key, "X-Real-Ip")
}

// named returns the fields that Connection names, nil as a rule. Fields that the data plane sets or needs are never in
// it: a client could otherwise take them away from the upstream.
func (h header) named() []string {
	var keys []string
	for _, v := range h["Connection"] {
		for v != "" {
			var part string
			part, v, _ = strings.Cut(v, ",")
			part = canonical(strings.Trim(part, " \t"))
			switch part {
			case "", "Close", "Keep-Alive", "Upgrade", "Te", "Host", "Content-Length", "X-Request-Id", "Authorization",
				"Cookie", "Traceparent", "Tracestate":
				continue
			}
			if !forwarding(part) {
				keys = append(keys, part)
			}
		}
	}
	return keys
}

// canonical returns the field name as net/textproto writes it.
func canonical(name string) string {
	upper, changed := true, false
	for i := range len(name) {
		c := name[i]
		if upper && 'a' <= c && c <= 'z' || !upper && 'A' <= c && c <= 'Z' {
			changed = true
			break
		}
		upper = c == '-'
	}
	if !changed {
		return name
	}
	b := []byte(name)
	upper = true
	for i, c := range b {
		switch {
		case upper && 'a' <= c && c <= 'z':
			b[i] = c - 'a' + 'A'
		case !upper && 'A' <= c && c <= 'Z':
			b[i] = c - 'A' + 'a'
		}
		upper = c == '-'
	}
	return string(b)
}
