package server

import (
	"context"
	"math"
	"sync"
	"time"

	"trellis/api"
	"trellis/engine"
	plan "trellis/engine/traffic"
	"trellis/proxy"
)

// What is remembered of the traffic: enough for a line that says whether something has just changed. It costs a few
// kilobytes for each service, and is empty after a restart of the control plane.
const (
	trafficStep   = 2 * time.Second
	trafficSteps  = 150
	trafficRecent = 15 // steps
)

// traffic makes steps of what the data planes have counted. It is safe for concurrent use.
type traffic struct {
	changed broadcast

	mu    sync.Mutex
	last  map[string]map[string]proxy.Measure // as pushed last, by boot and instance
	now   map[string]proxy.Measure            // since the last step, by instance
	began time.Time                           // of the step
	raw   []rawStep                           // the last trafficRecent ones
	steps []api.TrafficStep
	cut   int // how many steps there have been
}

// rawStep is a step of which sums can still be made.
type rawStep struct {
	seconds   float64
	instances map[string]proxy.Measure
}

// take adds a push. The first one of a data plane only says where its counts are.
func (t *traffic) take(m proxy.Measures) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == nil {
		t.last = map[string]map[string]proxy.Measure{}
	}
	if t.now == nil {
		t.now = map[string]proxy.Measure{}
	}
	before, again := t.last[m.Boot]
	if !again {
		before = map[string]proxy.Measure{}
		t.last[m.Boot] = before
	}
	for _, i := range m.Instances {
		if again {
			t.now[i.Instance] = plus(t.now[i.Instance], minus(i, before[i.Instance]))
		}
		before[i.Instance] = i
	}
}

// minus returns what an instance did after before.
func minus(i, before proxy.Measure) proxy.Measure {
	diff := proxy.Measure{Service: i.Service, Requests: i.Requests - min(before.Requests, i.Requests), Failed: i.Failed - min(before.Failed, i.Failed)}
	diff.Latency = proxy.Histogram{}
	for bucket, n := range i.Latency {
		if n > before.Latency[bucket] {
			diff.Latency[bucket] = n - before.Latency[bucket]
		}
	}
	return diff
}

// plus adds more to sum, which it may change.
func plus(sum, more proxy.Measure) proxy.Measure {
	if sum.Latency == nil {
		sum.Latency = proxy.Histogram{}
	}
	for bucket, n := range more.Latency {
		sum.Latency[bucket] += n
	}
	sum.Service, sum.Requests, sum.Failed = more.Service, sum.Requests+more.Requests, sum.Failed+more.Failed
	return sum
}

// step ends a step.
func (t *traffic) step(now time.Time) {
	t.mu.Lock()
	last := rawStep{instances: t.now}
	if !t.began.IsZero() {
		last.seconds = now.Sub(t.began).Seconds()
	}
	t.raw = append(t.raw, last)
	t.raw = t.raw[max(0, len(t.raw)-trafficRecent):]
	services, _ := flows([]rawStep{last})
	s := api.TrafficStep{Time: now, Seconds: last.seconds, Services: services, Recent: &api.Recent{}}
	s.Recent.Services, s.Recent.Instances = flows(t.raw)
	for _, r := range t.raw {
		s.Recent.Seconds += r.seconds
	}
	if n := len(t.steps); n > 0 {
		t.steps[n-1].Recent = nil
	}
	t.steps = append(t.steps, s)
	if len(t.steps) > trafficSteps {
		t.steps = append(t.steps[:0:0], t.steps[1:]...)
	}
	t.cut++
	t.began, t.now = now, map[string]proxy.Measure{}
	t.mu.Unlock()
	t.changed.wake()
}

// flows sums steps up by service and by instance.
func flows(steps []rawStep) (services, instances map[string]api.Flow) {
	byService, byInstance := map[string]proxy.Measure{}, map[string]proxy.Measure{}
	for _, s := range steps {
		for id, m := range s.instances {
			if m.Requests > 0 || m.Failed > 0 {
				byService[m.Service] = plus(byService[m.Service], m)
				byInstance[id] = plus(byInstance[id], m)
			}
		}
	}
	all := func(of map[string]proxy.Measure) map[string]api.Flow {
		flows := make(map[string]api.Flow, len(of))
		for name, m := range of {
			flows[name] = flow(m)
		}
		return flows
	}
	return all(byService), all(byInstance)
}

func flow(m proxy.Measure) api.Flow {
	ms := func(q float64) float64 {
		return math.Round(float64(m.Latency.Quantile(q))/float64(time.Millisecond)*1000) / 1000
	}
	return api.Flow{Requests: m.Requests, Failed: m.Failed, P50: ms(0.5), P95: ms(0.95), P99: ms(0.99)}
}

// since returns the steps after the first n, as far as they are remembered, and how many there have been.
func (t *traffic) since(n int) ([]api.TrafficStep, int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]api.TrafficStep{}, t.steps[max(0, len(t.steps)-(t.cut-n)):]...), t.cut
}

// keep forgets every instance but those.
func (t *traffic) keep(ids map[string]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, last := range t.last {
		for id := range last {
			if !ids[id] {
				delete(last, id)
			}
		}
	}
}

// follow calls fn with what is remembered and then with each new step, until ctx is done or fn returns an error.
func (t *traffic) follow(ctx context.Context, fn func([]api.TrafficStep) error) error {
	for seen := 0; ; {
		next := t.changed.next()
		steps, n := t.since(seen)
		if err := fn(steps); err != nil {
			return err
		}
		seen = n
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next:
		}
	}
}

// measureTraffic cuts steps until ctx is done.
func (s *sight) measureTraffic(ctx context.Context) error {
	tick := time.NewTicker(trafficStep)
	defer tick.Stop()
	s.traffic.step(time.Now())
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			s.traffic.step(now)
		}
		if n%30 != 0 {
			continue
		}
		if st, err := s.of.observe(ctx); err == nil { // without it more is kept than has to be
			s.traffic.keep(instancesOf(st))
		}
	}
}

// instancesOf returns whom requests may go to: the other gateway, too, that some are shifted to.
func instancesOf(st engine.State) map[string]bool {
	ids := map[string]bool{}
	for _, svc := range st.Services {
		for _, in := range svc.Instances {
			ids[string(in.ID)] = true
		}
	}
	if st.Desired != nil {
		ids[plan.Elsewhere(*st.Desired)] = true
	}
	return ids
}
