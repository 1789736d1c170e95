//go:build linux

package process_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestBesideDocker: a Docker engine has the machine drop what it does not forward itself, so what instances send to other
// machines is let through for as long as there are instances.
func TestBesideDocker(t *testing.T) {
	rules := func() string {
		out, err := exec.Command("iptables", "-w", "-S", "DOCKER-USER").Output()
		if err != nil {
			t.Skip("no Docker engine has made its rules on this machine")
		}
		return string(out)
	}
	rules()
	w := newWorld(t, false)
	spec := w.spec("web", "sleep", "1000")
	w.start(spec)
	for _, rule := range []string{"-s 198.18.0.0/15 -j ACCEPT", "-d 198.18.0.0/15 -j ACCEPT"} {
		if got := rules(); strings.Count(got, rule) != 1 {
			t.Errorf("rule %q is not there once:\n%s", rule, got)
		}
	}
	w.stop(spec.ID, 0)
}
