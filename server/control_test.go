package server

import (
	"errors"
	"testing"
	"time"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// TestOverridesSayWhoAsks, for the event that tells of it; that of an earlier wish is not theirs.
func TestOverridesSayWhoAsks(t *testing.T) {
	stop := true
	got := overridden(state.Override{Service: "web", Restart: 2, Actor: "ann@desk"}, api.OverrideRequest{Service: "web", Stopped: &stop, Restart: true, Actor: "kim@desk"})
	if want := (state.Override{Service: "web", Restart: 3, Stopped: true, Actor: "kim@desk"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestNothingIsDeployedAfterTheEnd: who deploys while a project is taken down is refused, and not taken by a control plane that ends with
// what it has just started.
func TestNothingIsDeployedAfterTheEnd(t *testing.T) {
	ctx := t.Context()
	project := compose.Project{Name: "shop", Environment: "preview"}
	for name, takeDown := range map[string]func(c *control) error{
		"down": func(c *control) error { return c.Down(ctx, engine.DeleteOptions{}) },
		"its time is over": func(c *control) error {
			_, err := c.expireOnce(ctx, time.Now().Add(2*time.Hour))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := retained(t)
			c.plane = &plane{location: c.location, chosen: &addresses{location: c.location}, asked: map[string]spot{}, bound: map[string]string{}}
			c.stop = func() { c.stopping.Store(true) }
			ttl := compose.Duration(time.Hour)
			project.Trellis.Environments = map[string]compose.EnvironmentRef{"preview": {TTL: &ttl}}
			rev, err := c.Apply(ctx, api.ApplyRequest{Project: project})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.store.Settle(ctx, rev.Number, state.Healthy, time.Now()); err != nil {
				t.Fatal(err)
			}
			if err := takeDown(c); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Apply(ctx, api.ApplyRequest{Project: project}); !errors.Is(err, errdefs.ErrConflict) {
				t.Fatalf("deployed after it was taken down: %v", err)
			}
			if _, err := c.Rollback(ctx, rev.Number, "me"); !errors.Is(err, errdefs.ErrConflict) {
				t.Errorf("rolled back after it was taken down: %v", err)
			}
			if latest, err := c.store.Latest(ctx); err != nil || latest.Number != rev.Number {
				t.Errorf("revision %d is wanted (%v), want %d, which is down", latest.Number, err, rev.Number)
			}
		})
	}
}
