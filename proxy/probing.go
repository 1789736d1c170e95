package proxy

import (
	"context"
	"net"
	"strconv"
	"sync"
	"time"

	"trellis/probe"
)

// Defaults of a probe that the snapshot leaves open; Compose's are 30 s, which is too long to balance by.
const (
	probeInterval = 2 * time.Second
	probeTimeout  = time.Second
	probeRetries  = 3
	probesAtOnce  = 16
)

// probing asks the instances itself while the control plane is away. What it finds out is for its own balancing only,
// and forgotten when the control plane is back.
type probing struct {
	p      *Proxy
	cancel context.CancelFunc
	done   chan struct{}
}

// set starts or stops it.
func (b *probing) set(away bool) {
	switch {
	case away && b.cancel == nil:
		b.p.log.Info("control plane is away, probing by itself")
		ctx, cancel := context.WithCancel(b.p.life)
		b.cancel, b.done = cancel, make(chan struct{})
		go func() {
			defer close(b.done)
			b.run(ctx)
		}()
	case !away && b.cancel != nil:
		b.cancel()
		<-b.done
		b.cancel = nil
		for _, s := range b.p.table.Load().services {
			s.forgetProbes()
		}
		b.p.log.Info("control plane is back")
	}
}

// run asks every instance at its service's interval.
func (b *probing) run(ctx context.Context) {
	type memory struct {
		next     time.Time
		failures int
	}
	seen := map[*instance]*memory{}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var wg sync.WaitGroup
		room := make(chan struct{}, probesAtOnce)
		now := time.Now()
		alive := map[*instance]*memory{}
		for _, s := range b.p.table.Load().services {
			spec := s.conf.Load().Probe
			if spec.Kind != probe.HTTP && spec.Kind != probe.TCP && spec.Kind != probe.GRPC {
				continue
			}
			for _, inst := range s.current() {
				if inst.remote() { // its own host's data plane does
					continue
				}
				m := seen[inst]
				if m == nil {
					m = &memory{}
				}
				alive[inst] = m
				if now.Before(m.next) {
					continue
				}
				m.next = now.Add(orDefault(spec.Interval, probeInterval))
				room <- struct{}{}
				wg.Go(func() {
					defer func() { <-room }()
					b.ask(ctx, inst, spec, &m.failures)
				})
			}
		}
		seen = alive
		wg.Wait()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// ask asks once. One success makes an instance ready, failures in a row make it unready.
func (b *probing) ask(ctx context.Context, inst *instance, spec probe.Spec, failures *int) {
	spec.Timeout = orDefault(spec.Timeout, probeTimeout)
	host, port, err := net.SplitHostPort(inst.address(spec.Port))
	if err != nil {
		return
	}
	n, _ := strconv.Atoi(port)
	r := probe.Do(ctx, spec, host, n, nil)
	if ctx.Err() != nil {
		return
	}
	retries := spec.Retries
	if retries <= 0 {
		retries = probeRetries
	}
	if r.Ready {
		*failures = 0
		inst.setProbed(passed)
	} else if *failures++; *failures >= retries {
		inst.setProbed(failed)
	}
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// setProbed takes over what a probe of our own said.
func (i *instance) setProbed(v verdict) {
	if verdict(i.probed.Swap(int32(v))) != v {
		i.settle()
		i.svc.refreshAll()
	}
}

// current returns the instances of the snapshot that are not draining.
func (s *service) current() []*instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*instance
	for _, inst := range s.instances {
		if !inst.conf.Load().Draining {
			list = append(list, inst)
		}
	}
	return list
}

func (s *service) forgetProbes() {
	for _, inst := range s.current() {
		inst.setProbed(unknown)
	}
}
