package judge

import (
	"slices"
	"time"

	"trellis/compose"
	"trellis/state"
)

// Window is what is measured of one rollout. One goroutine uses it at a time.
type Window struct {
	tally    *Tally
	base     state.Ledger       // of those before
	began    map[string]counted // what each old instance had done when it began
	olds     []string           // instances, also those that are gone
	news     []string
	compared map[string]counted // what each had done when new ones first served: errors are compared from there
	settled  map[string]counted // and a little later: so are latencies
	served   time.Time          // when new ones first served
	looks    looks
	slow     slowness
	judged   string
}

// settling is how long after new instances first serve their latency does not count: caches are empty, code is cold.
const settling = 2 * time.Second

// NewWindow begins to watch a rollout of which base was measured before.
func NewWindow(t *Tally, base state.Ledger) *Window {
	return &Window{tally: t, base: base, began: map[string]counted{}}
}

// Add has an instance belong to the rollout: to what is replaced, or to what replaces it. It may be added again and again.
func (w *Window) Add(id string, fresh bool) {
	switch {
	case fresh && !slices.Contains(w.news, id):
		w.news = append(w.news, id)
	case !fresh && !slices.Contains(w.olds, id):
		w.olds = append(w.olds, id)
		w.began[id] = w.tally.of([]string{id})[id]
	}
}

// Mark notes, after every Add of a round, from where both sides are compared. serves says that a new instance is ready.
func (w *Window) Mark(serves bool, now time.Time) {
	everyone := slices.Concat(w.olds, w.news)
	if serves && w.served.IsZero() {
		w.served, w.compared = now, w.tally.of(everyone)
	}
	if w.settled == nil && !w.served.IsZero() && now.Sub(w.served) >= settling {
		w.settled = w.tally.of(everyone)
	}
}

// Judged is what Judge has found so far.
func (w *Window) Judged() string { return w.judged }

// Judge says why the new instances of a service do worse than the old ones, "" where nothing says so. What was found once stays.
func (w *Window) Judge(objective *compose.Objective, now time.Time) string {
	if w.judged != "" || w.served.IsZero() {
		return w.judged
	}
	if w.slow.due(now) {
		w.slow.note(w.oldSince(w.settled), w.since(w.news, w.settled), now)
	}
	news := w.since(w.news, nil)
	alpha, due := w.looks.due(news.requests)
	if !due {
		return ""
	}
	w.judged = worse(w.oldSince(w.compared), news, alpha/2, objective)
	if w.judged == "" && w.settled != nil {
		w.judged = w.slow.look(w.oldSince(w.settled), w.since(w.news, w.settled), alpha/2, objective, now)
	}
	return w.judged
}

// oldSince returns what old instances did after marks, or where that says nothing, because they stop first, what they did
// before as well.
func (w *Window) oldSince(marks map[string]counted) counted {
	if olds := w.since(w.olds, marks); olds.requests >= firstLook {
		return olds
	}
	return w.since(w.olds, nil)
}

// since returns what instances did after marks; a missing mark is nothing.
func (w *Window) since(ids []string, marks map[string]counted) counted {
	var sum counted
	for id, now := range w.tally.of(ids) {
		sum = sum.plus(now.minus(marks[id]))
	}
	return sum
}

// Ledger returns what was measured of the rollout so far.
func (w *Window) Ledger() state.Ledger {
	olds, news := w.since(w.olds, w.began), w.since(w.news, nil)
	ledger := state.Ledger{Old: olds.cohort(), New: news.cohort()}
	if olds.latency.Count() == 0 { // they went before they did anything: what they did before
		ledger.Old = w.since(w.olds, nil).cohort()
		ledger.Old.Requests, ledger.Old.Failed = 0, 0
	}
	ledger.Old.Carry(w.base.Old)
	ledger.New.Carry(w.base.New)
	ledger.Requests = ledger.Old.Requests + ledger.New.Requests
	ledger.Failed = ledger.Old.Failed + ledger.New.Failed
	return ledger
}
