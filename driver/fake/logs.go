package fake

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"trellis/driver"
	"trellis/errdefs"
)

// Logs is driver.Driver's.
func (d *Driver) Logs(ctx context.Context, id driver.ID, opt driver.LogOptions) (io.ReadCloser, error) {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	inst := d.w.get(id)
	if inst == nil {
		return nil, fmt.Errorf("logs of %s: %w", id, errdefs.ErrNotFound)
	}
	r := &reader{w: d.w, inst: inst, follow: opt.Follow, ctx: ctx, closed: make(chan struct{})}
	first := 0
	for first < len(inst.lines) && inst.lines[first].Time.Before(opt.Since) {
		first++
	}
	switch {
	case opt.Tail < 0:
		first = len(inst.lines)
	case opt.Tail > 0:
		first = max(first, len(inst.lines)-opt.Tail)
	}
	r.take(inst.lines[first:])
	return r, nil
}

// reader is one call of Logs.
type reader struct {
	w      *World
	inst   *instance
	follow bool
	ctx    context.Context // of the call that the reader is the result of
	once   sync.Once
	closed chan struct{}
	buf    bytes.Buffer
	next   int // of inst.lines
}

// take puts lines into the buffer. The caller holds the world's lock.
func (r *reader) take(lines []driver.LogLine) {
	enc := json.NewEncoder(&r.buf)
	for _, l := range lines {
		_ = enc.Encode(l) // plain data into memory
	}
	r.next = len(r.inst.lines)
}

func (r *reader) Read(p []byte) (int, error) {
	for r.buf.Len() == 0 {
		if !r.follow {
			return 0, io.EOF
		}
		r.w.mu.Lock()
		over, moved := r.inst.State == driver.Exited, r.inst.moved
		r.next = min(r.next, len(r.inst.lines))
		r.take(r.inst.lines[r.next:])
		r.w.mu.Unlock()
		if r.buf.Len() > 0 {
			break
		}
		if over {
			return 0, io.EOF
		}
		select {
		case <-moved:
		case <-r.closed:
			return 0, io.ErrClosedPipe
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
	return r.buf.Read(p)
}

func (r *reader) Close() error {
	r.once.Do(func() { close(r.closed) })
	return nil
}
