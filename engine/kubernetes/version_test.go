package kubernetes

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiversion "k8s.io/apimachinery/pkg/util/version"

	"trellis/compose"
	"trellis/errdefs"
	"trellis/state"
)

// ofVersion has an API server answer with code and text when it is asked for its version.
func ofVersion(s *apiServer, code int, text string) {
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/version" {
			return false
		}
		if code != http.StatusOK {
			answer(w, code, http.StatusText(code), "no")
			return true
		}
		fmt.Fprint(w, text)
		return true
	}
}

// TestVersion: what an older cluster would refuse is not asked of it, and of one that says nothing of itself neither; one that would refuse
// everything is refused.
func TestVersion(t *testing.T) {
	for _, test := range []struct {
		answer  string
		code    int
		near    bool
		signals bool
		err     error
	}{
		{`{"major": "1", "minor": "36", "gitVersion": "v1.36.3"}`, 200, true, true, nil},
		{`{"major": "1", "minor": "35+", "gitVersion": "v1.35.0-eks-1a2b3c4"}`, 200, true, true, nil},
		{`{"major": "2", "minor": "0", "gitVersion": "v2.0.0"}`, 200, true, true, nil},
		{`{"major": "1", "minor": "34", "gitVersion": "v1.34.9"}`, 200, false, true, nil},
		{`{"major": "1", "minor": "33", "gitVersion": "v1.33.0+k3s1"}`, 200, false, true, nil},
		{`{"major": "1", "minor": "32", "gitVersion": "v1.32.8"}`, 200, false, false, nil},
		{`{"major": "1", "minor": "30", "gitVersion": "v1.30.0"}`, 200, false, false, nil},
		{`{"major": "1", "minor": "29", "gitVersion": "v1.29.14"}`, 200, false, false, errdefs.ErrUnsupported},
		{`{"gitVersion": "what"}`, 200, false, false, nil},
		{"", http.StatusForbidden, false, false, nil},
		{"", http.StatusInternalServerError, false, false, errdefs.ErrUnavailable},
	} {
		s, c := cluster(t)
		ofVersion(s, test.code, test.answer)
		e := New("shop", c, slog.New(slog.DiscardHandler))
		for range 2 {
			v, err := e.version()
			if !errors.Is(err, test.err) || from(v, sameNode) != test.near || from(v, stopSignals) != test.signals {
				t.Errorf("%s (%d): %v, %v", test.answer, test.code, v, err)
			}
		}
		if n := len(s.asked); n != 1 && !errors.Is(test.err, errdefs.ErrUnavailable) {
			t.Errorf("%s (%d): asked %d times", test.answer, test.code, n)
		}
	}
}

// TestStopSignal: a cluster that does not know it yet gets none, and the note says so; where there is none to ask it is rendered.
func TestStopSignal(t *testing.T) {
	p := compose.Project{Name: "shop", Services: map[string]compose.Service{"web": {Name: "web", Image: "web:1", StopSignal: "SIGQUIT"}}}
	for text, want := range map[string]bool{"": false, "1.32": false, ExportedFor: true, "1.36": true} {
		opt := Options{Revision: 1}
		if text != "" {
			opt.Version = apiversion.MustParseGeneric(text)
		}
		objects, err := Render(p, nil, opt)
		if err != nil {
			t.Fatal(err)
		}
		valid(t, objects)
		pod := deployments(objects)[0].Spec.Template.Spec
		signal := pod.Containers[0].Lifecycle.StopSignal
		if got := signal != nil && *signal == corev1.SIGQUIT && pod.OS != nil; got != want || !got && (signal != nil || pod.OS != nil) {
			t.Errorf("version %q: signal %v, system %v", text, signal, pod.OS)
		}
		notes := fmt.Sprint(Notes(p, opt))
		if got := !strings.Contains(notes, "services.web.stop_signal"); got != want {
			t.Errorf("version %q: %s", text, notes)
		}
	}
}

// TestTooOld: a cluster that would refuse every pod is told of at once, before anything is written.
func TestTooOld(t *testing.T) {
	s, c := cluster(t)
	ofVersion(s, http.StatusOK, `{"gitVersion": "v1.29.14"}`)
	e := quiet(c)
	p := version("1")
	for _, look := range []bool{true, false} {
		if _, err := e.Keep(t.Context(), p, nil, look); !errors.Is(err, errdefs.ErrUnsupported) || !strings.Contains(err.Error(), "1.30") {
			t.Errorf("look %v: %v", look, err)
		}
	}
	if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); !errors.Is(err, errdefs.ErrUnsupported) {
		t.Error(err)
	}
	if len(s.writes) > 0 {
		t.Errorf("and wrote %v", s.writes)
	}
}

// TestUnknownField: an API server that does not know a field that is applied (an older Gateway API, say) refuses it for good, although it
// calls that an error of its own.
func TestUnknownField(t *testing.T) {
	s, c := cluster(t)
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch || !strings.HasSuffix(r.URL.Path, "/deployments/web") {
			return false
		}
		answer(w, http.StatusInternalServerError, "", "failed to create typed patch object (shop/web; apps/v1, Kind=Deployment): .spec.new: field not declared in schema")
		return true
	}
	e := quiet(c)
	if _, err := e.Apply(t.Context(), state.Revision{Project: version("1")}, ""); !errors.Is(err, errdefs.ErrInvalid) || !strings.Contains(err.Error(), ".spec.new") {
		t.Error(err)
	}
	if all, err := e.History(t.Context(), 1); err != nil || all[0].Outcome != state.Failed {
		t.Errorf("%v, and the revision is %v", err, all)
	}
}
