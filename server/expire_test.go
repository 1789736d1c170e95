package server

import (
	"context"
	"testing"
	"time"

	"trellis/compose"
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
