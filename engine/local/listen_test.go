package local

import (
	"testing"
	"time"

	"trellis/compose"
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
