package local

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/compose"
	"trellis/proxy"
)

// TestAllowed: without any calls nobody is refused; the first calls of the project has everybody refused what it neither
// calls nor depends on.
func TestAllowed(t *testing.T) {
	d := &desired{services: map[string]*service{}}
	for _, name := range []string{"db", "mail", "shop", "web"} {
		d.services[name] = &service{compose: compose.Service{Name: name}}
	}
	for _, s := range d.services {
		for _, name := range []string{"db", "mail", "shop", "web"} {
			s.callees = append(s.callees, d.services[name])
		}
	}
	refused := func() map[string][]string {
		all, out := d.allowed(), map[string][]string{}
		for name, s := range d.services {
			out[name] = s.refused(all)
		}
		return out
	}
	d.services["shop"].compose.DependsOn = map[string]compose.Dependency{"db": {}}
	for name, r := range refused() {
		if r != nil {
			t.Errorf("%s is refused %v", name, r)
		}
	}
	d.services["web"].compose.Trellis.Calls = []string{"shop"}
	d.services["mail"].compose.Links = []string{"db:database"}
	want := map[string][]string{"web": {"db", "mail"}, "shop": {"mail", "web"}, "mail": {"shop", "web"}, "db": {"mail", "shop", "web"}}
	if diff := cmp.Diff(want, refused()); diff != "" {
		t.Error(diff)
	}
}

// TestRefusalsAreTold once a minute, with what came together meanwhile.
func TestRefusalsAreTold(t *testing.T) {
	var r refusals
	now := time.Now()
	tell := func(boot string, n uint64, after time.Duration) string {
		var said []string
		for _, ev := range r.note(proxy.Measures{Boot: boot, Refused: []proxy.Refusal{{Caller: "web", Callee: "db", Count: n}}}, now.Add(after)) {
			said = append(said, ev.kind+" "+ev.service+" "+ev.message[strings.LastIndex(ev.message, "("):])
		}
		return strings.Join(said, "; ")
	}
	for _, c := range []struct {
		boot  string
		n     uint64
		after time.Duration
		want  string
	}{
		{"a", 2, 0, "call.refused web (2 refused)"}, {"a", 5, time.Second, ""}, {"a", 7, time.Minute, "call.refused web (5 refused)"},
		{"a", 7, 3 * time.Minute, ""}, {"b", 3, 4 * time.Minute, "call.refused web (3 refused)"},
	} {
		if got := tell(c.boot, c.n, c.after); got != c.want {
			t.Errorf("%s %d after %s: %q, want %q", c.boot, c.n, c.after, got, c.want)
		}
	}
}
