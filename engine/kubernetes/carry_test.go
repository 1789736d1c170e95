package kubernetes

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"trellis/compose"
	"trellis/engine"
	"trellis/engine/judge"
	"trellis/state"
)

// version returns project shop of which every service has an image of that version.
func version(n string) compose.Project {
	return compose.Project{Name: "shop", Services: map[string]compose.Service{"api": {Name: "api", Image: "api:" + n}, "web": {Name: "web", Image: "web:" + n}}}
}

// runs returns the images that the Deployments of project shop have.
func (s *apiServer) runs(t *testing.T) map[string]string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]string{}
	for _, name := range []string{"api", "web"} {
		text := fmt.Sprint(s.objects["/apis/apps/v1/namespaces/shop/deployments/"+name])
		_, image, _ := strings.Cut(text, "image:")
		all[name], _, _ = strings.Cut(image, " ")
	}
	return all
}

// well has every Deployment of project shop be as it is wanted, with a pod that is ready.
func (s *apiServer) well() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, o := range maps.Clone(s.objects) {
		if !strings.Contains(path, "/deployments/") {
			continue
		}
		o["status"] = map[string]any{"availableReplicas": int64(1), "updatedReplicas": int64(1), "replicas": int64(1)}
		meta, _, _ := unstructured.NestedMap(o, "spec", "template", "metadata")
		meta["name"] = filepath.Base(path) + "-x"
		s.objects["/api/v1/namespaces/shop/pods/"+meta["name"].(string)] = map[string]any{
			"apiVersion": "v1", "kind": "Pod", "metadata": meta,
			"status": map[string]any{"containerStatuses": []any{map[string]any{
				"name": "web", "ready": true, "state": map[string]any{"running": map[string]any{"startedAt": "2026-01-02T03:04:05Z"}},
			}}},
		}
	}
}

// overtaken has a deploy of the first version of shop go on after one of the second has ended in outcome. end is called in the middle of
// the first, with what interrupts it.
func overtaken(t *testing.T, s *apiServer, e func() *Engine, outcome string, end func(cut context.CancelFunc)) {
	t.Helper()
	ctx, cut := context.WithCancel(t.Context())
	defer cut()
	blocked, goon, asked := make(chan struct{}), make(chan struct{}), 0
	s.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if plane := s.objects["/apis/apps/v1/namespaces/shop/deployments/"+planeName("shop")]; plane != nil {
			plane["status"] = map[string]any{"availableReplicas": int64(2)}
		}
		if r.Method != http.MethodPatch || !strings.HasSuffix(r.URL.Path, "/deployments/api") {
			return false
		}
		if asked++; asked == 1 {
			s.mu.Unlock()
			close(blocked)
			<-goon
			s.mu.Lock()
			end(cut)
		}
		return false
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = e().Apply(ctx, state.Revision{Project: version("1")}, "")
	}()
	<-blocked
	newest := e()
	if _, err := newest.Apply(t.Context(), state.Revision{Project: version("2")}, ""); err != nil {
		t.Fatal(err)
	}
	w := watching(newest)
	for range 2 {
		s.well()
		if err := w.step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	all, err := newest.History(t.Context(), 0)
	if err != nil || len(all) != 2 || all[0].Outcome != state.Healthy {
		t.Fatalf("%v, %d revisions, the newest is %s", err, len(all), all[0].Outcome)
	}
	if outcome != state.Healthy {
		if err := newest.client.settle(t.Context(), record{Revision: all[0]}, outcome); err != nil {
			t.Fatal(err)
		}
	}
	close(goon)
	<-done
	if got := s.runs(t); got["api"] != "api:1" {
		t.Fatalf("the slow deploy has overwritten nothing: %v", got)
	}
}

// TestOvertakenDeployIsPutRight: a deploy that goes on after the next one has ended leaves its objects there, and what is wanted is carried
// out once more: by the same revision, judged again, and once.
func TestOvertakenDeployIsPutRight(t *testing.T) {
	for name, c := range map[string]struct {
		outcome string
		control bool
		end     func(context.CancelFunc)
	}{
		"by whoever follows":                 {state.Healthy, false, func(context.CancelFunc) {}},
		"by the control plane":               {state.Healthy, true, func(context.CancelFunc) {}},
		"where it had failed":                {state.Failed, false, func(context.CancelFunc) {}},
		"where the slow one was interrupted": {state.Healthy, false, func(cut context.CancelFunc) { cut() }},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := cluster(t)
			made := func() *Engine {
				e := quiet(client)
				if c.control {
					e.UsePlane(Plane{Default: "trellis:1"})
					e.UseControl(Control{Image: "trellis:1"})
				}
				return e
			}
			overtaken(t, s, made, c.outcome, c.end)
			e := made()
			w := watching(e)
			newest := func(want string) state.Revision {
				t.Helper()
				all, err := e.History(t.Context(), 0)
				if err != nil || len(all) != 2 || all[0].Outcome != want {
					t.Fatalf("%v, %d revisions, the newest is %s, want %s", err, len(all), all[0].Outcome, want)
				}
				return all[0]
			}
			before := newest(state.Pending) // an up of the same file follows it
			if err := w.step(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := s.runs(t); got["api"] != "api:2" || got["web"] != "web:2" {
				t.Errorf("there is %v", got)
			}
			newest(state.Pending)
			s.well()
			if err := w.step(t.Context()); err != nil {
				t.Fatal(err)
			}
			after := newest(state.Healthy)
			if c.outcome == state.Healthy && (before.HealthyAt == nil || !after.HealthyAt.Equal(*before.HealthyAt)) {
				t.Errorf("healthy since %v, and then since %v", before.HealthyAt, after.HealthyAt)
			}
			wrote := len(s.writes)
			for range 2 {
				if err := watching(made()).step(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if len(s.writes) != wrote {
				t.Errorf("and then %v", s.writes[wrote:])
			}
		})
	}
}

// TestOvertakenDeployThatIsRefused: what the cluster does not take once more is not tried again and again.
func TestOvertakenDeployThatIsRefused(t *testing.T) {
	s, client := cluster(t)
	made := func() *Engine { return quiet(client) }
	overtaken(t, s, made, state.Healthy, func(context.CancelFunc) {})
	refused := 0
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch || !strings.HasSuffix(r.URL.Path, "/deployments/api") {
			return false
		}
		refused++
		answer(w, http.StatusUnprocessableEntity, "Invalid", "a policy of the cluster")
		return true
	}
	if err := watching(made()).step(t.Context()); err == nil {
		t.Error("a refusal is no error")
	}
	failed := func(number int64) {
		t.Helper()
		for range 3 {
			if err := watching(made()).step(t.Context()); err != nil {
				t.Error(err)
			}
		}
		all, err := made().History(t.Context(), 0)
		if err != nil || all[0].Number != number || all[0].Outcome != state.Failed || refused != int(number)-1 {
			t.Errorf("%v; refused %d times, revision %d is %s", err, refused, all[0].Number, all[0].Outcome)
		}
	}
	failed(2)
	if _, err := made().Apply(t.Context(), state.Revision{Project: version("3")}, ""); err == nil {
		t.Error("a refusal is no error")
	}
	failed(3) // and the mark is from before it
}

// TestJudgedOnceMore: the rollouts of a revision that is carried out once more are under way again, and its windows new.
func TestJudgedOnceMore(t *testing.T) {
	then := time.Now()
	settled := record{Revision: state.Revision{Number: 2, Outcome: state.Healthy, HealthyAt: &then}, settledAt: then, settledAfter: "a", rollouts: []state.Rollout{
		{Revision: 2, Service: "web", From: 1, Phase: state.Promoted, Ended: &then, Reason: "asked", Actor: "me"},
	}}
	if same := settled.after("a"); same.Outcome != state.Healthy || !same.rollouts[0].Over() {
		t.Errorf("without a new mark: %s, %+v", same.Outcome, same.rollouts)
	}
	again := settled.after("b")
	if r := again.rollouts[0]; again.Outcome != state.Pending || r.Over() || r.Ended != nil || r.Reason+r.Actor != "" || r.From != 1 {
		t.Errorf("%s, %+v", again.Outcome, again.rollouts)
	}
	if !settled.rollouts[0].Over() {
		t.Error("what was read has changed")
	}
	settled.Outcome = state.RolledBack
	if back := settled.after("b"); back.Outcome != state.RolledBack {
		t.Errorf("one that was taken back is %s", back.Outcome)
	}
	var j judging
	var tally judge.Tally
	web := engine.State{Services: []engine.Service{{Name: "web"}}}
	j.look(&tally, again, web, then)
	first := j.windows["web"]
	again = settled
	again.Outcome = state.Healthy
	j.look(&tally, again.after("c"), web, then)
	if first == nil || j.windows["web"] == first {
		t.Error("judged by what was measured before")
	}
}

// TestHealthyStaysHealthy: that its traffic cannot be turned to the data plane later makes no failure of a revision that was healthy.
func TestHealthyStaysHealthy(t *testing.T) {
	s, w, _ := controlled(t)
	s.mu.Lock()
	metadata := s.objects["/api/v1/namespaces/shop/services/web"]["metadata"].(map[string]any)
	metadata["annotations"] = map[string]any{annotationPast: dataPlane}
	s.objects["/apis/apps/v1/namespaces/shop/deployments/"+planeName("shop")]["status"] = map[string]any{"availableReplicas": int64(2)}
	refused := false
	s.before = func(to http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch || !strings.HasSuffix(r.URL.Path, "/deployments/web") {
			return false
		}
		refused = true
		answer(to, http.StatusUnprocessableEntity, "Invalid", "a policy of the cluster")
		return true
	}
	s.mu.Unlock()
	err := w.step(t.Context())
	all, herr := w.engine.History(t.Context(), 1)
	if err == nil || herr != nil || !refused || all[0].Outcome != state.Healthy {
		t.Errorf("%v, %v, refused %v, and the revision is %s", err, herr, refused, all[0].Outcome)
	}
}

// TestLateApplyLeadsPastTheDataPlane: somebody who saw that the data plane does not serve yet, and applies after somebody who saw that it
// does, turns the Services back; that is put right, whatever was noted as applied.
func TestLateApplyLeadsPastTheDataPlane(t *testing.T) {
	for _, outcome := range []string{state.Pending, state.Healthy} {
		s, w, _ := controlled(t)
		e := w.engine
		all, live, _, err := e.look(t.Context(), "shop")
		if err != nil {
			t.Fatal(err)
		}
		if err := e.client.settle(t.Context(), all[0], outcome); err != nil {
			t.Fatal(err)
		}
		web := func() *corev1.Service {
			for _, s := range objectsOf[*corev1.Service](live.Objects) {
				if s.Name == "web" {
					return s
				}
			}
			return nil
		}
		if s := web(); s == nil || s.Spec.Selector[labelComponent] != dataPlane || s.Annotations[annotationPast] != "" {
			t.Fatalf("%s: it begins with %v", outcome, s)
		}
		early := Live{Objects: slices.DeleteFunc(slices.Clone(live.Objects), func(o Object) bool { return o == Object(planeOf(live.Objects)) })}
		objects, err := e.render(t.Context(), all[0], early)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.client.put(t.Context(), "shop", objects, true); err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		s.objects["/apis/apps/v1/namespaces/shop/deployments/"+planeName("shop")]["status"] = map[string]any{"availableReplicas": int64(2)}
		s.mu.Unlock()
		if _, live, _, err = e.look(t.Context(), "shop"); err != nil || web().Annotations[annotationPast] == "" {
			t.Fatalf("%s: %v, and after the late apply it is %v", outcome, err, web())
		}
		if err := w.step(t.Context()); err != nil {
			t.Error(err)
		}
		if _, live, _, err = e.look(t.Context(), "shop"); err != nil || goPast(live.Objects) || web().Spec.Selector[labelComponent] != dataPlane {
			t.Errorf("%s: %v, and it stays %v", outcome, err, web())
		}
	}
}

// TestClosedOnceNamesLeadPast: a project that first says who may reach whom has its data plane closed but for its doors once no name leads
// there any more, and is applied whole by then.
func TestClosedOnceNamesLeadPast(t *testing.T) {
	s, w, _ := controlled(t)
	e := w.engine
	all, _, _, err := e.look(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	p := all[0].Project
	p.Services = maps.Clone(p.Services)
	p.Services["web"] = calling(p.Services["web"], "api")
	serves := func() { // which an apply here forgets
		s.mu.Lock()
		defer s.mu.Unlock()
		s.objects["/apis/apps/v1/namespaces/shop/deployments/"+planeName("shop")]["status"] = map[string]any{"availableReplicas": int64(2)}
	}
	serves()
	rev, err := e.Apply(t.Context(), state.Revision{Project: p}, "")
	if err != nil {
		t.Fatal(err)
	}
	for i, closed := range []bool{false, true} {
		applied, err := e.client.note(t.Context(), "shop", appliedKey)
		if err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		_, is := s.objects["/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies/"+planeName("shop")]
		s.mu.Unlock()
		if whole := applied == fmt.Sprint(rev.Number); is != closed || whole != closed {
			t.Errorf("after %d looks: closed %v, applied %q, whole %v; want %v", i, is, applied, whole, closed)
		}
		serves()
		if err := w.step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
