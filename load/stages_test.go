package load_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/errdefs"
	"trellis/load"
)

// schedule takes all starts of a pacer, whose order it checks.
func schedule(t testing.TB, p load.Pacer) []time.Duration {
	t.Helper()
	var all []time.Duration
	for at, more := p.Next(); more; at, more = p.Next() {
		if len(all) > 0 && at < all[len(all)-1] {
			t.Fatalf("start %d at %v comes after one at %v", len(all), at, all[len(all)-1])
		}
		all = append(all, at)
	}
	if _, again := p.Next(); again {
		t.Error("the schedule goes on after its end")
	}
	return all
}

func within(all []time.Duration, from, to time.Duration) int {
	n := 0
	for _, at := range all {
		if at >= from && at < to {
			n++
		}
	}
	return n
}

func TestStages(t *testing.T) {
	s := time.Second
	for name, c := range map[string]struct {
		stages []load.Stage
		want   int
		parts  map[[2]time.Duration]int
	}{
		"one":             {[]load.Stage{{Rate: 100, For: 2 * s}}, 200, map[[2]time.Duration]int{{0, s}: 100}},
		"ramp from 0":     {[]load.Stage{{Rate: 100, For: 2 * s, Ramp: 2 * s}}, 100, map[[2]time.Duration]int{{0, s}: 25, {s, 2 * s}: 75}},
		"ramp up":         {[]load.Stage{{Rate: 50, For: s}, {Rate: 150, For: 2 * s, Ramp: s}}, 300, map[[2]time.Duration]int{{0, s}: 50, {s, 2 * s}: 100, {2 * s, 3 * s}: 150}},
		"ramp down":       {[]load.Stage{{Rate: 100, For: s}, {Rate: 0, For: s, Ramp: s}}, 150, map[[2]time.Duration]int{{s, 3 * s / 2}: 38}},
		"pause":           {[]load.Stage{{Rate: 10, For: s}, {Rate: 0, For: s}, {Rate: 10, For: s}}, 20, map[[2]time.Duration]int{{s, 2 * s}: 0}},
		"slow":            {[]load.Stage{{Rate: 0.5, For: 3 * s}, {Rate: 0.5, For: 3 * s}}, 3, nil},
		"nothing":         {nil, 0, nil},
		"nothing but 0":   {[]load.Stage{{Rate: 0, For: s}}, 0, nil},
		"rounding adds 0": {[]load.Stage{{Rate: 0.1, For: 10 * s}, {Rate: 0.3, For: 10 * s}}, 4, nil},
	} {
		all := schedule(t, load.Stages(c.stages, false, 0))
		if len(all) != c.want {
			t.Errorf("%s: %d starts, want %d", name, len(all), c.want)
		}
		for part, want := range c.parts {
			if got := within(all, part[0], part[1]); got < want-1 || got > want+1 {
				t.Errorf("%s: %d starts from %v to %v, want %d", name, got, part[0], part[1], want)
			}
		}
	}
}

// Poisson arrivals have the mean that was asked for, a variance that is equal to it, and are drawn again by a seed.
func TestPoissonArrivals(t *testing.T) {
	stages := []load.Stage{{Rate: 1000, For: 50 * time.Second}}
	all := schedule(t, load.Stages(stages, true, 1))
	if n := float64(len(all)); math.Abs(n-50_000) > 5*math.Sqrt(50_000) {
		t.Errorf("%v starts, want about 50,000", n)
	}
	sum, squares, windows := 0.0, 0.0, 0.0
	for i, from := 0, time.Duration(0); from < 50*time.Second; from += 10 * time.Millisecond {
		n := 0.0
		for ; i < len(all) && all[i] < from+10*time.Millisecond; i++ {
			n++
		}
		sum, squares, windows = sum+n, squares+n*n, windows+1
	}
	mean := sum / windows
	if variance := squares/windows - mean*mean; variance < 0.9*mean || variance > 1.1*mean {
		t.Errorf("10 ms hold %.2f starts with a variance of %.2f, which should be the same", mean, variance)
	}
	if diff := cmp.Diff(all, schedule(t, load.Stages(stages, true, 1))); diff != "" {
		t.Error("the same seed draws other arrivals")
	}
	if cmp.Equal(all, schedule(t, load.Stages(stages, true, 2))) {
		t.Error("another seed draws the same arrivals")
	}
	ramp := schedule(t, load.Stages([]load.Stage{{Rate: 2000, For: 20 * time.Second, Ramp: 20 * time.Second}}, true, 3))
	if early := within(ramp, 0, 10*time.Second); early < 4600 || early > 5400 || len(ramp) < 19_300 || len(ramp) > 20_700 {
		t.Errorf("%d of %d starts in the first half of a ramp, want a quarter of 20,000", early, len(ramp))
	}
}

func TestStagedRun(t *testing.T) {
	s := serve(t, answering(ok("hello")))
	var progress []load.Progress
	report := run(t, load.Config{
		URL:        s.url,
		Stages:     []load.Stage{{Rate: 100, For: 600 * time.Millisecond}, {Rate: 300, For: time.Second, Ramp: 500 * time.Millisecond}},
		OnProgress: func(p load.Progress) { progress = append(progress, p) },
	})
	if report.Sent != 60+100+150 || report.Lost() != 0 {
		t.Errorf("report: %+v", report)
	}
	// The first progress comes after a second: 400 ms into the ramp from 100 to 300.
	if len(progress) == 0 || progress[0].Stage != 1 || progress[0].Target < 255 || progress[0].Target > 301 {
		t.Errorf("progress: %+v", progress)
	}
	if _, err := load.Run(t.Context(), load.Config{URL: s.url, Stages: []load.Stage{{Rate: 1, For: 1, Ramp: 2}}}); !errors.Is(err, errdefs.ErrInvalid) {
		t.Errorf("a ramp longer than its stage: error %v", err)
	}
}
