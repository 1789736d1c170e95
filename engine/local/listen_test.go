package local

import (
	"strings"
	"testing"
	"time"

	"trellis/compose"
	"trellis/driver"
	"trellis/driver/fake"
	"trellis/state"
)

func TestWhatHasNoPortInTheFileIsRoutedToAgainAfterACrash(t *testing.T) {
	bubble(t, func(b *bench) {
		b.world.Script("api", fake.Script{Listen: []int{8000}, ListenAfter: 2 * time.Second})
		b.apply(project(server("api", 1, func(s *compose.Service) { s.Ports, s.Trellis = nil, compose.ServiceExtension{} })))
		serves := func() bool { return b.plane.serving("api") == 1 }
		b.until("it serves", serves)
		b.settled(state.Healthy)
		for range 2 {
			if !b.world.Crash(b.world.Left()[0], 1, "") {
				t.Fatal("nothing to crash")
			}
			b.until("it is out", func() bool { return !serves() })
			b.until("it serves again", serves)
			time.Sleep(time.Minute)
		}
	})
}

// TestPortsOfEarlierRunsAreForgotten: a program that takes any free port for itself, and ends every minute, has one more
// each time; what is held open for it does not grow with that, and the ports that it always has stay.
func TestPortsOfEarlierRunsAreForgotten(t *testing.T) {
	bubble(t, func(b *bench) {
		b.world.Choose("api", func(_ driver.Spec, run int) fake.Script {
			return fake.Script{Listen: []int{8080, 9000, 20000 + run}, Exits: true, ExitAfter: time.Minute, ExitCode: 1}
		})
		onHost := func(s *compose.Service) { s.NetworkMode = "host" }
		b.apply(project(server("web", 1, onHost), server("api", 1)))
		b.settled(state.Healthy)
		time.Sleep(5 * time.Hour)
		b.until("it serves", func() bool { return b.plane.serving("api") == 1 })
		b.until("all is listened on", func() bool { return len(b.service("api").Instances) == 1 })
		open := map[int]bool{}
		for _, l := range b.plane.snapshot().Listeners {
			if l.Service == "api" && strings.HasPrefix(l.Name, "name//") {
				open[l.Port] = true
			}
		}
		if len(open) > 15 || !open[8080] || !open[9000] {
			t.Errorf("%d ports are held open after %d runs: %v", len(open), b.service("api").Instances[0].Restarts, open)
		}
	})
}
