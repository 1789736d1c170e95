package autoscale_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"trellis/autoscale"
	"trellis/errdefs"
)

// world is a service that obeys: what is decided is ready a second later. Its load is told to a Scaler four times a
// second.
type world struct {
	t       testing.TB
	s       *autoscale.Scaler
	cfg     autoscale.Config
	now     time.Time
	totals  autoscale.Totals
	source  string
	want    int
	ready   int
	silent  bool // nothing is measured
	starts  time.Duration
	pending []time.Time // when wanted replicas are ready
	last    autoscale.Decision
}

func newWorld(t testing.TB, cfg autoscale.Config, replicas int) *world {
	t.Helper()
	s, err := autoscale.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, s: s, cfg: cfg, now: time.Unix(1e9, 0), want: replicas, ready: replicas, source: "a", starts: time.Second}
}

const tick = 250 * time.Millisecond

// run lets so much time pass under a load.
func (w *world) run(d time.Duration, concurrency, rps, cpu float64) {
	w.t.Helper()
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(tick)
		w.totals.BusySeconds += concurrency * tick.Seconds()
		w.totals.Requests += rps * tick.Seconds()
		w.totals.CPUSeconds += cpu * tick.Seconds()
		for len(w.pending) > 0 && !w.pending[0].After(w.now) {
			w.pending = w.pending[1:]
			w.ready++
		}
		if !w.silent {
			w.s.Observe(autoscale.Reading{At: w.now, Source: w.source, Totals: w.totals})
		}
		w.last = w.s.Decide(w.now, autoscale.Have{Want: w.want, Ready: w.ready})
		for range w.last.Replicas - w.want {
			w.pending = append(w.pending, w.now.Add(w.starts))
		}
		if w.last.Replicas < w.want {
			w.pending, w.ready = nil, min(w.ready, w.last.Replicas)
		}
		w.want = w.last.Replicas
		if w.want < w.cfg.Min || w.want > w.cfg.Max {
			w.t.Fatalf("%s: %d replicas, out of %d to %d", w.last.Reason, w.want, w.cfg.Min, w.cfg.Max)
		}
	}
}

func (w *world) expect(replicas int, words ...string) {
	w.t.Helper()
	if w.want != replicas {
		w.t.Errorf("%d replicas, want %d: %s", w.want, replicas, w.last.Reason)
	}
	for _, word := range words {
		if !strings.Contains(w.last.Reason, word) {
			w.t.Errorf("reason %q does not say %q", w.last.Reason, word)
		}
	}
}

func on(metric autoscale.Metric, value float64) []autoscale.Target {
	return []autoscale.Target{{Metric: metric, Value: value}}
}

func TestSteadyLoadHasItsReplicas(t *testing.T) {
	// 84 at a time, 20 a replica of which 70 % are aimed at: 6.
	w := newWorld(t, autoscale.Config{Min: 1, Max: 20, Targets: on(autoscale.Concurrency, 20)}, 1)
	w.run(3*time.Minute, 84, 100, 0)
	w.expect(6, "concurrency 84 over 1m0s", "14 a replica (70 % of 20)")
	w.run(time.Hour, 84, 100, 0)
	w.expect(6)
}

func TestAStepIsAnsweredWithinASecond(t *testing.T) {
	w := newWorld(t, autoscale.Config{Min: 1, Max: 20, Targets: on(autoscale.RPS, 50)}, 1)
	w.run(5*time.Minute, 0, 20, 0)
	w.expect(1)
	w.run(time.Second, 0, 400, 0)
	if w.want < 2 || !w.last.Panic {
		t.Errorf("after a second of twenty times the load: %d replicas, panic %v: %s", w.want, w.last.Panic, w.last.Reason)
	}
	w.run(6*time.Second, 0, 400, 0)
	w.expect(12, "rps 400 over 6s") // 400 / 35
	w.run(10*time.Minute, 0, 400, 0)
	w.expect(12)
}

func TestPanicNeverScalesDown(t *testing.T) {
	w := newWorld(t, autoscale.Config{Min: 1, Max: 50, Targets: on(autoscale.RPS, 50)}, 1)
	w.run(2*time.Minute, 0, 20, 0)
	w.run(8*time.Second, 0, 1000, 0)
	peak := w.want
	for range 50 {
		w.run(time.Second, 0, 20, 0)
		if w.want < peak {
			t.Fatalf("%d replicas within a stable window of a peak of %d: %s", w.want, peak, w.last.Reason)
		}
	}
	w.run(5*time.Minute, 0, 20, 0)
	w.expect(1)
}

func TestDownIsDelayedAndInSteps(t *testing.T) {
	w := newWorld(t, autoscale.Config{Min: 1, Max: 50, Targets: on(autoscale.RPS, 10)}, 1)
	w.run(5*time.Minute, 0, 280, 0) // 40 replicas
	w.expect(40)
	w.run(29*time.Second, 0, 0, 0)
	w.expect(40, "until that has lasted 30s")
	before := w.want
	for range 300 {
		w.run(time.Second, 0, 0, 0)
		if w.want < before/2 {
			t.Fatalf("from %d to %d at once: %s", before, w.want, w.last.Reason)
		}
		before = w.want
	}
	w.expect(1, "min is 1")
}

func TestSquareWaveMovesWithinBounds(t *testing.T) {
	w := newWorld(t, autoscale.Config{Min: 2, Max: 12, Targets: on(autoscale.Concurrency, 10)}, 2)
	moves, before := 0, 2
	for range 60 { // ten seconds on, ten off, for twenty minutes
		w.run(10*time.Second, 60, 100, 0)
		w.run(10*time.Second, 0, 0, 0)
		if w.want != before {
			moves, before = moves+1, w.want
		}
	}
	if moves > 3 {
		t.Errorf("%d moves in sixty periods", moves)
	}
}

func TestTheLargestOfSeveralTargetsWins(t *testing.T) {
	cfg := autoscale.Config{Min: 1, Max: 50, Targets: []autoscale.Target{
		{Metric: autoscale.Concurrency, Value: 10}, {Metric: autoscale.RPS, Value: 100}, {Metric: autoscale.CPU, Value: 0.5},
	}}
	w := newWorld(t, cfg, 1)
	w.run(5*time.Minute, 7, 350, 1)
	w.expect(5, "rps 350")
	w.run(5*time.Minute, 7, 350, 4)
	w.expect(8, "cpu 4", "0.5 a replica")
	w.run(5*time.Minute, 140, 350, 4)
	w.expect(20, "concurrency 140")
}

func TestCPUNearItsTargetIsLeftAlone(t *testing.T) {
	w := newWorld(t, autoscale.Config{Min: 1, Max: 10, Targets: on(autoscale.CPU, 0.5)}, 4)
	w.run(5*time.Minute, 0, 0, 2.15) // 0.54 each
	w.expect(4)
	w.run(5*time.Minute, 0, 0, 2.3) // 0.575 each
	w.expect(5)
}

// TestCPUIsReadSeldom: what is read every two seconds is no rise of the load within one of them, however short the window is.
// A service of which nothing is ready just now may still work at what it is to do.
func TestCPUOfOneThatIsNotReady(t *testing.T) {
	w := newWorld(t, autoscale.Config{Min: 0, Max: 12, Targets: []autoscale.Target{{Metric: autoscale.CPU, Value: 0.8}}}, 1)
	w.ready, w.starts = 0, time.Hour
	w.run(5*time.Minute, 0, 0, 0.8)
	w.expect(1)
}

func TestCPUIsReadSeldom(t *testing.T) {
	w := newWorld(t, autoscale.Config{Min: 1, Max: 20, StableWindow: 10 * time.Second, PanicWindow: time.Second, Targets: on(autoscale.CPU, 0.5)}, 3)
	for n := range 4 * 60 * 5 {
		if n%8 == 0 {
			w.totals.CPUSeconds += 1.5 * 2 // 0.5 each
		}
		if w.run(tick, 0, 0, 0); w.want != 3 || w.last.Panic {
			t.Fatalf("%d replicas after %s of a steady load, panic %v: %s", w.want, time.Duration(n)*tick, w.last.Panic, w.last.Reason)
		}
	}
	for n := range 4 * 8 {
		if n%8 == 0 {
			w.totals.CPUSeconds += 6 * 2
		}
		w.run(tick, 0, 0, 0)
	}
	w.expect(12, "over 6s")
}

func TestMissingMeasurementsHold(t *testing.T) {
	w := newWorld(t, autoscale.Config{Min: 0, Max: 20, Targets: on(autoscale.RPS, 10)}, 1)
	w.run(2*time.Minute, 0, 56, 0)
	w.expect(8)
	w.silent = true
	w.run(time.Hour, 0, 0, 0)
	w.expect(8, "no measurement of rps")
	if !w.last.Held {
		t.Error("nothing says that it is held")
	}
	w.silent = false
	w.run(5*time.Minute, 0, 56, 0)
	w.expect(8)
}

func TestAScalerWithoutMemoryHolds(t *testing.T) {
	w := newWorld(t, autoscale.Config{Min: 0, Max: 20, Targets: on(autoscale.RPS, 10)}, 8)
	w.run(10*time.Second, 0, 0, 0) // the control plane was started anew; a lull of ten seconds is not yet a lull
	w.expect(8)
	w.run(3*time.Minute, 0, 0, 0)
	w.expect(0)
}

func TestAnUnknownMetricKeepsFromScalingDown(t *testing.T) {
	cfg := autoscale.Config{Min: 1, Max: 20, Targets: []autoscale.Target{{Metric: autoscale.RPS, Value: 10}, {Metric: autoscale.CPU, Value: 0.5}}}
	w := newWorld(t, cfg, 6)
	w.totals.CPUSeconds = math.NaN()
	w.run(5*time.Minute, 0, 7, 0)
	w.expect(6, "not fewer while cpu is not known")
	w.run(time.Minute, 0, 70, 0)
	w.expect(10)
}

// TestWhatGrewUnknownIsNoLoad: a total that is known again after a while, or for the first time, has grown since whenever.
func TestWhatGrewUnknownIsNoLoad(t *testing.T) {
	w := newWorld(t, autoscale.Config{Min: 1, Max: 20, Targets: on(autoscale.CPU, 0.5)}, 3)
	w.totals.CPUSeconds = math.NaN()
	w.run(time.Second, 0, 0, 0)
	w.totals.CPUSeconds = 3600
	for range 3 {
		for range 5 * 60 * 4 {
			w.run(tick, 0, 0, 1.5)
			w.expect(3)
		}
		before := w.totals.CPUSeconds
		w.totals.CPUSeconds = math.NaN()
		w.run(time.Hour, 0, 0, 1.5)
		w.expect(3, "no measurement of cpu")
		w.totals.CPUSeconds = before + 1.5*3600
	}
	// Nor is it idleness that lasted, when it was idle before.
	w.run(5*time.Minute, 0, 0, 1.5)
	w.totals.CPUSeconds = math.NaN()
	w.run(time.Hour, 0, 0, 0)
	w.totals.CPUSeconds = 0
	w.run(29*time.Second, 0, 0, 0)
	w.expect(3, "until that has lasted 30s")
	w.run(5*time.Minute, 0, 0, 0)
	w.expect(1)
}

func TestZeroAndBack(t *testing.T) {
	w := newWorld(t, autoscale.Config{Min: 0, Max: 5, Targets: on(autoscale.Concurrency, 10)}, 1)
	w.run(5*time.Minute, 0, 0, 0)
	w.expect(0)
	w.run(tick, 1, 1, 0) // one request waits
	w.expect(1)
	w.run(2*time.Second, 0, 0, 0)
	w.expect(1)
	w.run(30*time.Second, 0, 0, 0)
	w.expect(1) // not within the stable window
	w.run(2*time.Minute, 0, 0, 0)
	w.expect(0)
}

// TestTheLastReplicaStaysWhileAnybodyCalls: requests that are too short to be seen in flight, and streams that are opened too
// seldom to be counted, keep it as well; and whatever its target is, a service is woken by a request.
func TestTheLastReplicaStaysWhileAnybodyCalls(t *testing.T) {
	for metric, load := range map[autoscale.Metric]struct{ concurrency, rps float64 }{
		autoscale.Concurrency: {0, 0.1}, autoscale.RPS: {1, 0}, autoscale.CPU: {0, 0.1},
	} {
		t.Run(string(metric), func(t *testing.T) {
			w := newWorld(t, autoscale.Config{Min: 0, Max: 5, Targets: on(metric, 10)}, 1)
			for range 3 {
				w.run(10*time.Minute, load.concurrency, load.rps, 0)
				w.expect(1, "one is kept while anybody calls")
				w.run(85*time.Second, 0, 0, 0)
				w.expect(1)
				w.run(10*time.Second, 0, 0, 0)
				w.expect(0)
				w.run(2*tick, 1, 1, 0) // one request waits
				w.expect(1)
			}
			w.run(2*time.Minute, 0, 0, 0)
			w.expect(0)
			w.totals.CPUSeconds = math.NaN()
			w.run(time.Minute, 0, 0, 0)
			w.expect(0)
			w.run(2*tick, 1, 1, 0)
			w.expect(1)
		})
	}
}

// TestTheLastReplicaStaysWhileNobodyKnowsWhoCalls: what is measured of CPU says nothing of streams that are open, nor of who comes.
func TestTheLastReplicaStaysWhileNobodyKnowsWhoCalls(t *testing.T) {
	w := newWorld(t, autoscale.Config{Min: 0, Max: 5, Targets: on(autoscale.CPU, 0.5)}, 1)
	w.run(5*time.Minute, 1, 0, 0) // a stream
	w.expect(1, "one is kept while anybody calls")
	before := w.totals
	w.totals.Requests, w.totals.BusySeconds = math.NaN(), math.NaN()
	w.run(10*time.Minute, 1, 0, 0)
	w.expect(1, "not known whether anybody calls")
	w.totals.Requests, w.totals.BusySeconds = before.Requests, before.BusySeconds
	w.run(5*time.Minute, 1, 0, 0)
	w.expect(1, "one is kept while anybody calls")
	w.run(2*time.Minute, 0, 0, 0)
	w.expect(0)
	w.totals.Requests, w.totals.BusySeconds = math.NaN(), math.NaN()
	w.run(5*time.Minute, 0, 0, 0)
	w.expect(0)
}

func TestCountersThatBeginAnew(t *testing.T) {
	w := newWorld(t, autoscale.Config{Min: 1, Max: 100, Targets: on(autoscale.RPS, 10)}, 1)
	for range 20 { // the data plane is started anew again and again
		w.run(10*time.Second, 0, 56, 0)
		w.totals, w.source = autoscale.Totals{}, w.source+"a"
	}
	w.expect(8)
}

func TestInvalidConfigs(t *testing.T) {
	ok := autoscale.Config{Min: 1, Max: 2, Targets: on(autoscale.RPS, 1)}
	for name, change := range map[string]func(*autoscale.Config){
		"min":        func(c *autoscale.Config) { c.Min = -1 },
		"max":        func(c *autoscale.Config) { c.Max = 0 },
		"crossed":    func(c *autoscale.Config) { c.Min = 3 },
		"none":       func(c *autoscale.Config) { c.Targets = nil },
		"unknown":    func(c *autoscale.Config) { c.Targets = on("memory", 1) },
		"zero":       func(c *autoscale.Config) { c.Targets = on(autoscale.RPS, 0) },
		"nan":        func(c *autoscale.Config) { c.Targets = on(autoscale.RPS, math.NaN()) },
		"infinite":   func(c *autoscale.Config) { c.Targets = on(autoscale.RPS, math.Inf(1)) },
		"windows":    func(c *autoscale.Config) { c.PanicWindow = 2 * time.Minute },
		"down delay": func(c *autoscale.Config) { c.DownDelay = -1 },
	} {
		cfg := ok
		change(&cfg)
		if _, err := autoscale.New(cfg); !errors.Is(err, errdefs.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

// FuzzDecide: whatever is measured, in whatever order, a decision is within bounds, has a reason, and never goes to
// nothing for want of a measurement.
func FuzzDecide(f *testing.F) {
	f.Add(uint64(1), 1, 5)
	f.Add(uint64(2), 0, 100)
	f.Fuzz(func(t *testing.T, seed uint64, lowest, highest int) {
		lowest, highest = abs(lowest)%50, abs(highest)%1000+1
		if lowest > highest {
			lowest, highest = highest, lowest
		}
		rng := rand.New(rand.NewPCG(seed, 0))
		cfg := autoscale.Config{Min: lowest, Max: highest, Targets: []autoscale.Target{
			{Metric: autoscale.Concurrency, Value: 1 + 100*rng.Float64()}, {Metric: autoscale.CPU, Value: 0.5},
		}}
		s, err := autoscale.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		now, want, known := time.Unix(1e9, 0), max(lowest, 1), false
		odd := []float64{0, -1, math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64, 1e-300}
		value := func() float64 {
			if rng.IntN(3) == 0 {
				return odd[rng.IntN(len(odd))]
			}
			return 1e4 * rng.Float64()
		}
		for range 200 {
			now = now.Add(time.Duration(rng.Int64N(int64(20 * time.Second))))
			if rng.IntN(2) == 0 {
				known = true
				s.Observe(autoscale.Reading{
					At: now.Add(-time.Duration(rng.Int64N(int64(3 * time.Second)))), Source: fmt.Sprint(rng.IntN(2)),
					Totals: autoscale.Totals{Requests: value(), BusySeconds: value(), CPUSeconds: value()},
				})
			}
			d := s.Decide(now, autoscale.Have{Want: want, Ready: rng.IntN(want + 1)})
			switch {
			case d.Replicas < lowest || d.Replicas > highest || d.Reason == "":
				t.Fatalf("%+v, out of %d to %d", d, lowest, highest)
			case !known && d.Replicas < want && want <= highest:
				t.Fatalf("scaled from %d to %d before anything was measured", want, d.Replicas)
			}
			want = d.Replicas
		}
	})
}

func abs(n int) int {
	if n < 0 {
		return -(n + 1)
	}
	return n
}

func BenchmarkDecide(b *testing.B) {
	s, err := autoscale.New(autoscale.Config{Min: 1, Max: 10, Targets: on(autoscale.Concurrency, 20)})
	if err != nil {
		b.Fatal(err)
	}
	now, totals := time.Unix(1e9, 0), autoscale.Totals{}
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(tick)
		totals.BusySeconds += 10
		s.Observe(autoscale.Reading{At: now, Totals: totals})
		s.Decide(now, autoscale.Have{Want: 2, Ready: 2})
	}
}
