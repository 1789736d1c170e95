package api_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/api"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// fakeViewer answers with what it was asked.
type fakeViewer struct {
	api.Control
	steps [][]api.TrafficStep
	err   error
}

var deployed = api.Deployment{
	Number: 3, AppliedAt: time.Unix(1e9, 0).UTC(), Outcome: state.Healthy, Cause: "up", Actor: "me@here", Services: []string{"web"},
	Rollouts: []state.Rollout{{Service: "web", Revision: 3, From: 2, Phase: state.Promoted}},
}

func (f *fakeViewer) Deployments(_ context.Context, limit int) ([]api.Deployment, error) {
	return []api.Deployment{deployed}[:min(limit, 1)], f.err
}

func (f *fakeViewer) Compare(_ context.Context, from, to int64) ([]engine.Change, error) {
	return []engine.Change{{Path: fmt.Sprintf("%d to %d", from, to), Action: engine.Add}}, f.err
}

func (f *fakeViewer) Traffic(_ context.Context, fn func([]api.TrafficStep) error) error {
	for _, s := range f.steps {
		if err := fn(s); err != nil {
			return err
		}
	}
	return f.err
}

func (f *fakeViewer) Door(context.Context) (api.Door, error) {
	return api.Door{URL: "http://127.0.0.1:1", Key: "k"}, f.err
}

func TestViewerArrivesWhole(t *testing.T) {
	step := api.TrafficStep{Time: time.Unix(5, 0).UTC(), Seconds: 2, Services: map[string]api.Flow{"web": {Requests: 4, Failed: 1, P50: 1.5, P99: 9}}, Recent: &api.Recent{Seconds: 2, Services: map[string]api.Flow{}, Instances: map[string]api.Flow{"web-1": {Requests: 4}}}}
	f := &fakeViewer{steps: [][]api.TrafficStep{{step, step}, {step}}}
	client := serveControl(t, f)
	got, err := client.Deployments(t.Context(), 7)
	if d := cmp.Diff([]api.Deployment{deployed}, got); err != nil || d != "" {
		t.Errorf("deployments: %v (-want +got):\n%s", err, d)
	}
	changes, err := client.Compare(t.Context(), 2, 3)
	if err != nil || len(changes) != 1 || changes[0].Path != "2 to 3" {
		t.Errorf("compare: %v, %v", changes, err)
	}
	var steps [][]api.TrafficStep
	err = client.Traffic(t.Context(), func(s []api.TrafficStep) error { steps = append(steps, s); return nil })
	if d := cmp.Diff(f.steps, steps); err != nil || d != "" {
		t.Errorf("traffic: %v (-want +got):\n%s", err, d)
	}
	if door, err := client.Door(t.Context()); err != nil || door.Key != "k" {
		t.Errorf("door: %v, %v", door, err)
	}
	f.err = fmt.Errorf("look: %w", errdefs.ErrNotFound)
	if _, err := client.Compare(t.Context(), 0, 9); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("compare with what is not there: %v", err)
	}
	if _, err := client.Door(t.Context()); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("door: %v", err)
	}
}

func TestViewerRefusesWhatIsNoNumber(t *testing.T) {
	h := api.Handler(&fakeViewer{}, slog.New(slog.DiscardHandler))
	for _, path := range []string{"/v1/changes?from=a", "/v1/changes?to=-1", "/v1/deployments?limit=x"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != 400 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}
