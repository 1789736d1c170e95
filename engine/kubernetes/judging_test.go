package kubernetes

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/compose"
	"trellis/engine"
	"trellis/engine/judge"
	"trellis/proxy"
	"trellis/state"
)

// TestJudging: new instances that fail more than the old ones are found out, and are otherwise watched for as long as they have to be.
func TestJudging(t *testing.T) {
	for name, c := range map[string]struct {
		fails uint64 // of 200 requests to the new one
		want  string
	}{"as good": {0, ""}, "worse": {40, "new instances fail 20.0% of requests (40 of 200), old ones 0.0% (0 of 200)"}} {
		t.Run(name, func(t *testing.T) {
			svc := compose.Service{Name: "web", Image: "web:2", Expose: []string{"8080"}}
			one := record{Revision: state.Revision{Number: 2, Project: compose.Project{Name: "shop", Services: map[string]compose.Service{"web": svc}}}}
			one.rollouts = []state.Rollout{{Revision: 2, Service: "web", From: 1, Phase: state.Rolling}}
			seen := func(how string, instances ...engine.Instance) engine.State {
				return engine.State{Services: []engine.Service{{Name: "web", State: how, Instances: instances}}}
			}
			old := engine.Instance{ID: "web-old", Revision: 1, Ready: true}
			fresh := engine.Instance{ID: "web-new", Revision: 2, Ready: true}
			var tally judge.Tally
			push := func(instance string, requests, failed uint64) {
				latency := proxy.Histogram{}
				latency[100] = requests
				tally.Take(proxy.Measures{Boot: "one", Instances: []proxy.Measure{{Service: "web", Instance: instance, Requests: requests, Failed: failed, Latency: latency}}})
			}
			push("web-old", 0, 0)
			var j judging
			now := time.Now()
			look := func(s engine.State, after time.Duration) (string, bool) {
				service, why, watching := j.look(&tally, one, s, now.Add(after))
				if (service == "web") != (why != "") {
					t.Errorf("%q: %q", service, why)
				}
				return why, watching
			}
			if why, watching := look(seen(engine.ServiceStarting, old), 0); why != "" || !watching {
				t.Errorf("before there is a new one: %q, watching %v", why, watching)
			}
			push("web-new", 0, 0)
			look(seen(engine.ServiceStarting, old, fresh), time.Second)
			push("web-old", 200, 0)
			push("web-new", 200, c.fails)
			why, watching := look(seen(engine.ServiceHealthy, fresh), 2*time.Second)
			if why != c.want || !watching {
				t.Errorf("%q, want %q, watching %v", why, c.want, watching)
			}
			again, watching := look(seen(engine.ServiceHealthy, fresh), 2*time.Second+watchedFor)
			if again != c.want || watching {
				t.Errorf("later: %q, want %q, watching %v", again, c.want, watching)
			}
			ledger := j.measured(one.rollouts)[0].Ledger
			if ledger.Requests != 400 || ledger.New.Failed != c.fails {
				t.Errorf("measured %+v", ledger)
			}
		})
	}
}

// TestWhatFailedIsNamed: the event of a revision that was taken back names the service that failed, and no other.
func TestWhatFailedIsNamed(t *testing.T) {
	then := time.Now()
	r := record{Revision: state.Revision{Number: 2, Outcome: state.RolledBack}, settledAt: then, rollouts: []state.Rollout{
		{Service: "api", Phase: state.TakenBack, Reason: failedWith("web"), Ended: &then},
		{Service: "web", Phase: state.TakenBack, Reason: "new instances fail", Ended: &then},
	}}
	var said string
	for _, e := range ofRevision("shop", r) {
		if e.Kind == "revision."+state.RolledBack {
			said = e.Message
		}
	}
	if !strings.Contains(said, "web: new instances fail") || strings.Contains(said, "api") {
		t.Errorf("%q", said)
	}
}

// TestBackIsFinished: a revision that was taken back by somebody who was killed before the one before was applied again is not left so.
func TestBackIsFinished(t *testing.T) {
	_, c := cluster(t)
	e := New("shop", c, slog.New(slog.DiscardHandler))
	version := func(n string) compose.Project {
		return compose.Project{Name: "shop", Services: map[string]compose.Service{"web": {Name: "web", Image: "web:" + n}}}
	}
	for _, n := range []string{"1", "2"} {
		if _, err := e.Apply(t.Context(), state.Revision{Project: version(n)}, ""); err != nil {
			t.Fatal(err)
		}
		all, err := c.history(t.Context(), "shop")
		if err != nil {
			t.Fatal(err)
		}
		outcome := state.Healthy
		if n == "2" {
			outcome = state.RolledBack
			all[0].rollouts = []state.Rollout{{Service: "web", Phase: state.TakenBack, Reason: "new instances fail"}}
		}
		if err := c.settle(t.Context(), all[0], outcome); err != nil {
			t.Fatal(err)
		}
	}
	w := watcher{engine: e, changed: func(string) {}, stuck: map[string]time.Time{}}
	for range 2 {
		if err := w.step(t.Context()); err != nil {
			t.Fatal(err)
		}
		if all, err := e.History(t.Context(), 0); err != nil || len(all) != 2 {
			t.Fatalf("%d revisions, %v: whoever takes it back may be about to", len(all), err)
		}
	}
	w.backAt = w.backAt.Add(-2 * stuck)
	if err := w.step(t.Context()); err != nil {
		t.Fatal(err)
	}
	all, err := e.History(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 3 || all[0].Undoes != 2 || all[0].Project.Services["web"].Image != "web:1" || !strings.Contains(all[0].Cause, "web: new instances fail") {
		t.Errorf("%d revisions, the newest %+v", len(all), all[0])
	}
}

// TestWorseInstancesLeaveTheirOutput: of a version that does worse is kept what its newest instance has written.
func TestWorseInstancesLeaveTheirOutput(t *testing.T) {
	c := clientOf(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "2026-01-02T03:04:05Z", r.URL.Path) }))
	pod := func(name, service string, revision, age int) corev1.Pod {
		p := corev1.Pod{}
		p.Name, p.CreationTimestamp = name, metav1.NewTime(time.Unix(1e9, 0).Add(-time.Duration(age)*time.Second))
		p.Labels = map[string]string{labelService: service}
		p.Annotations = map[string]string{annotationRevision: strconv.Itoa(revision)}
		return p
	}
	live := Live{Pods: []corev1.Pod{pod("new", "web", 2, 9), pod("newest", "web", 2, 5), pod("old", "web", 1, 1), pod("other", "api", 2, 1)}}
	e := &Engine{client: c, project: "shop"}
	got := e.worseOf(t.Context(), record{Revision: state.Revision{Number: 2}}, live, "web", "new instances fail")
	want := state.Rollout{Service: "web", Reason: "new instances fail", Failure: &state.Failure{
		Instance: "newest", Log: []string{"/api/v1/namespaces/shop/pods/newest/log"},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestLongLastWordsKeepNobodyFromGoingBack: they are in the Secret of their revision, which takes no more than 1 MiB, with the project and what
// it refers to. As many of the last lines are kept as there is room for.
func TestLongLastWordsKeepNobodyFromGoingBack(t *testing.T) {
	noise := make([]byte, maxRevision-8<<10) // which no compression makes smaller
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	lines := func(n, size int) (all []string) {
		for i := range n {
			all = append(all, fmt.Sprintf("%d %s", i, strings.Repeat("é", size)))
		}
		return all
	}
	for name, c := range map[string]struct {
		content []byte
		log     []string
		kept    int // at least
	}{
		"as they come":       {[]byte("short"), lines(lastLines, 100), lastLines},
		"long lines":         {[]byte("short"), lines(lastLines, 16<<10), 1},
		"one line":           {[]byte("short"), lines(1, 512<<10), 1},
		"beside a large one": {noise, lines(lastLines, 100), 10},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := cluster(t)
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				large := r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "/secrets/trellis-") && held(s.objects[r.URL.Path])+r.ContentLength*3/4 > 1<<20
				if large {
					answer(w, http.StatusUnprocessableEntity, "Invalid", "data: Too long: may not be more than 1048576 bytes")
				}
				return large
			}
			e := quiet(client)
			for _, outcome := range []string{state.Healthy, ""} {
				p, err := e.Keep(t.Context(), compose.Project{Name: "shop", Services: map[string]compose.Service{"web": {Name: "web", Image: "web:1" + outcome}},
					Secrets: map[string]compose.FileValue{"key": {}}}, map[string][]byte{"secrets/key": c.content}, false)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
					t.Fatal(err)
				}
				if all, err := client.history(t.Context(), "shop"); err != nil {
					t.Fatal(err)
				} else if outcome == "" {
					err = e.goBack(t.Context(), all, state.Rollout{Service: "web", Reason: "crashes", Failure: &state.Failure{Log: c.log}}, "trellis")
					if err != nil {
						t.Fatal(err)
					}
				} else if err := client.settle(t.Context(), all[0], outcome); err != nil {
					t.Fatal(err)
				}
			}
			all, err := client.history(t.Context(), "shop")
			if err != nil || len(all) != 3 || all[0].Undoes != 2 {
				t.Fatalf("%v, %d revisions", err, len(all))
			}
			kept := all[1].rollouts[0].Failure.Log
			if len(kept) < c.kept || !strings.HasPrefix(c.log[len(c.log)-1], kept[len(kept)-1]) {
				t.Errorf("%d lines are kept", len(kept))
			}
		})
	}
}

// held is how many bytes a Secret holds.
func held(secret map[string]any) (n int64) {
	data, _ := secret["data"].(map[string]any)
	for _, value := range data {
		n += int64(len(fmt.Sprint(value)) * 3 / 4)
	}
	return n
}
