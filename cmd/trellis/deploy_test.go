package main

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// goingAway is a control plane that goes away in the middle of some calls, before or after it has done what it was asked.
type goingAway struct {
	api.Control
	calls   int
	fails   map[int]error // by call
	applied []state.Revision
}

func (g *goingAway) fail() error {
	g.calls++
	return g.fails[g.calls]
}

func (g *goingAway) Status(context.Context) (api.Status, error) {
	s := api.Status{}
	if n := len(g.applied); n > 0 {
		s.Revision = g.applied[n-1].Number
	}
	return s, g.fail()
}

func (g *goingAway) History(context.Context, int) ([]state.Revision, error) {
	if n := len(g.applied); n > 0 {
		return g.applied[n-1:], g.fail()
	}
	return nil, g.fail()
}

func (g *goingAway) Plan(context.Context, api.ApplyRequest) (api.Plan, error) {
	if len(g.applied) > 0 {
		return api.Plan{}, g.fail()
	}
	return api.Plan{Changes: []engine.Change{{Path: "services.web", Action: engine.Add}}}, g.fail()
}

func (g *goingAway) Apply(_ context.Context, req api.ApplyRequest) (state.Revision, error) {
	rev := state.Revision{Number: int64(len(g.applied) + 1), Project: req.Project, Outcome: state.Pending}
	g.applied = append(g.applied, rev)
	return rev, g.fail()
}

// TestDeployOutlivesItsControlPlane: wherever the control plane goes away, the deploy is carried out once, and told as what it
// was; another error ends it.
func TestDeployOutlivesItsControlPlane(t *testing.T) {
	away := fmt.Errorf("%w: EOF", api.ErrUnreachable)
	req := api.ApplyRequest{Project: compose.Project{Name: "shop"}}
	for call := 1; call <= 3; call++ { // History, Plan, Apply
		g := &goingAway{fails: map[int]error{call: away, call + 1: away}}
		rev, changes, err := (&program{}).deploy(t.Context(), g, req, deployFlags{yes: true})
		if err != nil || rev.Number != 1 || len(changes) != 1 || len(g.applied) != 1 {
			t.Errorf("away at call %d: revision %d with %d changes, applied %d times: %v", call, rev.Number, len(changes), len(g.applied), err)
		}
		g = &goingAway{fails: map[int]error{call: errdefs.ErrInvalid}}
		if _, _, err := (&program{}).deploy(t.Context(), g, req, deployFlags{yes: true}); !errors.Is(err, errdefs.ErrInvalid) || g.calls != call {
			t.Errorf("an error of call %d: %v after %d calls", call, err, g.calls)
		}
	}
}
