package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"

	"trellis/driver"
	kinds "trellis/errdefs"
)

// Logs implements driver.Driver. A line of more than 16 KiB comes in pieces: this is how the engine keeps it.
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
		out, errs := &lines{to: w, stream: "stdout"}, &lines{to: w, stream: "stderr"}
		var err error
		if found.Container.Config.Tty {
			_, err = io.Copy(out, logs)
		} else {
			_, err = stdcopy.StdCopy(out, errs, logs)
		}
		logs.Close()
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

// lines turns the engine's "TIME TEXT" lines into LogLines.
type lines struct {
	to     io.Writer
	stream string
	rest   []byte
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, after, ok := bytes.Cut(l.rest, []byte{'\n'})
		if !ok {
			return len(p), nil
		}
		b, err := json.Marshal(lineOf(l.stream, line))
		if err != nil {
			return 0, err
		}
		l.rest = after
		if _, err := l.to.Write(append(b, '\n')); err != nil {
			return 0, err
		}
	}
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
