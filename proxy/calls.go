package proxy

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"trellis/telemetry"
)

// Calls is what a data plane has done so far, by who called whom.
type Calls struct {
	Boot     string              `json:"boot"` // as in Measures
	Calls    []Call              `json:"calls"`
	Retries  []Retry             `json:"retries,omitempty"`
	Services map[string]Counters `json:"services"`
	InFlight []InFlight          `json:"in_flight,omitempty"`
	LostSpan uint64              `json:"lost_spans"`
	Faults   uint64              `json:"faults"` // requests that ran into a fault of the data plane's own
}

// Call counts the requests of one caller over one route to one instance, cumulative.
type Call struct {
	Service  string `json:"service"`
	Instance string `json:"instance,omitempty"` // "": none took them
	Revision int64  `json:"revision,omitempty"` // of the instance
	Caller   string `json:"caller,omitempty"`   // the service that called; "": from outside
	Route    string `json:"route,omitempty"`    // path of the gateway's route; "" at other doors
	// Since is when the first of them ended.
	Since time.Time `json:"since"`
	// Status counts answers by the hundreds of their status; 0 are those that were not answered because the client went
	// away.
	Status [6]uint64 `json:"status"`
	// Failed are those answered with 5xx, by whomever, or with a gRPC status that blames the server, or cut off.
	Failed uint64 `json:"failed"`
	// Latency is the time from the request's arrival to the head of its answer: with what it waited and was repeated.
	Latency Histogram `json:"latency"`
}

// Retry counts the attempts after the first of one caller's requests over one route, cumulative.
type Retry struct {
	Service  string    `json:"service"`
	Revision int64     `json:"revision,omitempty"` // of the instance that had not answered
	Caller   string    `json:"caller,omitempty"`   // as in Call
	Route    string    `json:"route,omitempty"`    // as in Call
	Since    time.Time `json:"since"`              // when the first of them began
	Count    uint64    `json:"count"`
}

// way is by whom, and how, something is asked.
type way struct {
	caller, route string
	revision      int64 // where it is not that of the instance that counts
}

// maxWays bounds how many ways are told apart in one place; what comes after is counted as one, caller and route "other".
const maxWays = 100

// ways count by way. Counting takes no lock and allocates nothing.
type ways[T any] struct {
	mu  sync.Mutex
	now atomic.Pointer[waySet[T]]
}

// waySet are the ways so far. It does not change: a new way makes another one.
type waySet[T any] struct {
	list []*counted[T] // as they came
	by   map[way]*counted[T]
}

// counted is what is counted of one way.
type counted[T any] struct {
	way
	since time.Time
	n     T
}

// callCounts are of what went one way to one instance. One search serves a request and all that is counted of it.
type callCounts struct {
	inFlight atomic.Int64 // requests, streams and connections
	// since is when the first request ended, in Unix nanoseconds; 0: none has, as where connections only are led.
	since   atomic.Int64
	status  [6]atomic.Uint64
	failed  atomic.Uint64
	latency [latencyBuckets]atomic.Uint64
}

// of returns what is counted of a way, made when it is new.
func (t *ways[T]) of(w way) *T {
	if one := t.now.Load().find(w); one != nil {
		return &one.n
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.now.Load()
	if one := old.find(w); one != nil {
		return &one.n
	}
	next := &waySet[T]{by: map[way]*counted[T]{}}
	if old != nil {
		next.list = slices.Clip(old.list)
		maps.Copy(next.by, old.by)
	}
	if len(next.list) == maxWays-1 {
		w = way{caller: "other", route: "other"}
	}
	one := &counted[T]{way: w, since: time.Now()}
	next.list, next.by[w] = append(next.list, one), one
	t.now.Store(next)
	return &one.n
}

// find returns a way, the last one where there is no room for more; nil: it is new.
func (s *waySet[T]) find(w way) *counted[T] {
	if s == nil {
		return nil
	}
	one := s.by[w]
	if one == nil && len(s.list) == maxWays {
		one = s.list[maxWays-1]
	}
	return one
}

// keep forgets the ways that are not to be kept, and what was counted where there was no room for more.
func (t *ways[T]) keep(is func(way) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.all()
	next := &waySet[T]{by: map[way]*counted[T]{}}
	for _, one := range all[:min(len(all), maxWays-1)] {
		if is(one.way) {
			next.list, next.by[one.way] = append(next.list, one), one
		}
	}
	t.now.Store(next)
}

// all returns every way so far.
func (t *ways[T]) all() []*counted[T] {
	if now := t.now.Load(); now != nil {
		return now.list
	}
	return nil
}

// callsIn appends what was counted to all.
func callsIn(t *ways[callCounts], all []Call, like Call) []Call {
	for _, one := range t.all() {
		since := one.n.since.Load()
		if since == 0 {
			continue
		}
		c := like
		c.Caller, c.Route, c.Since, c.Failed, c.Latency = one.caller, one.route, time.Unix(0, since), one.n.failed.Load(), histogramOf(&one.n.latency)
		for i := range one.n.status {
			c.Status[i] = one.n.status[i].Load()
		}
		all = append(all, c)
	}
	return all
}

// again counts one more attempt for a caller, after one at inst.
func (s *service) again(caller, route string, inst *instance) {
	s.count.retries.Add(1)
	s.retried.of(way{caller, route, inst.conf.Load().Revision}).Add(1)
}

// forgetRetries makes room among the retries where it becomes scarce: those of revisions of which no instance is left are no more
// told. s.mu is held.
func (s *service) forgetRetries() {
	if len(s.retried.all()) < maxWays/2 {
		return
	}
	there := map[int64]bool{}
	for _, inst := range s.instances {
		there[inst.conf.Load().Revision] = true
	}
	for inst := range s.leaving {
		there[inst.conf.Load().Revision] = true
	}
	s.retried.keep(func(w way) bool { return there[w.revision] })
}

// account counts one request and records its span. inst is nil where no instance answered; status is what the client
// gets, 0 when it went away.
func (p *Proxy) account(s *service, inst *instance, q *request, status int, began time.Time) {
	now := time.Now()
	took, failed := now.Sub(began), status >= 500
	one := q.seat.by
	if inst == nil || one == nil {
		to := &s.calls
		if inst != nil {
			to = &inst.calls
		}
		one = to.of(way{caller: q.from, route: q.route})
	}
	if one.since.Load() == 0 {
		one.since.CompareAndSwap(0, now.UnixNano())
	}
	one.status[min(status/100, 5)].Add(1)
	one.latency[bucketOf(took)].Add(1)
	if failed {
		one.failed.Add(1)
	}
	q.counted = one
	p.spans.record(s, inst, q, status, began, took)
}

// brokeLater notes that an answer which had begun was cut off, or blamed the server at its end.
func (q *request) brokeLater() {
	if q.counted != nil {
		q.counted.failed.Add(1)
	}
}

// Calls returns what was done so far.
func (p *Proxy) Calls() Calls {
	c := Calls{Boot: p.boot, Calls: []Call{}, Services: map[string]Counters{}, LostSpan: p.spans.lost.Load(), Faults: p.faults.Load()}
	for name, s := range p.table.Load().services {
		if s.internal() {
			continue
		}
		c.Services[name] = s.count.read()
		c.Calls = callsIn(&s.calls, c.Calls, Call{Service: name})
		for _, one := range s.retried.all() {
			c.Retries = append(c.Retries, Retry{name, one.revision, one.caller, one.route, one.since, one.n.Load()})
		}
		c.InFlight = flightsIn(&s.calls, c.InFlight, InFlight{Service: name})
		for _, inst := range s.all() {
			revision := inst.conf.Load().Revision
			c.Calls = callsIn(&inst.calls, c.Calls, Call{Service: name, Instance: inst.id, Revision: revision})
			c.InFlight = inst.flights(c.InFlight, InFlight{Service: name, Instance: inst.id, Revision: revision})
		}
	}
	return c
}

// Distribution returns h as telemetry has it, in seconds, each bucket by its middle.
func (h Histogram) Distribution() *telemetry.Distribution {
	d := &telemetry.Distribution{Counts: make(map[float64]uint64, len(h))}
	for b, n := range h {
		begin := time.Duration(0)
		if b > 0 {
			begin = BucketEnd(b - 1)
		}
		d.Counts[(begin+BucketEnd(b)).Seconds()/2] += n
	}
	return d
}
