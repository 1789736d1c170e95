package local

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"trellis/driver"
	"trellis/errdefs"
	"trellis/state"
)

// fullDisk is a store on a disk that has no space left for a while.
type fullDisk struct {
	state.Store
	full atomic.Bool
}

func (s *fullDisk) Append(ctx context.Context, events ...state.Event) error {
	if s.full.Load() {
		return fmt.Errorf("append events: %w: no space left", errdefs.ErrUnavailable)
	}
	return s.Store.Append(ctx, events...)
}

func (s *fullDisk) SetValue(ctx context.Context, name string, v any) error {
	if s.full.Load() {
		return fmt.Errorf("write value %s: %w: no space left", name, errdefs.ErrUnavailable)
	}
	return s.Store.SetValue(ctx, name, v)
}

// TestWhatTheDiskDoesNotTakeIsWrittenLater: each event once and in order, and what the next loop has to know.
func TestWhatTheDiskDoesNotTakeIsWrittenLater(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 1)))
		b.settled(state.Healthy)
		b.kill()
		store := b.store
		disk := &fullDisk{Store: store}
		b.store = disk
		b.run()
		b.until("it is taken over", func() bool { return b.service("web").Ready == 1 })
		before := len(b.events())
		disk.full.Store(true)
		b.world.Crash(b.instance("web", 1), 3, "")
		b.until("it is back", func() bool { return b.service("web").Ready == 1 })
		time.Sleep(5 * time.Second)
		if got := b.events()[before:]; len(got) > 0 {
			t.Fatalf("told on a full disk: %q", got)
		}
		disk.full.Store(false)
		time.Sleep(2 * flushRetryMax)
		want := []string{"instance.exited web", "instance.started web", "instance.ready web"}
		if got := b.events()[before:]; !slices.Equal(got, want) {
			t.Errorf("events %q, want %q", got, want)
		}
		known := map[driver.ID]kept{}
		if err := store.Value(b.Context(), valueKept, &known); err != nil {
			t.Fatal(err)
		}
		if k := known[b.instance("web", 1)]; k.Run != 2 || k.Failures != 1 {
			t.Errorf("the next loop would know %+v", k)
		}
		b.kill()
		b.store = store
		b.run()
		time.Sleep(time.Second)
		if got := b.events()[before:]; !slices.Equal(got, want) {
			t.Errorf("events after another loop has taken over %q, want %q", got, want)
		}
	})
}
