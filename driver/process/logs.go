//go:build linux

package process

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"trellis/driver"
	"trellis/errdefs"
	"trellis/shim"
)

// Logs implements driver.Driver.
func (d *Driver) Logs(ctx context.Context, id driver.ID, opt driver.LogOptions) (io.ReadCloser, error) {
	r, err := d.logs(ctx, id, opt)
	if err != nil {
		return nil, fmt.Errorf("logs of %s: %w", id, err)
	}
	return r, nil
}

func (d *Driver) logs(ctx context.Context, id driver.ID, opt driver.LogOptions) (io.ReadCloser, error) {
	dir, err := d.directory(id)
	if err != nil {
		return nil, fmt.Errorf("%w: no such instance", errdefs.ErrNotFound)
	}
	if _, err := d.settled(dir); isMissing(err) {
		return nil, fmt.Errorf("%w: no such instance", errdefs.ErrNotFound)
	} else if err != nil {
		return nil, err
	}
	l := &logReader{d: d, dir: dir, opt: opt, done: make(chan struct{})}
	if opt.Follow {
		if l.wake, l.leave, err = d.wakes.follow(dir); err != nil {
			return nil, err
		}
	}
	if err := l.open(); err != nil {
		l.Close()
		return nil, err
	}
	l.unwatch = context.AfterFunc(ctx, func() { l.end(ctx.Err()) })
	return l, nil
}

// logReader reads the files of one instance from the oldest to the newest, and on.
type logReader struct {
	d     *Driver
	dir   string
	opt   driver.LogOptions
	wake  <-chan struct{} // with Follow: there may be more to read
	leave func()          // with Follow: wakes no more

	reading sync.Mutex // held by who reads the files, or closes them

	files []*os.File // still to be read, oldest first; the last one is or was the newest
	from  int64      // where in files[0] to begin
	in    *bufio.Reader
	part  []byte // of a line that is not yet whole
	out   []byte // what Read has still to give

	once    sync.Once
	done    chan struct{}
	cause   error
	unwatch func() bool
}

// open opens every file there is, so that rotation takes none away, and finds the beginning for Tail.
func (l *logReader) open() error {
	for again := 0; ; again++ {
		files, err := openLogs(l.dir)
		if err != nil {
			return err
		}
		// A rotation between two opens shows one file twice or hides one: then once more.
		if distinct(files) || again > 10 {
			l.files = files
			break
		}
		closeAll(files)
	}
	switch {
	case l.opt.Tail < 0:
		if n := len(l.files); n > 0 {
			closeAll(l.files[:n-1])
			l.files = l.files[n-1:]
			var err error
			l.from, err = l.files[0].Seek(0, io.SeekEnd)
			return err
		}
	case l.opt.Tail > 0:
		return l.tail(l.opt.Tail)
	}
	return nil
}

func openLogs(dir string) ([]*os.File, error) {
	var files []*os.File
	path := filepath.Join(dir, shim.LogFile)
	for i := 0; ; i++ {
		name := path
		if i > 0 {
			name += "." + strconv.Itoa(i)
		}
		f, err := os.Open(name)
		if isMissing(err) {
			if i == 0 {
				continue // between two renames, or before the first line
			}
			break
		}
		if err != nil {
			closeAll(files)
			return nil, err
		}
		files = append([]*os.File{f}, files...)
	}
	return files, nil
}

func distinct(files []*os.File) bool {
	for i := 1; i < len(files); i++ {
		a, err := files[i-1].Stat()
		b, err2 := files[i].Stat()
		if err != nil || err2 != nil || os.SameFile(a, b) {
			return false
		}
	}
	return true
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// tail leaves only the last n whole lines to be read, looking backwards from the newest.
func (l *logReader) tail(n int) error {
	for i := len(l.files) - 1; i >= 0; i-- {
		from, lines, err := lastLines(l.files[i], n)
		if err != nil {
			return err
		}
		n -= lines
		if n == 0 {
			closeAll(l.files[:i])
			l.files, l.from = l.files[i:], from
			_, err := l.files[0].Seek(from, io.SeekStart)
			return err
		}
	}
	return nil
}

// lastLines returns where the last n lines of f begin, and how many there are, at most n.
func lastLines(f *os.File, n int) (from int64, lines int, err error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, err
	}
	buf := make([]byte, 64<<10)
	ends := -1 // line ends seen; the first one ends the last line
	for pos := end; pos > 0; {
		size := min(int64(len(buf)), pos)
		pos -= size
		if _, err := f.ReadAt(buf[:size], pos); err != nil {
			return 0, 0, err
		}
		for i := size - 1; i >= 0; i-- {
			if buf[i] != '\n' {
				continue
			}
			if ends++; ends == n {
				_, err = f.Seek(0, io.SeekStart)
				return pos + i + 1, n, err
			}
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return 0, max(ends+1, 0), err
}

// Read gives whole lines. With Follow it waits for more until the instance has exited.
func (l *logReader) Read(p []byte) (int, error) {
	defer l.release()
	l.reading.Lock()
	defer l.reading.Unlock()
	for len(l.out) == 0 {
		select {
		case <-l.done:
			return 0, l.cause
		default:
		}
		more, err := l.line()
		if err != nil {
			return 0, err
		}
		if more {
			continue
		}
		if !l.opt.Follow {
			return 0, io.EOF
		}
		if err := l.wait(); err != nil {
			return 0, err
		}
	}
	n := copy(p, l.out)
	l.out = l.out[n:]
	return n, nil
}

// line takes the next line into out if it is to be given; false: there is none now.
func (l *logReader) line() (bool, error) {
	if l.in == nil {
		if len(l.files) == 0 {
			return false, nil
		}
		l.in = bufio.NewReaderSize(l.files[0], 32<<10)
	}
	b, err := l.in.ReadSlice('\n')
	l.part = append(l.part, b...)
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return true, nil
	case errors.Is(err, io.EOF):
		if len(l.files) == 1 {
			return false, nil
		}
		l.next() // an older file: nothing is added to it any more
		return true, nil
	case err != nil:
		return false, err
	}
	l.take()
	return true, nil
}

func (l *logReader) next() {
	l.files[0].Close()
	l.files, l.in, l.part = l.files[1:], nil, nil // a torn line stays away
}

// take decides on the line in part.
func (l *logReader) take() {
	line := l.part
	l.part = l.part[:0]
	var head struct {
		Time time.Time `json:"t"`
	}
	if !json.Valid(line) || len(bytes.TrimSpace(line)) < 2 {
		return // torn by a crash
	}
	if !l.opt.Since.IsZero() {
		if json.Unmarshal(line, &head) != nil || head.Time.Before(l.opt.Since) {
			return
		}
	}
	l.out = append(l.out[:0], line...)
}

// wait waits until there may be more to read. io.EOF: there will be no more.
func (l *logReader) wait() error {
	// The exit is looked for first: what was written before it is read after this.
	r, err := l.d.settled(l.dir)
	gone := isMissing(err)
	over := gone || err == nil && r.state == driver.Exited
	if len(l.files) == 0 {
		if l.files, err = openLogs(l.dir); err != nil {
			return err
		}
		if len(l.files) > 0 {
			return nil
		}
	} else if more, err := l.rotated(); err != nil || more {
		return err
	}
	if over {
		if more, err := l.line(); more || err != nil {
			return err
		}
		return io.EOF
	}
	again := time.NewTimer(time.Second)
	defer again.Stop()
	select {
	case <-l.wake:
	case <-again.C:
	case <-l.done:
		return l.cause
	}
	return nil
}

// rotated puts the files that came after the one being read behind it. Where that one is shorter than what was read of it,
// because a full disk tore its end or it could not be replaced, it goes on at its new end.
func (l *logReader) rotated() (bool, error) {
	current, err := l.files[0].Stat()
	if err != nil {
		return false, err
	}
	newest, err := os.Stat(filepath.Join(l.dir, shim.LogFile))
	if err != nil {
		return false, nil
	}
	if os.SameFile(newest, current) {
		at, err := l.files[0].Seek(0, io.SeekCurrent)
		if err == nil && current.Size() < at {
			_, err = l.files[0].Seek(current.Size(), io.SeekStart)
			l.in, l.part = nil, nil
		}
		return false, err
	}
	files, err := openLogs(l.dir)
	if err != nil {
		return false, err
	}
	for i, f := range files {
		if info, err := f.Stat(); err == nil && os.SameFile(info, current) {
			closeAll(files[:i+1])
			files = files[i+1:]
			break
		}
	}
	l.files = append(l.files[:1], files...)
	return len(l.files) > 1, nil
}

// Close ends the reader, also one that waits in Read.
func (l *logReader) Close() error {
	l.end(os.ErrClosed)
	if l.unwatch != nil {
		l.unwatch()
	}
	return nil
}

func (l *logReader) end(cause error) {
	l.once.Do(func() {
		l.cause = cause
		close(l.done)
		if l.leave != nil {
			l.leave()
		}
		l.release()
	})
}

// release closes the files of a reader that has ended. Where one is being read, that Read does it when it returns.
func (l *logReader) release() {
	select {
	case <-l.done:
	default:
		return
	}
	if l.reading.TryLock() {
		closeAll(l.files)
		l.files, l.in = nil, nil
		l.reading.Unlock()
	}
}
