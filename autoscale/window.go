package autoscale

import (
	"math"
	"time"
)

// Totals are cumulative measurements of a service's load. What counts is how they grow, so a reading that is lost costs
// precision and nothing else. A total that fell was counted anew from 0; one that is NaN or infinite is not known, and how
// it grew until it is known again counts as nothing: nobody could say when.
type Totals struct {
	Requests    float64 // requests that have arrived
	BusySeconds float64 // time that requests have been worked on or waited, summed over them
	CPUSeconds  float64 // CPU time used divided by the CPUs of one replica's limit
}

func (t Totals) of(m Metric) float64 {
	switch m {
	case Concurrency:
		return t.BusySeconds
	case RPS:
		return t.Requests
	default:
		return t.CPUSeconds
	}
}

// Reading is one measurement.
type Reading struct {
	At     time.Time
	Source string // whose totals they are: those of another source begin anew
	Totals Totals
}

// Of a window so many points are kept, no closer than resolution: a tenth of it, a panic window, has 24 of them.
const (
	pointsKept = 240
	resolution = 250 * time.Millisecond
)

// point is the growth of every total up to a moment, from an arbitrary start.
type point struct {
	at    time.Time
	grown [len(metrics)]float64
}

// series is the recent past of a service's totals, oldest first.
type series struct {
	points []point
	source string
	last   [len(metrics)]float64
	known  [len(metrics)]time.Time // when each total was last read
	since  [len(metrics)]time.Time // from when on every reading had it; zero: the newest has not
}

var metrics = [...]Metric{Concurrency, RPS, CPU}

func index(m Metric) int {
	for i, other := range metrics {
		if m == other {
			return i
		}
	}
	return len(metrics) - 1
}

// add takes a reading in; one that is not after the newest is dropped. Points older than keep before it are dropped but
// for the youngest of them, from which the window grows.
func (s *series) add(r Reading, keep time.Duration) {
	if n := len(s.points); n > 0 && !r.At.After(s.points[n-1].at) {
		return
	}
	next := point{at: r.At}
	if n := len(s.points); n > 0 {
		next.grown = s.points[n-1].grown
	}
	for i, m := range metrics {
		now, before := r.Totals.of(m), s.last[i]
		if math.IsNaN(now) || math.IsInf(now, 0) || now < 0 {
			s.since[i] = time.Time{}
			continue
		}
		grown := now - before
		switch {
		case s.since[i].IsZero():
			grown, s.since[i] = 0, r.At
		case r.Source != s.source || grown < 0:
			grown = now // counted anew
		}
		next.grown[i] += grown
		s.last[i], s.known[i] = now, r.At
	}
	s.source = r.Source
	// The newest point moves until it is far enough from the one before.
	if n := len(s.points); n > 1 && r.At.Sub(s.points[n-2].at) < max(resolution, keep/pointsKept) {
		s.points[n-1] = next
	} else {
		s.points = append(s.points, next)
	}
	old := 0
	for old+1 < len(s.points) && !s.points[old+1].at.After(r.At.Add(-keep)) {
		old++
	}
	s.points = append(s.points[:0], s.points[old:]...)
}

// average is how fast a metric grew over the window before now, or since it is known, in units a second. It is not known
// where the newest reading is older than fresh, or where there is no second one.
func (s *series) average(m Metric, now time.Time, window, fresh time.Duration) (v float64, known bool) {
	i, n := index(m), len(s.points)
	if n < 2 || now.Sub(s.known[i]) > fresh {
		return 0, false
	}
	from, last := s.points[0], s.points[n-1]
	begin := now.Add(-window)
	if s.since[i].After(begin) {
		begin = s.since[i]
	}
	for j := n - 1; j >= 0; j-- {
		if !s.points[j].at.After(begin) {
			from = s.points[j]
			if j+1 < n { // the window begins between two points
				to := s.points[j+1]
				share := float64(begin.Sub(from.at)) / float64(to.at.Sub(from.at))
				from.at = begin
				from.grown[i] += share * (to.grown[i] - s.points[j].grown[i])
			}
			break
		}
	}
	span := last.at.Sub(from.at).Seconds()
	if span <= 0 {
		return 0, false
	}
	return (last.grown[i] - from.grown[i]) / span, true
}
