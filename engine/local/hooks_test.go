package local

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"trellis/compose"
	"trellis/driver/fake"
	"trellis/errdefs"
	"trellis/state"
)

// TestNoHookRunsTwice, however slowly the store takes that it is done, and where it refuses to at first.
func TestNoHookRunsTwice(t *testing.T) {
	hooked := func(n int) compose.Project {
		hook := func(s *compose.Service) {
			s.PreStart = []compose.PreStart{{Hook: compose.Hook{Command: fake.Command(fake.Script{Exits: true, ExitAfter: time.Second})}}}
		}
		return project(server("api", n, hook), server("web", n, hook))
	}
	for name, err := range map[string]error{"slow": nil, "refused": errdefs.ErrUnavailable} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(b *bench) {
				b.kill()
				b.store = &slowHooks{Store: b.store, err: err}
				b.run()
				b.apply(hooked(1))
				b.settled(state.Healthy)
				b.until("hooks are tidied away", func() bool { return len(b.world.Left()) == 2 })
				time.Sleep(time.Minute)
				b.kill()
				b.run()
				b.apply(hooked(2))
				b.settled(state.Healthy)
				if n := b.world.Starts(); n != 6 {
					t.Errorf("%d starts, want a hook and two instances of each service", n)
				}
			})
		})
	}
}

// slowHooks takes a while for the first write of which hooks are done, and answers the first two with err, if there is one.
type slowHooks struct {
	state.Store
	err    error
	writes atomic.Int32
}

func (s *slowHooks) SetValue(ctx context.Context, name string, v any) error {
	if name == valueHooks {
		n := s.writes.Add(1)
		if n == 1 {
			time.Sleep(time.Second)
		}
		if n <= 2 && s.err != nil {
			return s.err
		}
	}
	return s.Store.SetValue(ctx, name, v)
}
