package server

import (
	"encoding/json"
	"maps"
	"net/http"
	"sync"
	"time"

	"trellis/autoscale"
	"trellis/engine/kubernetes"
	"trellis/proxy"
)

const (
	// loadWindow is over which the load is told that a cluster scales by: its autoscaler looks as often, as it comes.
	loadWindow = 15 * time.Second
	// loadFresh is how long what a data plane has told counts, and loadSettled from when on: the first moments say little.
	loadFresh, loadSettled = 3 * time.Second, 2 * time.Second
)

// loads add up what the data planes of a project tell of the load of its services. It is safe for concurrent use.
type loads struct {
	mu       sync.Mutex
	services map[string]map[string]*loadSource // by service, and by source
}

// loadSource is what one data plane says of one service.
type loadSource struct {
	meter       autoscale.Meter
	first, last time.Time
}

// take takes over what one data plane has told.
func (l *loads) take(d proxy.Demands, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.services == nil {
		l.services = map[string]map[string]*loadSource{}
	}
	for name, one := range d.Services {
		if l.services[name] == nil {
			l.services[name] = map[string]*loadSource{}
		}
		s := l.services[name][d.Source]
		if s == nil {
			forgetSilent(l.services[name], now) // nobody need ever ask for the load
			s = &loadSource{first: now}
			l.services[name][d.Source] = s
		}
		s.last = now
		s.meter.Observe(autoscale.Reading{At: now, Source: d.Source, Totals: autoscale.Totals{
			Requests: float64(one.Requests), BusySeconds: one.BusySeconds,
		}}, loadWindow)
	}
}

// forgetSilent removes data planes that have said nothing for a while.
func forgetSilent(sources map[string]*loadSource, now time.Time) {
	maps.DeleteFunc(sources, func(_ string, s *loadSource) bool { return now.Sub(s.last) > loadFresh })
}

// tell returns the load of each service that is known, and forgets data planes that say nothing any more.
func (l *loads) tell(now time.Time) map[string]kubernetes.Load {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string]kubernetes.Load{}
	for name, sources := range l.services {
		var sum kubernetes.Load
		known := false
		forgetSilent(sources, now)
		for _, s := range sources {
			concurrency, ok := s.meter.Average(autoscale.Concurrency, now, loadWindow, loadFresh)
			rps, also := s.meter.Average(autoscale.RPS, now, loadWindow, loadFresh)
			if !ok || !also || s.last.Sub(s.first) < loadSettled {
				continue
			}
			known = true
			sum.Concurrency, sum.RPS = sum.Concurrency+concurrency, sum.RPS+rps
		}
		if known {
			all[name] = sum
		}
	}
	return all
}

// tellLoad answers with the load of the project's services, by their names in the cluster.
func (c *inCluster) tellLoad(w http.ResponseWriter, r *http.Request) {
	rev, err := c.latest(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	all := map[string]kubernetes.Load{}
	names := kubernetes.Names(rev.Project)
	for service, load := range c.loads.tell(time.Now()) {
		if name := names[service]; name != "" {
			all[name] = load
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(all)
}
