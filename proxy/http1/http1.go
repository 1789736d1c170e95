// Package http1 reads and writes the messages of HTTP/1.1 (RFC 9112), strictly: what two programs could read in two ways
// is refused, never repaired. It knows nothing of where messages come from or go to.
//
// Nothing is copied and, once buffers and slices have grown to what is usual, nothing is allocated. The strings of a
// parsed head point into the bytes that it was parsed from: they are valid for as long as those are left alone, and who
// keeps one for longer clones it.
package http1

import "unsafe"

// Limits of a message. Sizes are in bytes.
type Limits struct {
	Head   int // request line or status line, fields, and the empty line; the trailer's lines apart
	Fields int // field lines, those of the trailer apart
	Target int // of a request
}

// Error says why a message is refused, and the status to answer a request with.
type Error struct {
	Status int
	Detail string
}

func (e *Error) Error() string { return e.Detail }

func bad(detail string) *Error { return &Error{400, detail} }

// str returns b as a string that shares its bytes.
func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
