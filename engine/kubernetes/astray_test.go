package kubernetes

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"trellis/state"
)

// TestAstrayIsPutRight: what somebody who was killed has applied of an older revision over the newest one, without a mark, the control
// plane in the cluster carries out once more and judges again. It waits for a mark first, repeats nothing all the time, and takes nothing
// from anybody else.
func TestAstrayIsPutRight(t *testing.T) {
	const api = "/apis/apps/v1/namespaces/shop/deployments/api"
	for name, test := range map[string]struct {
		control bool
		outcome string // of the newest
		owner   string // of the image, "" for Trellis
		refuses string
		right   bool
	}{
		"by the control plane":            {true, state.Healthy, "", "", true},
		"not where the newest had failed": {true, state.Failed, "", "", false},
		"not where it was taken back":     {true, state.Superseded, "", "", false},
		"not by whoever follows":          {false, state.Healthy, "", "", false},
		"not against another owner":       {true, state.Healthy, "kubectl-rollout", "", false},
		"not what the cluster refuses":    {true, state.Healthy, "", "Invalid", false},
		"not where it cannot be asked":    {true, state.Healthy, "", "BadRequest", false},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := cluster(t)
			e := quiet(client)
			if test.control {
				e.UsePlane(Plane{Default: "trellis:1"})
				e.UseControl(Control{Image: "trellis:1"})
			}
			w := watching(e)
			step := func() {
				t.Helper()
				s.well()
				if err := w.step(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			var first map[string]any
			for _, n := range []string{"1", "2"} {
				if _, err := e.Apply(t.Context(), state.Revision{Project: version(n)}, ""); err != nil {
					t.Fatal(err)
				}
				for range 4 {
					step()
				}
				if n == "1" {
					first = s.objects[api]
				}
			}
			all, err := client.history(t.Context(), "shop")
			if err != nil || all[0].Outcome != state.Healthy {
				t.Fatalf("%v, revision %d is %s", err, all[0].Number, all[0].Outcome)
			}
			if test.outcome != state.Healthy {
				if err := client.settle(t.Context(), all[0], test.outcome); err != nil {
					t.Fatal(err)
				}
			}
			s.mu.Lock()
			s.objects[api] = first
			s.before = func(to http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPatch || r.URL.Path != api || test.owner+test.refuses == "" {
					return false
				}
				if test.refuses != "" {
					answer(to, map[string]int{"Invalid": 422, "BadRequest": 400}[test.refuses], test.refuses, "a webhook of the cluster")
					return true
				}
				to.Header().Set("Content-Type", "application/json")
				to.WriteHeader(http.StatusConflict)
				fmt.Fprintf(to, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 409, "reason": "Conflict", "details": {"causes": [
					{"reason": "FieldManagerConflict", "message": "conflict with \\"%s\\" using apps/v1", "field": ".spec.template.spec.containers[name=\\"api\\"].image"}]}}`, test.owner)
				return true
			}
			s.mu.Unlock()
			wrote := len(s.writes)
			step()
			if len(s.writes) != wrote {
				t.Errorf("at once it writes %v", s.writes[wrote:])
			}
			w.astray.since = w.astray.since.Add(-2 * stuck)
			for range 3 {
				step()
			}
			want := map[bool]string{true: "api:2", false: "api:1"}[test.right]
			if got := s.runs(t); got["api"] != want {
				t.Errorf("there is %v, want %s", got, want)
			}
			all, err = client.history(t.Context(), "shop")
			if outcome := test.outcome; err != nil || all[0].Number != 2 || all[0].Outcome != outcome && !(test.right && all[0].Outcome == state.Healthy) {
				t.Errorf("%v: revision %d is %s, want %s", err, all[0].Number, all[0].Outcome, outcome)
			}
			if !test.right && len(s.writes) != wrote {
				t.Errorf("it writes %v", s.writes[wrote:])
			}
			// The same once more is somebody's who goes on with it, and not repeated all the time.
			s.mu.Lock()
			s.objects[api] = first
			s.mu.Unlock()
			step()
			w.astray.since = w.astray.since.Add(-2 * stuck)
			asked := len(s.asked)
			step()
			for _, one := range s.asked[asked:] {
				if strings.Contains(one, "PATCH") {
					t.Errorf("a moment later it asks %s", one)
				}
			}
			if !test.right {
				return
			}
			w.astray.next = time.Time{}
			for range 3 {
				step()
			}
			if got := s.runs(t); got["api"] != "api:2" {
				t.Errorf("later there is %v", got)
			}
		})
	}
}
