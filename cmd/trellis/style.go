package main

import (
	"io"
	"os"
	"strings"
	"unicode"

	"golang.org/x/term"
	"golang.org/x/text/width"

	"trellis/lazyregexp"
)

// style says how text may look where it is written to. Its zero value is plain text.
type style struct {
	color bool
	ascii bool // no glyphs beyond ASCII
}

// styleOf returns the style of w: colours only on a terminal, and never with NO_COLOR or a dumb one.
func (p *program) styleOf(w io.Writer) style {
	locale := p.getenv("LC_ALL")
	if locale == "" {
		locale = p.getenv("LC_CTYPE")
	}
	if locale == "" {
		locale = p.getenv("LANG")
	}
	return style{
		color: terminal(w) && p.getenv("NO_COLOR") == "" && p.getenv("TERM") != "dumb",
		ascii: locale == "C" || locale == "POSIX",
	}
}

func (s style) paint(code, text string) string {
	if !s.color || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s style) red(text string) string    { return s.paint("31", text) }
func (s style) green(text string) string  { return s.paint("32", text) }
func (s style) yellow(text string) string { return s.paint("33", text) }
func (s style) cyan(text string) string   { return s.paint("36", text) }
func (s style) bold(text string) string   { return s.paint("1", text) }
func (s style) dim(text string) string    { return s.paint("2", text) }

// glyph returns the first, or the second where only ASCII can be shown.
func (s style) glyph(fancy, plain string) string {
	if s.ascii {
		return plain
	}
	return fancy
}

// terminal says whether v, a stream, is a terminal.
func terminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// sizeOf returns the size of the terminal w in characters; 80 by 24 where it cannot be told.
func sizeOf(w io.Writer) (columns, rows int) {
	if f, ok := w.(*os.File); ok {
		if c, r, err := term.GetSize(int(f.Fd())); err == nil && c > 0 && r > 0 {
			return c, r
		}
	}
	return 80, 24
}

// columns returns how many columns of a terminal text takes.
func columns(text string) int {
	n := 0
	for _, r := range text {
		n += runeColumns(r)
	}
	return n
}

func runeColumns(r rune) int {
	if unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf) {
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// fit cuts text to at most n columns, with an ellipsis where something is cut.
func (s style) fit(text string, n int) string {
	if columns(text) <= n {
		return text
	}
	mark := s.glyph("…", "~")
	if n <= 1 {
		return mark[:min(len(mark), max(n, 0)*len(mark))]
	}
	var b strings.Builder
	used := 0
	for _, r := range text {
		if used+runeColumns(r) > n-1 {
			break
		}
		b.WriteRune(r)
		used += runeColumns(r)
	}
	return strings.TrimRight(b.String(), " ") + mark
}

// pad fills text with spaces up to n columns.
func pad(text string, n int) string {
	return text + strings.Repeat(" ", max(n-columns(text), 0))
}

// sequences are what moves a terminal's cursor, colours its text or sets its title.
var sequences = lazyregexp.New(`\x1b(\[[0-9;:?<=>]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\^_])`)

// colours are the sequences that colour text and do nothing else.
var colours = lazyregexp.New(`\x1b\[[0-9;:]*m`)

// coloured makes what a program wrote safe for a terminal: what colours it stays, and ends with it; what moves the cursor, sets the title,
// or has the terminal do anything else does not.
func coloured(text string) string {
	var b strings.Builder
	rest := 0
	painted := colours.FindAllStringIndex(text, -1)
	for _, at := range painted {
		b.WriteString(harmless(text[rest:at[0]]) + text[at[0]:at[1]])
		rest = at[1]
	}
	b.WriteString(harmless(text[rest:]))
	if len(painted) > 0 {
		b.WriteString("\x1b[0m")
	}
	return b.String()
}

// harmless takes out of text what a terminal carries out; lines and tabs stay.
func harmless(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, sequences.ReplaceAllString(text, ""))
}

// printable is text that somebody else wrote as w may get it: a terminal carries nothing of it out, a file gets all of it.
func printable(w io.Writer, text string) string {
	if terminal(w) {
		return coloured(text)
	}
	return text
}

// oneLine makes text that somebody else wrote safe for one line of a terminal: no control characters, no line breaks.
func oneLine(text string) string {
	text = sequences.ReplaceAllString(text, "")
	clean := strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, text)
	return strings.Join(strings.Fields(clean), " ")
}
