package main

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"trellis/compose"
)

// theirs is a Docker engine that does not get to the end of a stop the first time.
type theirs struct {
	*fake
	halted, resumed []string
}

func (d *theirs) Halt(ctx context.Context, ids []string, _ time.Duration) error {
	if d.halted = append(d.halted, ids...); len(d.halted) == 1 {
		return errors.New("the engine does not answer")
	}
	return ctx.Err()
}

func (d *theirs) Resume(ctx context.Context, ids []string) error {
	d.resumed = append(d.resumed, ids...)
	return ctx.Err()
}

// TestTheirsRunAgainWhereTheyCouldNotBeStopped: also who breaks a takeover off while a container stops finds it as it was.
func TestTheirsRunAgainWhereTheyCouldNotBeStopped(t *testing.T) {
	dir := t.TempDir()
	f := newFake(dir)
	f.Running = true
	var out bytes.Buffer
	p := &program{backend: f, stderr: &out, now: fixedNow}
	project := compose.Project{Name: "shop", Services: map[string]compose.Service{
		"db": {Name: "db", Image: "postgres", Volumes: []compose.Mount{{Type: compose.MountVolume, Source: "data", Target: "/data"}}},
	}}
	docker := &theirs{fake: f}
	u := &session{program: p, control: f, ready: prepared{project: project}, flags: deployFlags{yes: true, quiet: true}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := newTaking(u, docker, project, []composeContainer{{ID: "c1", Service: "db"}}).run(ctx)
	if err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("it ends with %v", err)
	}
	if !slices.Equal(docker.resumed, []string{"c1"}) || len(docker.halted) != 2 {
		t.Errorf("stopped %v, started again %v\n%s", docker.halted, docker.resumed, out.String())
	}
}
