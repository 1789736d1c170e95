package proxy

import (
	"math/rand/v2"
	"time"
)

// choice is an immutable list of pools, one for each instance that may take requests.
type choice struct {
	list  []*pool
	equal bool      // all weights are the same and nobody warms up (before warm)
	warm  time.Time // the last of them is warm then
}

const (
	defaultWeight = 100
	warmTime      = 10 * time.Second // weight grows linearly over it, from a tenth (Envoy's slow start)
)

func newChoice(list []*pool, now time.Time) *choice {
	c := &choice{list: list, equal: true}
	for _, p := range list {
		conf := p.inst.conf.Load()
		if weightOf(conf) != weightOf(list[0].inst.conf.Load()) {
			c.equal = false
		}
		if end := conf.WarmFrom.Add(warmTime); !conf.WarmFrom.IsZero() && end.After(now) && end.After(c.warm) {
			c.warm = end
		}
	}
	return c
}

func weightOf(c *Instance) int {
	if c.Weight <= 0 {
		return defaultWeight
	}
	return c.Weight
}

// weight is the instance's share at a moment, at least 1.
func weight(inst *instance, now time.Time) int64 {
	conf := inst.conf.Load()
	w := int64(weightOf(conf)) * 1000
	if !conf.WarmFrom.IsZero() {
		if age := now.Sub(conf.WarmFrom); age < warmTime {
			w = max(w/10, w*int64(max(age, 0))/int64(warmTime))
		}
	}
	return w
}

// pick chooses by the power of two choices: two at random, each by its weight, and of these the one with fewer requests
// per weight; a tie goes to the first drawn, so that idle instances share by weight exactly. Those in tried are chosen
// only when nobody else is left, closed ones never.
func (c *choice) pick(t *tried, now func() time.Time) *pool {
	switch len(c.list) {
	case 0:
		return nil
	case 1:
		if c.list[0].closed() {
			return nil
		}
		return c.list[0]
	}
	var a, b *pool
	if c.equal && c.warm.IsZero() {
		n := len(c.list)
		i := rand.IntN(n)
		j := rand.IntN(n - 1)
		if j >= i {
			j++
		}
		a, b = c.list[i], c.list[j]
		if b.inst.inUse.Load() < a.inst.inUse.Load() {
			a, b = b, a
		}
	} else {
		at := now()
		a, b = c.draw(at), c.draw(at)
		if b.inst.inUse.Load()*weight(a.inst, at) < a.inst.inUse.Load()*weight(b.inst, at) {
			a, b = b, a
		}
	}
	if c.free(a, t) {
		return a
	}
	if c.free(b, t) {
		return b
	}
	return c.scan(t)
}

func (c *choice) free(p *pool, t *tried) bool { return !p.closed() && !t.has(p) }

// closed says that p must not be chosen now: another request tries whether it is back, or it has all that it may have.
func (p *pool) closed() bool { return p.health.busy() || p.inst.full() }

// draw returns one at random, by weight.
func (c *choice) draw(at time.Time) *pool {
	var total int64
	for _, p := range c.list {
		total += weight(p.inst, at)
	}
	x := rand.Int64N(total)
	for _, p := range c.list {
		if x -= weight(p.inst, at); x < 0 {
			return p
		}
	}
	return c.list[len(c.list)-1]
}

// scan looks at all, from a random one on: the untried with the fewest requests, else the tried with the fewest.
func (c *choice) scan(t *tried) *pool {
	var best *pool
	bestTried := true
	off := rand.IntN(len(c.list))
	for i := range c.list {
		p := c.list[(i+off)%len(c.list)]
		if p.closed() {
			continue
		}
		was := t.has(p)
		if best == nil || bestTried && !was || was == bestTried && p.inst.inUse.Load() < best.inst.inUse.Load() {
			best, bestTried = p, was
		}
	}
	return best
}

// tried are the pools that a request was sent to without success. A nil one is empty.
type tried struct {
	list [8]*pool
	n    int
}

func (t *tried) add(p *pool) {
	if !t.has(p) {
		t.list[t.n%len(t.list)] = p
		t.n++
	}
}

func (t *tried) has(p *pool) bool {
	if t == nil {
		return false
	}
	for i := range min(t.n, len(t.list)) {
		if t.list[i] == p {
			return true
		}
	}
	return false
}
