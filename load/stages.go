package load

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"trellis/errdefs"
)

// Stage is one part of a schedule.
type Stage struct {
	Rate float64       // intended starts per second; 0 is a pause
	For  time.Duration // how long the stage lasts
	Ramp time.Duration // the first part of For, in which the rate changes evenly from that of the stage before, or from 0
}

// rate is the target at a moment of the stage; before is the rate of the stage before.
func (s Stage) rate(at time.Duration, before float64) float64 {
	if at < s.Ramp {
		return before + (s.Rate-before)*at.Seconds()/s.Ramp.Seconds()
	}
	return s.Rate
}

// piece is a part of a schedule in which the rate changes evenly.
type piece struct {
	begin, length time.Duration
	from, to      float64 // rate
	total         float64 // starts in it, not a whole number
}

// staged counts the starts that the rates add up to, and asks when the next whole one is reached. Poisson arrivals are
// those of a process with the same rates: then what it asks for grows by exponentially distributed steps of mean 1.
type staged struct {
	pieces []piece
	passed float64 // starts in the pieces that are over
	want   float64
	step   func() float64
}

// Stages is a schedule of stages that follow one another: evenly spaced starts, or Poisson arrivals drawn from seed.
func Stages(stages []Stage, poisson bool, seed uint64) Pacer {
	s := &staged{step: func() float64 { return 1 }}
	if poisson {
		random := rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))
		s.step = random.ExpFloat64
		s.want = s.step()
	}
	begin, before := time.Duration(0), 0.0
	add := func(length time.Duration, from, to float64) {
		if length > 0 {
			s.pieces = append(s.pieces, piece{begin, length, from, to, (from + to) / 2 * length.Seconds()})
			begin += length
		}
	}
	for _, stage := range stages {
		ramp := min(stage.Ramp, stage.For)
		add(ramp, before, stage.rate(ramp, before))
		add(stage.For-ramp, stage.Rate, stage.Rate)
		before = stage.Rate
	}
	return s
}

func (s *staged) Next() (time.Duration, bool) {
	for len(s.pieces) > 0 {
		p := s.pieces[0]
		// Sums of rates are not exact: a start that would fall on the very end belongs to what comes after.
		if n := s.want - s.passed; n < p.total-1e-9 {
			s.want += s.step()
			return p.begin + p.reaches(n), true
		}
		s.passed += p.total
		s.pieces = s.pieces[1:]
	}
	return 0, false
}

// reaches is when n starts of p have been made: the root of from*t + (to-from)/(2*length)*t² = n, in the form that loses
// no digits where the rates are nearly the same.
func (p piece) reaches(n float64) time.Duration {
	if n <= 0 {
		return 0
	}
	a := (p.to - p.from) / 2 / p.length.Seconds()
	root := math.Sqrt(max(p.from*p.from+4*a*n, 0))
	return min(time.Duration(2*n/(p.from+root)*float64(time.Second)), p.length)
}

// checkStages says what is wrong with stages, and how long they are.
func checkStages(stages []Stage) (time.Duration, error) {
	total := time.Duration(0)
	for i, s := range stages {
		if !(s.Rate >= 0 && s.Rate <= 1e9) || s.For <= 0 || s.Ramp < 0 || s.Ramp > s.For {
			return 0, fmt.Errorf("%w: stage %d: %v/s for %v with a ramp of %v", errdefs.ErrInvalid, i, s.Rate, s.For, s.Ramp)
		}
		total += s.For
	}
	return total, nil
}

// stageAt is the index of the stage at a moment and its target; at the end the last one's.
func stageAt(stages []Stage, at time.Duration) (index int, target float64) {
	before := 0.0
	for i, s := range stages {
		if at < s.For || i == len(stages)-1 {
			return i, s.rate(at, before)
		}
		at -= s.For
		before = s.Rate
	}
	return 0, 0
}
