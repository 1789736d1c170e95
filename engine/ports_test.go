package engine

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"trellis/compose"
)

func TestPorts(t *testing.T) {
	svc := compose.Service{
		Ports:  []compose.Port{{Target: 53, Protocol: "udp"}, {Target: 8080, Protocol: "tcp"}, {Target: 8080, Protocol: "tcp"}},
		Expose: []string{"9000-9002", "8080/tcp", "54/udp", "nonsense"},
	}
	svc.Trellis.Probe = &compose.Probe{Port: 7000}
	if d := cmp.Diff([]int{8080, 9000, 9001, 9002, 7000, 53}, Ports(svc)); d != "" {
		t.Error(d)
	}
}

// FuzzExposed reads entries of expose: whatever a file says, ports are ports, and nothing panics.
func FuzzExposed(f *testing.F) {
	for _, seed := range []string{"8080", "8000-8010/tcp", "53/udp", "-1", "9-1", "99999999999", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if from, to, ok := exposed(text); ok && (from < 0 || to < from || to > 65535) {
			t.Errorf("exposed(%q) = %d to %d", text, from, to)
		}
	})
}

// FuzzParentOf reads Compose paths: whatever they are, it ends.
func FuzzParentOf(f *testing.F) {
	for _, seed := range []string{"services.web.ports[0].target", `services.web.labels."a.b"`, `"`, "[", "a..b", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if parent, key := parentOf(path); parent != "" && key == "" && path == "" {
			t.Errorf("parentOf(%q) = %q, %q", path, parent, key)
		}
	})
}

func TestParentOf(t *testing.T) {
	for path, want := range map[string][2]string{
		"services.web.environment.A": {"environment", "A"}, `services.web.labels."a.b"`: {"labels", "a.b"},
		"services.web.ports[0].target": {"ports", "target"}, "services.web.command[1]": {"web", "command"}, "x": {"", "x"}, "": {"", ""},
	} {
		if parent, key := parentOf(path); parent != want[0] || key != want[1] {
			t.Errorf("parentOf(%q) = %q, %q, want %q", path, parent, key, want)
		}
	}
}
