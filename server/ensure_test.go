package server

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"trellis/holder"
)

// stopped is a project whose holder, of this pid, has ended, and whose runtime directory is still there.
func stopped(t *testing.T) remote {
	t.Helper()
	dir, err := os.MkdirTemp("", "gone") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l := Location{Project: "shop", WorkingDir: dir, StateDir: dir + "/state", RuntimeDir: dir + "/run"}
	for _, dir := range []string{l.StateDir, l.RuntimeDir} {
		if err := private(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeJSON(l.registration(), l); err != nil {
		t.Fatal(err)
	}
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	return remote{location: l, holder: ended.Process.Pid}
}

// hold starts a holder of the project, which ends with the test.
func hold(t *testing.T, l Location) {
	t.Helper()
	idle := []string{"sleep", "1000"}
	client, err := holder.Start(t.Context(), os.Args[:1], holder.Config{
		Project: l.Project, Dir: l.RuntimeDir, ControlPlane: idle, DataPlane: idle, Log: l.log(), Env: os.Environ(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		_ = client.Close()
	})
}

func TestWhatIsGoneIsRemoved(t *testing.T) {
	r := stopped(t)
	if err := r.gone(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.location.RuntimeDir); !os.IsNotExist(err) {
		t.Errorf("the runtime directory is still there: %v", err)
	}
}

// TestDownBesideUp: what another process has started again is neither waited for nor taken its sockets from.
func TestDownBesideUp(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for name, begin := range map[string]func(t *testing.T, r remote, down func()){
		"it is up again": func(t *testing.T, r remote, down func()) {
			hold(t, r.location)
			down()
		},
		"it is about to be": func(t *testing.T, r remote, down func()) {
			started, err := r.location.starts(ctx)
			if err != nil {
				t.Fatal(err)
			}
			down()
			hold(t, r.location)
			started()
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, ended := stopped(t), make(chan error, 1)
			begin(t, r, func() { go func() { ended <- r.gone(ctx) }() })
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(r.location.registration()); err != nil {
				t.Error(err)
			}
			if !held(ctx, r.location) {
				t.Error("the holder cannot be reached")
			}
		})
	}
}
