package judge

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"trellis/compose"
	"trellis/proxy"
)

func TestFisherAndBinomial(t *testing.T) {
	// Against R: fisher.test(matrix(c(a, m-a, b, n-b), 2), alternative = "greater"), and 1 - pbinom(a-1, m, p).
	for _, c := range []struct {
		a, m, b, n uint64
		want       float64
	}{{3, 4, 1, 4, 0.2428571}, {8, 10, 1, 6, 0.0244755}, {0, 100, 5, 100, 1}, {5, 100, 0, 0, 1}, {1, 10, 0, 10, 0.5}} {
		if got := fisher(c.a, c.m, c.b, c.n); math.Abs(got-c.want) > 1e-6 {
			t.Errorf("fisher(%d/%d, %d/%d) = %v, want %v", c.a, c.m, c.b, c.n, got, c.want)
		}
	}
	for _, c := range []struct {
		a, m uint64
		p    float64
		want float64
	}{{0, 10, 0.1, 1}, {1, 10, 0.1, 0.6513216}, {3, 10, 0.1, 0.0701908}, {10, 10, 0.5, 0.0009766}} {
		if got := binomial(c.a, c.m, c.p); math.Abs(got-c.want) > 1e-6 {
			t.Errorf("binomial(%d, %d, %g) = %v, want %v", c.a, c.m, c.p, got, c.want)
		}
	}
}

// madeUp is made-up traffic to the old and the new instances of a service.
type madeUp struct {
	*rand.Rand
	share                float64 // of the new ones
	oldErrors, newErrors float64
	oldScale, newScale   float64       // of latency
	noise                time.Duration // by which one in twenty takes longer, at whatever instance
	stall                int           // from this request on the machine stands still for a second: 0 never
}

// pace is the time between two requests of the made-up traffic.
const pace = 5 * time.Millisecond

// watch sends n requests, looks whenever there are enough, and returns after how many to new instances it was seen that
// these do worse, 0 where it never was.
func (tr madeUp) watch(n int, o *compose.Objective) (seen uint64, why string) {
	olds, news := counted{latency: proxy.Histogram{}}, counted{latency: proxy.Histogram{}}
	var l looks
	var slow slowness
	for i := range n {
		c, errors, scale := &olds, tr.oldErrors, tr.oldScale
		stalls := tr.stall > 0 && i >= tr.stall && i < tr.stall+int(time.Second/pace)
		share := tr.share
		if stalls { // when most of the old ones were just drained
			share = 0.9
		}
		if tr.Float64() < share {
			c, errors, scale = &news, tr.newErrors, tr.newScale
		}
		c.requests++
		if tr.Float64() < errors {
			c.failed++
		}
		// Log-normal with a p99 of about five times the median, as services have it.
		took := time.Duration(scale * math.Exp(tr.NormFloat64()*0.7) * float64(time.Millisecond))
		if tr.noise > 0 && tr.Float64() < 0.05 {
			took += tr.noise
		}
		if stalls {
			took += 400 * time.Millisecond
		}
		c.latency.Add(took)
		now := time.Unix(0, int64(i)*int64(pace))
		if slow.due(now) {
			slow.note(copied(olds), copied(news), now)
		}
		alpha, due := l.due(news.requests)
		if !due {
			continue
		}
		why := worse(olds, news, alpha/2, o)
		if why == "" {
			why = slow.look(copied(olds), copied(news), alpha/2, o, now)
		}
		if why != "" {
			return news.requests, why
		}
	}
	return 0, ""
}

// copied is what a tally hands out: later requests do not change it.
func copied(c counted) counted { return counted{}.plus(c) }

// TestJudgeForgivesAStall watches versions that are as good as the old one while the machine stands still for a second,
// which hits nearly only the new ones.
func TestJudgeForgivesAStall(t *testing.T) {
	const runs = 200
	wrong := 0
	for seed := range runs {
		tr := madeUp{rand.New(rand.NewPCG(uint64(seed), 9)), 0.2, 0, 0, 20, 20, 0, 200 + 10*seed}
		if seen, why := tr.watch(5000, nil); seen > 0 {
			wrong++
			t.Logf("%d: after %d: %s", seed, seen, why)
		}
	}
	if limit := errorRate*runs + 3*math.Sqrt(errorRate*runs); float64(wrong) > limit {
		t.Errorf("%d of %d good versions were taken back for a stall of the machine, want at most %.0f", wrong, runs, limit)
	}
}

// TestJudgeErrsSeldom watches versions that are as good as the old one, which fails as well: no more than errorRate of
// them may be taken back.
func TestJudgeErrsSeldom(t *testing.T) {
	const runs = 300
	for _, errors := range []float64{0, 0.01, 0.2} {
		wrong := 0
		for seed := range runs {
			tr := madeUp{rand.New(rand.NewPCG(uint64(seed), 7)), 0.2, errors, errors, 20, 20, 0, 0}
			if seen, why := tr.watch(5000, nil); seen > 0 {
				wrong++
				t.Logf("%g: after %d: %s", errors, seen, why)
			}
		}
		// Three standard deviations above what is allowed.
		if limit := errorRate*runs + 3*math.Sqrt(errorRate*runs); float64(wrong) > limit {
			t.Errorf("%d of %d good versions were taken back where %g of requests fail, want at most %.0f", wrong, runs, errors, limit)
		}
	}
}

// TestJudgeSeesBadVersions watches versions that do worse: nearly all of them have to be seen, within so many requests.
func TestJudgeSeesBadVersions(t *testing.T) {
	objective := &compose.Objective{Availability: 0.999, Latency: map[string]compose.Duration{"p99": compose.Duration(250 * time.Millisecond)}}
	for name, c := range map[string]struct {
		tr     madeUp
		o      *compose.Objective
		within uint64 // requests to new instances, at the median
		says   string
	}{
		"2% of answers fail":            {madeUp{nil, 0.15, 0, 0.02, 20, 20, 0, 0}, nil, 400, "new instances fail"},
		"2% more fail than before":      {madeUp{nil, 0.25, 0.01, 0.03, 20, 20, 0, 0}, nil, 3000, "new instances fail"},
		"every answer fails":            {madeUp{nil, 0.05, 0, 1, 20, 20, 0, 0}, nil, 30, "fail 100.0%"},
		"latency x5":                    {madeUp{nil, 0.15, 0, 0, 20, 100, 0, 0}, nil, 100, "slower"},
		"latency x5 on a noisy machine": {madeUp{nil, 0.15, 0, 0, 20, 100, time.Second, 0}, nil, 200, "slower"},
		"latency x5 of a fast one":      {madeUp{nil, 0.15, 0, 0, 2, 10, 0, 0}, nil, 100, "slower"},
		"latency beyond its objective":  {madeUp{nil, 0.15, 0, 0, 40, 60, 0, 0}, objective, 3000, "objective of p99 250ms"},
		"0.5% fail where 99.9% promise": {madeUp{nil, 0.2, 0, 0.005, 20, 20, 0, 0}, objective, 2000, "new instances fail"},
	} {
		t.Run(name, func(t *testing.T) {
			const runs = 40
			seen, inTime := 0, 0
			for seed := range runs {
				c.tr.Rand = rand.New(rand.NewPCG(uint64(seed), 8))
				n, why := c.tr.watch(40000, c.o)
				if n > 0 {
					seen++
					if !strings.Contains(why, c.says) {
						t.Fatalf("%q, want %q in it", why, c.says)
					}
					if n <= c.within {
						inTime++
					}
				}
			}
			if seen < runs*95/100 || inTime < runs/2 {
				t.Errorf("%d of %d seen, %d within %d requests", seen, runs, inTime, c.within)
			}
		})
	}
}

// TestJudgeNeedsAComparison: with nothing from the old ones only a promise can be broken.
func TestJudgeNeedsAComparison(t *testing.T) {
	promise := &compose.Objective{Availability: 0.99}
	for _, c := range []struct {
		failed, requests uint64
		o                *compose.Objective
		bad              bool
	}{{50, 100, nil, false}, {50, 100, promise, true}, {1, 100, promise, false}, {0, 0, promise, false}} {
		why := worse(counted{}, counted{requests: c.requests, failed: c.failed}, 0.001, c.o)
		if (why != "") != c.bad {
			t.Errorf("%d of %d with %v: %q", c.failed, c.requests, c.o, why)
		}
	}
	few := counted{requests: 50, latency: proxy.Histogram{1: 50}}
	if why := slower(few, few, counted{latency: proxy.Histogram{300: 1000}}, 0.001, nil); why != "" {
		t.Errorf("50 requests say %q", why)
	}
	if q := quantileOf("p999"); fmt.Sprintf("%.3f", q) != "0.999" {
		t.Errorf("p999 is %v", q)
	}
}

// tallied is a tally, and what is expected of it.
type tallied struct {
	*testing.T
	Tally
}

// push takes what a data plane says that has run for up.
func (tl *tallied) push(boot string, up time.Duration, id string, requests uint64) {
	tl.Take(proxy.Measures{Boot: boot, UpSeconds: up.Seconds(), Instances: []proxy.Measure{{Instance: id, Requests: requests, Latency: proxy.Histogram{3: requests}}}})
}

func (tl *tallied) want(id string, n uint64) {
	tl.Helper()
	if got := tl.of([]string{id})[id]; got.requests != n || got.latency.Count() != n {
		tl.Errorf("%s: %d requests, %d latencies, want %d", id, got.requests, got.latency.Count(), n)
	}
}

// TestTallyOutlivesDataPlanes: what a data plane had counted stays when another one takes its place, and what was done
// before the loop ran is nobody's.
func TestTallyOutlivesDataPlanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tl := &tallied{T: t}
		tl.push("a", time.Hour, "old", 1000)
		tl.want("old", 0)
		time.Sleep(time.Minute)
		tl.push("a", time.Hour+time.Minute, "old", 1010)
		tl.push("a", time.Hour+time.Minute, "new", 5)
		tl.want("old", 10)
		tl.want("new", 5)
		tl.push("b", time.Second, "old", 7)
		tl.push("a", time.Hour+time.Minute, "old", 1012) // the one before still ends its requests
		tl.want("old", 19)
		tl.push("b", time.Second, "new", 1)
		tl.want("new", 6)
		tl.push("c", time.Second, "newest", 2) // that the others have not heard of
		tl.want("newest", 2)
		tl.Keep(map[string]bool{"new": true})
		tl.want("old", 0)
		tl.want("new", 6)
	})
}

// TestTallyOfSeveralDataPlanes: what each of them had done before the tally was begun is nobody's, in whatever order and however late
// they are heard, and whether or not they say how old they are.
func TestTallyOfSeveralDataPlanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tl := &tallied{T: t}
		tl.push("a", time.Hour, "old", 1000)
		tl.push("b", 2*time.Hour, "old", 5000)
		tl.want("old", 0)
		time.Sleep(20 * time.Second)
		tl.push("late", time.Minute, "old", 300)
		tl.push("silent", 0, "old", 200)
		tl.want("old", 0)
		for i, boot := range []string{"a", "b", "late", "silent"} {
			tl.push(boot, time.Hour, "old", 5001)
			tl.want("old", []uint64{4001, 4002, 8703, 13504}[i])
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	olds, news := counted{requests: 300_000, failed: 30}, counted{requests: 100_000, failed: 25}
	for b.Loop() {
		worse(olds, news, 1e-9, nil)
	}
}
