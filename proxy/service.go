package proxy

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// service is what lives on of a Service from snapshot to snapshot: its instances' health, budget and counters.
type service struct {
	name   string
	conf   atomic.Pointer[Service]
	budget budget

	lanes   lanes
	holding atomic.Int64
	hints   sync.Map // port to kind: what was last spoken there
	count   counters
	calls   ways[callCounts] // of requests that no instance took; in flight are those that wait for one
	retried ways[atomic.Uint64]
	waits   chan<- struct{} // to say that a request waits; capacity 1
	known   *identities     // what callers show where instances want to know who they are
	mesh    atomic.Pointer[Mesh]
	spare   func() // closes what nobody uses, where no more files can be opened; nil: nothing

	mu        sync.Mutex
	instances map[string]*instance // of the current snapshot
	leaving   map[*instance]bool   // of earlier ones, still in use
	closed    bool
	asking    sync.WaitGroup // those who ask instances that refused connections; none begins once closed
}

// lane is one port of a service. Each port is judged by itself: a caller that asks for one where nobody listens takes
// nothing away from the callers of another.
type lane struct {
	s         *service
	port      int
	available atomic.Pointer[choice]        // whom a new request may go to
	changed   atomic.Pointer[chan struct{}] // closed and renewed whenever available is
	timer     *time.Timer                   // the next end of an ejection; s.mu guards it
	queue     queue                         // of those that wait in available's stead
	state     atomic.Int32
	idle      time.Time // since when nobody has asked for it, as far as it was looked at; s.mu guards it
}

type counters struct {
	requests, failed, retries, held, connections atomic.Uint64

	cold [latencyBuckets]atomic.Uint64
}

const (
	defaultHold           = 5 * time.Second
	defaultConnectTimeout = time.Second
	defaultRetries        = 3
	maxHolding            = 10_000 // requests of one service that wait at once
)

func newService(name string, now time.Time) *service {
	s := &service{name: name, instances: map[string]*instance{}, leaving: map[*instance]bool{}}
	s.conf.Store(&Service{Name: name})
	return s
}

func (s *service) hold() time.Duration {
	if h := s.conf.Load().Hold; h != 0 {
		return h
	}
	return defaultHold
}

func (s *service) connectTimeout() time.Duration {
	if t := s.conf.Load().ConnectTimeout; t > 0 {
		return t
	}
	return defaultConnectTimeout
}

// retries returns how many attempts may follow the first, negative for none even of what was provably not sent.
func (s *service) retries() int {
	if r := s.conf.Load().Retries; r != 0 {
		return r
	}
	return defaultRetries
}

// over says whether an instance that has so many in use has more than it may.
func (s *service) over(used int64) bool {
	limit := s.conf.Load().Concurrency
	return limit > 0 && used > int64(limit)
}

// limited says whether instances take only so many at a time.
func (s *service) limited() bool { return s.conf.Load().Concurrency > 0 }

// pending is how many requests may wait for an instance at a time.
func (s *service) pending() int64 {
	if n := s.conf.Load().Pending; n > 0 {
		return int64(n)
	}
	return maxHolding
}

// breaks is how many failures in a row take an instance out.
func (s *service) breaks() int {
	if n := s.conf.Load().Failures; n > 0 {
		return n
	}
	return breaksToEject
}

// vacated lets those look who wait for a place at an instance.
func (s *service) vacated() {
	if !s.limited() || s.holding.Load() == 0 {
		return
	}
	for l := range s.lanes.all() {
		l.queue.next()
	}
}

// internal says that the service is a part of Trellis: its requests are not the project's, and are not counted.
func (s *service) internal() bool { return s.conf.Load().Internal }

func (s *service) speaksHTTP2(port int) bool {
	for _, p := range s.conf.Load().HTTP2 {
		if p == port {
			return true
		}
	}
	return false
}

// apply makes conf the service's configuration. When it returns, no instance that may not takes anything new.
func (s *service) apply(conf *Service, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.conf.Swap(conf)
	proven := was.TLS == nil && conf.TLS == nil || was.TLS != nil && conf.TLS != nil && *was.TLS == *conf.TLS
	old := s.instances
	s.instances = make(map[string]*instance, len(conf.Instances))
	for i := range conf.Instances {
		c := &conf.Instances[i]
		inst := old[c.ID]
		if inst == nil || inst.host != c.Host || inst.plane != c.Plane || !maps.Equal(inst.conf.Load().PortMap, c.PortMap) {
			inst = newInstance(s, c)
		} else {
			delete(old, c.ID)
			if !proven { // to those who are to be believed now
				inst.dropIdle()
			}
		}
		s.instances[c.ID] = inst
		inst.update(c, now)
	}
	for _, inst := range old {
		s.retire(inst)
	}
	for inst := range s.leaving {
		if inst.inUse.Load() == 0 {
			delete(s.leaving, inst)
		}
	}
	s.forgetRetries()
	s.forgetLanes(now)
	s.rebuildAll(now)
}

// lane returns the lane of a port, made when it is new. Who keeps it while something else is waited for asks again then.
func (s *service) lane(port int) *lane {
	if l := s.lanes.at(port); l != nil && l.use() {
		return l
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lanes.at(port); l != nil && l.use() {
		return l
	}
	l := &lane{s: s, port: port}
	ch := make(chan struct{})
	l.changed.Store(&ch)
	s.rebuild(l, time.Now())
	s.lanes.change(port, func(part map[int]*lane) { part[port] = l })
	return l
}

func (s *service) rebuildAll(now time.Time) {
	for l := range s.lanes.all() {
		s.rebuild(l, now)
	}
}

// retire takes an instance out for good. What is in flight goes on. s.mu is held.
func (s *service) retire(inst *instance) {
	inst.takes.Store(false)
	inst.retire()
	inst.dropIdle()
	s.leaving[inst] = true
}

// close retires all instances, and returns when nothing of the service runs any more.
func (s *service) close() {
	s.end()
	s.asking.Wait()
}

func (s *service) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, inst := range s.instances {
		s.retire(inst)
	}
	for inst := range s.leaving {
		inst.stopTimer()
	}
	s.instances = map[string]*instance{}
	s.closed = true
	s.rebuildAll(time.Now())
}

// refresh rebuilds the choice of a port after an ejection or its end.
func (s *service) refresh(port int) {
	l := s.lane(port)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rebuild(l, time.Now())
}

// ask runs f beside, until the service is closed.
func (s *service) ask(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.asking.Go(f)
	}
}

// refreshAll rebuilds the choices of all ports after an instance's readiness has changed.
func (s *service) refreshAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rebuildAll(time.Now())
}

// rebuild computes whom new requests to a port may go to, wakes who waits for it, and sets the timer for the next change
// that time alone makes. s.mu is held.
//
// An instance that can't be connected to is never chosen. One that breaks off answers is not either, unless that leaves
// fewer than half of the connectable ones: then the fault is likely not theirs, or shedding would overload the rest
// (the panic threshold of Envoy, whose default is the same half).
func (s *service) rebuild(l *lane, now time.Time) {
	var reachable, healthy []*pool
	var next time.Time
	for _, id := range slices.Sorted(maps.Keys(s.instances)) {
		inst := s.instances[id]
		if !inst.ready() {
			continue
		}
		p := inst.pool(l.port)
		until, hard := p.health.out(now)
		if !until.IsZero() && (next.IsZero() || until.Before(next)) {
			next = until
		}
		if hard {
			continue
		}
		reachable = append(reachable, p)
		if until.IsZero() {
			healthy = append(healthy, p)
		}
	}
	if 2*len(healthy) < len(reachable) {
		healthy = reachable
	}
	l.available.Store(newChoice(healthy, now))
	l.wake()
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	if !next.IsZero() && !s.closed {
		l.timer = time.AfterFunc(max(time.Millisecond, next.Sub(now)), func() { s.refresh(l.port) })
	}
}

// wake lets everyone look again who waits for an instance.
func (l *lane) wake() {
	ch := make(chan struct{})
	close(*l.changed.Swap(&ch))
}

// acquire returns the port of an instance that may take one more request, counted as in use; nil when there is none. It
// prefers those that were not tried yet. The caller releases the instance.
func (l *lane) acquire(tried *tried) *pool {
	for range 8 {
		p := l.available.Load().pick(tried, time.Now)
		if p == nil {
			return nil
		}
		if !p.admit() {
			continue
		}
		if used := p.inst.inUse.Add(1); p.inst.takes.Load() && !l.s.over(used) {
			return p
		}
		// The snapshot changed in between (whoever set takes to false may already have read inUse), or others took the last
		// place.
		p.health.abandon()
		p.inst.release()
	}
	return nil
}

// all returns every instance that is in the snapshot or still in use.
func (s *service) all() []*instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := slices.Collect(maps.Values(s.instances))
	for inst := range s.leaving {
		list = append(list, inst)
	}
	return list
}

// idle says whether nothing is in flight to any instance.
func (s *service) idle() bool {
	for _, inst := range s.all() {
		if inst.inUse.Load() > 0 {
			return false
		}
	}
	return s.holding.Load() == 0
}

// describe adds the service to a status.
func (s *service) describe(st *Status) {
	st.Holding += int(s.holding.Load())
	now := time.Now()
	for _, inst := range s.all() {
		if n := inst.inUse.Load(); n > 0 {
			st.InUse[inst.id] += int(n)
		}
		if inst.ejectedAt(now) {
			st.Ejected = append(st.Ejected, inst.id)
		}
	}
}

func (c *counters) read() Counters {
	return Counters{
		Requests: c.requests.Load(), Failed: c.failed.Load(), Retries: c.retries.Load(), Held: c.held.Load(),
		Connections: c.connections.Load(), ColdStarts: histogramOf(&c.cold),
	}
}
