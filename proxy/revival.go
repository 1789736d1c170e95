package proxy

import (
	"context"
	"net"
	"strconv"
	"time"

	"trellis/probe"
)

// trust is how long it counts that the data plane itself saw an instance come back, against snapshots that say that it
// is not ready: they may rest on its end. Whoever writes them has looked again long before.
const trust = 2 * time.Second

// away takes a port out of the choice after a connect that came to nothing. An instance that refuses connections may be
// its old self again in milliseconds, so it is asked from here whether it is ready: the snapshot that says so comes later.
// Where only a command can tell, one request at a time tries.
func (p *pool) away(refused bool) {
	spec, asks := p.question()
	asks = asks && refused && p.inst.ready() && !p.inst.remote()
	if !p.health.unreachable(time.Now(), asks) {
		return
	}
	if refused {
		p.drop() // nobody is there, not for idle connections either
	}
	p.inst.forgetSeen()
	p.inst.svc.refresh(p.port)
	if asks {
		p.inst.svc.ask(func() { p.awaitReturn(p.inst.life, spec) })
	}
}

// question is how the data plane finds out whether the instance is ready; false where it cannot.
func (p *pool) question() (probe.Spec, bool) {
	spec := p.inst.svc.conf.Load().Probe
	switch spec.Kind {
	case probe.None: // ready when it listens
		spec = probe.Spec{Kind: probe.TCP, Port: p.port}
	case probe.HTTP, probe.TCP, probe.GRPC:
	default:
		return spec, false
	}
	spec.Timeout = orDefault(spec.Timeout, probeTimeout)
	return spec, true
}

// awaitReturn asks until the instance is ready or retired.
func (p *pool) awaitReturn(ctx context.Context, spec probe.Spec) {
	for {
		pause(ctx, awayPause(p.health.away(time.Now())))
		if ctx.Err() != nil || p.forgotten.Load() {
			return
		}
		host, text, err := net.SplitHostPort(p.inst.address(spec.Port))
		if err != nil {
			return
		}
		port, _ := strconv.Atoi(text) // address made it of a number
		if r := probe.Do(ctx, spec, host, port, nil); r.Ready {
			p.inst.cameBack()
			p.health.returned()
			p.inst.svc.refresh(p.port)
			return
		}
		if !p.health.waiting() {
			return // a snapshot has told of its return
		}
	}
}

// timersKeep is from where on a pause is kept by the runtime's timers: they wait for whole milliseconds.
const timersKeep = 4 * time.Millisecond

// pause is sleep for pauses that may be short: these are kept to some microseconds, and no context ends them.
func pause(ctx context.Context, d time.Duration) {
	if d < timersKeep {
		nap(d)
		return
	}
	sleep(ctx, d)
}

// cameBack notes that the instance was seen to be ready.
func (i *instance) cameBack() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.seen.Store(true)
	i.takes.Store(i.ready())
	if i.doubt != nil {
		i.doubt.Stop()
	}
	i.doubt = time.AfterFunc(trust, i.forgetSeen)
}

// forgetSeen has snapshots alone say whether the instance is ready.
func (i *instance) forgetSeen() {
	if i.seen.Swap(false) && !i.ready() {
		i.settle()
		i.svc.refreshAll()
	}
}
