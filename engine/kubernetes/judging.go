package kubernetes

import (
	"slices"
	"time"

	"trellis/engine"
	"trellis/engine/judge"
	"trellis/state"
)

// watchedFor is how long the new instances of a service are watched, once all of them serve, until the revision counts on them, where its
// file does not say; that of one machine. Where it does say (update_config.monitor), the cluster itself waits for as long with each.
const watchedFor = 5 * time.Second

// judging watches the rollouts of the newest revision by what the data plane measures of their instances. The zero value is ready to
// use; one goroutine uses it.
type judging struct {
	goal    goal
	windows map[string]*judge.Window // by service
	healthy map[string]time.Time     // by service: since when all of its instances are new and serve
}

// look brings what is known of the rollouts of a revision up to date. It returns a service whose new instances do worse than the old
// ones did, and why, "" where none does; and whether some have to be watched for longer.
func (j *judging) look(tally *judge.Tally, one record, s engine.State, now time.Time) (service, why string, watching bool) {
	if j.goal != one.goal() || j.windows == nil {
		j.goal, j.windows, j.healthy = one.goal(), map[string]*judge.Window{}, map[string]time.Time{}
	}
	for _, r := range one.rollouts {
		svc, known := stateIn(s, r.Service)
		if !known || r.Over() {
			continue
		}
		w := j.windows[r.Service]
		if w == nil {
			w = judge.NewWindow(tally, r.Ledger)
			j.windows[r.Service] = w
		}
		serves := false
		for _, in := range svc.Instances {
			fresh := in.Revision == r.Revision
			w.Add(string(in.ID), fresh)
			serves = serves || fresh && in.Ready
		}
		w.Mark(serves, now)
		if worse := w.Judge(one.Project.Services[r.Service].Trellis.Objective, now); worse != "" && why == "" {
			service, why = r.Service, worse
		}
		watching = j.watches(one, svc, now) || watching
	}
	return service, why, watching
}

// forgetGone forgets what instances did that are no more.
func (e *Engine) forgetGone(live Live) {
	if e.control == nil || e.control.Tally == nil {
		return
	}
	ids := make(map[string]bool, len(live.Pods))
	for _, pod := range live.Pods {
		ids[pod.Name] = true
	}
	e.control.Tally.Keep(ids)
}

// watches says whether a service has to be watched for longer. One that nothing is sent to shows nothing.
func (j *judging) watches(one record, svc engine.Service, now time.Time) bool {
	wanted := one.Project.Services[svc.Name]
	if u := wanted.Deploy.UpdateConfig; u != nil && u.Monitor != nil || len(ports(wanted)) == 0 || svc.State == engine.ServiceStopped {
		return false
	}
	if svc.State != engine.ServiceHealthy {
		delete(j.healthy, svc.Name)
		return true
	}
	since, known := j.healthy[svc.Name]
	if !known {
		j.healthy[svc.Name] = now
	}
	return !known || now.Sub(since) < watchedFor
}

// measured are rollouts with what was measured of each.
func (j *judging) measured(all []state.Rollout) []state.Rollout {
	all = slices.Clone(all)
	for i := range all {
		if w := j.windows[all[i].Service]; w != nil && all[i].Revision == j.goal.revision {
			all[i].Ledger = w.Ledger()
		}
	}
	return all
}
