package autoscale

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// Have is what there is when a decision is asked for.
type Have struct {
	Want  int // replicas decided upon last
	Ready int // of them that take requests now
}

// Decision is how many replicas there should be and why.
type Decision struct {
	Replicas int
	Reason   string // one sentence, for people
	Panic    bool   // the panic window decides, and nothing is scaled down
	Held     bool   // the load is not known: Replicas is what was wanted before, within Min and Max
}

// Scaler decides for one service. It is not safe for concurrent use.
type Scaler struct {
	cfg    Config
	series series
	begun  time.Time // of the first decision

	panicSince time.Time // when the panic threshold was last crossed; zero: no panic
	panicPeak  int       // the largest wish since the panic began
	wishes     []wish    // of the last DownDelay, falling
}

type wish struct {
	at       time.Time
	replicas int
}

// New returns a Scaler without memory. A Config that Validate refuses: its error.
func New(cfg Config) (*Scaler, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Scaler{cfg: cfg.withDefaults()}, nil
}

// Observe takes a reading in. One that is older than the newest is dropped.
func (s *Scaler) Observe(r Reading) { s.series.add(r, s.cfg.StableWindow) }

// Decide returns what should be at a moment, which is never before an earlier call's.
func (s *Scaler) Decide(now time.Time, have Have) Decision {
	if s.begun.IsZero() {
		s.begun = now
	}
	stable, panicking, unknown := s.weigh(now, have)
	if len(unknown) == len(s.cfg.Targets) {
		d := Decision{
			Replicas: s.bound(have.Want), Held: true, Panic: !s.panicSince.IsZero(),
			Reason: fmt.Sprintf("no measurement of %s in the last %s: stays at %d", unknown[0], s.panicWindow(unknown[0]), s.bound(have.Want)),
		}
		s.keepOne(&d, now, have)
		s.wish(now, d.Replicas) // a lower one has to last from when it is known
		return d
	}
	ready := max(have.Ready, 1)
	s.alarm(now, float64(panicking.replicas) >= s.cfg.PanicThreshold*float64(ready))
	d := Decision{Replicas: stable.replicas, Reason: stable.words()}
	if !s.panicSince.IsZero() {
		s.panicPeak = max(s.panicPeak, panicking.replicas)
		d = Decision{Replicas: max(s.panicPeak, stable.replicas), Panic: true, Reason: panicking.words()}
		if d.Replicas > panicking.replicas {
			d.Reason += fmt.Sprintf("; stays at the peak of %d until %s after it", d.Replicas, s.cfg.StableWindow)
		}
	}
	s.limit(&d, now, have, unknown)
	return d
}

// alarm begins a panic, prolongs it, or ends it a stable window after the threshold was last crossed.
func (s *Scaler) alarm(now time.Time, over bool) {
	switch {
	case over:
		s.panicSince = now
	case !s.panicSince.IsZero() && now.Sub(s.panicSince) >= s.cfg.StableWindow:
		s.panicSince, s.panicPeak = time.Time{}, 0
	}
}

// keepOne raises a decision for none as long as anything has arrived or was in flight within the stable window, whatever the
// targets are: short requests are hardly ever seen in flight, streams arrive once, and a service of which nothing runs uses no CPU.
// While that is not known the last of those that are wanted stays too: who calls is nothing that CPU could tell.
func (s *Scaler) keepOne(d *Decision, now time.Time, have Have) {
	for _, m := range []Metric{RPS, Concurrency} {
		load, known := s.series.average(m, now, s.cfg.StableWindow, s.cfg.PanicWindow)
		switch {
		case d.Replicas > 0:
		case known && load > 0:
			d.Replicas, d.Reason = 1, d.Reason+"; one is kept while anybody calls"
		case !known && have.Want > 0:
			d.Replicas, d.Reason = 1, d.Reason+"; one is kept while it is not known whether anybody calls"
		}
	}
}

// limit holds a decision within steps, delay and bounds, and says so.
func (s *Scaler) limit(d *Decision, now time.Time, have Have, unknown []Metric) {
	ready := max(have.Ready, 1)
	if most := int(math.Ceil(s.cfg.MaxUp * float64(ready))); d.Replicas > most {
		d.Replicas, d.Reason = most, d.Reason+fmt.Sprintf("; at most %g times the %d ready at once", s.cfg.MaxUp, ready)
	}
	if least := int(float64(ready) / s.cfg.MaxDown); d.Replicas < min(least, have.Want) {
		d.Replicas, d.Reason = min(least, have.Want), d.Reason+fmt.Sprintf("; at least a part of 1/%g of the %d ready is kept at once", s.cfg.MaxDown, ready)
	}
	if len(unknown) > 0 && d.Replicas < have.Want {
		d.Replicas, d.Reason = have.Want, d.Reason+fmt.Sprintf("; not fewer while %s is not known", unknown[0])
	}
	s.keepOne(d, now, have)
	s.wish(now, d.Replicas)
	wished := s.wishes[0].replicas
	if now.Sub(s.begun) < s.cfg.DownDelay {
		wished = max(wished, have.Want) // what was wished before this Scaler began is not known
	}
	if wished > d.Replicas {
		d.Replicas, d.Reason = wished, d.Reason+fmt.Sprintf("; %d until that has lasted %s", wished, s.cfg.DownDelay)
	}
	switch bounded := s.bound(d.Replicas); {
	case bounded < d.Replicas:
		d.Replicas, d.Reason = bounded, d.Reason+fmt.Sprintf("; max is %d", bounded)
	case bounded > d.Replicas:
		d.Replicas, d.Reason = bounded, d.Reason+fmt.Sprintf("; min is %d", bounded)
	}
}

func (s *Scaler) bound(n int) int { return min(max(n, s.cfg.Min), s.cfg.Max) }

// wish remembers a wish; the largest of the last DownDelay is the first.
func (s *Scaler) wish(now time.Time, replicas int) {
	for n := len(s.wishes); n > 0 && s.wishes[n-1].replicas <= replicas; n-- {
		s.wishes = s.wishes[:n-1]
	}
	s.wishes = append(s.wishes, wish{now, replicas})
	old := 0
	for old+1 < len(s.wishes) && now.Sub(s.wishes[old].at) > s.cfg.DownDelay {
		old++
	}
	s.wishes = append(s.wishes[:0], s.wishes[old:]...)
}

// weighed is what one target asks for.
type weighed struct {
	target   Target
	aim      float64 // of one replica
	window   time.Duration
	load     float64 // of all of them, on average over the window
	replicas int
}

// panicWindow is the panic window of a metric. CPU is read every two seconds: in a window that has one reading or two it would
// seem to jump.
func (s *Scaler) panicWindow(m Metric) time.Duration {
	if m == CPU {
		return min(max(s.cfg.PanicWindow, DefaultPanicWindow), s.cfg.StableWindow)
	}
	return s.cfg.PanicWindow
}

// weigh returns what the window of each kind asks for, by the target that asks for most, and the metrics that are not
// known: not read for a panic window.
func (s *Scaler) weigh(now time.Time, have Have) (stable, panicking weighed, unknown []Metric) {
	first := true
	for _, t := range s.cfg.Targets {
		window := s.panicWindow(t.Metric)
		long, ok := s.series.average(t.Metric, now, s.cfg.StableWindow, window)
		short, also := s.series.average(t.Metric, now, window, window)
		if !ok || !also {
			unknown = append(unknown, t.Metric)
			continue
		}
		a, b := s.ask(t, s.cfg.StableWindow, long, have), s.ask(t, window, short, have)
		if first || a.replicas > stable.replicas {
			stable = a
		}
		if first || b.replicas > panicking.replicas {
			panicking = b
		}
		first = false
	}
	return stable, panicking, unknown
}

// most keeps absurd measurements from overflowing an int.
const most = 1 << 20

func (s *Scaler) ask(t Target, window time.Duration, load float64, have Have) weighed {
	w := weighed{target: t, aim: s.cfg.aim(t), window: window, load: load}
	// A load of exactly n replicas' worth asks for n, whatever the last bit of the division says.
	w.replicas = int(min(math.Ceil(load/w.aim-1e-9), most))
	ready := max(have.Ready, 1)
	if near := load / (w.aim * float64(ready)); t.Metric == CPU && math.Abs(near-1) <= tolerance {
		w.replicas = ready
	}
	return w
}

// words says what was measured and what follows: "concurrency 84 over 6s, 14 a replica (70 % of 20): 6".
func (w weighed) words() string {
	share := ""
	if w.aim != w.target.Value {
		share = fmt.Sprintf(" (%.0f %% of %s)", 100*w.aim/w.target.Value, Figure(w.target.Value))
	}
	return fmt.Sprintf("%s %s over %s, %s a replica%s: %d", w.target.Metric, Figure(w.load), w.window, Figure(w.aim), share, w.replicas)
}

// Figure writes a load for people: three significant digits, and integers whole.
func Figure(v float64) string {
	if math.Abs(v) >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
