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
	share   bool   // of the starts, instead of a number
	step    string // of a scenario; "" for the whole run
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
//	failed=0, lost<0.1%    a number, or a share of all starts; what was missed counts as failed and as lost
//	rate>=490/s            completed requests per second
//	visits.failed<1%       of a scenario
//	p99[sign in]<500ms     of one of its steps: a percentile, max, completed, failed or missed
//
// What was not measured, such as the latency of nothing, misses its objective. The error is of kind errdefs.ErrInvalid.
func ParseObjectives(s string) ([]Objective, error) {
	var all []Objective
	for _, item := range splitObjectives(s) {
		o, err := parseObjective(strings.TrimSpace(item))
		if err != nil {
			return nil, fmt.Errorf("objective %q: %v: %w", strings.TrimSpace(item), err, errdefs.ErrInvalid)
		}
		all = append(all, o)
	}
	return all, nil
}

// splitObjectives splits at commas that are not within the name of a step, which ends at the bracket that is compared.
func splitObjectives(s string) []string {
	var items []string
	start := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '[':
			for end := i + 1; end < len(s); end++ {
				if rest := strings.TrimSpace(s[end+1:]); s[end] == ']' && rest != "" && strings.ContainsRune("<>=", rune(rest[0])) {
					i = end
					break
				}
			}
		case ',':
			items, start = append(items, s[start:i]), i+1
		}
	}
	return append(items, s[start:])
}

func parseObjective(s string) (Objective, error) {
	o, bound, err := cutObjective(s)
	switch {
	case err != nil:
		return o, err
	case o.step != "" && !o.ofStep():
		return o, fmt.Errorf("%s is not measured of a step: it may be a percentile, max, completed, failed or missed", o.measure)
	case o.measure == "max":
		return o, o.duration(bound)
	case o.measure == "rate":
		return o, o.number(strings.TrimSuffix(bound, "/s"))
	case percentile(o.measure) > 0:
		o.measure, o.percent = "p", percentile(o.measure)
		return o, o.duration(bound)
	case slices.Contains(measures, o.measure):
		number, share := strings.CutSuffix(bound, "%")
		err := o.number(number)
		if o.share = share; share {
			o.bound /= 100
		}
		return o, err
	}
	return o, fmt.Errorf("%s is not measured%s", o.measure, compose.DidYouMean(o.measure, measures))
}

// cutObjective takes s apart.
func cutObjective(s string) (o Objective, bound string, err error) {
	named := 0 // the name of a step may hold anything
	if open, end := strings.IndexByte(s, '['), strings.LastIndexByte(s, ']'); open > 0 && end > open {
		o.step, named = s[open+1:end], end
	}
	i := strings.IndexAny(s[named:], "<>=")
	if i < 0 || named+i == 0 {
		return o, "", fmt.Errorf("write one such as p99<250ms or failed=0")
	}
	left, right := strings.TrimSpace(s[:named+i]), strings.TrimLeft(s[named+i:], "<>=")
	o.compare, bound = s[named+i:len(s)-len(right)], strings.TrimSpace(right)
	o.text = left + o.compare + bound
	measure, _, stepped := strings.Cut(left, "[")
	o.measure = strings.TrimSpace(measure)
	if stepped && o.step == "" {
		return o, "", fmt.Errorf("a step is named as in p99[sign in]<500ms")
	}
	if o.compare == "==" {
		o.compare = "="
	}
	if !slices.Contains([]string{"<", "<=", ">", ">=", "="}, o.compare) {
		return o, "", fmt.Errorf("%s is none of < <= > >= =", o.compare)
	}
	return o, bound, nil
}

// percentile is 99.9 of p99.9, and 0 of what is none.
func percentile(measure string) float64 {
	digits, ok := strings.CutPrefix(measure, "p")
	p, err := strconv.ParseFloat(digits, 64)
	if !ok || err != nil || !(p > 0 && p <= 100) {
		return 0
	}
	return p
}

// ofStep says whether the measure is one of a single step.
func (o *Objective) ofStep() bool {
	return percentile(o.measure) > 0 || slices.Contains([]string{"max", "completed", "failed", "missed"}, o.measure)
}

// Of says whether the objective can be judged of a run of s, which is nil for one without a scenario.
func (o Objective) Of(s *Scenario) error {
	var names []string
	if s != nil {
		for _, step := range s.steps {
			names = append(names, step.name)
		}
	}
	switch {
	case s == nil && (o.step != "" || strings.HasPrefix(o.measure, "visits.")):
		return fmt.Errorf("objective %q: there is no scenario: %w", o.text, errdefs.ErrInvalid)
	case o.step != "" && !slices.Contains(names, o.step):
		return fmt.Errorf("objective %q: the scenario has no step %q%s: %w", o.text, o.step, compose.DidYouMean(o.step, names), errdefs.ErrInvalid)
	}
	return nil
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
	if o.step != "" {
		i := slices.IndexFunc(r.Steps, func(s Step) bool { return s.Name == o.step })
		if i < 0 {
			return nil, ""
		}
		s := r.Steps[i]
		r = Report{Sent: s.Sent, Completed: s.Completed, Missed: s.Missed, Failed: s.Failed, Latency: s.Latency}
	}
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
