package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"

	"trellis/driver"
	kinds "trellis/errdefs"
)

// Logs implements driver.Driver. A line of more than 16 KiB is put together again: the engine keeps it in pieces.
func (d *Driver) Logs(ctx context.Context, id driver.ID, opt driver.LogOptions) (io.ReadCloser, error) {
	fail := func(err error) (io.ReadCloser, error) { return nil, fmt.Errorf("logs of %s: %w", id, kind(err)) }
	found, err := d.engine.api.ContainerInspect(ctx, containerName(id), client.ContainerInspectOptions{})
	if err != nil {
		return fail(err)
	}
	if found.Container.Config.Labels[labelState] != d.cfg.StateDir {
		return fail(fmt.Errorf("%w: it is not ours", kinds.ErrNotFound))
	}
	ask := client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true, Follow: opt.Follow, Tail: "all"}
	switch {
	case opt.Tail > 0:
		ask.Tail = strconv.Itoa(opt.Tail)
	case opt.Tail < 0:
		ask.Tail = "0"
	}
	if !opt.Since.IsZero() {
		ask.Since = fmt.Sprintf("%d.%09d", opt.Since.Unix(), opt.Since.Nanosecond())
	}
	logs, err := d.engine.api.ContainerLogs(ctx, found.Container.ID, ask)
	if err != nil {
		return fail(err)
	}
	if opt.Tail < 0 && !opt.Follow || opt.Since.After(time.Now()) && !opt.Follow {
		logs.Close()
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	r, w := io.Pipe()
	go func() {
		tty := found.Container.Config.Tty
		out, errs := &lines{to: w, stream: "stdout", framed: !tty}, &lines{to: w, stream: "stderr", framed: !tty}
		var err error
		if tty {
			_, err = io.Copy(out, logs)
		} else {
			_, err = stdcopy.StdCopy(out, errs, logs)
		}
		logs.Close()
		if err == nil {
			err = errors.Join(out.end(), errs.end())
		}
		w.CloseWithError(err) // nil: the end
	}()
	return &logReader{r, logs}, nil
}

// logReader ends the engine's stream when it is closed.
type logReader struct {
	*io.PipeReader
	logs io.Closer
}

// Close implements io.Closer.
func (r *logReader) Close() error {
	_ = r.PipeReader.Close()
	return r.logs.Close()
}

// maxLine is where a line is cut that does not end, in bytes: who draws a progress bar may never end one.
const maxLine = 64 << 10

// pieceSize is how much of a line the engine keeps at once, in bytes.
const pieceSize = 16 << 10

// lines turns the engine's "TIME TEXT" lines into LogLines.
type lines struct {
	to     io.Writer
	stream string
	framed bool      // each Write is a piece of a line: without a terminal the engine says where one begins
	rest   []byte    // of a line that has not ended, at most maxLine
	piece  int       // length of the text of the piece before, where they are framed
	at     time.Time // of the line before, or a part of it
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	rest := p
	if l.framed {
		var err error
		if rest, err = l.follow(p); err != nil {
			return 0, err
		}
	}
	for len(rest) > 0 {
		line, after, ended := bytes.Cut(rest, []byte{'\n'})
		if room := maxLine - len(l.rest); len(line) > room {
			cut := room
			for cut > max(0, room-utf8.UTFMax) && !utf8.RuneStart(line[cut]) {
				cut--
			}
			line, after, ended = line[:cut], rest[cut:], true
		}
		l.rest = append(l.rest, line...)
		if ended {
			if err := l.give(l.rest); err != nil {
				return 0, err
			}
			l.rest = l.rest[:0]
		}
		rest = after
	}
	return len(p), nil
}

// follow returns what of a piece is to be read: one that goes on where the one before was full is text alone. After one that was
// not, the program had ended, and what begins is a line of its next run.
func (l *lines) follow(p []byte) ([]byte, error) {
	_, text, _ := bytes.Cut(p, []byte{' '})
	full := l.piece == pieceSize
	l.piece = len(text)
	switch {
	case len(l.rest) == 0:
		return p, nil
	case full:
		return text, nil
	}
	return p, l.end()
}

// end hands on a line that was never ended: nothing follows it.
func (l *lines) end() error {
	if len(l.rest) == 0 {
		return nil
	}
	err := l.give(l.rest)
	l.rest = l.rest[:0]
	return err
}

// give hands on a line, or a part of one. A part without a time has that of the one before.
func (l *lines) give(line []byte) error {
	said := lineOf(l.stream, line)
	if said.Time.IsZero() {
		said.Time = l.at
	}
	l.at = said.Time
	b, err := json.Marshal(said)
	if err != nil {
		return err
	}
	_, err = l.to.Write(append(b, '\n'))
	return err
}

// lineOf reads one line.
func lineOf(stream string, line []byte) driver.LogLine {
	stamp, text, _ := bytes.Cut(line, []byte{' '})
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return driver.LogLine{Stream: stream, Text: string(line)}
	}
	return driver.LogLine{Time: at, Stream: stream, Text: string(bytes.TrimSuffix(text, []byte{'\r'}))}
}
