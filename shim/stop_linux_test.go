package shim

import (
	"os"
	"testing"
	"time"
)

// TestHurry: it brings forward the deadline of a stop. Without one it does nothing: whoever signals every process of a
// name ends no instance.
func TestHurry(t *testing.T) {
	for name, stopping := range map[string]bool{"after a stop": true, "without a stop": false} {
		t.Run(name, func(t *testing.T) {
			p := &place{dir: t.TempDir(), stopping: stopping}
			p.now = newSupervisor(p)
			signals := make(chan os.Signal, 1)
			signals <- Hurry
			close(signals)
			p.listen(signals)
			if p.stopping != stopping || p.now.asked {
				t.Errorf("stopping is %v, asked is %v: it is no stop of its own", p.stopping, p.now.asked)
			}
			select {
			case at := <-p.now.deadline:
				if !stopping || time.Until(at) > 0 {
					t.Errorf("a deadline in %s", time.Until(at))
				}
			default:
				if stopping {
					t.Error("no deadline")
				}
			}
		})
	}
}
