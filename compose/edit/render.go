package edit

import (
	"bytes"
	"encoding/json"
	"math"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// width is how long a line may become before a list or mapping of values is written in block style.
const width = 110

// Render returns a value as a block of YAML, two spaces a level, lists indented: for a file that is new. Mappings down to
// a depth are written as blocks, however short. Values as for Set.
func Render(m Map, blocks int) ([]byte, error) {
	v, err := normalMap(m, 0)
	if err != nil {
		return nil, err
	}
	r := renderer{style{step: 2, dash: 2, newline: "\n"}}
	return []byte(strings.Join(r.entries(Map(asBlocks(v.(Map), blocks)), 0), "\n") + "\n"), nil
}

func asBlocks(m Map, depth int) blockMap {
	out := make(blockMap, len(m))
	for i, e := range m {
		if below, ok := e.Value.(Map); ok && depth > 0 && len(below) > 0 {
			e.Value = asBlocks(below, depth-1)
		}
		out[i] = e
	}
	return out
}

// blockMap is a Map that came about by a path: like the mappings of the file it is written as a block, however short.
type blockMap Map

// renderer writes values in the style of a file, as lines without their ends.
type renderer struct{ style }

func (r renderer) entries(m Map, indent int) []string {
	var out []string
	for _, e := range m {
		out = append(out, r.entry(e.Key, e.Value, indent)...)
	}
	return out
}

func (r renderer) entry(key string, v any, indent int) []string {
	pre := strings.Repeat(" ", indent) + quote(key, false) + ":"
	if text, ok := r.inline(v, len(pre)+1); ok {
		if text == "" {
			return []string{pre}
		}
		return []string{pre + " " + text}
	}
	switch v := v.(type) {
	case Map:
		return append([]string{pre}, r.entries(v, indent+r.step)...)
	case blockMap:
		return append([]string{pre}, r.entries(Map(v), indent+r.step)...)
	case []any:
		return append([]string{pre}, r.items(v, indent+r.dash)...)
	case string:
		return append([]string{pre + " " + literalHead(v)}, literal(v, indent+r.step)...)
	}
	return nil
}

func (r renderer) items(list []any, indent int) []string {
	var out []string
	pre := strings.Repeat(" ", indent) + "- "
	for _, v := range list {
		if text, ok := r.inline(v, len(pre)); ok {
			if text == "" {
				text = "null"
			}
			out = append(out, pre+text)
			continue
		}
		var below []string
		switch v := v.(type) {
		case Map:
			below = r.entries(v, indent+2)
		case blockMap:
			below = r.entries(Map(v), indent+2)
		case []any:
			below = r.items(v, indent+2)
		case string:
			below = append([]string{strings.Repeat(" ", indent+2) + literalHead(v)}, literal(v, indent+2+r.step)...)
		}
		below[0] = pre + below[0][indent+2:]
		out = append(out, below...)
	}
	return out
}

// inline returns v as it stands on one line in block style, after so many columns; false where it takes more lines.
func (r renderer) inline(v any, after int) (string, bool) {
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			if !single(x) {
				return "", false
			}
		}
	case Map:
		for _, e := range v {
			if !single(e.Value) {
				return "", false
			}
		}
	case string:
		if literalHead(v) != "" {
			return "", false
		}
		return quote(v, false), true
	case nil:
		return "", true
	case blockMap:
		return "", false
	}
	text := flow(v)
	empty := text == "[]" || text == "{}"
	return text, empty || after+len(text) <= width || !collection(v)
}

func single(v any) bool {
	s, ok := v.(string)
	return !collection(v) && (!ok || literalHead(s) == "")
}

func collection(v any) bool {
	switch v.(type) {
	case []any, Map, blockMap:
		return true
	}
	return false
}

// flow returns a value as it stands inside of brackets.
func flow(v any) string {
	switch v := v.(type) {
	case string:
		return quote(v, true)
	case bool:
		return strconv.FormatBool(v)
	case int:
		return strconv.Itoa(v)
	case float64:
		return floatText(v)
	case []any:
		parts := make([]string, len(v))
		for i := range v {
			parts[i] = flow(v[i])
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case blockMap:
		return flow(Map(v))
	case Map:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = quote(e.Key, true) + ": " + flow(e.Value)
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
	return "null"
}

func floatText(v float64) string {
	text := strconv.FormatFloat(v, 'f', -1, 64)
	if v == math.Trunc(v) {
		text += ".0"
	}
	return text
}

var (
	// word is what no YAML takes for anything but a string, if it is none of notWords.
	word    = regexp.MustCompile(`^(?:[A-Za-z_/.]|--?[A-Za-z])[ -~]*$`)
	amount  = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?([kKmMgG][bB]?|[KMG]iB|ms|s|m|h|d|%|/s)$`)
	special = regexp.MustCompile(`: |:$| #| $|^\.[0-9.]|^\.(inf|nan|Inf|NaN|INF|NAN)$|^\.\.\.`)
	notWord = regexp.MustCompile(`^(?i:true|false|yes|no|on|off|y|n|null|nan|inf)$`)
)

// quote returns a string as a YAML scalar on one line: as it is where every reader takes it for a string, else in
// double quotes.
func quote(s string, inFlow bool) string {
	if amount.MatchString(s) || word.MatchString(s) && !notWord.MatchString(s) && !special.MatchString(s) && !(inFlow && strings.ContainsAny(s, ",[]{}")) {
		return s
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b) // JSON's strings are YAML's
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string can always be encoded
	text := strings.TrimSuffix(b.String(), "\n")
	return strings.NewReplacer("\x7f", `\x7f`, "\u0085", `\u0085`, "\ufeff", `\ufeff`).Replace(text)
}

// literalHead returns how a text of several lines begins as a literal block, "" for what cannot be one.
func literalHead(s string) string {
	body := strings.TrimSuffix(s, "\n")
	if !strings.Contains(body, "\n") || strings.HasSuffix(body, "\n") || strings.HasPrefix(body, " ") || strings.HasPrefix(body, "\n") {
		return ""
	}
	for _, line := range strings.Split(body, "\n") {
		if line != "" && strings.TrimSpace(line) == "" || strings.ContainsFunc(line, func(r rune) bool { return r != '\t' && !unicode.IsPrint(r) }) {
			return ""
		}
	}
	if strings.HasPrefix(body, "\t") || body == s {
		if body == s && !strings.HasPrefix(body, "\t") {
			return "|-"
		}
		return ""
	}
	return "|"
}

func literal(s string, indent int) []string {
	lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	for i, line := range lines {
		if line != "" {
			lines[i] = strings.Repeat(" ", indent) + line
		}
	}
	return lines
}
