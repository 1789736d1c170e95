package local

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"trellis/engine"
	"trellis/proxy"
)

// allowed returns whom each service may call: the services of its calls, and those it depends on or links to. nil: no
// service of the project has calls, and nobody is refused.
func (d *desired) allowed() map[string][]string {
	listed := false
	for _, s := range d.services {
		listed = listed || len(s.compose.Trellis.Calls) > 0
	}
	if !listed {
		return nil
	}
	all := make(map[string][]string, len(d.services))
	for name, s := range d.services {
		all[name] = engine.MayCall(s.compose)
	}
	return all
}

// refused returns the services that a caller reaches by name and may not call, sorted.
func (s *service) refused(allowed map[string][]string) []string {
	if allowed == nil {
		return nil
	}
	var all []string
	for _, callee := range s.callees {
		if name := callee.compose.Name; !slices.Contains(allowed[s.compose.Name], name) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// refusalPause is the shortest time between two events about the same caller and callee.
const refusalPause = time.Minute

// refusals remember what was told of calls that were refused.
type refusals struct {
	mu   sync.Mutex
	told map[[2]string]time.Time
	seen map[string]map[[2]string]uint64 // counts by data plane
}

// note takes what a data plane tells, and returns the events that are due.
func (r *refusals) note(m proxy.Measures, now time.Time) []event {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.told == nil {
		r.told, r.seen = map[[2]string]time.Time{}, map[string]map[[2]string]uint64{}
	}
	var due []event
	for _, one := range m.Refused {
		pair := [2]string{one.Caller, one.Callee}
		if r.seen[m.Boot] == nil {
			r.seen[m.Boot] = map[[2]string]uint64{}
		}
		grown := one.Count - r.seen[m.Boot][pair]
		if grown == 0 || now.Sub(r.told[pair]) < refusalPause {
			continue
		}
		r.seen[m.Boot][pair], r.told[pair] = one.Count, now
		due = append(due, event{
			kind: "call.refused", service: one.Caller, reason: "calls",
			message: fmt.Sprintf("%s may not call %s: it stands neither in its calls nor in its depends_on (%d refused)", one.Caller, one.Callee, grown),
		})
	}
	return due
}
