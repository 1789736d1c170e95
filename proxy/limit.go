package proxy

import (
	"hash/maphash"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// limiter is the generic cell rate algorithm over many keys: of each it keeps the time at which its bucket would be empty
// again. Memory is bounded: full, it forgets those that are within their limit first.
type limiter struct {
	conf   RateLimit
	every  time.Duration // between two requests in the long run
	allow  time.Duration // how far ahead of that a key may be
	began  time.Time     // times are kept as distances from it, on the monotonic clock
	seed   maphash.Seed
	shards [limitShards]limitShard
}

const (
	limitShards  = 16
	limitEntries = 16384 // in each shard
)

type limitShard struct {
	mu   sync.Mutex
	when map[limitKey]time.Duration
}

// limitKey is who shares a bucket: an address or a name.
type limitKey struct {
	addr netip.Addr
	name string
}

func newLimiter(conf RateLimit, now time.Time) *limiter {
	l := &limiter{conf: conf, every: time.Duration(float64(time.Second) / conf.Rate), began: now, seed: maphash.MakeSeed()}
	l.every = max(l.every, 1)
	l.allow = l.every * time.Duration(max(conf.Burst, 1)-1)
	return l
}

// take counts one request; wait is how long the caller has to be patient, 0 where it may go on.
func (l *limiter) take(key limitKey, now time.Time) (wait time.Duration) {
	at := now.Sub(l.began)
	s := &l.shards[maphash.Comparable(l.seed, key)%limitShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	when, known := s.when[key]
	when = max(when, at)
	if ahead := when - at; ahead > l.allow {
		return ahead - l.allow
	}
	if !known {
		if len(s.when) >= limitEntries {
			s.forget(at)
		}
		if s.when == nil {
			s.when = map[limitKey]time.Duration{}
		}
		key.name = strings.Clone(key.name) // it may be part of a request's buffer
	}
	s.when[key] = when + l.every
	return 0
}

// forget makes room: all that have waited long enough to begin anew, and whichever come first where that leaves the map
// nearly full, so that a flood of new keys does not have it searched for each. s.mu is held.
func (s *limitShard) forget(now time.Duration) {
	for k, when := range s.when {
		if when <= now {
			delete(s.when, k)
		}
	}
	for k := range s.when {
		if len(s.when) < limitEntries*3/4 {
			return
		}
		delete(s.when, k)
	}
}

// clientKey is a client's address; of IPv6 the /64, which is what one customer has.
func clientKey(addr netip.Addr) limitKey {
	if addr.Is6() && !addr.Is4In6() {
		if p, err := addr.WithZone("").Prefix(64); err == nil {
			addr = p.Addr()
		}
	}
	return limitKey{addr: addr}
}
