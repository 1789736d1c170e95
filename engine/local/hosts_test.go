package local

import (
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"trellis/driver"
	"trellis/state"
)

// naming is a driver that sets names: the first time it fails, and each time it takes as long as the test says.
type naming struct {
	driver.Driver
	takes func(call int) time.Duration
	fails int

	mu    sync.Mutex
	calls int
	names map[driver.ID]map[string]string
}

func (d *naming) SetHosts(id driver.ID, hosts map[string]string) error {
	d.mu.Lock()
	d.calls++
	call := d.calls
	d.mu.Unlock()
	if d.takes != nil {
		time.Sleep(d.takes(call))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if call <= d.fails {
		return fmt.Errorf("no space left")
	}
	d.names[id] = hosts
	return nil
}

// TestNamesAreSetInTheEnd: the names of a running instance are those of the newest revision, also where they could not be
// set at first, or an older setting takes longer.
func TestNamesAreSetInTheEnd(t *testing.T) {
	for name, set := range map[string]*naming{
		"a disk that is full for a moment": {fails: 2},
		"an older one takes longer":        {takes: func(call int) time.Duration { return time.Duration(max(0, 4-call)) * time.Second }},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(b *bench) {
				synctest.Wait()
				b.kill()
				set.Driver, set.names = b.world.Driver(), map[driver.ID]map[string]string{}
				b.drivers = map[string]driver.Driver{"fake": set}
				b.run()
				b.apply(project(server("web", 1)))
				b.settled(state.Healthy)
				b.apply(project(server("web", 1), server("api", 1)))
				b.settled(state.Healthy)
				b.apply(project(server("web", 1), server("api", 1), server("db", 1)))
				b.settled(state.Healthy)
				time.Sleep(time.Minute)
				set.mu.Lock()
				defer set.mu.Unlock()
				got, want := set.names[b.instance("web", 1)], b.eng.desired.services["web"].hosts
				if !maps.Equal(got, want) || len(want) != 3 {
					t.Errorf("web resolves %v, want %v", got, want)
				}
				if set.calls > 8 {
					t.Errorf("names were set %d times", set.calls)
				}
			})
		})
	}
}
