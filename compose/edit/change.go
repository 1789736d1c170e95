package edit

import (
	"strings"

	"go.yaml.in/yaml/v4"
)

// insert finds ways to add what rest names to the node that the trail leads to.
func (f *File) insert(t trail, rest []step, value any) ([]proposal, error) {
	for i := len(rest) - 1; i > 0; i-- {
		if rest[i].index >= 0 {
			value = []any{value}
		} else {
			value = blockMap{{rest[i].key, value}}
		}
	}
	in, first := t.node(f.root), rest[0]
	r := renderer{f.style}
	switch {
	case in == nil:
		at := f.bound(nil)
		return []proposal{{f.insertLines(at, r.entry(first.key, value, 0))}}, nil
	case in.Kind == yaml.ScalarNode && len(t) > 0: // null
		if first.index >= 0 {
			return f.replace(t, []any{value})
		}
		return f.replace(t, blockMap{{first.key, value}})
	case in.Style&yaml.FlowStyle != 0:
		return f.insertFlow(t, in, first, value)
	case len(in.Content) == 0:
		return nil, nil
	case in.Kind == yaml.SequenceNode:
		last := in.Content[len(in.Content)-1]
		return f.below(t, f.dash(in, last.Line-1), in.Column-1, r.items([]any{value}, in.Column-1)), nil
	}
	key := in.Content[len(in.Content)-2]
	indent := in.Content[0].Column - 1
	return f.below(t, key.Line-1, indent, r.entry(first.key, value, indent)), nil
}

// below are the ways to put lines at the end of a block whose last entry begins at a line.
func (f *File) below(t trail, last, indent int, lines []string) []proposal {
	bound := f.bound(t)
	at := f.tail(last, bound, indent)
	ways := []proposal{{f.insertLines(at, lines)}}
	if at != bound {
		ways = append(ways, proposal{f.insertLines(bound, lines)})
	}
	return ways
}

func (f *File) insertFlow(t trail, in *yaml.Node, first step, value any) ([]proposal, error) {
	open := f.content(in)
	b, ok := f.bracket(open)
	if !ok {
		return nil, nil
	}
	text := flow(value)
	if in.Kind == yaml.MappingNode {
		text = strings.TrimSuffix(strings.TrimPrefix(flow(Map{{first.key, value}}), "{"), "}")
	}
	if c := f.text[b.last-1]; len(in.Content) > 0 && c != ',' {
		text = ", " + text
	} else if len(in.Content) > 0 {
		text = " " + text
	}
	ways := []proposal{{{b.last, b.last, text}}}
	if len(in.Content) == 0 && len(t) > 0 && !t[:len(t)-1].flow() && t[len(t)-1].in.Style&yaml.FlowStyle == 0 {
		// An empty {} in block style says nothing of how the file is written: what comes into it may be a block.
		v := any([]any{value})
		if in.Kind == yaml.MappingNode {
			v = blockMap{{first.key, value}}
		}
		if block, err := f.replace(t, v); err == nil {
			ways = append(block, ways...)
		}
	}
	return ways, nil
}

// replace finds ways to put another value where the trail leads.
func (f *File) replace(t trail, value any) ([]proposal, error) {
	if len(t) == 0 {
		return nil, nil
	}
	h := t[len(t)-1]
	if t.flow() {
		end, ok := f.endOf(h.value, true)
		if !ok {
			return nil, nil
		}
		return []proposal{{{f.content(h.value), end, flow(value)}}}, nil
	}
	start, first, head, below := f.content(h.value), 0, "", []string(nil)
	r := renderer{f.style}
	if h.key != nil {
		at, ok := f.afterKey(h.key)
		if !ok {
			return nil, nil
		}
		indent := h.key.Column - 1
		pre := len(quote(h.key.Value, false)) + 1 + indent
		lines := r.entry(h.key.Value, value, indent)
		if after := f.content(h.value); len(lines) == 1 && h.value.Anchor != "" && f.lineOf(after) == h.key.Line-1 {
			at, lines[0] = after, lines[0][:pre]+strings.TrimPrefix(lines[0][pre:], " ")
		}
		start, first, head, below = at, h.key.Line-1, lines[0][pre:], lines[1:]
	} else {
		indent := h.in.Column - 1
		lines := r.items([]any{value}, indent)
		first, head, below = f.dash(h.in, h.value.Line-1), lines[0][indent+2:], lines[1:]
	}
	return f.swap(t, h, span{start, first}, head, below), nil
}

// span is where what is replaced begins: an offset, and the line of its key or dash.
type span struct{ start, line int }

// swap replaces a value in block style by the rest of its key's line and lines below it.
func (f *File) swap(t trail, h hop, at span, head string, below []string) []proposal {
	implicit := h.value.Kind == yaml.ScalarNode && h.value.Value == "" && h.value.ShortTag() == "!!null"
	end, ok := at.start, implicit
	if !implicit {
		end, ok = f.endOf(h.value, false)
	}
	if ok {
		next := f.lineOf(max(end-1, 0)) + 1
		return []proposal{{{at.start, end, head}, f.insertLines(next, below)}}
	}
	indent := h.in.Column
	if h.key != nil {
		indent = h.key.Column
	}
	last := f.tail(at.line, f.bound(t), indent)
	if h.key != nil && h.value.Kind != yaml.ScalarNode && h.value.Line-1 > at.line {
		lines := f.insertLines(at.line+1, below)
		lines.end = f.lines[last]
		return []proposal{{{at.start, at.start, head}, lines}}
	}
	text := strings.Join(append([]string{head}, below...), f.style.newline)
	return []proposal{{{at.start, f.endOfLine(last - 1), text}}}
}

// remove finds ways to take out the last hop of a trail.
func (f *File) remove(t trail) ([]proposal, error) {
	h := t[len(t)-1]
	size := 1
	if h.key != nil {
		size = 2
	}
	alone := len(h.in.Content) == size
	if h.in.Style&yaml.FlowStyle != 0 {
		return f.removeFlow(h, size)
	}
	if t.flow() {
		return nil, nil
	}
	begin := h.value
	if h.key != nil {
		begin = h.key
	}
	first := begin.Line - 1
	if h.key == nil {
		first = f.dash(h.in, first)
	}
	if alone {
		return f.removeAlone(t, h, first)
	}
	if start := f.offset(begin); h.key != nil && strings.TrimLeft(f.text[f.lines[first]:start], " ") != "" {
		// The first key of a list's entry stands behind the dash: the next one takes its place.
		next := f.offset(h.in.Content[h.index+1])
		if strings.Contains(f.text[start:next], "#") {
			return nil, f.refuse("", begin, "stands behind a dash and has a comment: take it out by hand")
		}
		return []proposal{{{start, next, ""}}}, nil
	}
	last := f.tail(first, f.bound(t), h.in.Column)
	return []proposal{
		{{f.lines[first], f.lines[last], ""}},
		{{f.lines[first], f.lines[f.bound(t)], ""}},
	}, nil
}

// removeAlone finds ways to take out the only entry of a block, which begins in line first: an empty one comes behind the
// key of the block, and the entry's lines go.
func (f *File) removeAlone(t trail, h hop, first int) ([]proposal, error) {
	var empty any = Map{}
	if h.key == nil {
		empty = []any{}
	}
	if len(t) == 1 {
		last := f.endOfLine(f.tail(h.in.Line-1, f.bound(t), 1) - 1)
		return []proposal{{{f.lines[h.in.Line-1], last, flow(empty)}}}, nil
	}
	of := t[len(t)-2].key
	if of == nil || of.Line-1 == first { // behind a dash
		return f.replace(t[:len(t)-1], empty)
	}
	at, ok := f.afterKey(of)
	if !ok {
		return nil, nil
	}
	for { // an anchor, a tag
		rest := strings.TrimLeft(f.text[at:], " \t")
		if rest[0] != '&' && rest[0] != '!' {
			break
		}
		at = len(f.text) - len(rest) + strings.IndexAny(rest, " \t\r\n")
	}
	head := splice{at, at, " " + flow(empty)}
	return []proposal{
		{head, {f.lines[first], f.lines[f.tail(first, f.bound(t), h.in.Column)], ""}},
		{head, {f.lines[first], f.lines[f.bound(t)], ""}},
	}, nil
}

// removeFlow finds ways to take an entry out of brackets. One that has lines of its own goes with them.
func (f *File) removeFlow(h hop, size int) ([]proposal, error) {
	first := h.index - size + 1 // of the entry: its key, or the value itself
	begin := h.in.Content[first]
	start := f.offset(begin)
	b, ok := f.bracket(f.content(h.in))
	if !ok {
		return nil, nil
	}
	from, to := start, b.last
	switch next := h.index + 1; {
	case next < len(h.in.Content):
		to = f.offset(h.in.Content[next])
	case first > 0:
		if from, ok = f.endOf(h.in.Content[first-1], true); !ok {
			return nil, nil
		}
		for f.text[to] == ' ' && strings.IndexByte(" ]}", f.text[to+1]) >= 0 {
			to++
		}
	}
	end, ok := f.endOf(h.value, true)
	if !ok {
		end = start // a value over several lines has no comment within it
	}
	if !strings.Contains(f.text[from:start], "#") && !strings.Contains(f.text[end:to], "#") {
		return []proposal{{{from, to, ""}}}, nil
	}
	line := f.lines[begin.Line-1]
	behind := strings.TrimLeft(f.text[end:f.endOfLine(f.lineOf(end))], " \t")
	behind = strings.TrimLeft(strings.TrimPrefix(behind, ","), " \t")
	switch {
	case ok && strings.TrimLeft(f.text[line:start], " \t") == "" && (behind == "" || behind[0] == '#'):
		return []proposal{{{line, f.lines[f.lineOf(end)+1], ""}}}, nil
	case ok && from != start && !strings.Contains(f.text[end:to], "#"):
		return []proposal{{{start, to, ""}}}, nil
	}
	return nil, f.refuse("", begin, "has a comment beside it that would go with it: take it out by hand")
}
