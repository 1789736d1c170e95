package main

import (
	"io"
	"strconv"
	"strings"
)

// screen redraws a picture in place at the end of a terminal's output.
type screen struct {
	w    io.Writer
	size func() (columns, rows int)
	last []int // columns of each line as drawn
}

// draw replaces the picture. The terminal may have another size than at the last call: lines that were wider than it is
// now have been wrapped and take more rows.
func (s *screen) draw(lines []string) {
	var b strings.Builder
	s.up(&b)
	s.last = s.last[:0]
	for _, line := range lines {
		b.WriteString(line + "\x1b[K\n")
		s.last = append(s.last, columns(unpainted(line)))
	}
	b.WriteString("\x1b[J")
	_, _ = io.WriteString(s.w, b.String())
}

// clear removes the picture.
func (s *screen) clear() {
	if len(s.last) > 0 {
		s.draw(nil)
	}
}

func (s *screen) up(b *strings.Builder) {
	width, _ := s.size()
	rows := 0
	for _, n := range s.last {
		rows += max(1, (n+width-1)/max(width, 1))
	}
	b.WriteString("\r")
	if rows > 0 {
		b.WriteString("\x1b[" + strconv.Itoa(rows) + "A")
	}
}
