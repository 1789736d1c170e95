package compose

import (
	"fmt"
	"strings"
)

// Diagnostic is one thing to say about a file: an error or a warning, at the place that supplied the winning value.
type Diagnostic struct {
	File    string `json:"file"` // relative to the working directory where that is shorter
	Line    int    `json:"line"` // from 1; 0 where no line can be named
	Column  int    `json:"column"`
	Path    string `json:"path"`    // "services.web.ports[0].target"
	Message string `json:"message"` // what is wrong, and what to do
}

// String returns "file:line:column: path: message".
func (d Diagnostic) String() string {
	var b strings.Builder
	if d.File != "" {
		b.WriteString(d.File)
		if d.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", d.Line, d.Column)
		}
		b.WriteString(": ")
	}
	if d.Path != "" {
		b.WriteString(d.Path)
		b.WriteString(": ")
	}
	b.WriteString(d.Message)
	return b.String()
}

// Diagnostics is the error that Load returns: everything that is wrong with the files, in order of place. Package
// errdefs counts it as ErrInvalid.
type Diagnostics []Diagnostic

// Error returns one line per diagnostic.
func (d Diagnostics) Error() string {
	lines := make([]string, len(d))
	for i := range d {
		lines[i] = d[i].String()
	}
	return strings.Join(lines, "\n")
}

// Invalid tells package errdefs the kind of d.
func (d Diagnostics) Invalid() bool { return true }
