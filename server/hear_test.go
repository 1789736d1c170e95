package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
	"trellis/telemetry"
)

// onlooker is a project of one instance, and its engine; what is not asked for here panics.
type onlooker struct {
	subject
	engine.Engine

	mu    sync.Mutex
	state string // of the instance
	lines []driver.LogLine
	fails int           // that many calls of Logs end without an answer
	calls int           // of Logs
	looks int           // at the project
	ended chan struct{} // closed at the end of its output
}

// writes makes what is there another, and returns a channel that is closed when its output was read to the end.
func (o *onlooker) writes(state string, fails int, more ...driver.LogLine) (ended <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.state, o.fails, o.calls, o.lines, o.ended = state, fails, 0, append(o.lines, more...), make(chan struct{})
	return o.ended
}

// counts returns how often there was a look at the project, and how often its output was asked for.
func (o *onlooker) counts() (looks, calls int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.looks, o.calls
}

func (o *onlooker) observe(context.Context) (engine.State, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.looks++
	return engine.State{Services: []engine.Service{{Name: "job", Instances: []engine.Instance{{ID: "job-1", State: o.state, Revision: 1}}}}}, nil
}

func (o *onlooker) latest(context.Context) (state.Revision, error) {
	return state.Revision{}, errdefs.ErrNotFound
}

// Logs implements engine.Engine.
func (o *onlooker) Logs(_ context.Context, _ string, _ engine.InstanceID, opt driver.LogOptions) (io.ReadCloser, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.calls++; o.calls <= o.fails {
		return nil, errors.New("the driver does not answer")
	}
	var b bytes.Buffer
	for _, l := range o.lines {
		if !l.Time.Before(opt.Since) {
			_ = json.NewEncoder(&b).Encode(l)
		}
	}
	return io.NopCloser(io.MultiReader(&b, o)), nil
}

// Read is what follows the output.
func (o *onlooker) Read([]byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-o.ended:
	default:
		close(o.ended)
	}
	return 0, io.EOF
}

// watched returns a sight of the project, whose store of records runs until the test ends.
func (o *onlooker) watched(t *testing.T) *sight {
	t.Helper()
	s := newSight(watching{subject: o, engine: o, project: "shop", dir: t.TempDir(), changed: &broadcast{}}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = s.logs.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return s
}

// bodies returns what the store of a sight has.
func bodies(t *testing.T, s *sight) (all []string) {
	t.Helper()
	if err := s.logs.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := s.logs.Records(t.Context(), telemetry.RecordFilter{}, false, func(r telemetry.Record) error { all = append(all, r.Body); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// hear follows the output until it was read to its end and a few looks found nothing new.
func (o *onlooker) hear(t *testing.T, s *sight, ended <-chan struct{}) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for read := false; !read; {
		s.changed.wake()
		select {
		case <-ended:
			read = true
		case <-time.After(time.Millisecond):
		case <-deadline:
			t.Fatal("the output was not read")
		}
	}
	for until, _ := o.counts(); ; time.Sleep(time.Millisecond) {
		s.changed.wake()
		if looks, _ := o.counts(); looks >= until+5 {
			return
		}
	}
}

// follow runs followOutput; stop ends it.
func follow(t *testing.T, s *sight) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.followOutput(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return stop
}

// TestLastWordsAreKept: what an instance wrote last, and ended, while nobody read it is read once, also where the driver answers
// late only, and so is what it writes after another start.
func TestLastWordsAreKept(t *testing.T) {
	began := time.Now().Add(-time.Minute)
	line := func(second int, stream, text string) driver.LogLine {
		return driver.LogLine{Time: began.Add(time.Duration(second) * time.Second), Stream: stream, Text: text}
	}
	o := &onlooker{}
	s := o.watched(t)
	s.AddRecords([]telemetry.Record{{Time: began, Service: "job", Instance: "job-1", Stream: "stdout", Body: "one"}})
	want := []string{"one", "two", "panic: three\nmain.main()"}
	ended := o.writes(engine.InstanceExited, 1, line(0, "stdout", "one"), line(0, "stdout", "two"), line(1, "stderr", "panic: three"), line(2, "stderr", "main.main()"))
	for round := range 2 { // the second is another control plane, which finds all kept
		if err := s.logs.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop := follow(t, s)
		o.hear(t, s, ended)
		if round == 1 {
			ended = o.writes(engine.InstanceReady, 0, line(3, "stdout", "four"))
			want = append(want, "four")
			o.hear(t, s, ended)
		} else if _, calls := o.counts(); calls != 2 {
			t.Errorf("the output was asked for %d times, want one that fails and one that does not", calls)
		}
		stop()
		if d := cmp.Diff(want, bodies(t, s)); d != "" {
			t.Errorf("round %d (-want +got):\n%s", round, d)
		}
		ended = o.writes(engine.InstanceExited, 1)
	}
}
