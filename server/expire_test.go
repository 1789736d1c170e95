package server

import (
	"context"
	"testing"
	"time"

	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// TestExpire: the time of a project runs from its newest deploy, and one without a time to live has all there is. That what
// is over is taken down is shown end to end.
func TestExpire(t *testing.T) {
	ctx := context.Background()
	c, _ := retained(t)
	begin := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	deploy := func(number int64, at time.Time, ttl *compose.Duration) {
		t.Helper()
		rev := state.Revision{AppliedAt: at, Project: compose.Project{
			Name: "shop", Environment: "preview",
			Trellis: compose.ProjectExtension{Environments: map[string]compose.EnvironmentRef{"preview": {TTL: ttl}}},
		}}
		if _, err := c.store.Put(ctx, rev, number-1); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, now time.Time, pause time.Duration, ends *time.Time) {
		t.Helper()
		got, err := c.expireOnce(ctx, now)
		if err != nil || got != pause {
			t.Errorf("%s: looks again after %v (%v), want %v", what, got, err, pause)
		}
		at, err := c.ends(ctx)
		if err != nil || (at == nil) != (ends == nil) || at != nil && !at.Equal(*ends) {
			t.Errorf("%s: ends %v (%v), want %v", what, at, err, ends)
		}
	}
	want("nothing was deployed", begin, expirePause, nil)
	deploy(1, begin, nil)
	want("no time to live", begin.AddDate(10, 0, 0), expirePause, nil)
	ttl := compose.Duration(time.Hour)
	deploy(2, begin, &ttl)
	over := begin.Add(time.Hour)
	want("an hour", begin, expirePause, &over)
	want("the last seconds", over.Add(-7*time.Second), 7*time.Second, &over)
	deploy(3, begin.Add(50*time.Minute), &ttl)
	later := over.Add(50 * time.Minute)
	want("deployed anew", over, expirePause, &later)
}

// stubborn is an engine that cannot take a project down at first: a driver does not answer, or somebody ends the control plane meanwhile.
type stubborn struct {
	engine.Engine
	fails int
	asked []engine.DeleteOptions
}

func (s *stubborn) Delete(ctx context.Context, project string, opt engine.DeleteOptions) error {
	s.asked = append(s.asked, opt)
	if err := s.Engine.Delete(ctx, project, engine.DeleteOptions{}); err != nil {
		return err
	}
	if s.fails--; s.fails >= 0 {
		return errdefs.ErrUnavailable
	}
	return nil
}

// TestExpiryGoesOnUntilItIsDone: what could not be taken down whole is taken down later, volumes and all, also by the next control plane,
// and is told once. One that is started again after it was taken down is let run: somebody is about to deploy.
func TestExpiryGoesOnUntilItIsDone(t *testing.T) {
	ctx := t.Context()
	c, _ := retained(t)
	ttl := compose.Duration(time.Hour)
	rev := state.Revision{AppliedAt: time.Now().Add(-2 * time.Hour), Project: compose.Project{
		Name: "shop", Environment: "preview",
		Trellis: compose.ProjectExtension{Environments: map[string]compose.EnvironmentRef{"preview": {TTL: &ttl}}},
	}}
	if _, err := c.store.Put(ctx, rev, 0); err != nil {
		t.Fatal(err)
	}
	c.plane = &plane{location: c.location, chosen: &addresses{location: c.location}}
	eng, stops := &stubborn{Engine: c.engine, fails: 2}, 0
	c.engine, c.stop = eng, func() { stops++ }
	for look, want := range []struct{ asked, stops int }{{1, 0}, {2, 0}, {3, 1}, {3, 1}} {
		again := &control{location: c.location, engine: eng, store: c.store, plane: c.plane, changed: c.changed, stop: c.stop, log: c.log}
		if _, err := again.expireOnce(ctx, time.Now()); (err != nil) != (look < 2) {
			t.Errorf("look %d: %v", look, err)
		}
		if len(eng.asked) != want.asked || stops != want.stops {
			t.Errorf("after look %d: asked to take it down %d times, stopped %d times; want %+v", look, len(eng.asked), stops, want)
		}
	}
	for _, opt := range eng.asked {
		if !opt.Volumes {
			t.Error("its volumes are left")
		}
	}
	told := 0
	for e, err := range c.store.Events(ctx, state.EventFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == "project.expired" {
			told++
		}
	}
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}
