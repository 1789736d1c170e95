package load

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/xhit/go-str2duration/v2"

	"trellis/lazyregexp"
)

// text is a text of a scenario in which {name} stands for a value of the visit, and {{name}} for {name} itself. Braces
// around anything but a name are what they look like.
type text struct {
	parts  []part
	source string
}

// part is a literal, or the value of a name.
type part struct{ literal, name string }

var (
	placeholder = lazyregexp.New(`\{\{[A-Za-z_][A-Za-z0-9_]*\}\}|\{[A-Za-z_][A-Za-z0-9_]*\}`)
	valueName   = lazyregexp.New(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// UnmarshalText takes the text apart.
func (t *text) UnmarshalText(b []byte) error {
	*t = parseText(string(b))
	return nil
}

func parseText(s string) text {
	t := text{source: s}
	rest := s
	for rest != "" {
		at := placeholder.FindStringIndex(rest)
		if at == nil {
			t.parts = append(t.parts, part{literal: rest})
			break
		}
		if at[0] > 0 {
			t.parts = append(t.parts, part{literal: rest[:at[0]]})
		}
		found := rest[at[0]:at[1]]
		if strings.HasPrefix(found, "{{") {
			t.parts = append(t.parts, part{literal: found[1 : len(found)-1]})
		} else {
			t.parts = append(t.parts, part{name: found[1 : len(found)-1]})
		}
		rest = rest[at[1]:]
	}
	return t
}

// names are the values that t needs.
func (t text) names() []string {
	var names []string
	for _, p := range t.parts {
		if p.name != "" {
			names = append(names, p.name)
		}
	}
	return names
}

// with puts the values in.
func (t text) with(values func(name string) (string, bool)) (string, error) {
	var b strings.Builder
	for _, p := range t.parts {
		if err := p.append(&b, values, nil); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

// uri puts the values in so that each stays one segment of the path or one value of the query. One at the very beginning
// is a path already: a link or a Location that an answer gave.
func (t text) uri(values func(name string) (string, bool)) (string, error) {
	var b strings.Builder
	query := false
	for i, p := range t.parts {
		var escape func(string) string
		switch {
		case i == 0:
		case query:
			escape = url.QueryEscape
		default:
			escape = url.PathEscape
		}
		if err := p.append(&b, values, escape); err != nil {
			return "", err
		}
		query = query || strings.Contains(b.String(), "?")
	}
	return b.String(), nil
}

func (p part) append(b *strings.Builder, values func(name string) (string, bool), escape func(string) string) error {
	if p.name == "" {
		b.WriteString(p.literal)
		return nil
	}
	value, ok := values(p.name)
	if !ok {
		return fmt.Errorf("no value for {%s}: the step that saves it was left out of this visit", p.name)
	}
	if escape != nil {
		value = escape(value)
	}
	b.WriteString(value)
	return nil
}

// jsonTexts replaces the strings within a JSON value by texts.
func jsonTexts(v any) any {
	switch v := v.(type) {
	case string:
		return parseText(v)
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, item := range v {
			out[k] = jsonTexts(item)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = jsonTexts(item)
		}
		return out
	}
	return v
}

// jsonWith is the inverse of jsonTexts, values put in.
func jsonWith(v any, values func(name string) (string, bool)) (any, error) {
	switch v := v.(type) {
	case text:
		return v.with(values)
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, item := range v {
			var err error
			if out[k], err = jsonWith(item, values); err != nil {
				return nil, err
			}
		}
		return out, nil
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			var err error
			if out[i], err = jsonWith(item, values); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return v, nil
}

// jsonNames are the values that the texts of v need.
func jsonNames(v any) []string {
	var names []string
	switch v := v.(type) {
	case text:
		return v.names()
	case map[string]any:
		for _, item := range v {
			names = append(names, jsonNames(item)...)
		}
	case []any:
		for _, item := range v {
			names = append(names, jsonNames(item)...)
		}
	}
	return names
}

// span is a time or a range of times, "2s" or "1s-3s".
type span struct{ least, most time.Duration }

func (s *span) UnmarshalText(b []byte) error {
	from, to, ranged := strings.Cut(string(b), "-")
	if !ranged {
		to = from
	}
	least, err := str2duration.ParseDuration(strings.TrimSpace(from))
	most, err2 := str2duration.ParseDuration(strings.TrimSpace(to))
	if err != nil || err2 != nil || from == "" || least < 0 || most < least || most > 24*time.Hour {
		return fmt.Errorf("%q is not a time: write one such as 500ms, or a range such as 1s-3s", b)
	}
	*s = span{least, most}
	return nil
}

// times is a number of times or a range of it, "3" or "2-5".
type times struct{ least, most int }

func (c *times) UnmarshalText(b []byte) error {
	from, to, ranged := strings.Cut(string(b), "-")
	if !ranged {
		to = from
	}
	least, err := strconv.Atoi(strings.TrimSpace(from))
	most, err2 := strconv.Atoi(strings.TrimSpace(to))
	if err != nil || err2 != nil || least < 0 || most < least || most < 1 || most > maxPlan {
		return fmt.Errorf("%q is not a number of times: write one such as 3, or a range such as 2-5", b)
	}
	*c = times{least, most}
	return nil
}

// statuses is a part of the answers' statuses: "201", "2xx" or "200-399".
type statuses struct{ least, most int }

func (s *statuses) UnmarshalText(b []byte) error {
	from, to, ranged := strings.Cut(string(b), "-")
	if class, ok := strings.CutSuffix(from, "xx"); ok && !ranged {
		from, to, ranged = class+"00", class+"99", true
	}
	if !ranged {
		to = from
	}
	least, err := strconv.Atoi(from)
	most, err2 := strconv.Atoi(to)
	if err != nil || err2 != nil || least < 200 || most < least || most > 999 {
		return fmt.Errorf("%q is not a status: write one such as 201, a class such as 2xx, or a range such as 200-399", b)
	}
	*s = statuses{least, most}
	return nil
}

// jsonPointer is RFC 6901, and * for every element of a list.
type jsonPointer []string

func (p *jsonPointer) UnmarshalText(b []byte) error {
	s := string(b)
	if s == "" {
		*p = jsonPointer{}
		return nil
	}
	if !strings.HasPrefix(s, "/") {
		return fmt.Errorf("%q is not a JSON pointer: write /key/0/key, with * for every element", s)
	}
	*p = strings.Split(s[1:], "/")
	for i, segment := range *p {
		(*p)[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(segment)
	}
	return nil
}

// in returns the values that p points at, numbers as they were written, nulls left out.
func (p jsonPointer) in(v any) []string {
	if len(p) == 0 {
		switch v := v.(type) {
		case nil:
			return nil
		case string:
			return []string{v}
		}
		b, err := json.Marshal(v)
		if err != nil {
			return nil
		}
		return []string{string(b)}
	}
	var found []string
	switch v := v.(type) {
	case map[string]any:
		if item, ok := v[p[0]]; ok {
			return p[1:].in(item)
		}
	case []any:
		if p[0] == "*" {
			for _, item := range v {
				found = append(found, p[1:].in(item)...)
			}
		} else if i, err := strconv.Atoi(p[0]); err == nil && i >= 0 && i < len(v) {
			return p[1:].in(v[i])
		}
	}
	return found
}
