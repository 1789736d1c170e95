package logs

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"trellis/telemetry"
)

// Bounds of what lines are joined to, and read for fields.
const (
	maxJoined     = 200      // lines
	maxJoinedText = 64 << 10 // bytes
	maxParsed     = 64 << 10 // of one line; a longer one is text
	maxFields     = 64
)

// Joiner makes records of the lines of one instance, in their order. Lines that belong together (a stack trace, an
// indented continuation) become one record, so the last one is kept back until the next line or Flush.
type Joiner struct {
	emit  func(telemetry.Record)
	held  telemetry.Record
	lines int // in held; 0: nothing is held
	fence bool
}

// NewJoiner returns a joiner that calls emit with each record.
func NewJoiner(emit func(telemetry.Record)) *Joiner { return &Joiner{emit: emit} }

// Add takes the next line. like says when, by whom and on which stream it was written.
func (j *Joiner) Add(line string, like telemetry.Record) {
	line = readable(strings.TrimRight(line, "\r\n"))
	if j.lines > 0 && like.Stream == j.held.Stream && j.lines < maxJoined && len(j.held.Body) < maxJoinedText && j.continues(line) {
		j.held.Body += "\n" + line
		j.lines++
		return
	}
	j.Flush()
	if strings.TrimSpace(line) == "" {
		return
	}
	r := like
	Parse(line, &r)
	j.held, j.lines = r, 1
	j.fence = startsTrace(r.Body)
}

// Flush emits what is held.
func (j *Joiner) Flush() {
	if j.lines == 0 {
		return
	}
	j.lines = 0
	if j.held.Severity == "" && startsTrace(j.held.Body) {
		j.held.Severity = telemetry.SeverityError
	}
	j.emit(j.held)
}

// startsTrace says whether a stack trace of Go, Java, Python or JavaScript may follow.
func startsTrace(body string) bool {
	return strings.HasPrefix(body, "panic:") || strings.HasPrefix(body, "fatal error:") || strings.HasPrefix(body, "goroutine ") ||
		strings.HasPrefix(body, "Traceback (most recent call last)") || strings.Contains(body, "Exception") || strings.HasPrefix(body, "Uncaught ")
}

// continues says whether a line goes on with what is held.
func (j *Joiner) continues(line string) bool {
	switch {
	case line == "":
		return j.fence
	case line[0] == ' ' || line[0] == '\t':
		return true
	case strings.HasPrefix(line, "Caused by:"), strings.HasPrefix(line, "... ") && j.fence:
		return true
	case !j.fence:
		return false
	}
	// Go's traces have functions and "goroutine 1 [running]:" at the line's begin, Python's end with the error's name.
	return strings.HasPrefix(line, "goroutine ") || strings.HasPrefix(line, "created by ") || strings.HasPrefix(line, "[signal ") ||
		strings.HasPrefix(line, "exit status ") || strings.HasSuffix(line, ")") && strings.Contains(line, "(") && !strings.Contains(line, " ") ||
		strings.HasPrefix(j.held.Body, "Traceback") && !strings.Contains(j.held.Body, "\n"+line) && errorName(line)
}

// errorName says whether a line is "ValueError: ..." or "ValueError".
func errorName(line string) bool {
	name, _, _ := strings.Cut(line, ":")
	return !strings.ContainsAny(name, " \t") && (strings.HasSuffix(name, "Error") || strings.HasSuffix(name, "Exception") || strings.HasSuffix(name, "Interrupt"))
}

// Parse reads one line into r, whose fields say what is known without it: a JSON object, logfmt, or text. Message, level
// and trace are found under the names that are common for them; the rest of the fields become attributes.
func Parse(line string, r *telemetry.Record) {
	line = readable(strings.TrimRight(line, "\r\n"))
	r.Body = line
	if len(line) > maxParsed {
		r.Severity = textSeverity(line[:1024])
		return
	}
	trimmed := strings.TrimSpace(line)
	if strings.HasPrefix(trimmed, "{") && parseJSON(trimmed, r) || parseLogfmt(trimmed, r) {
		return
	}
	r.Severity = textSeverity(r.Body)
}

// readable is a text in UTF-8, whatever a program wrote. Elsewhere a text that is none may cost more than itself: protobuf's readers refuse
// the whole message that it stands in.
func readable(s string) string { return strings.ToValidUTF8(s, "�") }

func parseJSON(line string, r *telemetry.Record) bool {
	fields := map[string]any{}
	dec := json.NewDecoder(strings.NewReader(line))
	dec.UseNumber()
	if dec.Decode(&fields) != nil || dec.More() || len(fields) == 0 {
		return false
	}
	place(fields, r)
	return true
}

// places are the common names of what has a place of its own in a record. Where a line has several for one place, the first of
// these takes it.
var places = []string{
	"msg", "message", "@message", "body",
	"level", "lvl", "severity", "severitytext", "severity_text", "loglevel", "log.level", "@level",
	"trace_id", "traceid", "trace.id", "dd.trace_id",
	"span_id", "spanid", "span.id",
	"time", "ts", "timestamp", "@timestamp",
}

// place puts fields where they belong in r: what has no place of its own, or whose place is taken, is an attribute. known says
// that something had one.
func place(fields map[string]any, r *telemetry.Record) (known bool) {
	rank := func(key string) int {
		if i := slices.Index(places, strings.ToLower(key)); i >= 0 {
			return i
		}
		return len(places)
	}
	keys := slices.SortedFunc(maps.Keys(fields), func(a, b string) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b)) })
	attributes, done := map[string]any{}, taken{}
	for _, k := range keys {
		if done.take(k, fields[k], r) {
			known = true
		} else if len(attributes) < maxFields {
			attributes[k] = telemetry.Exact(fields[k])
		}
	}
	if len(attributes) > 0 {
		r.Attributes = attributes
	}
	return known
}

// taken says which places of a record have what belongs there.
type taken struct{ body, severity, trace, span bool }

// take reads one field that has a place of its own in r; it says whether that is so.
func (t *taken) take(key string, v any, r *telemetry.Record) bool {
	text := ""
	switch v := v.(type) {
	case string:
		text = v
	case json.Number:
		text = v.String()
	default:
		return false
	}
	switch strings.ToLower(key) {
	case "msg", "message", "@message", "body":
		if !t.body {
			r.Body, t.body = text, true
			return true
		}
	case "level", "lvl", "severity", "severitytext", "severity_text", "loglevel", "log.level", "@level":
		if s := telemetry.SeverityOf(text); s != "" && !t.severity {
			r.Severity, t.severity = s, true
			return true
		}
	case "trace_id", "traceid", "trace.id", "dd.trace_id":
		if !t.trace && r.Trace.UnmarshalText([]byte(strings.ToLower(text))) == nil {
			t.trace = !r.Trace.IsZero()
			return true
		}
	case "span_id", "spanid", "span.id":
		if !t.span && r.Span.UnmarshalText([]byte(strings.ToLower(text))) == nil {
			t.span = !r.Span.IsZero()
			return true
		}
	case "time", "ts", "timestamp", "@timestamp":
		if at, err := time.Parse(time.RFC3339Nano, text); err == nil && at.Sub(r.Time).Abs() < time.Minute {
			return true // whoever read the line has noted a time too, and a program's clock may be anything
		}
	}
	return false
}

// textSeverity finds a level among the first words of a line.
func textSeverity(line string) string {
	if strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") {
		return telemetry.SeverityFatal
	}
	if strings.HasPrefix(line, "Traceback (most recent call last)") {
		return telemetry.SeverityError
	}
	if len(line) > 200 {
		line = line[:200]
	}
	words := strings.FieldsFunc(line, func(c rune) bool {
		return c == ' ' || c == '\t' || c == '[' || c == ']' || c == '|' || c == ':' || c == '(' || c == ')' || c == '<' || c == '>'
	})
	for i, w := range words {
		if i == 8 {
			break
		}
		// A word in the middle of a sentence is no level: it is written large, or stands at the begin.
		if s := telemetry.SeverityOf(w); s != "" && (w[0] < '0' || w[0] > '9') && (w == strings.ToUpper(w) || i == 0) {
			return s
		}
	}
	return ""
}

// parseLogfmt reads key=value pairs, of which there have to be two, a level or a message among them.
func parseLogfmt(line string, r *telemetry.Record) bool {
	if !strings.Contains(line, "=") {
		return false
	}
	fields, n := map[string]any{}, 0
	for rest := line; rest != ""; n++ {
		key, value, next, ok := pair(rest)
		if !ok || n == maxFields {
			return false
		}
		rest, fields[key] = next, value
	}
	parsed := *r
	if n < 2 || !place(fields, &parsed) {
		return false
	}
	*r = parsed
	return true
}

// pair reads the first key=value of a line.
func pair(s string) (key, value, rest string, ok bool) {
	s = strings.TrimLeft(s, " ")
	i := strings.IndexByte(s, '=')
	if i <= 0 || strings.ContainsAny(s[:i], " \"\t") {
		return "", "", "", false
	}
	key, s = s[:i], s[i+1:]
	if !strings.HasPrefix(s, `"`) {
		value, rest, _ = strings.Cut(s, " ")
		return key, value, strings.TrimLeft(rest, " "), true
	}
	for j := 1; j < len(s); j++ {
		switch s[j] {
		case '\\':
			j++
		case '"':
			if _, err := fmt.Sscanf(s[:j+1], "%q", &value); err != nil {
				value = s[1:j]
			}
			value = readable(value) // what "\xff" says is no text
			return key, value, strings.TrimLeft(s[j+1:], " "), j+1 == len(s) || s[j+1] == ' '
		}
	}
	return "", "", "", false
}
