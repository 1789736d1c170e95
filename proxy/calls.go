package proxy

import (
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
	Services map[string]Counters `json:"services"`
	InUse    map[string]int      `json:"in_use"` // as in Status
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

// maxCalls bounds how many ways to one instance are told apart; what comes after is counted as one, caller and route
// "other".
const maxCalls = 100

// callTally counts one way to one instance. Counting takes no lock and allocates nothing.
type callTally struct {
	caller, route string
	since         time.Time
	status        [6]atomic.Uint64
	failed        atomic.Uint64
	latency       [latencyBuckets]atomic.Uint64
}

// callTallies are the ways to one instance.
type callTallies struct {
	mu   sync.Mutex
	list atomic.Pointer[[]*callTally]
}

// of returns the tally of a way, made when it is new.
func (t *callTallies) of(caller, route string) *callTally {
	if one := t.find(caller, route); one != nil {
		return one
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if one := t.find(caller, route); one != nil {
		return one
	}
	var list []*callTally
	if old := t.list.Load(); old != nil {
		list = *old
	}
	if len(list) >= maxCalls {
		return list[maxCalls-1]
	}
	if len(list) == maxCalls-1 {
		caller, route = "other", "other"
	}
	one := &callTally{caller: caller, route: route, since: time.Now()}
	list = append(slices.Clip(list), one)
	t.list.Store(&list)
	return one
}

func (t *callTallies) find(caller, route string) *callTally {
	list := t.list.Load()
	if list == nil {
		return nil
	}
	for _, one := range *list {
		if one.route == route && one.caller == caller {
			return one
		}
	}
	return nil
}

// read appends what was counted to all.
func (t *callTallies) read(all []Call, like Call) []Call {
	list := t.list.Load()
	if list == nil {
		return all
	}
	for _, one := range *list {
		c := like
		c.Caller, c.Route, c.Since, c.Failed, c.Latency = one.caller, one.route, one.since, one.failed.Load(), histogramOf(&one.latency)
		for i := range one.status {
			c.Status[i] = one.status[i].Load()
		}
		all = append(all, c)
	}
	return all
}

// account counts one request and records its span. inst is nil where no instance answered; status is what the client
// gets, 0 when it went away.
func (p *Proxy) account(s *service, inst *instance, q *request, status int, began time.Time) {
	took := time.Since(began)
	to, failed := &s.calls, status >= 500
	if inst != nil {
		to = &inst.calls
	}
	one := to.of(q.caller, q.route)
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
	c := Calls{Boot: p.boot, Calls: []Call{}, Services: map[string]Counters{}, InUse: map[string]int{}, LostSpan: p.spans.lost.Load(), Faults: p.faults.Load()}
	for name, s := range p.table.Load().services {
		if s.internal() {
			continue
		}
		c.Services[name] = s.count.read()
		c.Calls = s.calls.read(c.Calls, Call{Service: name})
		for _, inst := range s.all() {
			c.InUse[inst.id] = int(inst.inUse.Load())
			c.Calls = inst.calls.read(c.Calls, Call{Service: name, Instance: inst.id, Revision: inst.conf.Load().Revision})
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
