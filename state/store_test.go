package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/compose"
	"trellis/errdefs"
)

// testStore is the contract of Store as a suite. open returns a new, empty store each time; reopen closes it and opens
// the same data again.
func testStore(t *testing.T, open func(t *testing.T) (s Store, reopen func() Store)) {
	tests := map[string]func(t *testing.T, s Store, reopen func() Store){
		"an empty store has nothing":                         testEmpty,
		"revisions are numbered from 1 without gaps":         testNumbers,
		"put compares and sets":                              testCompareAndSet,
		"of concurrent puts one wins":                        testConcurrentPuts,
		"a put supersedes pending revisions only":            testSupersede,
		"settle writes an outcome once":                      testSettle,
		"a revision survives the round trip":                 testRoundTrip,
		"put returns what is read back":                      testPutReturnsStored,
		"the last healthy revision is found":                 testLastHealthy,
		"rollouts are compared and set":                      testRollouts,
		"overrides are set, ordered and removed":             testOverrides,
		"a revision and what it leaves of overrides are one": testPutWithOverrides,
		"events come in order and are filtered":              testEvents,
		"events read more than a page":                       testEventPages,
		"a reader of events may write and may stop":          testEventsWhileWriting,
		"concurrent appends keep each batch together":        testConcurrentAppends,
		"values are kept, replaced and removed":              testValues,
		"everything is there after a reopen":                 testReopen,
		"a cancelled context fails and changes nothing":      testCancelled,
		"what cannot be written as JSON is refused":          testInvalid,
		"a closed store fails and can be closed once again":  testClosed,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, reopen := open(t)
			test(t, s, reopen)
		})
	}
}

func TestSQLite(t *testing.T) {
	testStore(t, func(t *testing.T) (Store, func() Store) {
		path := filepath.Join(t.TempDir(), "with space ?#%41 ü", "state.db")
		s := openTest(t, path)
		return s, func() Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return openTest(t, path)
		}
	})
}

func openTest(t *testing.T, path string) Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func mustPut(t *testing.T, s Store, rev Revision, after int64) Revision {
	t.Helper()
	got, err := s.Put(t.Context(), rev, after)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func collect(t *testing.T, s Store, f EventFilter) []Event {
	t.Helper()
	var all []Event
	for e, err := range s.Events(t.Context(), f) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

func seqs(events []Event) []int64 {
	var out []int64
	for _, e := range events {
		out = append(out, e.Seq)
	}
	return out
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func is(t *testing.T, what string, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: %v, want %v", what, err, kind)
	}
}

func testEmpty(t *testing.T, s Store, _ func() Store) {
	ctx := t.Context()
	_, err := s.Latest(ctx)
	is(t, "Latest", err, errdefs.ErrNotFound)
	_, err = s.Get(ctx, 1)
	is(t, "Get", err, errdefs.ErrNotFound)
	is(t, "Settle", s.Settle(ctx, 1, Healthy, time.Now()), errdefs.ErrNotFound)
	var v int
	is(t, "Value", s.Value(ctx, "x", &v), errdefs.ErrNotFound)
	h, err := s.History(ctx, 0)
	if err != nil || len(h) != 0 {
		t.Errorf("History: %v, %v", h, err)
	}
	o, err := s.Overrides(ctx)
	if err != nil || len(o) != 0 {
		t.Errorf("Overrides: %v, %v", o, err)
	}
	same(t, "Events", collect(t, s, EventFilter{}), []Event(nil))
	same(t, "limited Events", collect(t, s, EventFilter{Limit: 3}), []Event(nil))
}

func testNumbers(t *testing.T, s Store, _ func() Store) {
	for n := range int64(5) {
		if rev := mustPut(t, s, Revision{Number: 99, Cause: fmt.Sprint(n)}, n); rev.Number != n+1 {
			t.Fatalf("number %d after %d", rev.Number, n)
		}
	}
	h, err := s.History(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int64
	for _, r := range h {
		numbers = append(numbers, r.Number)
	}
	same(t, "History(3)", numbers, []int64{5, 4, 3})
	rev, err := s.Get(t.Context(), 2)
	if err != nil || rev.Number != 2 || rev.Cause != "1" {
		t.Errorf("Get(2) = %v, %v", rev, err)
	}
}

func testCompareAndSet(t *testing.T, s Store, _ func() Store) {
	_, err := s.Put(t.Context(), Revision{}, 1)
	is(t, "Put after a revision that is not there", err, errdefs.ErrConflict)
	mustPut(t, s, Revision{}, 0)
	_, err = s.Put(t.Context(), Revision{}, 0)
	is(t, "Put after an old revision", err, errdefs.ErrConflict)
	rev, err := s.Latest(t.Context())
	if err != nil || rev.Number != 1 || rev.Outcome != Pending {
		t.Errorf("Latest = %+v, %v: a refused Put changed it", rev, err)
	}
}

func testConcurrentPuts(t *testing.T, s Store, _ func() Store) {
	const rounds, writers = 5, 6
	for round := range int64(rounds) {
		var wins, conflicts int
		var mu sync.Mutex
		var all sync.WaitGroup
		for w := range writers {
			all.Go(func() {
				_, err := s.Put(context.Background(), Revision{Actor: fmt.Sprint(w)}, round)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					wins++
				case errors.Is(err, errdefs.ErrConflict):
					conflicts++
				default:
					t.Errorf("Put: %v", err)
				}
			})
		}
		all.Wait()
		if wins != 1 || conflicts != writers-1 {
			t.Fatalf("round %d: %d won, %d conflicts", round, wins, conflicts)
		}
	}
}

func testSupersede(t *testing.T, s Store, _ func() Store) {
	ctx := t.Context()
	mustPut(t, s, Revision{}, 0)
	if err := s.Settle(ctx, 1, Healthy, time.Now()); err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, Revision{}, 1)
	mustPut(t, s, Revision{}, 2)
	h, err := s.History(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	var outcomes []string
	for _, r := range h {
		outcomes = append(outcomes, r.Outcome)
	}
	same(t, "outcomes, newest first", outcomes, []string{Pending, Superseded, Healthy})
	is(t, "Settle a superseded one", s.Settle(ctx, 2, Failed, time.Now()), errdefs.ErrConflict)
}

func testSettle(t *testing.T, s Store, _ func() Store) {
	ctx := t.Context()
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.FixedZone("x", 3600))
	mustPut(t, s, Revision{}, 0)
	is(t, "Settle with a made-up outcome", s.Settle(ctx, 1, "splendid", at), errdefs.ErrInvalid)
	is(t, "Settle back to pending", s.Settle(ctx, 1, Pending, at), errdefs.ErrInvalid)
	if err := s.Settle(ctx, 1, Healthy, at); err != nil {
		t.Fatal(err)
	}
	is(t, "second Settle", s.Settle(ctx, 1, Failed, at), errdefs.ErrConflict)
	rev, err := s.Get(ctx, 1)
	if err != nil || rev.Outcome != Healthy || rev.HealthyAt == nil || !rev.HealthyAt.Equal(at) {
		t.Errorf("Get = %+v, %v", rev, err)
	}
	mustPut(t, s, Revision{}, 1)
	if err := s.Settle(ctx, 2, Failed, at); err != nil {
		t.Fatal(err)
	}
	if rev, err := s.Get(ctx, 2); err != nil || rev.HealthyAt != nil || rev.Outcome != Failed {
		t.Errorf("a failed revision: %+v, %v", rev, err)
	}
}

func testRevision() Revision {
	three, grace := 3, compose.Duration(90*time.Second)
	at := time.Date(2026, 11, 23, 9, 30, 1, 5, time.UTC)
	return Revision{
		Project: compose.Project{
			Name: "shop", WorkingDir: "/srv/shop", Files: []string{"/srv/shop/compose.yaml"},
			Services: map[string]compose.Service{
				"web": {Name: "web", Command: []string{"serve", "<&>\u2028"}, StopGracePeriod: &grace,
					Environment: map[string]string{"A": "é\x7f", "": "empty name"},
					Deploy:      compose.Deploy{Replicas: &three},
					Ports:       []compose.Port{{Target: 80, Published: "8080", Protocol: "tcp"}},
					Other:       map[string]any{"blkio_config": map[string]any{"weight": 1.5}, "l": []any{"x", nil, true}}},
				"db": {Name: "db", Image: "postgres"},
			},
			Secrets: map[string]compose.FileValue{"pw": {File: "/x", Ref: "abc"}},
		},
		Commit:    &Commit{SHA: "0a1b", Author: "A <a@example.org>", CommittedAt: at.Add(-time.Hour), Dirty: true},
		AppliedAt: at, Outcome: Pending, Cause: "up", Actor: "root@host",
	}
}

func testRoundTrip(t *testing.T, s Store, reopen func() Store) {
	want := testRevision()
	mustPut(t, s, want, 0)
	want.Number = 1
	for name, s := range map[string]Store{"same store": s, "opened again": reopen()} {
		if name == "same store" {
			continue // closed by reopen; read through the new one
		}
		got, err := s.Latest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		same(t, name, got, want)
	}
}

func testPutReturnsStored(t *testing.T, s Store, _ func() Store) {
	rev := testRevision()
	// An int in Other is a float64 when read back: Put must not show what no later reader sees.
	rev.Project.Services["db"] = compose.Service{Name: "db", Other: map[string]any{"n": 7}}
	put := mustPut(t, s, rev, 0)
	got, err := s.Latest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	same(t, "Latest against Put", got, put)
}

func testOverrides(t *testing.T, s Store, reopen func() Store) {
	ctx := t.Context()
	zero, four := 0, 4
	for _, o := range []Override{{Service: "web", Replicas: &four}, {Service: "db", Stopped: true},
		{Service: "api", Replicas: &zero, Restart: 2}, {Service: "web", Restart: 9}} {
		if err := s.SetOverride(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	s = reopen()
	got, err := s.Overrides(ctx)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "overrides", got, []Override{{Service: "api", Replicas: &zero, Restart: 2}, {Service: "db", Stopped: true},
		{Service: "web", Restart: 9}})
	for _, name := range []string{"db", "db", "never-there"} {
		if err := s.SetOverride(ctx, Override{Service: name}); err != nil {
			t.Fatal(err)
		}
	}
	if got, err = s.Overrides(ctx); err != nil || len(got) != 2 {
		t.Errorf("after removing db: %v, %v", got, err)
	}
	is(t, "override of no service", s.SetOverride(ctx, Override{Stopped: true}), errdefs.ErrInvalid)
}

// testPutWithOverrides: what a revision leaves of overrides is there with it, and not without it.
func testPutWithOverrides(t *testing.T, s Store, reopen func() Store) {
	ctx, three := t.Context(), 3
	mustPut(t, s, Revision{}, 0)
	for _, o := range []Override{{Service: "api", Replicas: &three, Stopped: true}, {Service: "web", Stopped: true}} {
		if err := s.SetOverride(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	before, err := s.Overrides(ctx)
	if err != nil {
		t.Fatal(err)
	}
	left := []Override{{Service: "api", Replicas: &three}, {Service: "web"}}
	_, err = s.Put(ctx, Revision{}, 0, left...)
	is(t, "Put after another one", err, errdefs.ErrConflict)
	_, err = s.Put(ctx, Revision{}, 1, Override{Service: "api"}, Override{Stopped: true})
	is(t, "an override of nobody", err, errdefs.ErrInvalid)
	now, err := s.Overrides(ctx)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "after those that failed", now, before)
	if rev, err := s.Latest(ctx); err != nil || rev.Number != 1 {
		t.Errorf("the newest revision is %d, %v", rev.Number, err)
	}
	if _, err := s.Put(ctx, Revision{}, 1, left...); err != nil {
		t.Fatal(err)
	}
	if now, err = reopen().Overrides(ctx); err != nil {
		t.Fatal(err)
	}
	same(t, "afterwards", now, left[:1])
}

func testEvents(t *testing.T, s Store, _ func() Store) {
	base := time.Now().Add(-time.Hour).UTC()
	var want []Event
	for i := range 10 {
		e := Event{Time: base.Add(time.Duration(i) * time.Minute), Actor: "a", Project: "p",
			Service: []string{"web", "db"}[i%2], Instance: "x", Kind: "k", Reason: "r", Message: "m\n\x00", Revision: 3}
		want = append(want, e)
	}
	if err := s.Append(t.Context()); err != nil {
		t.Fatal("an empty append:", err)
	}
	if err := s.Append(t.Context(), want[:4]...); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(t.Context(), want[4:]...); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		want[i].Seq = int64(i + 1)
	}
	same(t, "all", collect(t, s, EventFilter{}), want)
	for name, c := range map[string]struct {
		f    EventFilter
		want []int64
	}{
		"after":               {EventFilter{After: 8}, []int64{9, 10}},
		"since":               {EventFilter{Since: base.Add(8 * time.Minute)}, []int64{9, 10}},
		"service":             {EventFilter{Service: "db"}, []int64{2, 4, 6, 8, 10}},
		"unknown service":     {EventFilter{Service: "x"}, nil},
		"limit is the newest": {EventFilter{Limit: 3}, []int64{8, 9, 10}},
		"limit of more":       {EventFilter{Limit: 30}, []int64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
		"limit of as many":    {EventFilter{Limit: 10}, []int64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
		"service and limit":   {EventFilter{Service: "web", Limit: 2}, []int64{7, 9}},
		"after and limit":     {EventFilter{After: 8, Limit: 5}, []int64{9, 10}},
		"everything":          {EventFilter{After: 2, Since: base.Add(3 * time.Minute), Service: "db", Limit: 3}, []int64{6, 8, 10}},
		"after the last":      {EventFilter{After: 10}, nil},
	} {
		same(t, name, seqs(collect(t, s, c.f)), c.want)
	}
	if err := s.Append(t.Context(), Event{Kind: "no time"}); err != nil {
		t.Fatal(err)
	}
	if last := collect(t, s, EventFilter{Limit: 1}); len(last) != 1 || time.Since(last[0].Time) > time.Hour {
		t.Errorf("an event without a time: %+v", last)
	}
}

func testEventPages(t *testing.T, s Store, _ func() Store) {
	const n = 3*eventPage + 7
	batch := make([]Event, n)
	for i := range batch {
		batch[i] = Event{Time: time.Now(), Message: fmt.Sprint(i)}
	}
	if err := s.Append(t.Context(), batch...); err != nil {
		t.Fatal(err)
	}
	for i, e := range collect(t, s, EventFilter{}) {
		if e.Seq != int64(i+1) || e.Message != fmt.Sprint(i) {
			t.Fatalf("event %d is %+v", i, e)
		}
	}
	if got := collect(t, s, EventFilter{Limit: 2 * eventPage}); len(got) != 2*eventPage || got[0].Seq != n-2*eventPage+1 {
		t.Errorf("limit of two pages: %d events from %d", len(got), got[0].Seq)
	}
}

func testEventsWhileWriting(t *testing.T, s Store, _ func() Store) {
	ctx := t.Context()
	for i := range 5 {
		if err := s.Append(ctx, Event{Message: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	var seen int
	for _, err := range s.Events(ctx, EventFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Append(ctx, Event{Message: "while reading"}); err != nil {
			t.Fatal(err)
		}
		if seen++; seen > 5 {
			t.Fatal("the reader sees what is appended while it reads")
		}
	}
	for range s.Events(ctx, EventFilter{}) {
		break
	}
	if got := len(collect(t, s, EventFilter{})); got != 10 {
		t.Errorf("%d events", got)
	}
}

func testConcurrentAppends(t *testing.T, s Store, _ func() Store) {
	const writers, batches = 4, 10
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for b := range batches {
				name := fmt.Sprintf("%d-%d", w, b)
				if err := s.Append(context.Background(), Event{Message: name}, Event{Message: name}); err != nil {
					t.Error(err)
				}
				for _, err := range s.Events(context.Background(), EventFilter{Limit: 4}) {
					if err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	got := collect(t, s, EventFilter{})
	if len(got) != 2*writers*batches {
		t.Fatalf("%d events", len(got))
	}
	for i := 0; i < len(got); i += 2 {
		if got[i].Message != got[i+1].Message || got[i].Seq != int64(i+1) {
			t.Fatalf("batch torn apart: %+v, %+v", got[i], got[i+1])
		}
	}
}

func testValues(t *testing.T, s Store, reopen func() Store) {
	ctx := t.Context()
	type addresses struct {
		Ports map[string]int
	}
	want := addresses{Ports: map[string]int{"web-1": 40001}}
	for _, v := range []any{"first", want} {
		if err := s.SetValue(ctx, "a", v); err != nil {
			t.Fatal(err)
		}
	}
	s = reopen()
	var got addresses
	if err := s.Value(ctx, "a", &got); err != nil {
		t.Fatal(err)
	}
	same(t, "value", got, want)
	var wrong []int
	if err := s.Value(ctx, "a", &wrong); err == nil || errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("reading an object into a slice: %v", err)
	}
	if err := s.SetValue(ctx, "a", nil); err != nil {
		t.Fatal(err)
	}
	is(t, "a removed value", s.Value(ctx, "a", &got), errdefs.ErrNotFound)
}

func testReopen(t *testing.T, s Store, reopen func() Store) {
	ctx := t.Context()
	mustPut(t, s, testRevision(), 0)
	if err := s.Append(ctx, Event{Message: "one"}, Event{Message: "two"}); err != nil {
		t.Fatal(err)
	}
	s = reopen()
	mustPut(t, s, testRevision(), 1)
	if err := s.Append(ctx, Event{Message: "three"}); err != nil {
		t.Fatal(err)
	}
	same(t, "sequence goes on", seqs(collect(t, s, EventFilter{})), []int64{1, 2, 3})
}

func testCancelled(t *testing.T, s Store, _ func() Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Put(ctx, Revision{}, 0); err == nil {
		t.Error("Put with a cancelled context worked")
	}
	if err := s.Append(ctx, Event{}); err == nil {
		t.Error("Append with a cancelled context worked")
	}
	for _, err := range s.Events(ctx, EventFilter{}) {
		is(t, "Events with a cancelled context", err, context.Canceled)
	}
	_, err := s.Latest(t.Context())
	is(t, "Latest", err, errdefs.ErrNotFound)
	if err := s.Append(t.Context(), Event{}); err != nil {
		t.Errorf("the store is unusable afterwards: %v", err)
	}
}

func testInvalid(t *testing.T, s Store, _ func() Store) {
	rev := testRevision()
	rev.Project.Services["web"] = compose.Service{Other: map[string]any{"f": func() {}}}
	_, err := s.Put(t.Context(), rev, 0)
	is(t, "Put of a function", err, errdefs.ErrInvalid)
	is(t, "SetValue of a channel", s.SetValue(t.Context(), "c", make(chan int)), errdefs.ErrInvalid)
	mustPut(t, s, Revision{}, 0)
}

func testClosed(t *testing.T, s Store, _ func() Store) {
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := s.Append(t.Context(), Event{}); err == nil {
		t.Error("Append on a closed store worked")
	}
	if _, err := json.Marshal(testRevision()); err != nil {
		t.Error(err)
	}
}
