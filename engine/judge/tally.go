package judge

import (
	"maps"
	"sync"
	"time"

	"trellis/proxy"
	"trellis/state"
)

// Tally adds up what data planes push, by instance, from when it first heard of it. A data plane that is started anew
// counts from nothing; what the one before had counted stays. The zero value is ready to use; it is safe for concurrent use.
type Tally struct {
	mu    sync.Mutex
	began time.Time                     // when it first heard of any
	last  map[string]map[string]counted // by boot and instance
	total map[string]counted            // by instance
}

// counted is what some instances did in some time.
type counted struct {
	requests, failed uint64
	latency          proxy.Histogram
}

func (c counted) plus(o counted) counted {
	sum := counted{c.requests + o.requests, c.failed + o.failed, maps.Clone(c.latency)}
	if sum.latency == nil {
		sum.latency = proxy.Histogram{}
	}
	for b, n := range o.latency {
		sum.latency[b] += n
	}
	return sum
}

// minus returns what was done after before.
func (c counted) minus(before counted) counted {
	diff := counted{c.requests - min(before.requests, c.requests), c.failed - min(before.failed, c.failed), proxy.Histogram{}}
	for b, n := range c.latency {
		if n > before.latency[b] {
			diff.latency[b] = n - before.latency[b]
		}
	}
	return diff
}

func (c counted) cohort() state.Cohort {
	out := state.Cohort{Requests: c.requests, Failed: c.failed}
	if c.latency.Count() > 0 {
		p50, p99 := milliseconds(c.latency.Quantile(0.5)), milliseconds(c.latency.Quantile(0.99))
		out.P50, out.P99 = &p50, &p99
	}
	return out
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

// Take adds a push. What was done before the tally was begun is left out: the first push of a data plane counts only where that
// was started later, and says so. How old each of them is either knows by its own clock.
func (t *Tally) Take(m proxy.Measures) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.total == nil {
		t.began = time.Now()
		t.last, t.total = map[string]map[string]counted{}, map[string]counted{}
	}
	before, again := t.last[m.Boot]
	if !again {
		before = map[string]counted{}
		t.last[m.Boot] = before
	}
	began := m.UpSeconds > 0 && m.UpSeconds < time.Since(t.began).Seconds()
	for _, i := range m.Instances {
		now := counted{i.Requests, i.Failed, i.Latency}
		if again || began {
			t.total[i.Instance] = t.total[i.Instance].plus(now.minus(before[i.Instance]))
		}
		before[i.Instance] = now
	}
}

// of returns the sums of instances.
func (t *Tally) of(ids []string) map[string]counted {
	t.mu.Lock()
	defer t.mu.Unlock()
	sums := make(map[string]counted, len(ids))
	for _, id := range ids {
		sums[id] = t.total[id]
	}
	return sums
}

// Keep forgets every instance but those.
func (t *Tally) Keep(ids map[string]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	gone := func(id string, _ counted) bool { return !ids[id] }
	maps.DeleteFunc(t.total, gone)
	for _, last := range t.last {
		maps.DeleteFunc(last, gone)
	}
}
