package http1

import (
	"bytes"
	"errors"
	"io"
)

// Body reads the body of a message from the Reader that its head was read from. It is an io.Reader.
type Body struct {
	r      *Reader
	limits Limits
	left   int64 // of the body, or of the chunk; -1 until the connection's end
	state  bodyState
	err    error

	trailer Header
	trailed int // bytes of its lines
}

type bodyState uint8

const (
	plainBody bodyState = iota
	chunkHead
	chunkData
	chunkTail
	trailerPart
	ended
)

// Init makes b the body of a message, read from r; length is -1 when it is not known, and then chunked says how it ends.
// A response's body that is neither of known length nor chunked lasts until the connection's end.
func (b *Body) Init(r *Reader, length int64, chunked bool, l Limits) {
	*b = Body{r: r, left: length, limits: l, trailer: b.trailer[:0]}
	switch {
	case chunked:
		b.state, b.left = chunkHead, 0
	case length == 0:
		b.state, b.err = ended, io.EOF
	}
}

// Ended says whether the body was read to its end.
func (b *Body) Ended() bool { return b.state == ended }

// Trailer returns the fields after a chunked body, once Read has returned io.EOF. Their strings are the caller's.
func (b *Body) Trailer() Header { return b.trailer }

// Ready says whether Read would return something without waiting for the sender.
func (b *Body) Ready() bool {
	if b.err != nil {
		return true
	}
	in := b.r.buf[b.r.r:b.r.w]
	switch b.state {
	case chunkTail:
		if len(in) < 2 || in[0] != '\r' || in[1] != '\n' {
			return len(in) > 1 || len(in) > 0 && in[0] != '\r'
		}
		return chunkReady(in[2:])
	case chunkHead:
		return chunkReady(in)
	case trailerPart:
		return trailerReady(in)
	}
	return len(in) > 0
}

// chunkReady says whether in, which begins with a chunk's head, has something of the chunk too, or of what is wrong.
func chunkReady(in []byte) bool {
	if !headBegins(in) {
		return true
	}
	end := bytes.IndexByte(in, '\n')
	if end < 0 {
		return false
	}
	for _, c := range in[:end] {
		if c != '0' {
			if c == '\r' || c == ';' {
				return trailerReady(in[end+1:])
			}
			break
		}
	}
	return len(in) > end+1
}

// trailerReady says whether in has a whole trailer.
func trailerReady(in []byte) bool {
	return len(in) > 1 && in[0] == '\r' || bytes.Contains(in, []byte("\r\n\r\n"))
}

// AtHand says whether all of the body's rest was read already; it may say no of one that is chunked.
func (b *Body) AtHand() bool {
	return b.state == ended || b.state == plainBody && b.left >= 0 && int64(b.r.w-b.r.r) >= b.left
}

// Gather reads until all of the body's rest was read, if it is of known length, so that Whole has it: the Reader's buffer grows to
// the body's size. io.ErrUnexpectedEOF says that the connection ended before. After an error Read still has what came.
func (b *Body) Gather() error {
	for b.state == plainBody && b.left > int64(b.r.w-b.r.r) {
		if err := b.r.Fill(); err == io.EOF {
			return io.ErrUnexpectedEOF
		} else if err != nil {
			return err
		}
	}
	return nil
}

// Whole returns all of the body's rest, if it is of known length and was read already: the bytes are valid until the
// Reader's next Fill or Release. ok is false otherwise, and nothing has happened.
func (b *Body) Whole() (rest []byte, ok bool) {
	if b.state != plainBody || b.left < 0 || int64(b.r.w-b.r.r) < b.left {
		return nil, b.state == ended && b.err == io.EOF
	}
	rest = b.r.buf[b.r.r : b.r.r+int(b.left)]
	b.r.r += int(b.left)
	b.left = 0
	b.state, b.err = ended, io.EOF
	return rest, true
}

// Read reads a part of the body. io.EOF is its end as the sender meant it. An *Error says that what comes is no chunked
// body; io.ErrUnexpectedEOF that the connection ended too early.
func (b *Body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.next(p)
	if err != nil {
		if err == io.EOF && b.state != ended {
			if b.state == plainBody && b.left < 0 {
				b.state = ended
			} else {
				err = io.ErrUnexpectedEOF
			}
		}
		b.err = err
	}
	if n > 0 { // the error is for the next call
		return n, nil
	}
	return 0, err
}

func (b *Body) next(p []byte) (int, error) {
	for {
		switch b.state {
		case plainBody, chunkData:
			if len(p) == 0 {
				return 0, nil
			}
			return b.data(p)
		case ended:
			return 0, io.EOF
		}
		done, err := b.step()
		if err != nil {
			return 0, err
		}
		if !done {
			if err := b.r.Fill(); err != nil {
				return 0, err
			}
		}
	}
}

// data reads bytes of the body: those that are buffered, else straight from the source where there are many to come.
func (b *Body) data(p []byte) (int, error) {
	if b.left >= 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	r := b.r
	n := copy(p, r.buf[r.r:r.w])
	r.r += n
	var err error
	if n == 0 {
		r.drop()
		n, err = r.src.Read(p)
	}
	if b.left >= 0 {
		b.left -= int64(n)
	}
	switch {
	case b.left != 0:
	case b.state == chunkData:
		b.state, err = chunkTail, nil
	default:
		b.state, err = ended, io.EOF
	}
	return n, err
}

// step reads what is between the data of a chunked body: false when more has to be read for it.
func (b *Body) step() (bool, error) {
	in := b.r.buf[b.r.r:b.r.w]
	if b.state == chunkTail {
		if len(in) > 0 && in[0] != '\r' || len(in) > 1 && in[1] != '\n' {
			return false, bad("no line end after a chunk")
		}
		if len(in) < 2 {
			return false, nil
		}
		b.r.r += 2
		b.state = chunkHead
		return true, nil
	}
	limit := maxChunkLine
	if b.state == trailerPart {
		limit = b.limits.Head - b.trailed
	}
	l, next, err := line(in, 0)
	if err != nil {
		return false, err
	}
	if next == 0 {
		if len(in) > limit {
			return false, &Error{431, "chunk head or trailer too large"}
		}
		if n := len(in); n > 0 && in[n-1] == '\r' {
			in = in[:n-1]
		}
		if !text(in) || b.state == chunkHead && !headBegins(in) {
			return false, bad("malformed chunk size")
		}
		return false, nil
	}
	if len(l) > limit {
		return false, &Error{431, "chunk head or trailer too large"}
	}
	if b.state == chunkHead {
		if err := b.chunkHead(l); err != nil {
			return false, err
		}
		b.r.r += next
		return true, nil
	}
	if err := b.trailerLine(l); err != nil {
		return false, err
	}
	b.r.r += next
	return true, nil
}

// maxChunkLine bounds a chunk's size and extensions: a sender of small chunks with long extensions makes work only.
const maxChunkLine = 256

func (b *Body) chunkHead(l []byte) *Error {
	n := 0
	var size int64
	for n < len(l) {
		v, ok := Hex(l[n])
		if !ok {
			break
		}
		if n == 15 {
			return bad("chunk size too large")
		}
		size = size<<4 | int64(v)
		n++
	}
	if n == 0 || !extensions(l[n:]) {
		return bad("malformed chunk size")
	}
	b.left = size
	b.state = chunkData
	if size == 0 {
		b.state = trailerPart
	}
	return nil
}

// headBegins says whether in may be the beginning of a chunk's head.
func headBegins(in []byte) bool {
	n := 0
	for n < len(in) && n < 16 {
		if _, ok := Hex(in[n]); !ok {
			break
		}
		n++
	}
	return n == len(in) || n > 0 && (in[n] == ';' || in[n] == '\r')
}

// Hex returns the value of a hexadecimal digit in either case; ok is false for anything else.
func Hex(c byte) (v byte, ok bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// extensions says whether l is a list of chunk extensions (RFC 9112, section 7.1.1), without the white space that the
// grammar calls bad. They mean nothing to anyone known and do not go on.
func extensions(l []byte) bool {
	for len(l) > 0 {
		if l[0] != ';' {
			return false
		}
		l = l[1:]
		n := tokenLength(l)
		if n == 0 {
			return false
		}
		if l = l[n:]; len(l) == 0 || l[0] != '=' {
			continue
		}
		l = l[1:]
		if len(l) > 0 && l[0] == '"' {
			n = quotedLength(l)
		} else {
			n = tokenLength(l)
		}
		if n == 0 {
			return false
		}
		l = l[n:]
	}
	return true
}

func tokenLength(l []byte) int {
	n := 0
	for n < len(l) && class[l[n]]&token != 0 {
		n++
	}
	return n
}

// quotedLength returns the length of the quoted string at the start of l, 0 when there is none.
func quotedLength(l []byte) int {
	for i := 1; i < len(l); i++ {
		switch {
		case l[i] == '"':
			return i + 1
		case l[i] == '\\':
			i++
			if i == len(l) {
				return 0
			}
		}
		if class[l[i]]&inText == 0 {
			return 0
		}
	}
	return 0
}

// InTrailer says whether the field has a place after a body: those that say something about framing, routing or the
// connection have none (RFC 9110, section 6.5.1).
func (f *Field) InTrailer() bool {
	return f.Kind == Other && !f.Is("Authorization") && !f.Is("Content-Encoding") && !f.Is("Content-Type") && !f.Is("Cookie")
}

// trailerLine reads one line after the last chunk.
func (b *Body) trailerLine(l []byte) error {
	if len(l) == 0 {
		b.state = ended
		return nil
	}
	if len(b.trailer) == b.limits.Fields {
		return &Error{431, "too many trailer fields"}
	}
	f, err := parseField(l)
	if err != nil {
		return err
	}
	if !f.InTrailer() {
		return bad("a field that has no place in a trailer")
	}
	b.trailed += len(l)
	b.trailer = append(b.trailer, Field{string(bytes.Clone([]byte(f.Name))), string([]byte(f.Value)), f.Kind})
	return nil
}

// Malformed says whether an error of Body.Read or of a parser is about what was sent, and not about a connection.
func Malformed(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}
