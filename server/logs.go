package server

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"trellis/api"
	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
)

// Logs implements api.Operator. Without Follow the lines of all instances come in order of time; with it each instance's
// lines are in order.
func (c *control) Logs(ctx context.Context, req api.LogsRequest) (io.ReadCloser, error) {
	return merged(ctx, c.merger(req)), nil
}

func (s *sight) merger(req api.LogsRequest) *logMerger {
	return &logMerger{observe: s.of.observe, engine: s.engine, project: s.project, changed: s.changed.next, req: req}
}

// merged returns what m reads, until it is closed.
func merged(ctx context.Context, m *logMerger) io.ReadCloser {
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	m.out = bufio.NewWriterSize(w, logBatch)
	go func() {
		defer cancel()
		if m.req.Follow {
			_ = w.CloseWithError(m.follow(ctx))
			return
		}
		_ = w.CloseWithError(m.all(ctx))
	}()
	return pipeCloser{r, cancel}
}

// Lines are handed on so many bytes at a time: one by one each would be a packet and a wake-up of everybody on its way.
// While it follows, a line waits no longer than logPause.
const (
	logBatch = 32 << 10
	logPause = 20 * time.Millisecond
)

type pipeCloser struct {
	*io.PipeReader
	cancel func()
}

func (p pipeCloser) Close() error {
	p.cancel()
	return p.PipeReader.Close()
}

// logMerger reads the output of a project's instances.
type logMerger struct {
	observe func(context.Context) (engine.State, error)
	engine  engine.Engine
	project string
	changed func() <-chan struct{} // closed when there may be other instances
	req     api.LogsRequest

	mu  sync.Mutex
	out *bufio.Writer
}

// source is one instance whose output is asked for.
type source struct {
	service  string
	id       engine.InstanceID
	revision int64
	exited   bool
	pending  bool // there may be no output yet
}

// sources returns the instances asked for that are there now.
func (m *logMerger) sources(ctx context.Context) ([]source, error) {
	s, err := m.observe(ctx)
	if err != nil {
		return nil, err
	}
	var found []source
	for _, svc := range s.Services {
		if len(m.req.Services) > 0 && !slices.Contains(m.req.Services, svc.Name) {
			continue
		}
		for _, in := range svc.Instances {
			if m.req.Instance != "" && in.ID != m.req.Instance || m.req.Revision != 0 && in.Revision != m.req.Revision {
				continue
			}
			found = append(found, source{svc.Name, in.ID, in.Revision, in.State == engine.InstanceExited, in.State == engine.InstancePending})
		}
	}
	return found, nil
}

// lines calls fn for each line of one instance. One that is gone: ErrNotFound.
func (m *logMerger) lines(ctx context.Context, s source, opt driver.LogOptions, fn func(api.LogLine) error) error {
	r, err := m.engine.Logs(ctx, m.project, s.id, opt)
	if err != nil {
		return err
	}
	defer r.Close()
	stop := context.AfterFunc(ctx, func() { _ = r.Close() })
	defer stop()
	for dec := json.NewDecoder(r); ; {
		var line driver.LogLine
		switch err := dec.Decode(&line); {
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return err
		}
		err := fn(api.LogLine{Time: line.Time, Service: s.service, Instance: s.id, Stream: line.Stream, Text: line.Text})
		if err != nil {
			return err
		}
	}
}

// hides says whether err keeps output of s away that there is.
func (s source) hides(err error) bool {
	return err != nil && !s.pending && !errors.Is(err, errdefs.ErrNotFound)
}

// unread is the line that stands in place of output that could not be read.
func unread(s source, err error) api.LogLine {
	return api.LogLine{Time: time.Now(), Service: s.service, Instance: s.id, Stream: "system", Text: "its output cannot be read: " + err.Error()}
}

func (m *logMerger) write(line api.LogLine) error {
	b, err := json.Marshal(line)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	_, err = m.out.Write(append(b, '\n'))
	return err
}

func (m *logMerger) all(ctx context.Context) error {
	sources, err := m.sources(ctx)
	if err != nil {
		return err
	}
	var lines []api.LogLine
	for _, s := range sources {
		collect := func(l api.LogLine) error { lines = append(lines, l); return nil }
		opt := driver.LogOptions{Tail: m.req.Tail, Since: m.req.Since}
		err := m.lines(ctx, s, opt, collect)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if s.hides(err) {
			lines = append(lines, unread(s, err))
		}
	}
	slices.SortStableFunc(lines, func(a, b api.LogLine) int { return cmp.Compare(a.Time.UnixNano(), b.Time.UnixNano()) })
	for _, line := range lines {
		if err := m.write(line); err != nil {
			return err
		}
	}
	return m.flush()
}

// flush hands on what is waiting.
func (m *logMerger) flush() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.out.Flush()
}

// handOn flushes again and again until ctx is done or nobody reads any more.
func (m *logMerger) handOn(ctx context.Context) {
	tick := time.NewTicker(logPause)
	defer tick.Stop()
	for m.flush() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// follow joins each instance as it appears, and again when it is started again, and goes on until ctx is done.
func (m *logMerger) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { m.handOn(ctx) })
	var mu sync.Mutex
	joined := map[engine.InstanceID]*reading{}
	for {
		next := m.changed()
		sources, err := m.sources(ctx)
		if err != nil {
			return err
		}
		for _, s := range sources {
			mu.Lock()
			r := joined[s.id]
			if r == nil {
				r = &reading{since: m.req.Since, tail: m.req.Tail}
				joined[s.id] = r
			} else if r.active || s.exited {
				mu.Unlock()
				continue
			}
			r.active = true
			mu.Unlock()
			running.Go(func() {
				next := m.read(ctx, s, *r)
				mu.Lock()
				*r = next
				mu.Unlock()
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-next:
		}
	}
}

// reading is how far one instance's output was read.
type reading struct {
	active bool
	since  time.Time
	tail   int
	failed string // why it could not be read, which is said once
}

// read writes one instance's lines until it exits, and returns from where to go on.
func (m *logMerger) read(ctx context.Context, s source, from reading) reading {
	next := from
	next.active = false
	opt := driver.LogOptions{Follow: true, Tail: from.tail, Since: from.since}
	err := m.lines(ctx, s, opt, func(l api.LogLine) error {
		next.since, next.tail = l.Time.Add(time.Nanosecond), 0
		return m.write(l)
	})
	switch {
	case err == nil:
		next.tail = 0
	case ctx.Err() == nil && s.hides(err) && err.Error() != from.failed:
		next.failed = err.Error()
		_ = m.write(unread(s, err)) // whoever reads no more needs none
	}
	return next
}
