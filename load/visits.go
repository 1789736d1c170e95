package load

import (
	"container/heap"
	"net/url"
	"time"
)

// visits are the visits of a run. All of it is used with run.mu held.
type visits struct {
	journey *journey
	limit   int    // of active
	number  uint64 // of the next one
	active  int    // begun and not ended
	ending  bool   // the run was cancelled
	waiting dueHeap
	steps   []*tally
	whys    []string // of each step's first failure

	counts   Visits
	duration *tally // of completed ones
}

func newVisits(cfg Config, target *url.URL) *visits {
	v := &visits{journey: newJourney(cfg, target), limit: cfg.Visits, duration: newTally(), whys: make([]string, len(cfg.Scenario.steps))}
	for range cfg.Scenario.steps {
		v.steps = append(v.steps, newTally())
	}
	return v
}

// open begins a visit. Where there are too many already it returns the one that is missed for it.
func (v *visits) open(at time.Duration) (missed *visit) {
	next := v.journey.visit(v.number, at)
	v.number++
	if next.next == len(next.plan) { // nothing to do
		v.counts.Started++
		v.counts.Completed++
		return nil
	}
	if v.active >= v.limit {
		v.counts.Missed++
		return next
	}
	v.counts.Started++
	v.active++
	heap.Push(&v.waiting, next)
	return nil
}

// first is the visit that is due first, nil where none waits.
func (v *visits) first() *visit {
	if len(v.waiting) == 0 {
		return nil
	}
	return v.waiting[0]
}

func (v *visits) pop() { heap.Pop(&v.waiting) }

// after decides how visit at goes on after result.
func (v *visits) after(at *visit, result *Result) {
	switch {
	case result.Kind == Abandoned:
		v.counts.Abandoned++
	case result.Kind == Missed && at.next == at.first:
		v.counts.Started--
		v.counts.Missed++
	case result.Kind != "":
		v.counts.Failed++
		if why := &v.whys[result.Request]; *why == "" {
			*why = at.why
		}
	case !at.advance():
		v.counts.Completed++
		v.duration.add(&Result{Intended: at.begun, Done: result.Done, Status: 200})
	case v.ending:
		v.counts.Abandoned++
	default:
		at.due = result.Done + at.pause()
		heap.Push(&v.waiting, at)
		return
	}
	v.active--
}

// cancel ends the visits that wait; those with a request under way end with it.
func (v *visits) cancel() {
	v.ending = true
	v.counts.Abandoned += len(v.waiting)
	v.active -= len(v.waiting)
	v.waiting = nil
}

// report adds all that is known of the visits to r.
func (v *visits) report(r *Report, elapsed time.Duration) {
	counts := v.counts
	all := v.duration.report(elapsed)
	counts.Rate, counts.Duration = all.Rate, all.Latency
	r.Visits = &counts
	for i, s := range v.journey.scenario.steps {
		one := v.steps[i].report(elapsed)
		r.Steps = append(r.Steps, Step{
			Name: s.name, Sent: one.Sent, Completed: one.Completed, Missed: one.Missed, Failed: one.Failed,
			Latency: one.Latency, Status: one.Status, Errors: one.Errors,
			FirstFailure: v.whys[i],
		})
	}
}

// dueHeap has the visit that is due first at 0.
type dueHeap []*visit

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, k int) bool { return h[i].due < h[k].due }
func (h dueHeap) Swap(i, k int)      { h[i], h[k] = h[k], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(*visit)) }
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	v := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return v
}
