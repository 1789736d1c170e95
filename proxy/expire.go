package proxy

import (
	"context"
	"maps"
	"slices"
	"time"
)

// spare closes the connections to instances that no request uses.
func (p *Proxy) spare() {
	for _, s := range p.table.Load().services {
		for _, inst := range s.all() {
			inst.expire(time.Now().Add(24 * time.Hour)) // whenever their time would be over
		}
	}
}

// expirePause is how long an idle connection may stay open to an end that goes away: a data plane on another host waits for that.
const expirePause = time.Second

// expire closes idle connections to instances when their time is over.
func (p *Proxy) expire(ctx context.Context) {
	tick := time.NewTicker(expirePause)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			for _, s := range p.table.Load().services {
				for _, inst := range s.all() {
					inst.expire(now)
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

// expire closes connections that were idle for too long, or whose other end closed them or goes away.
func (i *instance) expire(now time.Time) {
	i.mu.Lock()
	pools := slices.Collect(maps.Values(i.pools))
	i.mu.Unlock()
	for _, p := range pools {
		p.expire(now)
	}
}

// expire closes the connections that were idle for too long, or whose other end closed them or goes away.
func (p *pool) expire(now time.Time) {
	for _, k := range p.all() {
		k.expire(now)
	}
}

// expireAtOnce is how many connections the kernel is asked about while nobody can take or give back one.
const expireAtOnce = 16

// expire closes the connections that were idle for too long, or whose other end closed them or goes away.
func (k *conns) expire(now time.Time) {
	for kept, more := 0, true; more; {
		var old []*upstream
		old, kept, more = k.expireFrom(kept, now)
		for _, c := range old {
			c.Close()
		}
	}
}

// expireFrom takes out those that expire among a few idle ones, from the one at an index on. It returns where to go on, and whether
// there are more. What moves meanwhile is at the other end, and was just used.
func (k *conns) expireFrom(from int, now time.Time) (old []*upstream, next int, more bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if from >= len(k.idle) {
		return nil, from, false
	}
	some := k.idle[from:min(from+expireAtOnce, len(k.idle))]
	rest := k.idle[from+len(some):]
	kept := k.idle[:from]
	for _, c := range some {
		if c.keepUntil.After(now) && c.alive() {
			kept = append(kept, c)
		} else {
			old = append(old, c)
		}
	}
	next = len(kept)
	if len(old) > 0 {
		all := append(kept, rest...)
		clear(k.idle[len(all):])
		k.idle = all
	}
	return old, next, len(rest) > 0
}
