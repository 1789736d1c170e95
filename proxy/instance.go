package proxy

import (
	"context"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// instance is one address of a service, for as long as snapshots name it or something is in flight to it.
type instance struct {
	id   string
	host string
	svc  *service
	// plane is where the data plane of its host is called; "": it is on this one.
	plane string
	conf  atomic.Pointer[Instance]

	inUse  atomic.Int64 // requests, streams and connections in flight
	takes  atomic.Bool  // may take something new; set to false before anyone reads inUse for "drained"
	probed atomic.Int32 // a verdict, of the data plane's own probe while the control plane is away
	seen   atomic.Bool  // the data plane saw it come back: that counts until a snapshot that knows, or trust is over
	tally  tally
	life   context.Context // ends when the instance is retired
	retire context.CancelFunc
	calls  ways[callCounts] // what is in flight of them is inUse, but for what links bring

	mu      sync.Mutex
	pools   map[int]*pool
	streams map[*stream]struct{}
	drainBy *time.Timer
	doubt   *time.Timer // the end of seen
}

// verdict is what a probe said last.
type verdict int32

const (
	unknown verdict = iota
	passed
	failed
)

// stream is something that may outlive a drain: it is told to end.
type stream struct {
	inst *instance
	end  func() // called at most once, from another goroutine; must not block
	once sync.Once
	// loose is a connection over which nothing went yet: it ends when the drain begins.
	loose bool
	// datagrams have no end that a drain could wait for: their client's next one goes elsewhere by itself.
	datagrams bool
}

func (s *stream) finish() { s.once.Do(s.end) }

func newInstance(s *service, c *Instance) *instance {
	i := &instance{id: c.ID, host: c.Host, plane: c.Plane, svc: s, pools: map[int]*pool{}, streams: map[*stream]struct{}{}}
	i.conf.Store(c)
	i.life, i.retire = context.WithCancel(context.Background())
	return i
}

// ready says whether snapshot, or while the control plane is away the data plane's own probe, lets it take requests.
func (i *instance) ready() bool {
	c := i.conf.Load()
	if c.Draining {
		return false
	}
	switch verdict(i.probed.Load()) {
	case passed:
		return true
	case failed:
		return false
	}
	return c.Ready || i.seen.Load()
}

// update takes over what a snapshot says. An instance that turns unready or begins to drain loses its idle connections
// at once, so that no request is ever written to one that it is about to close.
func (i *instance) update(c *Instance, now time.Time) {
	was := i.conf.Swap(c)
	if c.Ready {
		i.seen.Store(false)
	}
	i.settle()
	i.mu.Lock()
	defer i.mu.Unlock()
	if c.Ready && !was.Ready {
		for _, p := range i.pools {
			p.health.reset()
		}
	}
	if i.drainBy != nil {
		i.drainBy.Stop()
		i.drainBy = nil
	}
	if !c.Draining {
		return
	}
	for s := range i.streams {
		if s.loose {
			go s.finish()
		}
	}
	if !c.DrainBy.IsZero() {
		i.drainBy = time.AfterFunc(max(0, c.DrainBy.Sub(now)), i.endStreams)
	}
}

// settle makes takes what ready says.
func (i *instance) settle() {
	ready := i.ready()
	i.takes.Store(ready)
	if !ready {
		i.dropIdle()
	}
}

func (i *instance) stopTimer() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, t := range []*time.Timer{i.drainBy, i.doubt} {
		if t != nil {
			t.Stop()
		}
	}
}

// endStreams ends every stream to the instance: the drain's time is over.
func (i *instance) endStreams() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for s := range i.streams {
		go s.finish()
	}
}

// track has end called when the instance's drain time is over, until untrack.
func (i *instance) track(end func(), loose bool) *stream {
	s := &stream{inst: i, end: end, loose: loose}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.streams[s] = struct{}{}
	c := i.conf.Load()
	if c.Draining && (loose || !c.DrainBy.IsZero() && !time.Now().Before(c.DrainBy)) {
		go s.finish()
	}
	return s
}

// untrack undoes track: when it returns, end has returned or will never be called.
func (i *instance) untrack(s *stream) {
	i.mu.Lock()
	delete(i.streams, s)
	i.mu.Unlock()
	s.once.Do(func() {})
}

func (i *instance) release() {
	i.inUse.Add(-1)
	i.svc.vacated()
}

// full says whether the instance works on as many as it may.
func (i *instance) full() bool { return i.svc.over(i.inUse.Load() + 1) }

// address returns where a target port of the service really is.
func (i *instance) address(port int) string {
	if p, ok := i.conf.Load().PortMap[port]; ok {
		port = p
	}
	return net.JoinHostPort(i.host, strconv.Itoa(port))
}

// remote says whether it is on another host.
func (i *instance) remote() bool { return i.plane != "" }

// pool returns the connections to a target port.
func (i *instance) pool(port int) *pool {
	i.mu.Lock()
	defer i.mu.Unlock()
	p := i.pools[port]
	if p == nil {
		p = newPool(i, port)
		i.pools[port] = p
	}
	return p
}

// dropIdle closes every connection that is not in use, and lets those in use close when they are done.
func (i *instance) dropIdle() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, p := range i.pools {
		p.drop()
	}
}

// ejectedAt says whether a port of the instance is out of the choice by what the data plane found out itself.
func (i *instance) ejectedAt(now time.Time) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, p := range i.pools {
		if p.health.ejectedAt(now) {
			return true
		}
	}
	return false
}
