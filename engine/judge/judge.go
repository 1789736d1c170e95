// Package judge compares the new instances of a rollout with the old ones, by what the data plane measures of both. It knows neither
// engines nor clocks: who uses it says which instances are there, and what time it is.
package judge

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"trellis/compose"
)

// New instances are judged against the old ones over the same time, so that what hits both (a slow database, a busy
// machine) counts against neither. Two shares are compared, each by Fisher's exact test, which holds for any number of
// requests: that of requests that failed, and that of requests that were slow. A share that is significantly larger than
// the old ones' must also be large enough to matter.
//
// Requests come in all the time, and who looks often enough finds something by chance. So it is looked only when there
// are half as many requests again as at the look before, and the k-th look may err with a probability of 6/(π²k²) of
// errorRate, which adds up to no more than errorRate over any number of looks (Bonferroni's inequality).
const (
	// errorRate is how often a version that is as good as the old one is taken back by chance.
	errorRate = 0.01
	// firstLook is the number of requests to new instances at the first look, nextLook the factor to the next one.
	firstLook = 30
	nextLook  = 1.5
	// worseErrors is the share of failed requests that matters where the file has no availability objective.
	worseErrors = 0.005
	// A request is slow when it takes longer than slowRatio times the p99 of the old instances, and slowFloor longer than
	// it; worseLatency is the share of these that matters. A machine that is short of CPU has a p99 that hides a lot, so
	// the median is judged in the same way: worseMedian is the share beyond it that matters. An objective of the file is
	// judged besides: the share of requests that may take longer than its percentile says.
	slowRatio    = 2
	slowFloor    = 5 * time.Millisecond
	worseLatency = 0.05
	worseMedian  = 0.75
	// enoughOld is how many requests old instances need for their percentiles to say something.
	enoughOld = 100
	// lasting is how long slowness has to last: a machine that stands still for a moment hits most whoever has the most
	// requests in flight just then, and while old instances are drained these are the new ones.
	lasting = time.Second
)

// looks counts the looks at something.
type looks struct {
	taken int
	next  uint64
}

// due says whether n requests are enough for another look, and with which probability it may err.
func (l *looks) due(n uint64) (alpha float64, ok bool) {
	if l.next == 0 {
		l.next = firstLook
	}
	if n < l.next {
		return 0, false
	}
	for l.next <= n {
		l.next = max(l.next+1, uint64(float64(l.next)*nextLook))
	}
	l.taken++
	return errorRate * 6 / (math.Pi * math.Pi * float64(l.taken) * float64(l.taken)), true
}

// worse compares the shares of failed requests.
func worse(olds, news counted, alpha float64, o *compose.Objective) string {
	promised := o != nil && o.Availability > 0
	matters := worseErrors
	if promised {
		matters = max(1-float64(o.Availability), 1e-6)
	}
	significant := fisher(news.failed, news.requests, olds.failed, olds.requests) < alpha
	if olds.requests == 0 { // nothing to compare with but the promise
		significant = promised && binomial(news.failed, news.requests, matters) < alpha
	}
	if !significant || share(news.failed, news.requests) <= matters {
		return ""
	}
	return fmt.Sprintf("new instances fail %s of requests (%d of %d), old ones %s (%d of %d)", percent(news.failed, news.requests),
		news.failed, news.requests, percent(olds.failed, olds.requests), olds.failed, olds.requests)
}

// slowness is a finding of slower that has yet to be made again, of the requests that come when lasting is over.
type slowness struct {
	found, over time.Time // zero: it was not
	olds, news  counted   // when it was over
	enough      uint64    // requests to new ones after that: half of those that it was found in
}

// due says that lasting is just over, and that note is to be told what was done until then.
func (s *slowness) due(now time.Time) bool {
	return !s.found.IsZero() && s.over.IsZero() && now.Sub(s.found) >= lasting
}

func (s *slowness) note(olds, news counted, now time.Time) { s.over, s.olds, s.news = now, olds, news }

// look says why the new instances are slower once that was found twice.
func (s *slowness) look(olds, news counted, alpha float64, o *compose.Objective, now time.Time) string {
	if s.found.IsZero() {
		if slower(olds, olds, news, alpha, o) != "" {
			s.found, s.enough = now, max(firstLook, news.latency.Count()/2)
		}
		return ""
	}
	lateOlds, lateNews := olds.minus(s.olds), news.minus(s.news)
	if s.over.IsZero() || lateNews.latency.Count() < s.enough {
		return ""
	}
	if lateOlds.latency.Count() < firstLook { // they are gone
		lateOlds = olds
	}
	*s = slowness{}
	return slower(olds, lateOlds, lateNews, alpha, o)
}

// slower compares the shares of slow requests of old and new instances. What is slow is what base says, all requests to
// old ones that are known.
func slower(base, olds, news counted, alpha float64, o *compose.Objective) string {
	if base.latency.Count() < enoughOld {
		return ""
	}
	for _, c := range []struct {
		name    string
		q       float64
		matters float64
	}{{"p99", 0.99, worseLatency}, {"median", 0.5, worseMedian}} {
		was := base.latency.Quantile(c.q)
		if more(olds, news, max(slowRatio*was, was+slowFloor), c.matters, alpha) {
			return fmt.Sprintf("new instances are slower: %s %s, old ones %s", c.name, brief(news.latency.Quantile(c.q)), brief(was))
		}
	}
	if o == nil {
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(o.Latency)) {
		limit := time.Duration(o.Latency[name])
		if more(olds, news, limit, 1-quantileOf(name), alpha) {
			return fmt.Sprintf("new instances miss the objective of %s %s: %s, old ones %s", name, limit,
				brief(news.latency.Quantile(quantileOf(name))), brief(base.latency.Quantile(quantileOf(name))))
		}
	}
	return ""
}

// more says whether significantly more of the new requests than of the old ones take longer than limit, and more than
// the share that matters.
func more(olds, news counted, limit time.Duration, matters, alpha float64) bool {
	slow, all := news.latency.Above(limit), news.latency.Count()
	return share(slow, all) > matters && fisher(slow, all, olds.latency.Above(limit), olds.latency.Count()) < alpha
}

// quantileOf reads "p99" or "p999"; the loader has checked it.
func quantileOf(name string) float64 {
	q, scale := 0.0, 1.0
	for _, digit := range name[1:] {
		scale /= 10
		q += float64(digit-'0') * scale
	}
	return q
}

// fisher returns the probability that of a failures among m requests and b among n as many or more hit the first by
// chance alone: the one-sided exact test (R. A. Fisher, Statistical Methods for Research Workers, section 21.02).
func fisher(a, m, b, n uint64) float64 {
	if m == 0 || n == 0 {
		return 1
	}
	failures := a + b
	whole := choose(m+n, failures)
	p := 0.0
	for k := a; k <= min(m, failures); k++ {
		p += math.Exp(choose(m, k) + choose(n, failures-k) - whole)
	}
	return min(p, 1)
}

// binomial returns the probability of a or more failures among m requests that each fail with probability p.
func binomial(a, m uint64, p float64) float64 {
	sum := 0.0
	for k := a; k <= m; k++ {
		term := math.Exp(choose(m, k) + float64(k)*math.Log(p) + float64(m-k)*math.Log1p(-p))
		sum += term
		if term < 1e-12 && float64(k) > p*float64(m) {
			break
		}
	}
	return min(sum, 1)
}

// choose returns the logarithm of the binomial coefficient, -Inf for an impossible one.
func choose(n, k uint64) float64 {
	if k > n {
		return math.Inf(-1)
	}
	fact := func(x uint64) float64 { v, _ := math.Lgamma(float64(x) + 1); return v }
	return fact(n) - fact(k) - fact(n-k)
}

func share(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

func percent(part, whole uint64) string { return fmt.Sprintf("%.1f%%", 100*share(part, whole)) }

// brief writes a latency with three digits.
func brief(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < 100*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}
