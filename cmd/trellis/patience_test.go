package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// restarted is a control plane that is away now and then. It tells a status each time it is watched.
type restarted struct {
	api.Control
	quiet, away time.Duration // how long it has nothing new to tell, and how long it is away after that
	seen        int64
	gone        time.Time
}

func (r *restarted) Watch(ctx context.Context, fn func(api.Status) error) error {
	if !r.gone.IsZero() && time.Since(r.gone) < r.away {
		return fmt.Errorf("watch: %w", errdefs.ErrUnavailable)
	}
	r.seen++
	if err := fn(api.Status{State: engine.State{Revision: r.seen}}); err != nil {
		return err
	}
	select {
	case <-time.After(r.quiet):
	case <-ctx.Done():
		return ctx.Err()
	}
	r.gone = time.Now()
	return fmt.Errorf("watch: %w", errdefs.ErrUnavailable)
}

// TestAControlPlaneIsWaitedFor: what counts is how long it is away, and not how long ago it had something new to tell.
func TestAControlPlaneIsWaitedFor(t *testing.T) {
	for name, c := range map[string]struct {
		quiet, away time.Duration
		back        bool
	}{
		"at once":              {time.Second, time.Second, true},
		"after a long silence": {time.Hour, time.Second, true},
		"not for ever":         {time.Second, time.Minute, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				told, ended := statuses(ctx, &restarted{quiet: c.quiet, away: c.away})
				<-told
				select {
				case s := <-told:
					if !c.back || s.Revision != 2 {
						t.Errorf("it tells of %d", s.Revision)
					}
				case err := <-ended:
					if c.back {
						t.Errorf("it is given up: %v", err)
					}
				}
			})
		})
	}
}

// interrupter is a control plane that is restarted after each line of output, and notes what it was asked.
type interrupter struct {
	api.Control
	lines []string // each of one answer; "" is an answer without any
	asked []api.LogsRequest
	cause error
}

func (c *interrupter) Logs(_ context.Context, req api.LogsRequest) (io.ReadCloser, error) {
	c.asked = append(c.asked, req)
	if len(c.lines) == 0 {
		return nil, fmt.Errorf("read output: %w: the disk is gone", errdefs.ErrInvalid)
	}
	line := c.lines[0]
	c.lines = c.lines[1:]
	if line == "away" {
		return nil, api.ErrUnreachable
	}
	return io.NopCloser(io.MultiReader(strings.NewReader(line), iotest.ErrReader(c.cause))), nil
}

func stays(context.Context) bool { return false }

// TestFollowingEndsWithTheProject: what was taken down is not waited for.
func TestFollowingEndsWithTheProject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const one = `{"time":"2026-11-23T12:00:01Z","service":"web","instance":"web-1-a","text":"one"}` + "\n"
		gone := func(context.Context) bool { return true }
		began := time.Now()
		var out bytes.Buffer
		p := &program{stdout: &out, now: time.Now}
		c := &interrupter{cause: io.ErrUnexpectedEOF, lines: []string{one}}
		if err := p.showLogs(t.Context(), c, gone, api.LogsRequest{Follow: true}, logStyle{}); err != nil || out.String() != "one\n" {
			t.Errorf("output: %v, %q", err, out.String())
		}
		if err := p.showEvents(t.Context(), &told{}, gone, state.EventFilter{}, true, true); err != nil {
			t.Errorf("events: %v", err)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("it was waited for %s", took)
		}
	})
}

// TestFollowedOutputGoesOn: the output of what runs is followed past the end of a control plane, from the newest line on.
func TestFollowedOutputGoesOn(t *testing.T) {
	const one, two = `{"time":"2026-11-23T12:00:01Z","service":"web","instance":"web-1-a","text":"one"}`, `{"time":"2026-11-23T12:00:02Z","service":"web","instance":"web-1-a","text":"two"}`
	const gone = `{"time":"2026-11-23T12:00:09Z","stream":"system","text":"output ends early"}`
	for name, cause := range map[string]error{"cut off": io.ErrUnexpectedEOF, "ended in order": io.EOF} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &interrupter{cause: cause, lines: []string{one + "\n" + gone + "\n" + two[:20], "away", gone + "\n", two + "\n"}}
				if cause == io.EOF {
					c.lines[0] = one + "\n" + gone + "\n"
				}
				var out bytes.Buffer
				p := &program{stdout: &out, now: time.Now}
				err := p.showLogs(t.Context(), c, stays, api.LogsRequest{Follow: true, Tail: 10}, logStyle{})
				if !errors.Is(err, errdefs.ErrInvalid) || out.String() != "one\noutput ends early\ntwo\n" {
					t.Errorf("%v, %q", err, out.String())
				}
				if len(c.asked) != 5 || c.asked[0].Tail != 10 || c.asked[3].Tail != 0 || c.asked[3].Since.Format(time.RFC3339Nano) != "2026-11-23T12:00:01.000000001Z" {
					t.Errorf("asked %+v", c.asked)
				}
			})
		})
	}
	c := &interrupter{cause: io.EOF, lines: []string{one + "\n"}}
	var out bytes.Buffer
	if err := (&program{stdout: &out}).showLogs(t.Context(), c, stays, api.LogsRequest{}, logStyle{}); err != nil || len(c.asked) != 1 {
		t.Errorf("what is not followed: %v, asked %d times", err, len(c.asked))
	}
	c = &interrupter{cause: io.ErrUnexpectedEOF, lines: []string{one + "\n"}}
	if err := (&program{stdout: &out}).showLogs(t.Context(), c, stays, api.LogsRequest{}, logStyle{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("what is not followed and cut off: %v", err)
	}
}

// told is a control plane that is restarted after each event.
type told struct {
	api.Control
	asked []state.EventFilter
}

func (e *told) Events(_ context.Context, f state.EventFilter, _ bool, fn func(state.Event) error) error {
	e.asked = append(e.asked, f)
	if len(e.asked) == 3 {
		return errdefs.ErrInvalid
	}
	if err := fn(state.Event{Time: fixedNow().Add(time.Duration(len(e.asked)) * time.Second)}); err != nil {
		return err
	}
	return api.ErrUnreachable
}

func TestFollowedEventsGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		c := &told{}
		err := (&program{stdout: &out}).showEvents(t.Context(), c, stays, state.EventFilter{Limit: 5}, true, true)
		if !errors.Is(err, errdefs.ErrInvalid) || strings.Count(out.String(), "\n") != 2 || len(c.asked) != 3 {
			t.Fatalf("%v, asked %+v\n%s", err, c.asked, out.String())
		}
		if last := c.asked[2]; last.Limit != 0 || !last.Since.Equal(fixedNow().Add(2*time.Second+time.Nanosecond)) {
			t.Errorf("asked last %+v", last)
		}
	})
}

// TestWhatIsFollowedNoMore: a project that somebody has taken down has ended well, and of another one nobody knows.
func TestWhatIsFollowedNoMore(t *testing.T) {
	for _, runs := range []bool{false, true} {
		var out bytes.Buffer
		f := newFake(t.TempDir())
		f.Running = runs
		u := &session{program: &program{backend: f, stderr: &out}, ready: prepared{project: compose.Project{Name: "shop"}}}
		if err := u.lost(t.Context(), nil); (err != nil) != runs || strings.Contains(out.String(), "shop does not run any more") == runs {
			t.Errorf("it runs: %v: %v, %q", runs, err, out.String())
		}
	}
}
