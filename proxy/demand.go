package proxy

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

// Demand is the load of one service at one data plane, cumulative since the answer that tells it began. BusySeconds are sampled,
// 20 times a second; of a time in which the data plane itself was held up they have what was in flight before and after it.
type Demand struct {
	Requests    uint64  `json:"requests"`     // that have arrived
	BusySeconds float64 `json:"busy_seconds"` // that requests, streams and connections were worked on or waited, summed over them
	Waiting     int     `json:"waiting"`      // requests that wait for an instance now
}

// Demands are the demand of every Measured service at one data plane.
type Demands struct {
	// Source tells data planes, and the answers of each, apart: the numbers of one only grow.
	Source   string            `json:"source"`
	Services map[string]Demand `json:"services"`
}

// How often demand is told and sampled.
const (
	demandPause  = 250 * time.Millisecond // between two lines
	demandSample = 50 * time.Millisecond  // on average, and at most half as much again
)

// serveDemand answers with one Demands a line: at once when requests begin to wait, and otherwise four a second, until the
// client goes.
//
// What is in flight is sampled, at times that are random so that no rhythm of the load's own is mistaken for its size;
// the requests themselves pay nothing for it.
func (p *Proxy) serveDemand(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	m := meter{p: p, services: map[string]*metered{}, last: time.Now()}
	source := fmt.Sprintf("%s/%d", p.boot, p.answers.Add(1))
	out, flush := json.NewEncoder(w), http.NewResponseController(w)
	sample := time.NewTimer(0)
	defer sample.Stop()
	for told := (time.Time{}); ; {
		urgent := false
		select {
		case <-r.Context().Done():
			return
		case <-p.waits:
			urgent = true
		case <-sample.C:
		}
		m.sample(time.Now())
		if urgent || time.Since(told) >= demandPause {
			told = time.Now()
			if out.Encode(Demands{source, m.demand()}) != nil || flush.Flush() != nil {
				return
			}
		}
		sample.Reset(m.pause())
	}
}

// meter integrates what is in flight for one answer.
type meter struct {
	p        *Proxy
	services map[string]*metered
	last     time.Time
}

type metered struct {
	s        *service
	requests uint64 // before this answer began
	busy     float64
	inFlight int64 // at the last sample
}

// sample adds the time since the last sample, for everything that is in flight now.
//
// A data plane that was held up, on a machine without CPU to spare, looks late, and at all that queued up meanwhile, of which
// most came just now. Of the time by which it is late, as much counts as was in flight before and is now: what went on all the
// while counts in full, and a crowd that the wait itself made is not taken for load.
func (m *meter) sample(now time.Time) {
	passed := now.Sub(m.last)
	late := max(passed-2*demandSample, 0)
	m.last = now
	services := m.p.table.Load().services
	for name := range m.services {
		if services[name] == nil {
			delete(m.services, name)
		}
	}
	for name, s := range services {
		if !s.conf.Load().Measured {
			delete(m.services, name)
			continue
		}
		one, inFlight := m.services[name], s.inFlight()
		if one == nil || one.s != s {
			m.services[name] = &metered{s: s, requests: s.count.requests.Load(), inFlight: inFlight}
			continue
		}
		one.busy += float64(inFlight)*(passed-late).Seconds() + float64(min(one.inFlight, inFlight))*late.Seconds()
		one.inFlight = inFlight
	}
}

func (m *meter) demand() map[string]Demand {
	all := make(map[string]Demand, len(m.services))
	for name, one := range m.services {
		all[name] = Demand{
			Requests: one.s.count.requests.Load() - one.requests, BusySeconds: one.busy, Waiting: int(one.s.holding.Load()),
		}
	}
	return all
}

// pause is the time until the next sample.
func (m *meter) pause() time.Duration {
	if len(m.services) == 0 {
		return demandPause
	}
	return demandSample/2 + rand.N(demandSample)
}

// inFlight counts what is at the instances of s or waits for one.
func (s *service) inFlight() int64 {
	n := s.holding.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, inst := range s.instances {
		n += inst.inUse.Load()
	}
	for inst := range s.leaving {
		n += inst.inUse.Load()
	}
	return n
}

// waiting has who measures look at once.
func (s *service) waiting() {
	if s.waits == nil || !s.conf.Load().Measured {
		return
	}
	select {
	case s.waits <- struct{}{}:
	default: // it is about to look
	}
}
