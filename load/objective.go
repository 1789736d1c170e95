package load

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"trellis/compose"
	"trellis/errdefs"
)

// Objective is one condition that a report has to meet, such as p99<250ms.
type Objective struct {
	text    string
	measure string
	percent float64 // with measure "p": which percentile
	compare string
	bound   float64
	share   bool // of the starts, instead of a number
}

// Verdict is what became of an objective.
type Verdict struct {
	Objective string   `json:"objective"`
	Value     *float64 `json:"value"` // in the objective's unit: milliseconds, a number, a share; nil where there is none
	Held      bool     `json:"held"`

	unit string
}

// measures are the words of an objective, beside p50, p99.9 and the like.
var measures = []string{"p50", "p90", "p95", "p99", "p99.9", "max", "rate", "completed", "failed", "lost", "missed", "visits.failed", "visits.completed"}

// ParseObjectives reads conditions joined by commas. Each is a measure, one of < <= > >= =, and a bound:
//
//	p99<250ms, max<2s      latency in milliseconds, from the intended start
//	failed=0, lost<0.1%    a number, or a share of all starts
//	rate>=490/s            completed requests per second
//	visits.failed<1%       of a scenario
//
// What was not measured, such as the latency of nothing, misses its objective. The error is of kind errdefs.ErrInvalid.
func ParseObjectives(s string) ([]Objective, error) {
	var all []Objective
	for _, item := range strings.Split(s, ",") {
		o, err := parseObjective(strings.ReplaceAll(item, " ", ""))
		if err != nil {
			return nil, fmt.Errorf("objective %q: %v: %w", strings.TrimSpace(item), err, errdefs.ErrInvalid)
		}
		all = append(all, o)
	}
	return all, nil
}

func parseObjective(s string) (Objective, error) {
	at := strings.IndexAny(s, "<>=")
	if at <= 0 {
		return Objective{}, fmt.Errorf("write one such as p99<250ms or failed=0")
	}
	o := Objective{text: s, measure: s[:at]}
	rest := strings.TrimLeft(s[at:], "<>=")
	o.compare = s[at : len(s)-len(rest)]
	if o.compare == "==" {
		o.compare = "="
	}
	if !slices.Contains([]string{"<", "<=", ">", ">=", "="}, o.compare) {
		return o, fmt.Errorf("%s is none of < <= > >= =", o.compare)
	}
	digits, percentile := strings.CutPrefix(o.measure, "p")
	p, err := strconv.ParseFloat(digits, 64)
	switch {
	case percentile && err == nil && p > 0 && p <= 100:
		o.measure, o.percent = "p", p
		return o, o.duration(rest)
	case o.measure == "max":
		return o, o.duration(rest)
	case o.measure == "rate":
		return o, o.number(strings.TrimSuffix(rest, "/s"))
	case slices.Contains(measures, o.measure):
		if number, ok := strings.CutSuffix(rest, "%"); ok {
			o.share = true
			err = o.number(number)
			o.bound /= 100
			return o, err
		}
		return o, o.number(rest)
	}
	return o, fmt.Errorf("%s is not measured%s", o.measure, compose.DidYouMean(o.measure, measures))
}

func (o *Objective) duration(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return fmt.Errorf("%q is not a time such as 250ms", s)
	}
	o.bound = float64(d) / float64(time.Millisecond)
	return nil
}

func (o *Objective) number(s string) error {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || !(n >= 0) || math.IsInf(n, 0) {
		return fmt.Errorf("%q is not a number", s)
	}
	o.bound = n
	return nil
}

// Judge says whether r meets o.
func (o Objective) Judge(r Report) Verdict {
	v := Verdict{Objective: o.text}
	v.Value, v.unit = o.value(r)
	if v.Value == nil {
		return v
	}
	switch value := *v.Value; o.compare {
	case "<":
		v.Held = value < o.bound
	case "<=":
		v.Held = value <= o.bound
	case ">":
		v.Held = value > o.bound
	case ">=":
		v.Held = value >= o.bound
	default:
		v.Held = value == o.bound
	}
	return v
}

func (o Objective) value(r Report) (value *float64, unit string) {
	starts := r.Sent + r.Missed
	n := 0
	switch o.measure {
	case "p":
		return r.Latency.Percentile(o.percent), "ms"
	case "max":
		return r.Latency.Max, "ms"
	case "rate":
		return r.Rate, "/s"
	case "completed":
		n = r.Completed
	case "failed":
		n = r.Failed + r.Missed
	case "lost":
		n = r.Lost()
	case "missed":
		n = r.Missed
	default:
		if r.Visits == nil {
			return nil, ""
		}
		starts = r.Visits.Started + r.Visits.Missed
		n = r.Visits.Failed + r.Visits.Missed
		if o.measure == "visits.completed" {
			n = r.Visits.Completed
		}
	}
	amount := float64(n)
	if !o.share {
		return &amount, ""
	}
	if starts == 0 {
		return nil, "%"
	}
	amount /= float64(starts)
	return &amount, "%"
}

// String says what was measured: "p99<250ms: 312 ms".
func (v Verdict) String() string {
	if v.Value == nil {
		return v.Objective + ": not measured"
	}
	switch v.unit {
	case "ms":
		return v.Objective + ": " + millis(v.Value)
	case "%":
		return v.Objective + ": " + strconv.FormatFloat(*v.Value*100, 'f', 3, 64) + "%"
	case "/s":
		return v.Objective + ": " + strconv.FormatFloat(*v.Value, 'f', 1, 64) + "/s"
	}
	return v.Objective + ": " + count(int(*v.Value))
}
