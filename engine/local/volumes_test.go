package local

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// keeper is a driver that keeps the volumes which its instances mount.
type keeper struct {
	driver.Driver
	mu      sync.Mutex
	volumes map[string]bool // by full name
	err     error           // of every list of them
}

func (k *keeper) fails(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}

func (k *keeper) Start(ctx context.Context, spec driver.Spec) error {
	k.mu.Lock()
	for _, m := range spec.Mounts {
		if m.Kind == compose.MountVolume {
			k.volumes[m.Source] = true
		}
	}
	k.mu.Unlock()
	return k.Driver.Start(ctx, spec)
}

func (k *keeper) Volumes(context.Context, string) ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return sortedKeys(k.volumes), k.err
}

func (k *keeper) RemoveVolumes(_ context.Context, names []string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range names {
		delete(k.volumes, name)
	}
	return nil
}

// TestDeleteRemovesVolumesOfEverySlot takes a project down that had more instances once: their volumes without a name go too, and
// no volume that is external or another's.
func TestDeleteRemovesVolumesOfEverySlot(t *testing.T) {
	bubble(t, func(b *bench) {
		b.kill()
		k := &keeper{Driver: b.driver(), volumes: map[string]bool{"shop_web-2-notes": true, "shop_webs-1-0badc0de": true}}
		b.drivers = map[string]driver.Driver{"fake": k}
		b.run()
		web := server("web", 4, func(s *compose.Service) {
			s.Volumes = []compose.Mount{
				{Type: compose.MountVolume, Target: "/cache"}, {Type: compose.MountVolume, Source: "data", Target: "/data"},
				{Type: compose.MountVolume, Source: "theirs", Target: "/theirs"},
			}
		})
		p := project(web)
		p.Volumes["data"], p.Volumes["theirs"] = compose.Volume{}, compose.Volume{Name: "theirs", External: true}
		b.apply(p)
		b.settled(state.Healthy)
		if err := b.eng.Override(b.Context(), projectName, state.Override{Service: "web", Replicas: ptr(1)}); err != nil {
			t.Fatal(err)
		}
		b.until("one instance", func() bool { return len(b.service("web").Instances) == 1 })
		if err := b.eng.Delete(b.Context(), projectName, engine.DeleteOptions{Volumes: true}); err != nil {
			t.Fatal(err)
		}
		left, want := sortedKeys(k.volumes), []string{"shop_web-2-notes", "shop_webs-1-0badc0de", "theirs"}
		if !slices.Equal(left, want) {
			t.Errorf("left are %q, not %q", left, want)
		}
	})
}

// TestDeleteRemovesVolumesOfEarlierRevisions that were made for the project, and says which before; what is external in any revision, was
// made by nobody here, or is another's stays.
func TestDeleteRemovesVolumesOfEarlierRevisions(t *testing.T) {
	bubble(t, func(b *bench) {
		b.kill()
		k := &keeper{Driver: b.driver(), volumes: map[string]bool{"shop_stranger": true, "shopping_data": true}}
		b.drivers = map[string]driver.Driver{"fake": k}
		b.run()
		with := func(keys ...string) compose.Project {
			p := project(server("web", 1, func(s *compose.Service) {
				for _, key := range keys {
					s.Volumes = append(s.Volumes, compose.Mount{Type: compose.MountVolume, Source: key, Target: "/" + key})
				}
			}))
			for _, key := range keys {
				p.Volumes[key] = compose.Volume{Name: map[string]string{"named": "elsewhere", "lent": "theirs"}[key], External: key == "lent"}
			}
			return p
		}
		nameless := project(server("job", 1, func(s *compose.Service) { s.Volumes = []compose.Mount{{Type: compose.MountVolume, Target: "/cache"}} }))
		for _, p := range []compose.Project{with("former", "named", "lent"), with("theirs"), nameless, with("data")} {
			if v, ok := p.Volumes["theirs"]; ok { // the same volume, which was external once
				v.Name = "theirs"
				p.Volumes["theirs"] = v
			}
			b.apply(p)
			b.settled(state.Healthy)
		}
		want := []string{"elsewhere", anonymous(projectName, "job", 1, "/cache"), "shop_data", "shop_former"}
		slices.Sort(want)
		if got, err := b.eng.Volumes(b.Context(), projectName); !slices.Equal(got, want) || err != nil {
			t.Errorf("volumes %q, %v; want %q", got, err, want)
		}
		if err := b.eng.Delete(b.Context(), projectName, engine.DeleteOptions{Volumes: true}); err != nil {
			t.Fatal(err)
		}
		if left, want := sortedKeys(k.volumes), []string{"shop_stranger", "shopping_data", "theirs"}; !slices.Equal(left, want) {
			t.Errorf("left are %q, not %q", left, want)
		}
	})
}

// withData is a project whose service mounts a volume.
func withData() compose.Project {
	p := project(server("web", 1, func(s *compose.Service) {
		s.Volumes = []compose.Mount{{Type: compose.MountVolume, Source: "data", Target: "/data"}}
	}))
	p.Volumes["data"] = compose.Volume{}
	return p
}

// TestVolumesOfADriverThatIsNotThereAnyMore: where only an earlier revision had some, their project can be taken down without it, and
// who asks for that hears of them.
func TestVolumesOfADriverThatIsNotThereAnyMore(t *testing.T) {
	bubble(t, func(b *bench) {
		b.kill()
		k := &keeper{Driver: b.driver(), volumes: map[string]bool{}}
		b.drivers = map[string]driver.Driver{"fake": k}
		b.run()
		b.apply(withData())
		b.settled(state.Healthy)
		b.apply(project(server("web", 1)))
		b.settled(state.Healthy)
		k.fails(errdefs.ErrUnavailable)
		if got, err := b.eng.Volumes(b.Context(), projectName); len(got) > 0 || err != nil {
			t.Errorf("volumes %q, %v", got, err)
		}
		told := ""
		opt := engine.DeleteOptions{Volumes: true, Left: func(what string) { told += what }}
		if err := b.eng.Delete(b.Context(), projectName, opt); err != nil || !strings.Contains(told, "driver fake") {
			t.Errorf("delete: %v; told %q", err, told)
		}
	})
}

// hurried is a store to which somebody comes the moment that a deleted project is gone.
type hurried struct {
	state.Store
	comes func()
}

func (s *hurried) SetValue(ctx context.Context, name string, v any) error {
	if name == valueHooks && v == nil && s.comes != nil {
		s.comes()
	}
	return s.Store.SetValue(ctx, name, v)
}

// TestVolumesOfALaterApplyStay: who applies when everything has just been stopped keeps the volumes that its instances mount.
func TestVolumesOfALaterApplyStay(t *testing.T) {
	bubble(t, func(b *bench) {
		b.kill()
		k := &keeper{Driver: b.driver(), volumes: map[string]bool{}}
		b.drivers = map[string]driver.Driver{"fake": k}
		store := &hurried{Store: b.store}
		b.store = store
		b.run()
		p := withData()
		b.apply(p)
		b.settled(state.Healthy)
		var applying sync.WaitGroup
		store.comes = func() {
			if !b.eng.writes.TryLock() {
				applying.Go(func() { b.apply(p) }) // it has to wait, which no fake time can be spent on
				return
			}
			b.eng.writes.Unlock()
			b.apply(p)
			time.Sleep(time.Second)
		}
		if err := b.eng.Delete(b.Context(), projectName, engine.DeleteOptions{Volumes: true}); err != nil {
			t.Errorf("delete: %v", err)
		}
		applying.Wait()
		b.settled(state.Healthy)
		if b.service("web").Ready != 1 || !k.volumes["shop_data"] {
			t.Errorf("web runs, and the volumes are %v", k.volumes)
		}
	})
}
