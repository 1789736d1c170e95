package shim

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"
)

// maxLine is where a long line is split.
const maxLine = 64 << 10

// output writes an instance's output into rotated files. It holds no line in memory but the one it is writing, so a
// program that writes faster than the disk waits.
type output struct {
	mu    sync.Mutex
	dir   string
	limit LogLimit
	file  *os.File // nil where a rotation left none, and after close
	size  int64
	buf   []byte
	lost  int // writes that failed
	over  bool
}

// openOutput opens the newest file of dir. A line that a crash has torn is ended first.
func openOutput(dir string, limit LogLimit) (*output, error) {
	if limit.MaxSize <= 0 {
		limit.MaxSize = DefaultLogSize
	}
	if limit.MaxFiles <= 0 {
		limit.MaxFiles = DefaultLogFiles
	}
	o := &output{dir: dir, limit: limit}
	if err := o.open(); err != nil {
		return nil, err
	}
	if o.size > 0 {
		last := make([]byte, 1)
		if _, err := o.file.ReadAt(last, o.size-1); err == nil && last[0] != '\n' {
			n, _ := o.file.Write([]byte{'\n'})
			o.size += int64(n)
		}
	}
	return o, nil
}

func (o *output) open() error {
	f, err := os.OpenFile(filepath.Join(o.dir, LogFile), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	o.file, o.size = f, info.Size()
	return nil
}

// say writes a line of the shim's own.
func (o *output) say(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.line(time.Now(), "system", fmt.Appendf(nil, format, args...))
	o.flush()
}

// copy writes what r has as lines of stream, until r ends or its deadline passes. What it has then is written too: a slow disk
// may have taken all the time that there was for a program's last words.
func (o *output) copy(r io.Reader, stream string) {
	buf := make([]byte, maxLine)
	have := 0
	for {
		n, err := r.Read(buf[have:])
		if n > 0 {
			have = o.lines(buf[:have+n], stream)
		}
		if pipe, ok := r.(*os.File); ok && errors.Is(err, os.ErrDeadlineExceeded) {
			if r, err = Rest(pipe); err == nil {
				continue
			}
		}
		if err != nil {
			break
		}
	}
	if have > 0 {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.line(time.Now(), stream, buf[:have])
		o.flush()
	}
}

// rest is what a pipe has.
type rest struct {
	pipe syscall.RawConn
	left int // to be read at most: whoever goes on writing could keep it for ever
}

// maxPipe is what a pipe holds at most, unless the machine allows more: fs.pipe-max-size.
const maxPipe = 1 << 20

// Rest reads what is in a pipe just now, whatever its deadline, and waits for nothing.
func Rest(pipe *os.File) (io.Reader, error) {
	raw, err := pipe.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &rest{pipe: raw, left: maxPipe}, nil
}

// Read implements io.Reader.
func (r *rest) Read(p []byte) (n int, err error) {
	failed := r.pipe.Control(func(fd uintptr) {
		for n, err = syscall.Read(int(fd), p[:min(len(p), r.left)]); errors.Is(err, syscall.EINTR); {
			n, err = syscall.Read(int(fd), p[:min(len(p), r.left)])
		}
	})
	if err = errors.Join(failed, err); err != nil || n < 1 { // nothing is there just now, or nobody writes any more
		return 0, io.EOF
	}
	r.left -= n
	return n, nil
}

// lines writes the whole lines of b, moves the rest to its beginning and returns how much that is.
func (o *output) lines(b []byte, stream string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	now, rest := time.Now(), b
	for {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			break
		}
		o.line(now, stream, rest[:end])
		rest = rest[end+1:]
	}
	if len(rest) == cap(b) { // a line as long as the buffer is split
		cut := len(rest)
		for i := 1; i < utf8.UTFMax; i++ {
			if tail := rest[len(rest)-i:]; utf8.RuneStart(tail[0]) {
				if !utf8.FullRune(tail) {
					cut -= i
				}
				break
			}
		}
		o.line(now, stream, rest[:cut])
		rest = rest[cut:]
	}
	o.flush()
	return copy(b, rest)
}

// line adds one line to what is to be written.
func (o *output) line(now time.Time, stream string, text []byte) {
	start := len(o.buf)
	o.buf = append(o.buf, `{"t":"`...)
	o.buf = now.UTC().AppendFormat(o.buf, time.RFC3339Nano)
	o.buf = append(o.buf, `","s":"`...)
	o.buf = append(o.buf, stream...)
	o.buf = append(o.buf, `","m":`...)
	o.buf = appendString(o.buf, text)
	o.buf = append(o.buf, '}', '\n')
	if o.size+int64(len(o.buf)) > o.limit.MaxSize && o.size+int64(start) > 0 {
		next := o.buf[start:]
		o.buf = o.buf[:start]
		kept := bytes.Clone(next)
		o.flush()
		o.rotate()
		o.buf = append(o.buf, kept...)
	}
	if len(o.buf) >= maxLine {
		o.flush()
	}
}

// flush writes what is to be written. A disk that is full loses lines; the loss is told when it is over.
func (o *output) flush() {
	if len(o.buf) == 0 || o.over {
		o.buf = o.buf[:0]
		return
	}
	if o.lost > 0 {
		lost := o.lost
		o.lost = 0
		text := "output was lost: " + strconv.Itoa(lost) + " writes to the log failed"
		rest := bytes.Clone(o.buf)
		o.buf = o.buf[:0]
		o.line(time.Now(), "system", []byte(text))
		o.buf = append(o.buf, rest...)
		if !o.put() {
			o.lost = lost + 1
		}
		return
	}
	if !o.put() {
		o.lost++
	}
}

func (o *output) put() bool {
	if o.file == nil && o.open() != nil {
		o.buf = o.buf[:0]
		return false
	}
	before := o.size
	n, err := o.file.Write(o.buf)
	o.size += int64(n)
	o.buf = o.buf[:0]
	if cap(o.buf) > 8*maxLine {
		o.buf = nil
	}
	if err != nil && n > 0 { // no torn line stays in the middle
		if o.file.Truncate(before) == nil {
			o.size = before
		}
	}
	return err == nil
}

// rotate makes room: log becomes log.1, and so on; the oldest goes. What follows is another file also where there is but one,
// so that a reader can end the one he has. Where that fails the file is emptied: the bound on the disk holds before the oldest
// lines do.
func (o *output) rotate() {
	path := filepath.Join(o.dir, LogFile)
	var err error
	if o.limit.MaxFiles == 1 {
		err = os.Remove(path)
	}
	for i := o.limit.MaxFiles - 1; i > 0 && err == nil; i-- {
		from := path
		if i > 1 {
			from = path + "." + strconv.Itoa(i-1)
		}
		err = os.Rename(from, path+"."+strconv.Itoa(i))
		if missing(err) {
			err = nil
		}
	}
	if err != nil && !missing(err) {
		_ = o.file.Truncate(0)
		o.size = 0
		return
	}
	o.file.Close()
	o.file, o.size = nil, 0 // the next write opens the new one
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flush()
	o.over = true
	if o.file != nil {
		o.file.Close()
		o.file = nil
	}
}

const hexDigits = "0123456789abcdef"

// appendString appends text as a JSON string. Bytes that are no UTF-8 become U+FFFD.
func appendString(b, text []byte) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' {
				i++
				continue
			}
			b = append(b, text[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\t':
				b = append(b, '\\', 't')
			case '\r':
				b = append(b, '\\', 'r')
			case '\n':
				b = append(b, '\\', 'n')
			default:
				b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size == 1 {
			b = append(b, text[start:i]...)
			b = append(b, `\ufffd`...)
			start = i + 1
		}
		i += size
	}
	b = append(b, text[start:]...)
	return append(b, '"')
}
