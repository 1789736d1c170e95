package local

import (
	"maps"
	"slices"
	"sync"
	"time"

	"trellis/driver"
	"trellis/proxy"
	"trellis/state"
)

// tally adds up what data planes push, by instance, from when this loop first heard of it. A data plane that is started
// anew counts from nothing; what the one before had counted stays.
type tally struct {
	mu    sync.Mutex
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

// take adds a push. What an instance did before this loop ran is left out: of the first push of a data plane only those
// instances count whole that are known from another one.
func (t *tally) take(m proxy.Measures) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.total == nil {
		t.last, t.total = map[string]map[string]counted{}, map[string]counted{}
	}
	before, again := t.last[m.Boot]
	if !again {
		before = map[string]counted{}
		t.last[m.Boot] = before
	}
	for _, i := range m.Instances {
		now := counted{i.Requests, i.Failed, i.Latency}
		_, known := t.total[i.Instance]
		if again || known {
			t.total[i.Instance] = t.total[i.Instance].plus(now.minus(before[i.Instance]))
		} else {
			t.total[i.Instance] = counted{}
		}
		before[i.Instance] = now
	}
}

// of returns the sums of instances.
func (t *tally) of(ids []string) map[string]counted {
	t.mu.Lock()
	defer t.mu.Unlock()
	sums := make(map[string]counted, len(ids))
	for _, id := range ids {
		sums[id] = t.total[id]
	}
	return sums
}

// keep forgets every instance but those.
func (t *tally) keep(ids map[string]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	gone := func(id string, _ counted) bool { return !ids[id] }
	maps.DeleteFunc(t.total, gone)
	for _, last := range t.last {
		maps.DeleteFunc(last, gone)
	}
}

// window is what is measured of one rollout.
type window struct {
	revision int64
	base     state.Ledger       // of the loops before
	began    map[string]counted // what each old instance had done when it began
	olds     []string           // instances, also those that are gone
	news     []string
	compared map[string]counted // what each had done when new ones first served: errors are compared from there
	settled  map[string]counted // and a little later: so are latencies
	served   time.Time          // when new ones first served
	looks    looks
	slow     slowness
	judged   string
	saved    time.Time
}

// settling is how long after new instances first serve their latency does not count: caches are empty, code is cold.
const settling = 2 * time.Second

// ledgerInterval is the pause between two writes of what was measured of a rollout that goes on.
const ledgerInterval = 5 * time.Second

// measure brings the windows of open rollouts up to date and judges them. It returns why new instances do worse, by
// service, and the rollouts whose ledger has grown and is due to be written. The caller holds mu.
func (l *loop) measure(d *desired, list []driver.Instance, now time.Time) (judged map[string]string, due []state.Rollout) {
	judged = map[string]string{}
	for name, w := range l.memory.windows {
		if r, ok := d.rollouts[name]; !ok || r.Over() || r.Revision != w.revision {
			delete(l.memory.windows, name)
		}
	}
	for name, r := range d.rollouts {
		svc := d.services[name]
		if r.Over() || svc == nil {
			continue
		}
		w := l.windowOf(r, svc, list, now)
		judged[name] = l.judge(r, svc, w, now)
		if ledger := l.ledger(r); ledger.Requests > r.Ledger.Requests && now.Sub(w.saved) >= ledgerInterval {
			w.saved = now
			due = append(due, r)
		}
	}
	if len(l.memory.windows) == 0 {
		l.forgetMeasures()
	}
	return judged, due
}

// windowOf returns the window of an open rollout, with the instances that there are now.
func (l *loop) windowOf(r state.Rollout, svc *service, list []driver.Instance, now time.Time) *window {
	w := l.memory.windows[r.Service]
	if w == nil || w.revision != r.Revision {
		w = &window{revision: r.Revision, base: r.Ledger, began: map[string]counted{}, saved: now}
		l.memory.windows[r.Service] = w
	}
	serves := false
	for _, inst := range list {
		m := l.memory.instances[inst.ID]
		if inst.Service != r.Service || m == nil || m.hook > 0 || isOnce(inst.ID) {
			continue
		}
		id := string(short(l.cfg.Project, inst.ID))
		switch fresh := inst.Hash == svc.hash; {
		case fresh && !slices.Contains(w.news, id):
			w.news = append(w.news, id)
		case !fresh && !slices.Contains(w.olds, id):
			w.olds = append(w.olds, id)
			w.began[id] = l.tally.of([]string{id})[id]
		}
		serves = serves || inst.Hash == svc.hash && m.ready
	}
	everyone := slices.Concat(w.olds, w.news)
	if serves && w.served.IsZero() {
		w.served, w.compared = now, l.tally.of(everyone)
	}
	if w.settled == nil && !w.served.IsZero() && now.Sub(w.served) >= settling {
		w.settled = l.tally.of(everyone)
	}
	return w
}

// verdictsOfWindows returns what was found so far, for who only looks. The caller holds mu.
func (e *Engine) verdictsOfWindows() map[string]string {
	judged := map[string]string{}
	for name, w := range e.memory.windows {
		judged[name] = w.judged
	}
	return judged
}

// since returns what instances did after marks; a missing mark is nothing.
func (e *Engine) since(ids []string, marks map[string]counted) counted {
	var sum counted
	for id, now := range e.tally.of(ids) {
		sum = sum.plus(now.minus(marks[id]))
	}
	return sum
}

// ledger returns what was measured of a rollout so far. The caller holds mu.
func (e *Engine) ledger(r state.Rollout) state.Ledger {
	w := e.memory.windows[r.Service]
	if w == nil || w.revision != r.Revision {
		return r.Ledger
	}
	olds, news := e.since(w.olds, w.began), e.since(w.news, nil)
	ledger := state.Ledger{Old: olds.cohort(), New: news.cohort()}
	if olds.latency.Count() == 0 { // they went before they did anything: what they did before
		ledger.Old = e.since(w.olds, nil).cohort()
		ledger.Old.Requests, ledger.Old.Failed = 0, 0
	}
	ledger.Old.Carry(w.base.Old)
	ledger.New.Carry(w.base.New)
	ledger.Requests = ledger.Old.Requests + ledger.New.Requests
	ledger.Failed = ledger.Old.Failed + ledger.New.Failed
	return ledger
}

// forgetMeasures forgets what instances did that are gone. The caller holds mu.
func (e *Engine) forgetMeasures() {
	ids := make(map[string]bool, len(e.memory.instances))
	for id := range e.memory.instances {
		ids[string(short(e.cfg.Project, id))] = true
	}
	e.tally.keep(ids)
}

// followMeasures takes what data planes push, and wakes the loop where a rollout is judged by it.
func (l *loop) followMeasures() {
	for l.ctx.Err() == nil {
		err := l.cfg.Plane.Measures(l.ctx, func(m proxy.Measures) {
			l.tally.take(m)
			for _, ev := range l.refusals.note(m, time.Now()) {
				l.record(ev)
			}
			l.mu.Lock()
			open := len(l.memory.windows) > 0
			l.mu.Unlock()
			if open {
				l.poke()
			}
		})
		if err != nil && l.ctx.Err() == nil {
			l.log.Warn("measures ended", "err", err)
		}
		l.sleep(retryAfter)
	}
}
