package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// table is text in columns. Cells may be painted: their width is what they show.
type table struct {
	head  []string
	rows  [][]string
	right map[int]bool // columns of numbers
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// write prints the table to w. A table without rows is its head alone.
func (t *table) write(w io.Writer, s style) error {
	_, err := io.WriteString(w, strings.Join(t.lines(s), "\n")+"\n")
	return err
}

// widths returns how wide each column is.
func (t *table) widths() []int {
	widths := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], columns(unpainted(cell)))
		}
	}
	return widths
}

func (t *table) lines(s style) []string {
	widths := t.widths()
	lines := []string{s.dim(t.line(t.head, widths))}
	for _, row := range t.rows {
		lines = append(lines, t.line(row, widths))
	}
	return lines
}

// wide is how wide the table is without its last columns.
func (t *table) wide(without int) int {
	sum := -2
	for _, w := range t.widths()[:len(t.head)-without] {
		sum += w + 2
	}
	return sum
}

// crop cuts the last column, which is not painted, so that the table is at most width wide.
func (t *table) crop(width int, s style) {
	room := max(width-t.wide(1)-2, 8)
	for _, row := range t.rows {
		row[len(row)-1] = s.fit(row[len(row)-1], room)
	}
}

// narrow leaves columns out until the table is at most width wide: the last ones first, and never the first keep ones.
func (t *table) narrow(width, keep int) {
	for len(t.head) > keep && t.wide(0) > width {
		t.head = t.head[:len(t.head)-1]
		for i, row := range t.rows {
			t.rows[i] = row[:len(t.head)]
		}
	}
}

func (t *table) line(row []string, widths []int) string {
	var b strings.Builder
	for i, cell := range row {
		fill := strings.Repeat(" ", widths[i]-columns(unpainted(cell)))
		if t.right[i] {
			b.WriteString(fill + cell + "  ")
		} else {
			b.WriteString(cell + fill + "  ")
		}
	}
	return strings.TrimRight(b.String(), " ")
}

// unpainted returns text without the colour sequences that style writes.
func unpainted(text string) string {
	for {
		start := strings.Index(text, "\x1b[")
		if start < 0 {
			return text
		}
		end := strings.IndexByte(text[start:], 'm')
		if end < 0 {
			return text
		}
		text = text[:start] + text[start+end+1:]
	}
}

// writeJSON prints v to standard output, indented for people.
func (p *program) writeJSON(v any) error {
	enc := json.NewEncoder(p.stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// writeJSONLine prints v to standard output as one line.
func (p *program) writeJSONLine(v any) error {
	enc := json.NewEncoder(p.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// orNull returns nil for a number or name that does not exist.
func orNull[V int | int64 | string](n V) *V {
	var none V
	if n == none {
		return nil
	}
	return &n
}

// orDash returns "-" for an empty cell.
func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// number writes n with its thousands apart: 18,204.
func number[N int | int64 | uint64](n N) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// bytesOf writes an amount of memory: "38.2 MiB".
func bytesOf(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}

// shortly writes a duration as people say it, in at most six characters: "0.4s", "12.4s", "3m20s", "2h05m", "4d03h".
func shortly(d time.Duration) string {
	switch {
	case d < 0:
		return "0.0s"
	case d < 100*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < 100*time.Minute:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// clock writes when something was: the time of day, and the day too where it is another than today.
func clock(t, now time.Time) string {
	t = t.Local()
	if t.Format(time.DateOnly) == now.Local().Format(time.DateOnly) {
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateTime)
}

// ago writes how long before now t was.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := now.Sub(t)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", max(int(d.Seconds()), 0))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	}
	return t.Local().Format("2006-01-02 15:04")
}
