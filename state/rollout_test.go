package state

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"trellis/errdefs"
)

func testLastHealthy(t *testing.T, s Store, _ func() Store) {
	_, err := s.LastHealthy(t.Context(), 9)
	is(t, "LastHealthy of nothing", err, errdefs.ErrNotFound)
	for i, outcome := range []string{Healthy, Healthy, RolledBack, Failed} {
		mustPut(t, s, testRevision(), int64(i))
		if err := s.Settle(t.Context(), int64(i+1), outcome, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	for before, want := range map[int64]int64{5: 2, 3: 2, 2: 1} {
		rev, err := s.LastHealthy(t.Context(), before)
		if err != nil || rev.Number != want {
			t.Errorf("last healthy before %d: %d, %v, want %d", before, rev.Number, err, want)
		}
	}
	_, err = s.LastHealthy(t.Context(), 1)
	is(t, "LastHealthy before the first", err, errdefs.ErrNotFound)
}

func testRollouts(t *testing.T, s Store, reopen func() Store) {
	p99, ended := 12.5, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	web := Rollout{
		Revision: 2, Service: "web", From: 1, Phase: Rolling, Began: ended.Add(-time.Minute), Ended: &ended, Steps: 3, Step: 1,
		StepBegan: ended.Add(-time.Second), Ledger: Ledger{Requests: 10, New: Cohort{Requests: 3, P99: &p99}},
		Failure: &Failure{Instance: "web-1-a", Probe: "503", Log: []string{"one", "two"}},
	}
	first, err := s.SetRollout(t.Context(), web)
	if err != nil || first.Version != 1 {
		t.Fatalf("version %d, %v", first.Version, err)
	}
	_, err = s.SetRollout(t.Context(), web)
	is(t, "a second first write", err, errdefs.ErrConflict)
	if _, err := s.SetRollout(t.Context(), Rollout{Revision: 2, Service: "api", Phase: Paused}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SetRollout(t.Context(), Rollout{Revision: 3, Service: "web", Phase: Rolling}); err != nil {
		t.Fatal(err)
	}
	var won atomic.Int32
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			next := first
			next.Reason = fmt.Sprint(i)
			if _, err := s.SetRollout(t.Context(), next); err == nil {
				won.Add(1)
			}
		})
	}
	all.Wait()
	if n := won.Load(); n != 1 {
		t.Errorf("%d of 8 writers of one version won", n)
	}
	s = reopen()
	got, err := s.Rollouts(t.Context(), 2)
	if err != nil || len(got) != 2 || got[0].Service != "api" || got[1].Version != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	web.Version, web.Reason = 2, got[1].Reason
	same(t, "round trip", got[1], web)
	none, err := s.Rollouts(t.Context(), 1)
	if err != nil || len(none) != 0 {
		t.Errorf("rollouts of a revision that has none: %+v, %v", none, err)
	}
}

// TestSchemaGrows opens a file as the first version of the schema left it: what is in it stays, what is new is there.
func TestSchemaGrows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openTest(t, path)
	mustPut(t, s, testRevision(), 0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	exec1(t, path, "DROP TABLE rollouts")
	exec1(t, path, "PRAGMA user_version = 1")
	s = openTest(t, path)
	if rev, err := s.Latest(t.Context()); err != nil || rev.Number != 1 {
		t.Errorf("revision %d, %v", rev.Number, err)
	}
	if _, err := s.SetRollout(t.Context(), Rollout{Revision: 1, Service: "web"}); err != nil {
		t.Error(err)
	}
}
