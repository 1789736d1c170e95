package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trellis/api"
	"trellis/artifact"
	"trellis/compose"
	"trellis/driver"
	"trellis/driver/fake"
	"trellis/engine/local"
	"trellis/errdefs"
	"trellis/state"
)

func TestKept(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	at := func(days int) *time.Time { t := now.AddDate(0, 0, -days); return &t }
	var revs []state.Revision // newest first
	for n := int64(40); n > 0; n-- {
		revs = append(revs, state.Revision{Number: n, Outcome: state.Failed})
	}
	set := func(n int64, daysAgo int) {
		revs[40-n].Outcome, revs[40-n].HealthyAt = state.Healthy, at(daysAgo)
	}
	set(18, 3)  // young
	set(15, 30) // old, and not the newest healthy one
	numbers := func(revs []state.Revision) string {
		var out []string
		for _, r := range revs {
			if r.Number <= 20 {
				out = append(out, fmt.Sprint(r.Number))
			}
		}
		return strings.Join(out, " ")
	}
	if got := numbers(kept(revs, map[int64]bool{3: true}, now)); got != "18 3" {
		t.Errorf("kept of the old ones: %q, want 18 (healthy a short while ago) and 3 (runs)", got)
	}
	set(18, 30)
	if got := numbers(kept(revs, nil, now)); got != "18" {
		t.Errorf("kept of the old ones: %q, want 18: the newest healthy one, whatever its age", got)
	}
	if n := len(kept(revs, nil, now)); n != keepRevisions+1 {
		t.Errorf("%d kept", n)
	}
}

// retained is a control plane over a real store that nothing runs on.
func retained(t *testing.T) (*control, *artifact.Store) {
	t.Helper()
	dir := t.TempDir()
	l := Location{Project: "shop", WorkingDir: dir, StateDir: dir, RuntimeDir: filepath.Join(dir, "run")}
	store, err := state.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	contents, err := state.OpenContents(l.contents())
	if err != nil {
		t.Fatal(err)
	}
	eng, err := local.New(local.Config{
		Project: "shop", Store: store, Drivers: map[string]driver.Driver{"fake": fake.NewWorld().Driver()},
	})
	if err != nil {
		t.Fatal(err)
	}
	artifacts, err := artifact.Open(l.Artifacts())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // read-only folders
		if err := artifacts.Prune(nil); err != nil {
			t.Error(err)
		}
	})
	return &control{
		location: l, engine: eng, store: store, contents: contents, changed: &broadcast{}, log: slog.New(slog.DiscardHandler),
	}, artifacts
}

// deployed writes down a healthy revision with a secret and artefacts of its own, as old as it has to be to be removed.
func deployed(t *testing.T, c *control, artifacts *artifact.Store, n int64) {
	t.Helper()
	ctx := context.Background()
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "app"), fmt.Appendf(nil, "build %d", n), 0o755); err != nil {
		t.Fatal(err)
	}
	process := compose.Process{Dir: src, Artifacts: []string{"app"}, Command: []string{"app"}}
	digest, _, err := artifacts.Build(ctx, artifact.Request{Project: "shop", Service: "web", Process: process})
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(artifacts.Path(digest), old, old); err != nil {
		t.Fatal(err)
	}
	process.Artifact = digest
	ref, err := c.contents.Put(fmt.Appendf(nil, "secret %d", n))
	if err != nil {
		t.Fatal(err)
	}
	rev := state.Revision{
		Commit: &state.Commit{SHA: "0123456789abcdef"}, AppliedAt: time.Now().AddDate(0, -1, 0),
		Project: compose.Project{
			Name: "shop", Secrets: map[string]compose.FileValue{"key": {Ref: ref}},
			Services: map[string]compose.Service{"web": {Name: "web", Trellis: compose.ServiceExtension{Process: &process}}},
		},
	}
	if _, err := c.store.Put(ctx, rev, n-1); err != nil {
		t.Fatal(err)
	}
}

func TestPruneKeepsWhatKeptRevisionsNeed(t *testing.T) {
	ctx := context.Background()
	c, artifacts := retained(t)
	const total = keepRevisions + 5
	for n := int64(1); n <= total; n++ {
		deployed(t, c, artifacts, n)
		if n < total {
			if err := c.store.Settle(ctx, n, state.Healthy, time.Now().AddDate(0, -1, 0)); err != nil {
				t.Fatal(err)
			}
		}
	}
	gone := func() (n int64) {
		for i := int64(1); i <= total; i++ {
			rev, err := c.store.Get(ctx, i)
			if err != nil {
				t.Fatal(err)
			}
			if missing, err := c.missing(rev.Project); err != nil {
				t.Fatal(err)
			} else if missing != "" {
				n++
			}
		}
		return n
	}
	if _, err := c.prune(ctx, 0); err != nil || gone() != 0 {
		t.Fatalf("%d pruned while a deploy is under way, %v", gone(), err)
	}
	if err := c.store.Settle(ctx, total, state.Healthy, time.Now()); err != nil {
		t.Fatal(err)
	}
	c.keeping.RLock() // somebody has put contents for a deploy
	if done, err := c.prune(ctx, 0); err != nil || done != 0 || gone() != 0 {
		t.Fatalf("%d pruned while contents are put, done %d, %v", gone(), done, err)
	}
	c.keeping.RUnlock()
	if done, err := c.prune(ctx, 0); err != nil || done != total || gone() != total-keepRevisions {
		t.Fatalf("%d pruned, done %d, %v", gone(), done, err)
	}
	for n := int64(1); n <= total; n++ {
		rev, err := c.store.Get(ctx, n) // the rows stay
		if err != nil {
			t.Fatal(err)
		}
		err = c.complete(rev)
		if kept := n > total-keepRevisions; kept != (err == nil) {
			t.Errorf("revision %d: %v", n, err)
		}
	}
	_, err := c.Rollback(ctx, 2, "kim@desk")
	if !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), "gone are the artefacts of web, the secret key") ||
		!strings.Contains(err.Error(), "check out 0123456789ab") {
		t.Errorf("going back to what is gone: %v", err)
	}
}

// TestADeployKeepsWhatItWasBuiltFrom, for as long as it waits for other builds and images, or is refused.
func TestADeployKeepsWhatItWasBuiltFrom(t *testing.T) {
	ctx := t.Context()
	c, artifacts := retained(t)
	deployed(t, c, artifacts, 1)
	if err := c.store.Settle(ctx, 1, state.Healthy, time.Now()); err != nil {
		t.Fatal(err)
	}
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "app"), []byte("the next"), 0o755); err != nil {
		t.Fatal(err)
	}
	process := compose.Process{Dir: src, Artifacts: []string{"app"}, Command: []string{"app"}}
	digest, _, err := artifacts.Build(ctx, artifact.Request{Project: "shop", Service: "web", Process: process})
	if err != nil {
		t.Fatal(err)
	}
	process.Artifact = digest
	p := compose.Project{
		Name: "shop", Services: map[string]compose.Service{"web": {Name: "web", Trellis: compose.ServiceExtension{Process: &process}}},
	}
	for _, waited := range []time.Duration{50 * time.Minute, 2 * time.Hour} {
		built := time.Now().Add(-waited)
		if err := os.Chtimes(artifacts.Path(digest), built, built); err != nil {
			t.Fatal(err)
		}
		if _, err := c.prune(ctx, 0); err != nil {
			t.Fatal(err)
		}
		gone, err := c.missing(p)
		if err != nil || (gone != "") != (waited > time.Hour) {
			t.Errorf("%s after the build missing is %q, %v", waited, gone, err)
		}
	}
	_, err = c.Apply(ctx, api.ApplyRequest{Project: p, Actor: "kim@desk", Cause: "up"})
	if !errors.Is(err, errdefs.ErrConflict) || !strings.Contains(err.Error(), "the artefacts of web: run `trellis up` again") {
		t.Errorf("deploying what is gone: %v", err)
	}
	if rev, err := c.store.Latest(ctx); err != nil || rev.Number != 1 {
		t.Errorf("revision %d is the newest, %v", rev.Number, err)
	}
}
