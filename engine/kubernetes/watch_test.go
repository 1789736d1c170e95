package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/compose"
	"trellis/engine"
	"trellis/engine/judge"
	"trellis/errdefs"
	"trellis/state"
)

func quiet(c *Client) *Engine { return New("shop", c, slog.New(slog.DiscardHandler)) }

func watching(e *Engine) *watcher { return &watcher{engine: e, changed: func(string) {}} }

// TestStoppedIsNotWatched: a rollout of a service that has no replicas has nothing to show, and ends.
func TestStoppedIsNotWatched(t *testing.T) {
	svc := compose.Service{Name: "web", Image: "web:2", Expose: []string{"8080"}}
	one := record{Revision: state.Revision{Number: 2, Project: compose.Project{Name: "shop", Services: map[string]compose.Service{"web": svc}}}}
	one.rollouts = []state.Rollout{{Revision: 2, Service: "web", From: 1, Phase: state.Rolling}}
	var tally judge.Tally
	var j judging
	s := engine.State{Services: []engine.Service{{Name: "web", State: engine.ServiceStopped}}}
	if _, _, more := j.look(&tally, one, s, time.Now()); more || !there(one.Project, s) {
		t.Errorf("watched for longer: %v, there: %v", more, there(one.Project, s))
	}
}

// TestJudgedByWhatIsThereNow: a revision that mends a crash is not judged by the pods of before, also where some of it has to wait.
func TestJudgedByWhatIsThereNow(t *testing.T) {
	s, c := cluster(t)
	e := quiet(c)
	first := compose.Project{Name: "shop", Services: map[string]compose.Service{"web": {Name: "web", Image: "web:1"}}}
	if _, err := e.Apply(t.Context(), state.Revision{Project: first}, ""); err != nil {
		t.Fatal(err)
	}
	all, _ := c.history(t.Context(), "shop")
	_ = c.settle(t.Context(), all[0], state.Failed)
	labels := s.objects["/apis/apps/v1/namespaces/shop/deployments/web"]["metadata"].(map[string]any)["labels"]
	s.objects["/api/v1/namespaces/shop/pods/web-x"] = map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"name": "web-x", "labels": labels, "annotations": map[string]any{annotationRevision: "1"}},
		"status": map[string]any{"containerStatuses": []any{map[string]any{"name": "web", "restartCount": int64(5), "state": map[string]any{"waiting": map[string]any{"reason": "CrashLoopBackOff"}},
			"lastState": map[string]any{"terminated": map[string]any{"exitCode": int64(3)}}}}},
	}
	second := compose.Project{Name: "shop", Services: map[string]compose.Service{"web": {Name: "web", Image: "web:2"}, "db": {Name: "db", Image: "db:1"},
		"api": {Name: "api", Image: "api:1", DependsOn: map[string]compose.Dependency{"db": {Condition: "service_healthy", Required: true}}}}}
	_ = c.append(t.Context(), record{Revision: state.Revision{Number: 2, Project: second, Outcome: state.Pending, AppliedAt: time.Now()}})
	w := watching(e)
	if err := w.step(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all, _ = c.history(t.Context(), "shop"); all[0].Number != 2 || all[0].Outcome != state.Pending {
		t.Errorf("revision %d is %s", all[0].Number, all[0].Outcome)
	}
}

// TestCrashOfWhatDidNotChange: a revision does not fail for a service that it has as the last healthy one had it, whatever becomes of that;
// it does for one that no revision since has brought up, whoever changed it.
func TestCrashOfWhatDidNotChange(t *testing.T) {
	template := func(revision string) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{labelService: "api"}, Annotations: map[string]string{annotationRevision: revision}}}
	}
	crash := corev1.ContainerStatus{RestartCount: 5, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}
	crash.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 3}
	imageless := corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}}
	revision := func(number int64, outcome string) record {
		return record{Revision: state.Revision{Number: number, Outcome: outcome, Project: version("1")}}
	}
	for name, c := range map[string]struct {
		all     []record
		changed string // in which revision
		fails   bool
	}{
		"it was well":             {[]record{revision(8, state.Pending), revision(7, state.Healthy), revision(3, state.Healthy)}, "3", false},
		"since the last one":      {[]record{revision(8, state.Pending), revision(7, state.Healthy)}, "7", false},
		"it is another":           {[]record{revision(8, state.Pending), revision(7, state.Healthy)}, "8", true},
		"another one changed it":  {[]record{revision(8, state.Pending), revision(7, state.Failed), revision(6, state.Healthy)}, "7", true},
		"nothing was healthy yet": {[]record{revision(8, state.Pending), revision(7, state.Failed)}, "7", true},
	} {
		for what, status := range map[string]corev1.ContainerStatus{"crashes": crash, "has no image": imageless} {
			pod := corev1.Pod{ObjectMeta: template(c.changed).ObjectMeta, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{status}}}
			d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "api", Labels: pod.Labels}, Spec: appsv1.DeploymentSpec{Template: template(c.changed)}}
			live := Live{Objects: []Object{d}, Pods: []corev1.Pod{pod}}
			w := watching(nil)
			w.stuck, w.late = map[string]time.Time{"api": time.Now().Add(-2 * stuck)}, map[string]lateness{}
			service, why := w.failure(c.all, Read(c.all[0].Revision, live), live)
			if (service == "api") != c.fails || c.fails != (why != "") {
				t.Errorf("%s, and %s: %q fails, %s", name, what, service, why)
			}
		}
	}
}

// TestManyChangesAreOneLook: of what watches tell in a moment comes one look, and of what they tell without end no more than a few a second.
func TestManyChangesAreOneLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Second)
		defer cancel()
		wake := make(chan struct{}, 1)
		changes := func(lasting time.Duration) {
			for range lasting / time.Millisecond {
				select {
				case wake <- struct{}{}:
				default:
				}
				time.Sleep(time.Millisecond)
			}
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			changes(breath / 2)
			time.Sleep(15*time.Second - breath/2)
			changes(10 * time.Second)
		}()
		var at []time.Duration
		for began := time.Now(); await(ctx, wake, idleLook); {
			at = append(at, time.Since(began))
		}
		<-done
		if len(at) < 3 || at[0] != breath || at[1] != breath+idleLook || at[2] != 15*time.Second+breath {
			t.Fatalf("looked after %v", at)
		}
		if most := int(9 * time.Second / breath); len(at)-2 > most || len(at)-2 < most*9/10 {
			t.Errorf("%d looks in nine seconds of changes", len(at)-2)
		}
	})
}

// TestTwoDeploysAtOnce: what goes on with a revision while the next one is applied overwrites some of that, and it is put right.
func TestTwoDeploysAtOnce(t *testing.T) {
	s, c := cluster(t)
	p := func(n string) compose.Project {
		return compose.Project{Name: "shop", Services: map[string]compose.Service{"api": {Name: "api", Image: "api:" + n}, "web": {Name: "web", Image: "web:" + n}}}
	}
	a, b := quiet(c), quiet(c)
	if _, err := a.Apply(t.Context(), state.Revision{Project: p("1")}, ""); err != nil {
		t.Fatal(err)
	}
	all, live, _, err := a.look(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	blocked, goon, fired := make(chan struct{}), make(chan struct{}), false
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if !fired && r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/deployments/web") {
			fired = true
			s.mu.Unlock()
			close(blocked)
			<-goon
			s.mu.Lock()
		}
		return false
	}
	done := make(chan error)
	go func() { _, err := b.Apply(t.Context(), state.Revision{Project: p("2")}, ""); done <- err }()
	<-blocked
	w := watching(a)
	if _, _, err = w.goOn(t.Context(), all[0], live); err != nil {
		t.Fatal(err)
	}
	close(goon)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := w.step(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"api", "web"} {
		if o := fmt.Sprint(s.objects["/apis/apps/v1/namespaces/shop/deployments/"+n]); !strings.Contains(o, n+":2") {
			t.Errorf("%s is not of the second deploy: %s", n, o)
		}
	}
}

// TestFailedPreStartIsTriedAnew: who deploys once more is not judged by the Job that failed before, whoever looks while it is removed.
func TestFailedPreStartIsTriedAnew(t *testing.T) {
	s, c := cluster(t)
	e := quiet(c)
	svc := compose.Service{Name: "web", Image: "web:1"}
	svc.PreStart = []compose.PreStart{{Hook: compose.Hook{Command: []string{"migrate"}}}}
	p := compose.Project{Name: "shop", Services: map[string]compose.Service{"web": svc}}
	if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
		t.Fatal(err)
	}
	all, _ := c.history(t.Context(), "shop")
	_ = c.settle(t.Context(), all[0], state.Failed)
	for path, o := range s.objects {
		if strings.Contains(path, "/jobs/") {
			o["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Failed", "status": "True"}}}
		}
	}
	other := watching(quiet(c))
	fired := false
	s.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if !fired && r.Method == http.MethodDelete && strings.Contains(r.URL.Path, "/jobs/") {
			fired = true
			s.mu.Unlock()
			if err := other.step(t.Context()); err != nil {
				t.Error(err)
			}
			s.mu.Lock()
		}
		return false
	}
	if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
		t.Fatal(err)
	}
	if all, _ = c.history(t.Context(), "shop"); !fired || all[0].Number != 2 || all[0].Outcome != state.Pending {
		t.Errorf("removed: %v; revision %d is %s", fired, all[0].Number, all[0].Outcome)
	}
}

// TestPreStartOfAnEarlierRevision: one that hangs ends when another one takes its place, and that it fails later is no failure of what has
// taken its place.
func TestPreStartOfAnEarlierRevision(t *testing.T) {
	s, c := cluster(t)
	e := quiet(c)
	migrating := func(command string) compose.Project {
		svc := compose.Service{Name: "web", Image: "web:1"}
		svc.PreStart = []compose.PreStart{{Hook: compose.Hook{Command: []string{command}}}}
		return compose.Project{Name: "shop", Services: map[string]compose.Service{"web": svc}}
	}
	jobs := func() map[string]map[string]any {
		all := maps.Clone(s.objects)
		maps.DeleteFunc(all, func(path string, _ map[string]any) bool { return !strings.Contains(path, "/jobs/") })
		return all
	}
	if _, err := e.Apply(t.Context(), state.Revision{Project: version("1")}, ""); err != nil {
		t.Fatal(err)
	}
	all, _ := c.history(t.Context(), "shop")
	_ = c.settle(t.Context(), all[0], state.Healthy)
	if _, err := e.Apply(t.Context(), state.Revision{Project: migrating("hang")}, ""); err != nil {
		t.Fatal(err)
	}
	hangs := jobs()
	if _, err := e.Apply(t.Context(), state.Revision{Project: migrating("mended")}, ""); err != nil {
		t.Fatal(err)
	}
	mended := jobs()
	for path, job := range hangs {
		if mended[path] != nil || len(mended) != 1 {
			t.Errorf("%s goes on; there are %d", path, len(mended))
		}
		s.objects[path] = job // by somebody who has not seen yet that there is another revision
	}
	w := watching(e)
	if err := w.step(t.Context()); err != nil || len(jobs()) != 1 {
		t.Errorf("%v, and then there are %d", err, len(jobs()))
	}
	for path, job := range hangs {
		job["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Failed", "status": "True"}}}
		s.objects[path] = job
	}
	if err := w.step(t.Context()); err != nil {
		t.Error(err)
	}
	if all, _ = c.history(t.Context(), "shop"); all[0].Number != 3 || all[0].Outcome != state.Pending {
		t.Errorf("revision %d is %s", all[0].Number, all[0].Outcome)
	}
	for path := range mended {
		s.objects[path]["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Failed", "status": "True"}}}
	}
	s.before = func(to http.ResponseWriter, r *http.Request) bool {
		job := s.objects[r.URL.Path]
		if job["status"] == nil || r.Method != http.MethodPatch {
			return false
		}
		_ = json.NewEncoder(to).Encode(job) // an apply would take its status away here
		return true
	}
	if err := w.step(t.Context()); err != nil {
		t.Error(err)
	}
	if all, _ = c.history(t.Context(), "shop"); all[0].Undoes != 3 {
		t.Errorf("its own has failed, and revision %d is %s", all[0].Number, all[0].Outcome)
	}
}

// TestNobodyIsTakenBackOver: a revision that failed is not taken back where somebody has deployed another one meanwhile.
func TestNobodyIsTakenBackOver(t *testing.T) {
	_, c := cluster(t)
	e := quiet(c)
	p := func(n string) compose.Project {
		return compose.Project{Name: "shop", Services: map[string]compose.Service{"web": {Name: "web", Image: "web:" + n}}}
	}
	for _, n := range []string{"1", "2"} {
		_, _ = e.Apply(t.Context(), state.Revision{Project: p(n)}, "")
		if n == "1" {
			all, _ := c.history(t.Context(), "shop")
			_ = c.settle(t.Context(), all[0], state.Healthy)
		}
	}
	all, _, _, _ := e.look(t.Context(), "shop")
	_, _ = quiet(c).Apply(t.Context(), state.Revision{Project: p("3")}, "")
	if err := e.goBack(t.Context(), all, state.Rollout{Service: "web", Reason: "crashes"}, "trellis"); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("taken back over another deploy: %v", err)
	}
	if h, err := e.History(t.Context(), 0); err != nil || h[0].Number != 3 || h[0].Project.Services["web"].Image != "web:3" {
		t.Errorf("%v, %+v", err, h[0])
	}
}

// TestAnswerThatIsCutShort: an API server that goes away in the middle of an answer has refused nothing. The revision has not failed, and is
// carried on.
func TestAnswerThatIsCutShort(t *testing.T) {
	s, client := cluster(t)
	e := quiet(client)
	cut := false
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if cut || r.Method != http.MethodPatch || !strings.HasSuffix(r.URL.Path, "/deployments/api") {
			return false
		}
		cut = true
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte(`{"kind": "Deploy`))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	if _, err := e.Apply(t.Context(), state.Revision{Project: version("1")}, ""); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	all, err := e.History(t.Context(), 0)
	if err != nil || len(all) != 1 || all[0].Outcome != state.Pending {
		t.Fatalf("%v, %d revisions, the newest is %s", err, len(all), all[0].Outcome)
	}
	w := watching(e)
	for range 2 {
		s.well()
		if err := w.step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if all, err = e.History(t.Context(), 0); err != nil || all[0].Outcome != state.Healthy {
		t.Errorf("carried on: %v, it is %s", err, all[0].Outcome)
	}
}

// TestWhatCannotBeCarriedOutIsSaid, also where it is something of the revision that is not there any more; a project that does not run is
// no trouble.
func TestWhatCannotBeCarriedOutIsSaid(t *testing.T) {
	_, c := cluster(t)
	if err := watching(quiet(c)).step(t.Context()); err != nil {
		t.Errorf("a project that was never applied: %v", err)
	}
	if _, err := quiet(c).Apply(t.Context(), state.Revision{Project: version("1")}, ""); err != nil {
		t.Fatal(err)
	}
	p := version("2")
	p.Configs = map[string]compose.FileValue{"settings": {Ref: "gone"}}
	if err := c.append(t.Context(), record{Revision: state.Revision{Number: 2, Project: p, Outcome: state.Pending, AppliedAt: time.Now()}}); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	e := New("shop", c, slog.New(slog.NewTextHandler(&said, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	if err := e.Run(ctx, func(string) { cancel() }); err != nil || !strings.Contains(said.String(), "configs/settings: not found: its content is not kept") {
		t.Errorf("%v; said is %q", err, said.String())
	}
}

// TestGoingBackChangesNothingThatOthersRead: what was seen is shared by all parts of a control plane.
func TestGoingBackChangesNothingThatOthersRead(t *testing.T) {
	s, c := cluster(t)
	e := quiet(c)
	for _, n := range []string{"1", "2"} {
		if _, err := e.Apply(t.Context(), state.Revision{Project: version(n)}, ""); err != nil {
			t.Fatal(err)
		}
	}
	all, err := c.history(t.Context(), "shop")
	if err != nil || len(all[0].rollouts) != 2 {
		t.Fatalf("%v, rollouts %+v", err, all[0].rollouts)
	}
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch {
			answer(w, http.StatusForbidden, "Forbidden", "may not")
		}
		return r.Method == http.MethodPatch
	}
	err = e.goBack(t.Context(), all, state.Rollout{Service: "web", Reason: "crashes"}, "trellis")
	if slices.ContainsFunc(all[0].rollouts, state.Rollout.Over) || err == nil {
		t.Errorf("%v, and the rollouts that were read became %+v", err, all[0].rollouts)
	}
}

// TestSaidOnce: what keeps the loop from looking after a project is said once, until it is something else or over.
func TestSaidOnce(t *testing.T) {
	var out bytes.Buffer
	w := watching(New("shop", nil, slog.New(slog.NewTextHandler(&out, nil))))
	for _, err := range []error{errors.New("no room"), errors.New("no room"), errors.New("no answer"), nil, errors.New("no answer"), errors.New("no answer")} {
		w.tell(t.Context(), err)
	}
	if rooms, answers := strings.Count(out.String(), "no room"), strings.Count(out.String(), "no answer"); rooms != 1 || answers != 2 {
		t.Errorf("said %d and %d times:\n%s", rooms, answers, &out)
	}
}
