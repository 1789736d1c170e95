package logs

import (
	"slices"
	"strings"

	"trellis/lazyregexp"
	"trellis/telemetry"
)

// Redacted stands in place of a secret.
const Redacted = "[redacted]"

// minSecret is how long a value has to be to be looked for: a shorter one stands in too many texts by chance.
const minSecret = 6

// Redactor takes secrets out of what is kept: the values that it was given, and what is known to be a secret by what
// stands before it or by its form. It is safe for concurrent use.
type Redactor struct {
	values *strings.Replacer // nil: none
	forms  []form
}

type form struct {
	hint string // in lower case; without it in the text the expression is not tried
	re   *lazyregexp.Regexp
	with string
}

// NewRedactor returns a redactor of these values, whole and line by line, and of the common forms.
func NewRedactor(values []string) *Redactor {
	r := &Redactor{forms: []form{
		{"bearer ", lazyregexp.New(`(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{8,}`), "${1}" + Redacted},
		{"basic ", lazyregexp.New(`(?i)(authorization["']?\s*[:=]\s*["']?basic\s+)[A-Za-z0-9+/=]{6,}`), "${1}" + Redacted},
		{"eyj", lazyregexp.New(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`), Redacted},
		{"://", lazyregexp.New(`(\w+://[^\s:/@]*:)[^\s@/]+(@)`), "${1}" + Redacted + "${2}"},
		{"passw", lazyregexp.New(`(?i)(passw(?:or)?d["']?\s*[:=]\s*["']?)[^\s"'&,;]{3,}`), "${1}" + Redacted},
		{"secret", lazyregexp.New(`(?i)(secret["']?\s*[:=]\s*["']?)[^\s"'&,;]{6,}`), "${1}" + Redacted},
		{"token", lazyregexp.New(`(?i)(token["']?\s*[:=]\s*["']?)[^\s"'&,;]{8,}`), "${1}" + Redacted},
		{"key", lazyregexp.New(`(?i)(api[_-]?key["']?\s*[:=]\s*["']?)[^\s"'&,;]{8,}`), "${1}" + Redacted},
		{"akia", lazyregexp.New(`\bAKIA[0-9A-Z]{16}\b`), Redacted},
		{"private key", lazyregexp.New(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`), Redacted},
	}}
	var all []string
	for _, v := range values {
		v = strings.TrimSpace(v)
		all = append(all, v)
		if strings.Contains(v, "\n") {
			for _, line := range strings.Split(v, "\n") {
				all = append(all, strings.TrimSpace(line))
			}
		}
	}
	all = slices.DeleteFunc(all, func(v string) bool { return len(v) < minSecret })
	slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) }) // the longer of two that begin alike
	var pairs []string
	for _, v := range slices.Compact(all) {
		pairs = append(pairs, v, Redacted)
	}
	if len(pairs) > 0 {
		r.values = strings.NewReplacer(pairs...)
	}
	return r
}

// Text returns s without secrets.
func (r *Redactor) Text(s string) string {
	if r.values != nil {
		s = r.values.Replace(s)
	}
	low := ""
	for _, f := range r.forms {
		if low == "" {
			low = strings.ToLower(s)
		}
		if strings.Contains(low, f.hint) {
			s, low = f.re.ReplaceAllString(s, f.with), ""
		}
	}
	return s
}

// secretName says whether an attribute of this name holds a secret whatever it looks like.
func secretName(name string) bool {
	name = strings.ToLower(name)
	for _, part := range []string{"password", "passwd", "secret", "authorization", "api_key", "apikey", "api-key", "token", "set-cookie", "cookie"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// Attributes takes secrets out of attributes, in place.
func (r *Redactor) Attributes(attributes map[string]any) {
	for k, v := range attributes {
		attributes[k] = r.value(k, v)
	}
}

func (r *Redactor) value(name string, v any) any {
	switch v := v.(type) {
	case string:
		if v != "" && secretName(name) {
			return Redacted
		}
		return r.Text(v)
	case map[string]any:
		r.Attributes(v)
	case []any:
		for i, one := range v {
			v[i] = r.value(name, one)
		}
	}
	return v
}

// Record takes secrets out of a record.
func (r *Redactor) Record(one *telemetry.Record) {
	one.Body = r.Text(one.Body)
	r.Attributes(one.Attributes)
}

// Span takes secrets out of a span.
func (r *Redactor) Span(s *telemetry.Span) {
	s.Name, s.Message = r.Text(s.Name), r.Text(s.Message)
	r.Attributes(s.Attributes)
	for i := range s.Events {
		s.Events[i].Name = r.Text(s.Events[i].Name)
		r.Attributes(s.Events[i].Attributes)
	}
	for i := range s.Links {
		r.Attributes(s.Links[i].Attributes)
	}
}
