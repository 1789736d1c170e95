package local

import (
	"time"

	"trellis/compose"
	"trellis/engine"
)

// defaultMonitor is how long the first new instances of a service are watched where its file does not say (Swarm's own
// default of update_config.monitor). Later ones are watched by the objective only: a program that fails by itself does so
// in the first of its instances.
const defaultMonitor = 5 * time.Second

// replacing takes over how the instances of a service are replaced: as update_config says, or rollback_config where the
// engine goes back by itself. What the file leaves open is chosen for safety on the way there (one at a time, watched, and
// back when it fails) and for speed on the way back (all at once, at what is known to work).
func (w *wantService) replacing(svc compose.Service, back bool) {
	w.stopFirst, _ = engine.StopFirst(svc, w.replicas)
	u := svc.Deploy.UpdateConfig
	w.parallelism, w.monitor, w.onFailure = 1, defaultMonitor, compose.OnFailureRollback
	if c := svc.Deploy.Trellis.Canary; c != nil && !back {
		for _, share := range c.Steps {
			w.canary = append(w.canary, float64(share))
		}
		w.interval = c.Interval.Or(defaultInterval)
	}
	if back {
		u = svc.Deploy.RollbackConfig
		w.parallelism, w.monitor, w.onFailure = 0, 0, compose.OnFailurePause
		if u != nil && u.Order != "" {
			w.stopFirst = u.Order == compose.StopFirst
		}
	}
	if u == nil {
		return
	}
	w.delay, w.maxFailures = u.Delay.Or(0), u.MaxFailureRatio
	if u.Parallelism != nil {
		w.parallelism = *u.Parallelism
	}
	if u.Monitor != nil {
		w.monitor, w.monitorAll = u.Monitor.Or(0), true
	}
	if u.FailureAction != "" {
		w.onFailure = u.FailureAction
	}
}

// defaultInterval is how long a canary step lasts where the file does not say.
const defaultInterval = 30 * time.Second
