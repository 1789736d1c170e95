package edit

import (
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// Lines count from 0 here, as offsets do; a line is named by the number after it where a range ends.

// offset returns where a node begins in the text.
func (f *File) offset(n *yaml.Node) int {
	if n.Line < 1 || n.Line >= len(f.lines) {
		return len(f.text)
	}
	at := f.lines[n.Line-1]
	for range n.Column - 1 {
		if at >= len(f.text) || f.text[at] == '\n' {
			break
		}
		_, size := utf8.DecodeRuneInString(f.text[at:])
		at += size
	}
	return at
}

// content returns where a node begins after its anchor and tag.
func (f *File) content(n *yaml.Node) int {
	at := f.offset(n)
	for at < len(f.text) && (f.text[at] == '&' || f.text[at] == '!') {
		end := strings.IndexAny(f.text[at:], " \t\r\n")
		if end < 0 {
			break
		}
		for at += end; at < len(f.text) && (f.text[at] == ' ' || f.text[at] == '\t'); at++ {
		}
	}
	return at
}

// line returns a line without its end.
func (f *File) line(i int) string {
	if i < 0 || i+1 >= len(f.lines) {
		return ""
	}
	return strings.TrimRight(f.text[f.lines[i]:f.lines[i+1]], "\r\n")
}

// lineOf returns the line that an offset is in.
func (f *File) lineOf(at int) int {
	lo, hi := 0, len(f.lines)-1
	for lo+1 < hi {
		if mid := (lo + hi) / 2; f.lines[mid] <= at {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// endOfLine returns the offset of a line's end.
func (f *File) endOfLine(i int) int { return f.lines[i] + len(f.line(i)) }

func indentOf(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// bound returns the line before which everything ends that the trail leads to: where the next node begins, or the
// document ends.
func (f *File) bound(t trail) int {
	for i := len(t) - 1; i >= 0; i-- {
		h := t[i]
		if h.index+1 >= len(h.in.Content) {
			continue
		}
		next := h.in.Content[h.index+1]
		at := next.Line - 1
		if h.in.Kind == yaml.SequenceNode {
			return f.dash(h.in, at)
		}
		return at
	}
	from := 0
	if f.root != nil {
		from = f.root.Line
	}
	for i := from; i+1 < len(f.lines); i++ {
		if line := f.line(i); line == "..." || strings.HasPrefix(line, "... ") {
			return i
		}
	}
	return len(f.lines) - 1
}

// dash returns the line of the dash of a list's entry that begins in a line.
func (f *File) dash(list *yaml.Node, at int) int {
	for i := at; i >= 0 && i >= list.Line-1; i-- {
		if line := f.line(i); indentOf(line) == list.Column-1 && strings.HasPrefix(line[list.Column-1:], "-") {
			return i
		}
	}
	return at
}

// tail returns the line after the last one that belongs to what begins at line first and is indented so much: blank
// lines belong to what follows, and so do comments that are indented less, or that stand right above it in its column.
func (f *File) tail(first, bound, indent int) int {
	above, column := true, indentOf(f.line(bound))
	for l := bound; l > first+1; l-- {
		text := strings.TrimLeft(f.line(l-1), " \t")
		by := indentOf(f.line(l - 1))
		above = above && text != "" && text[0] == '#' && by == column && f.line(bound) != ""
		if text == "" || text[0] == '#' && by < indent || above {
			continue
		}
		return l
	}
	return first + 1
}

// insertLines is the splice that puts lines before a line.
func (f *File) insertLines(at int, lines []string) splice {
	if len(lines) == 0 {
		return splice{f.lines[at], f.lines[at], ""}
	}
	text, pos := strings.Join(lines, f.style.newline), f.lines[at]
	if pos == len(f.text) && pos > 0 && f.text[pos-1] != '\n' {
		return splice{pos, pos, f.style.newline + text}
	}
	return splice{pos, pos, text + f.style.newline}
}

// afterKey returns the offset after the colon of a key.
func (f *File) afterKey(k *yaml.Node) (int, bool) {
	at, ok := f.endOf(k, true)
	if !ok {
		return 0, false
	}
	for at < len(f.text) && (f.text[at] == ' ' || f.text[at] == '\t') {
		at++
	}
	return at + 1, at < len(f.text) && f.text[at] == ':'
}

// endOf returns the offset after a scalar or a bracket that is closed; false for what ends by its indentation.
func (f *File) endOf(n *yaml.Node, inFlow bool) (int, bool) {
	at := f.content(n)
	if at >= len(f.text) {
		return 0, false
	}
	if n.Kind == yaml.AliasNode {
		return at + 1 + len(n.Value), strings.HasPrefix(f.text[at:], "*"+n.Value)
	}
	if n.Kind != yaml.ScalarNode {
		if n.Style&yaml.FlowStyle == 0 {
			return 0, false
		}
		b, ok := f.bracket(at)
		return b.end, ok
	}
	switch f.text[at] {
	case '"', '\'':
		return f.quoted(at)
	}
	if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle|yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		return 0, false
	}
	end := f.plainEnd(at, inFlow)
	return end, f.text[at:end] == n.Value
}

// plainEnd returns where a plain scalar ends in its line.
func (f *File) plainEnd(at int, inFlow bool) int {
	end := at
	for i := at; i < len(f.text); i++ {
		c := f.text[i]
		follows := byte('\n')
		if i+1 < len(f.text) {
			follows = f.text[i+1]
		}
		switch {
		case c == '\n' || c == '\r',
			c == '#' && i > at && (f.text[i-1] == ' ' || f.text[i-1] == '\t'),
			c == ':' && (strings.IndexByte(" \t\r\n", follows) >= 0 || inFlow && strings.IndexByte(",[]{}", follows) >= 0),
			inFlow && strings.IndexByte(",[]{}", c) >= 0 && f.inBrackets(at):
			return end
		case c != ' ' && c != '\t':
			end = i + 1
		}
	}
	return end
}

// inBrackets says that an offset stands inside of a flow collection. Keys in block style may hold brackets and commas.
func (f *File) inBrackets(at int) bool {
	inside := false
	var look func(n *yaml.Node)
	look = func(n *yaml.Node) {
		if n == nil || inside || n.Kind == yaml.AliasNode {
			return
		}
		if n.Style&yaml.FlowStyle != 0 && len(n.Content) > 0 {
			from := f.content(n)
			if b, ok := f.bracket(from); ok && from < at && at < b.end {
				inside = true
			}
			return
		}
		for _, c := range n.Content {
			look(c)
		}
	}
	look(f.root)
	return inside
}

// quoted returns the offset after a quoted scalar.
func (f *File) quoted(at int) (int, bool) {
	q := f.text[at]
	for i := at + 1; i < len(f.text); i++ {
		switch {
		case q == '"' && f.text[i] == '\\':
			i++
		case f.text[i] != q:
		case q == '\'' && i+1 < len(f.text) && f.text[i+1] == q:
			i++
		default:
			return i + 1, true
		}
	}
	return 0, false
}

// bracket is a flow collection in the text.
type bracket struct {
	end  int // after the closing bracket
	last int // after the last character inside that is no blank and no comment
}

// bracket reads the flow collection that begins at an offset.
func (f *File) bracket(at int) (bracket, bool) {
	if at >= len(f.text) || f.text[at] != '[' && f.text[at] != '{' {
		return bracket{}, false
	}
	depth, last := 0, at+1
	for i := at; i < len(f.text); i++ {
		c := f.text[i]
		before := byte(' ')
		if i > 0 {
			before = f.text[i-1]
		}
		blank := strings.IndexByte(" \t\r\n", before) >= 0
		switch {
		case c == '#' && blank:
			for i+1 < len(f.text) && f.text[i+1] != '\n' {
				i++
			}
			continue
		case (c == '"' || c == '\'') && (blank || strings.IndexByte("[{,:", before) >= 0):
			end, ok := f.quoted(i)
			if !ok {
				return bracket{}, false
			}
			i = end - 1
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			if depth--; depth == 0 {
				return bracket{i + 1, last}, true
			}
		case strings.IndexByte(" \t\r\n", c) >= 0:
			continue
		}
		last = i + 1
	}
	return bracket{}, false
}
