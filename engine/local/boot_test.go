package local

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"trellis/compose"
	"trellis/driver"
	"trellis/errdefs"
	"trellis/state"
)

// reboot ends the loop and brings the project back.
func (b *bench) reboot() (state.Revision, bool) {
	b.Helper()
	b.kill()
	rev, wanted, err := BringBack(b.Context(), b.store, projectName, "boot@here")
	if err != nil {
		b.Fatal(err)
	}
	b.run()
	time.Sleep(time.Second)
	return rev, wanted
}

func (b *bench) rolloutsOf(revision int64) []state.Rollout {
	b.Helper()
	all, err := b.store.Rollouts(b.Context(), revision)
	if err != nil {
		b.Fatal(err)
	}
	return all
}

func (b *bench) booted() string {
	b.Helper()
	message := ""
	for e, err := range b.store.Events(b.Context(), state.EventFilter{}) {
		if err != nil {
			b.Fatal(err)
		}
		if e.Kind == "project.booted" {
			message = e.Message
		}
	}
	return message
}

func TestBringBackTakesTheNewestThatIsHealthy(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 2)))
		b.settled(state.Healthy)
		rev, wanted := b.reboot()
		if rev.Number != 1 || !wanted || !strings.Contains(b.booted(), "revision 1 is brought back") {
			t.Errorf("revision %d, %v: %s", rev.Number, wanted, b.booted())
		}
	})
}

func TestBringBackGoesBackToTheLastHealthyOne(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 2), server("db", 1)))
		b.settled(state.Healthy)
		three := 3
		for _, o := range []state.Override{{Service: "web", Replicas: &three}, {Service: "db", Stopped: true}} {
			if err := b.eng.Override(b.Context(), projectName, o); err != nil {
				t.Fatal(err)
			}
		}
		b.apply(project(server("web", 2, func(s *compose.Service) { s.Command = []string{"other"} }), server("db", 1)))
		for _, o := range []state.Override{{Service: "web", Replicas: &three}, {Service: "db", Stopped: true}} {
			if err := b.eng.Override(b.Context(), projectName, o); err != nil {
				t.Fatal(err)
			}
		}
		rev, wanted := b.reboot() // in the middle of revision 2
		if rev.Number != 3 || !wanted || rev.Cause != "boot: back to 1" || rev.Outcome != state.Healthy || rev.Project.Services["web"].Command[0] != "web" {
			t.Fatalf("revision %d (%s), %v", rev.Number, rev.Cause, wanted)
		}
		if !strings.Contains(b.booted(), "while revision 2 was pending: revision 1, the last healthy one") {
			t.Errorf("the event says: %s", b.booted())
		}
		b.until("web is back", func() bool { return b.service("web").Ready == 3 })
		for _, r := range b.rolloutsOf(2) {
			if !r.Over() {
				t.Errorf("the rollout of %s in revision 2 is %s", r.Service, r.Phase)
			}
		}
		overrides, err := b.store.Overrides(b.Context())
		if err != nil || len(overrides) != 2 || !overrides[0].Stopped || *overrides[1].Replicas != 3 {
			t.Errorf("overrides %+v, %v", overrides, err)
		}
		two, err := b.store.Get(b.Context(), 2)
		if err != nil || two.Outcome != state.Superseded {
			t.Errorf("revision 2 is %s, %v", two.Outcome, err)
		}
	})
}

func TestBringBackOfWhatWasNeverHealthyOrIsDown(t *testing.T) {
	bubble(t, func(b *bench) {
		if _, _, err := BringBack(b.Context(), b.store, projectName, "boot@here"); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("nothing was applied: %v", err)
		}
		b.apply(project(server("web", 1)))
		if err := b.store.SetValue(b.Context(), valueKept, map[driver.ID]kept{"shop/web-1-x": {Failures: 9, Exit: time.Now()}}); err != nil {
			t.Fatal(err)
		}
		if rev, wanted := b.reboot(); rev.Number != 1 || !wanted || !strings.Contains(b.booted(), "none was ever healthy") {
			t.Errorf("revision %d, %v: %s", rev.Number, wanted, b.booted())
		}
		b.settled(state.Healthy)
		if err := b.store.SetValue(b.Context(), valueDeleted, 1); err != nil {
			t.Fatal(err)
		}
		if _, wanted := b.reboot(); wanted {
			t.Error("what was taken down comes back")
		}
	})
}

func TestHaltStopsInOrderAndWhatItStoppedStartsAgain(t *testing.T) {
	bubble(t, func(b *bench) {
		p := project(server("web", 2, needs("api", compose.ServiceStarted)), server("api", 1, needs("db", compose.ServiceStarted)), server("db", 1))
		b.apply(p)
		b.settled(state.Healthy)
		b.kill()
		var mu sync.Mutex
		var order []string
		b.world.Fault(func(op string, id driver.ID) error {
			if op == "stop" {
				name, _, _ := strings.Cut(strings.TrimPrefix(string(id), projectName+"/"), "-")
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
			}
			return nil
		})
		if err := Halt(context.Background(), p, map[string]driver.Driver{"fake": b.world.Driver()}); err != nil {
			t.Fatal(err)
		}
		b.world.Fault(nil)
		if got := strings.Join(order, " "); got != "web web api db" {
			t.Errorf("stopped in the order %s", got)
		}
		list, err := b.world.Driver().List(b.Context(), projectName)
		if err != nil {
			t.Fatal(err)
		}
		for _, inst := range list {
			if inst.State != driver.Exited || !inst.Exit.Asked {
				t.Errorf("%s is %s, %+v", inst.ID, inst.State, inst.Exit)
			}
		}
		b.run()
		b.until("web is back", func() bool { return b.service("web").Ready == 2 })
	})
}
