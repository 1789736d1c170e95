package server

import (
	"context"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// TestSeenIn: every end of an instance is told once, with the reason that it has on one machine, whoever looks and however late.
func TestSeenIn(t *testing.T) {
	began := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	instance := func(ready bool, exit *engine.ExitStatus) engine.State {
		return engine.State{Project: "shop", Services: []engine.Service{{Name: "web", Instances: []engine.Instance{
			{ID: "web-1", Ready: ready, Exit: exit, Revision: 3},
		}}}}
	}
	seen := map[string]watched{}
	for _, step := range []struct {
		st   engine.State
		want []string
	}{
		{instance(false, nil), nil},
		{instance(true, nil), []string{"instance.ready observed "}},
		{instance(true, nil), nil},
		{instance(false, &engine.ExitStatus{Code: 3, Time: at(5)}), []string{"instance.exited crashed exited with code 3"}},
		{instance(false, &engine.ExitStatus{Code: 3, Time: at(5)}), nil},
		// It has come back between two looks, after another end.
		{instance(true, &engine.ExitStatus{Code: 137, Time: at(9)}), []string{"instance.exited signal killed by signal 9", "instance.ready observed "}},
		{instance(true, &engine.ExitStatus{OOM: true, Code: 137, Time: at(12)}), []string{"instance.exited oom killed because it used more memory than its limit", "instance.ready observed "}},
		{engine.State{Project: "shop"}, nil},
	} {
		after, happened := seenIn(seen, step.st, at(20))
		var got []string
		for _, e := range happened {
			got = append(got, e.Kind+" "+e.Reason+" "+e.Message)
			if e.Service != "web" || e.Instance != "web-1" || e.Revision != 3 || e.Project != "shop" {
				t.Errorf("%+v", e)
			}
		}
		if d := cmp.Diff(step.want, got); d != "" {
			t.Errorf("%+v (-want +got):\n%s", step.st, d)
		}
		seen = after
	}
	if len(seen) != 0 {
		t.Errorf("what is gone is remembered: %v", seen)
	}
}

// written is a store of events in memory.
type written struct {
	state.Store // what is not asked for here panics

	all []state.Event
}

func (w *written) Append(_ context.Context, all ...state.Event) error {
	w.all = append(w.all, all...)
	return nil
}

func (w *written) Value(context.Context, string, any) error    { return errdefs.ErrNotFound }
func (w *written) SetValue(context.Context, string, any) error { return nil }

func (w *written) Events(_ context.Context, f state.EventFilter) iter.Seq2[state.Event, error] {
	return func(yield func(state.Event, error) bool) {
		for _, e := range w.all {
			if !e.Time.Before(f.Since) && !yield(e, nil) {
				return
			}
		}
	}
}

// TestChronicleGoesByNobodysClock: an event of whoever deploys with a clock that is ahead, or behind, hides none that come later; each is
// written down once, also by the next control plane.
func TestChronicleGoesByNobodysClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, kept := time.Now(), &written{}
		comes := []struct {
			kind        string
			after, late time.Duration // when it happens, and how long after that the cluster has it
			ahead       time.Duration // the clock that stamps it
		}{
			{"revision.applied", 10 * time.Second, 0, 2 * time.Hour},
			{"instance.oom", 20 * time.Second, 0, 0},
			{"service.override", 30 * time.Second, 0, -time.Hour},
			{"instance.waiting", 40 * time.Second, 10 * time.Minute, 0},
			{"instance.crashed", time.Hour, 0, 0}, // the next control plane is there by then
		}
		c := &chronicle{store: kept, project: "shop", changed: &broadcast{}, events: func(_ context.Context, f state.EventFilter, _ bool, fn func(state.Event) error) error {
			for _, e := range comes {
				at := began.Add(e.after + e.ahead)
				if time.Since(began) < e.after+e.late || at.Before(f.Since) {
					continue
				}
				if err := fn(state.Event{Time: at, Kind: e.kind, Service: "web"}); err != nil {
					return err
				}
			}
			return nil
		}}
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
			if err := c.listen(ctx); err != nil {
				t.Fatal(err)
			}
			cancel()
		}
		var got []string
		for _, e := range kept.all {
			got = append(got, e.Kind)
			if e.Project != "shop" {
				t.Errorf("%+v", e)
			}
		}
		if d := cmp.Diff([]string{"revision.applied", "instance.oom", "service.override", "instance.waiting", "instance.crashed"}, got); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
	})
}

// TestCPUTimesAddUp: what a cluster tells as a rate is a sum that never falls while the instance is there.
func TestCPUTimesAddUp(t *testing.T) {
	var times cpuTimes
	began := time.Now()
	for i, want := range []time.Duration{0, 2 * time.Second, 4 * time.Second} {
		rate := 0.5
		all := []engine.Usage{{Instance: "web-1", Usage: driver.Usage{Rate: &rate}}}
		times.add(all, began.Add(time.Duration(4*i)*time.Second))
		if got := all[0].Usage.CPU; got != want {
			t.Errorf("after %d s: %s, want %s", 4*i, got, want)
		}
	}
}

// TestDataPlaneTellsWhoHasTheKey what it has measured, and nobody else: every pod of a cluster may ask it.
func TestDataPlaneTellsWhoHasTheKey(t *testing.T) {
	f := &clusterFeed{log: slog.New(slog.DiscardHandler)}
	handler := keyed(f.planeKey, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	ask := func(authorization string) int {
		r, w := httptest.NewRequest(http.MethodGet, "/spans", nil), httptest.NewRecorder()
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		handler.ServeHTTP(w, r)
		return w.Code
	}
	none, key := "", "secret"
	for _, c := range []struct {
		key           *string
		authorization string
		want          int
	}{
		{nil, "Bearer ", 401}, {&none, "Bearer ", 401}, {&none, "", 401}, {&key, "", 401}, {&key, "Bearer other", 401}, {&key, "secret", 401},
		{&key, "Bearer secret", 200},
	} {
		if f.key.Store(c.key); ask(c.authorization) != c.want {
			t.Errorf("asked with %q: not answered with %d", c.authorization, c.want)
		}
	}
}

// TestWhoFollowsHearsOfWhatWasWrittenDown at once, and not with the next change of something else.
func TestWhoFollowsHearsOfWhatWasWrittenDown(t *testing.T) {
	for name, part := range map[string]func(*chronicle, context.Context) error{
		"the cluster's events": (*chronicle).listen, "the instances": (*chronicle).watch,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, store := time.Now(), &written{}
				c := &chronicle{store: store, project: "shop", changed: &broadcast{}}
				c.events = func(_ context.Context, _ state.EventFilter, _ bool, fn func(state.Event) error) error {
					return fn(state.Event{Time: began, Kind: "instance.waiting", Service: "web"})
				}
				c.observe = func(context.Context) (engine.State, error) {
					time.Sleep(time.Second) // whoever follows has looked by then
					return engine.State{Services: []engine.Service{{Name: "web", Instances: []engine.Instance{{ID: "web-1", Ready: true}}}}}, nil
				}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				var heard []string
				followed := make(chan error, 1)
				go func() {
					followed <- eventsIn(ctx, store, c.changed, state.EventFilter{}, true, func(e state.Event) error {
						heard = append(heard, e.Kind)
						cancel()
						return nil
					})
				}()
				synctest.Wait()
				if err := part(c, ctx); err != nil {
					t.Error(err)
				}
				<-followed
				if len(heard) != 1 {
					t.Errorf("heard %q", heard)
				}
			})
		})
	}
}
