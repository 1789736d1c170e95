package load

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// Bounds of an answer's head. A chunk's size line and the trailers of a chunked body count as head.
const (
	firstBuffer = 4 << 10
	maxLine     = 64 << 10
	maxHead     = 256 << 10
	maxInstance = 100
)

// errMalformed is in every error about an answer that is not HTTP/1.
var errMalformed = errors.New("malformed answer")

// answer is what the instrument wants to know of a response. Its body is read and thrown away.
type answer struct {
	status   int
	bytes    int64 // of the body
	closes   bool  // the connection cannot carry another request
	marked   bool  // MarkerHeader is there
	queue    bool  // and says overloadKind
	instance []byte
}

// reader reads answers from one connection. It copies nothing and allocates only to grow its buffer.
type reader struct {
	source io.Reader
	buf    []byte
	r, w   int // buf[r:w] is read and not used yet
	head   int // bytes of the head so far
	begun  bool

	instanceHeader string   // in lower case
	instance       []byte   // storage of answer.instance
	tap            *capture // what a scenario wants to see of the next answer; nil for nothing
}

func (r *reader) reset(source io.Reader) {
	r.source, r.r, r.w = source, 0, 0
	if r.buf == nil {
		r.buf = make([]byte, firstBuffer)
	}
}

// read reads one answer to a request of that method. An error that is not errMalformed is the source's; broken tells
// whether an answer had begun by then.
func (r *reader) read(method string) (answer, error) {
	for {
		a, framing, err := r.readHead()
		if err != nil {
			return answer{}, err
		}
		switch {
		case a.status == http.StatusSwitchingProtocols:
			return a, fmt.Errorf("%w: protocol switch that was not asked for", errMalformed)
		case a.status < 200:
			continue // 100, 102 and 103 come before the answer
		case method == http.MethodHead, a.status == http.StatusNoContent, a.status == http.StatusNotModified:
		case framing.chunked:
			a.bytes, err = r.chunked()
		case framing.length >= 0:
			a.bytes = framing.length
			err = r.discard(framing.length)
		default:
			a.closes = true
			a.bytes, err = r.toEnd()
		}
		// What comes unasked belongs to no request: the connection is of no more use.
		a.closes = a.closes || r.r != r.w
		return a, err
	}
}

// broken says that at least one byte of an answer had come when read failed.
func (r *reader) broken() bool { return r.begun || r.w > r.r }

type framing struct {
	chunked bool
	coded   bool // Transfer-Encoding is there
	length  int64
	keep    bool
}

func (r *reader) readHead() (answer, framing, error) {
	r.head, r.begun = 0, false
	f := framing{length: -1}
	line, err := r.line()
	if err != nil {
		return answer{}, f, err
	}
	status, minor, ok := statusLine(line)
	if !ok {
		return answer{}, f, fmt.Errorf("%w: status line %.80q", errMalformed, line)
	}
	r.begun = true
	a := answer{status: status}
	if r.tap != nil {
		r.tap.reset()
	}
	for {
		if line, err = r.line(); err != nil {
			return a, f, noEOF(err)
		}
		if len(line) == 0 {
			break
		}
		if err := r.field(&a, &f, line); err != nil {
			return a, f, err
		}
	}
	if f.coded {
		if minor == 0 { // RFC 9112, 6.1: its framing is faulty
			return a, f, fmt.Errorf("%w: Transfer-Encoding in HTTP/1.0", errMalformed)
		}
		f.length = -1
	}
	a.closes = a.closes || minor == 0 && !f.keep
	return a, f, nil
}

// statusLine reads "HTTP/1.x SSS reason".
func statusLine(line []byte) (status int, minor byte, ok bool) {
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return 0, 0, false
	}
	if line[7] != '0' && line[7] != '1' {
		return 0, 0, false
	}
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return 0, 0, false
		}
		status = status*10 + int(c-'0')
	}
	return status, line[7] - '0', status >= 100
}

// field looks at one header line. Only the few names that matter are compared, by length first.
func (r *reader) field(a *answer, f *framing, line []byte) error {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 || line[0] == ' ' || line[0] == '\t' || line[colon-1] == ' ' || line[colon-1] == '\t' {
		return fmt.Errorf("%w: header line %.80q", errMalformed, line)
	}
	name := line[:colon]
	if r.tap != nil {
		r.tap.field(name, trim(line[colon+1:]))
	}
	switch colon {
	case len("Connection"):
		if is(name, "connection") {
			value := line[colon+1:]
			a.closes = a.closes || hasToken(value, "close")
			f.keep = f.keep || hasToken(value, "keep-alive")
		}
	case len("Content-Length"):
		if is(name, "content-length") {
			n, ok := length(trim(line[colon+1:]))
			if !ok || f.length >= 0 && f.length != n {
				return fmt.Errorf("%w: header line %.80q", errMalformed, line)
			}
			f.length = n
		}
	case len(MarkerHeader):
		if is(name, "x-trellis-error") {
			a.marked = true
			a.queue = string(trim(line[colon+1:])) == overloadKind
		}
	case len("Transfer-Encoding"):
		if is(name, "transfer-encoding") {
			f.coded, f.chunked = true, lastToken(line[colon+1:], "chunked")
		}
	}
	if colon == len(r.instanceHeader) && is(name, r.instanceHeader) {
		value := trim(line[colon+1:])
		r.instance = append(r.instance[:0], value[:min(len(value), maxInstance)]...)
		a.instance = r.instance
	}
	return nil
}

// chunked reads a chunked body with its trailers.
func (r *reader) chunked() (total int64, err error) {
	for {
		r.head = 0
		line, err := r.line()
		if err != nil {
			return total, noEOF(err)
		}
		size, ok := chunkSize(line)
		if !ok {
			return total, fmt.Errorf("%w: chunk size %.80q", errMalformed, line)
		}
		if size == 0 {
			break
		}
		if err := r.discard(size); err != nil {
			return total, err
		}
		total += size
		if line, err = r.line(); err != nil {
			return total, noEOF(err)
		}
		if len(line) != 0 {
			return total, fmt.Errorf("%w: %.80q behind a chunk", errMalformed, line)
		}
	}
	for {
		line, err := r.line()
		if err != nil {
			return total, noEOF(err)
		}
		if len(line) == 0 {
			return total, nil
		}
	}
}

// discard uses up n bytes.
func (r *reader) discard(n int64) error {
	for {
		have := int64(r.w - r.r)
		if r.tap != nil {
			_, _ = r.tap.Write(r.buf[r.r : r.r+int(min(n, have))])
		}
		if n <= have {
			r.r += int(n)
			return nil
		}
		n -= have
		r.r = r.w
		if err := r.fill(); err != nil {
			return noEOF(err)
		}
	}
}

// toEnd uses up everything until the other side closes.
func (r *reader) toEnd() (total int64, err error) {
	for {
		total += int64(r.w - r.r)
		if r.tap != nil {
			_, _ = r.tap.Write(r.buf[r.r:r.w])
		}
		r.r = r.w
		if err := r.fill(); err == io.EOF {
			return total, nil
		} else if err != nil {
			return total, err
		}
	}
}

// line returns the next line without its end. It is valid until the next call.
func (r *reader) line() ([]byte, error) {
	seen := 0
	for {
		if i := bytes.IndexByte(r.buf[r.r+seen:r.w], '\n'); i >= 0 {
			end := r.r + seen + i
			line := r.buf[r.r:end]
			r.head += end + 1 - r.r
			r.r = end + 1
			if r.head > maxHead {
				return nil, fmt.Errorf("%w: head longer than %d bytes", errMalformed, maxHead)
			}
			return bytes.TrimSuffix(line, []byte("\r")), nil
		}
		if seen = r.w - r.r; seen >= maxLine {
			return nil, fmt.Errorf("%w: line longer than %d bytes", errMalformed, maxLine)
		}
		if err := r.fill(); err != nil {
			if seen > 0 {
				err = noEOF(err)
			}
			return nil, err
		}
	}
}

// space is where the next bytes go when all that was read is used up.
func (r *reader) space() []byte {
	r.r, r.w = 0, 0
	return r.buf
}

// fill reads more behind what is there, which it may move.
func (r *reader) fill() error {
	if r.r == r.w {
		r.r, r.w = 0, 0
	}
	if r.w == len(r.buf) {
		if r.r > 0 {
			r.w = copy(r.buf, r.buf[r.r:r.w])
			r.r = 0
		} else {
			r.buf = append(r.buf, make([]byte, len(r.buf))...)
		}
	}
	for range 100 {
		n, err := r.source.Read(r.buf[r.w:])
		r.w += n
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// is compares without regard to case; lower is in lower case.
func is(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i, c := range name {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func trim(value []byte) []byte { return bytes.Trim(value, " \t") }

func hasToken(list []byte, token string) bool {
	for len(list) > 0 {
		item, rest, _ := bytes.Cut(list, []byte(","))
		if is(trim(item), token) {
			return true
		}
		list = rest
	}
	return false
}

func lastToken(list []byte, token string) bool {
	return is(trim(list[bytes.LastIndexByte(list, ',')+1:]), token)
}

func length(digits []byte) (n int64, ok bool) {
	if len(digits) == 0 || len(digits) > 18 {
		return 0, false
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// chunkSize reads a size in hexadecimal; an extension behind ";" is not looked at.
func chunkSize(line []byte) (n int64, ok bool) {
	line, _, _ = bytes.Cut(line, []byte(";"))
	line = trim(line)
	if len(line) == 0 || len(line) > 15 {
		return 0, false
	}
	for _, c := range line {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		n = n<<4 | int64(c)
	}
	return n, true
}
