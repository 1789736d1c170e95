// Package alerts makes alerting rules of a project's objectives, adds sensible defaults, and delivers what fires: grouped,
// silenced and repeated by Alertmanager's packages, kept on disk until the receiver has taken it.
package alerts

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"trellis/compose"
	"trellis/telemetry"
)

// The severities of an alert: a page is for now, a ticket for the next working day.
const (
	Page   = "page"
	Ticket = "ticket"
)

// Labels that the rules of this package set beside alertname, service and severity.
const (
	LabelObjective = "objective"
	LabelSource    = "source" // SourceObjective or SourceDefault
)

// What makes a rule.
const (
	SourceObjective = "objective"
	SourceDefault   = "default"
)

// BudgetWindow is what an objective's error budget is for.
const BudgetWindow = 30 * 24 * time.Hour

// Objective is what a service promises of its requests: the share Target of them is good.
type Objective struct {
	Service string
	Name    string  // "availability 99.9%", "p99 250ms"
	Target  float64 // above 0, below 1
	// Latency is what a good request's answer takes at most; 0: it is one that does not fail.
	Latency time.Duration
}

// Objectives returns what the services of a project promise.
func Objectives(p compose.Project) []Objective {
	var all []Objective
	for _, name := range p.ServiceNames() {
		o := p.Services[name].Trellis.Objective
		if o == nil {
			continue
		}
		if share := float64(o.Availability); share > 0 && share < 1 {
			all = append(all, Objective{Service: name, Name: "availability " + percent(share), Target: share})
		}
		for _, p := range slices.Sorted(maps.Keys(o.Latency)) {
			digits := strings.TrimPrefix(p, "p") // "999" is 99.9 %
			n, err := strconv.ParseFloat("0."+digits, 64)
			limit := time.Duration(o.Latency[p])
			if err == nil && n > 0 && n < 1 && limit > 0 {
				all = append(all, Objective{Service: name, Name: p + " " + limit.String(), Target: n, Latency: limit})
			}
		}
	}
	return all
}

func percent(share float64) string {
	return strconv.FormatFloat(math.Round(share*1e7)/1e5, 'f', -1, 64) + "%"
}

// Bad returns the share of bad requests over a window, in PromQL.
func (o Objective) Bad(window string) string {
	by := fmt.Sprintf("{service=%s}[%s]", strconv.Quote(o.Service), window)
	if o.Latency > 0 {
		return fmt.Sprintf("1 - histogram_fraction(0, %g, sum(rate(trellis_request_duration_seconds%s)))", o.Latency.Seconds(), by)
	}
	return fmt.Sprintf("sum(rate(trellis_request_failures_total%s)) / sum(rate(trellis_requests_total%s))", by, by)
}

// All returns how many requests there were over a window, in PromQL.
func (o Objective) All(window string) string {
	by := fmt.Sprintf("{service=%s}[%s]", strconv.Quote(o.Service), window)
	if o.Latency > 0 {
		return fmt.Sprintf("histogram_count(sum(increase(trellis_request_duration_seconds%s)))", by)
	}
	return fmt.Sprintf("sum(increase(trellis_requests_total%s))", by)
}

// fault is what a bad request is.
func (o Objective) fault() string {
	if o.Latency > 0 {
		return "slower"
	}
	return "answered with an error"
}

// burn is one pair of windows of the multiwindow, multi-burn-rate alerts of Google's SRE workbook, chapter 5, table 5-8
// (https://sre.google/workbook/alerting-on-slos/): the long window says that it matters, the short one, a twelfth of it,
// that it goes on. A rate of 14.4 spends 2 % of a 30 days' budget in an hour, 6 spends 5 % in six hours, 3 spends 10 % in a
// day, 1 spends 10 % in three days.
type burn struct {
	rate        float64
	long, short window
	severity    string
}

func burns() []burn {
	return []burn{
		{14.4, window{"1h", time.Hour}, window{"5m", 5 * time.Minute}, Page}, {6, window{"6h", 6 * time.Hour}, window{"30m", 30 * time.Minute}, Page},
		{3, window{"1d", 24 * time.Hour}, window{"2h", 2 * time.Hour}, Ticket}, {1, window{"3d", 72 * time.Hour}, window{"6h", 6 * time.Hour}, Ticket},
	}
}

// window is what an alert looks back at.
type window struct {
	text string // as PromQL writes it
	long time.Duration
}

// every is how often a window of more than an hour is looked at, 0: whenever its alert is. All that was counted within it is read
// each time, so the longer it is the seldomer that is done: each costs what the hour costs at every quarter of a minute. An alert is later
// for it by about a hundredth of the time for which the budget burns until the window shows it.
func (w window) every() time.Duration {
	if w.long <= time.Hour {
		return 0
	}
	return w.long / 240
}

// RecordedShare is the series with the share of bad requests over a long window, as it was when that was looked at last.
const RecordedShare = "trellis:objective_bad:share"

// bad is Bad of a window where an alert asks for it. What was looked at no longer ago than a twelfth of the window counts, so that no
// alert ends because Trellis was away for a while.
func (o Objective) bad(w window) string {
	if w.every() == 0 {
		return o.Bad(w.text)
	}
	return fmt.Sprintf("max(last_over_time(%s{service=%s,%s=%s,window=%q}[%ds]))",
		RecordedShare, strconv.Quote(o.Service), LabelObjective, strconv.Quote(o.Name), w.text, int(w.long.Seconds())/12)
}

// record is the group that looks at a long window.
func (o Objective) record(w window) telemetry.RuleGroup {
	return telemetry.RuleGroup{
		Name: "objective " + o.Service + " " + o.Name + " over " + w.text, Interval: w.every(),
		Rules: []telemetry.Rule{{
			Record: RecordedShare, Expr: o.Bad(w.text), Labels: map[string]string{"service": o.Service, LabelObjective: o.Name, "window": w.text},
		}},
	}
}

// OfObjectives returns for each objective a group of rules with two alerts, one that pages and one that is a ticket, each of two pairs
// of windows, so that it is the same alert whichever of them finds the budget burning. Before it stand the groups that look at the long
// ones of these windows, each as often as it needs.
func OfObjectives(objectives []Objective) []telemetry.RuleGroup {
	var groups []telemetry.RuleGroup
	for _, o := range objectives {
		g := telemetry.RuleGroup{Name: "objective " + o.Service + " " + o.Name}
		recorded := map[window]bool{}
		for _, severity := range []string{Page, Ticket} {
			var windows []string
			for _, b := range burns() {
				limit := b.rate * (1 - o.Target)
				if b.severity != severity || limit >= 1 { // more than all requests cannot be bad
					continue
				}
				windows = append(windows, fmt.Sprintf("(%s) > %.6g and (%s) > %.6g", o.bad(b.long), limit, o.bad(b.short), limit))
				for _, w := range []window{b.long, b.short} {
					if w.every() > 0 && !recorded[w] {
						recorded[w] = true
						groups = append(groups, o.record(w))
					}
				}
			}
			if len(windows) == 0 {
				continue
			}
			g.Rules = append(g.Rules, telemetry.Rule{
				Alert: Burning, Expr: strings.Join(windows, " or "),
				Labels: map[string]string{"service": o.Service, "severity": severity, LabelObjective: o.Name, LabelSource: SourceObjective},
				Annotations: map[string]string{
					"summary": fmt.Sprintf("%s misses %s: {{ $value | humanizePercentage }} of its requests were %s, and %.4g%% may be", o.Service, o.Name, o.fault(), 100*(1-o.Target)),
				},
			})
		}
		groups = append(groups, g)
	}
	return groups
}

// Burning is the name of the alerts of objectives.
const Burning = "ObjectiveBurning"
