// Package alerts makes alerting rules of a project's objectives, adds sensible defaults, and delivers what fires: grouped,
// without repeats, kept on disk until the receiver has taken it.
package alerts

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

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

// Bad returns the share of bad requests over a window, in PromQL.
func (o Objective) Bad(window string) string {
	by := fmt.Sprintf("{service=%s}[%s]", strconv.Quote(o.Service), window)
	if o.Latency > 0 {
		return fmt.Sprintf("1 - histogram_fraction(0, %g, sum(rate(trellis_request_duration_seconds%s)))", o.Latency.Seconds(), by)
	}
	return fmt.Sprintf("sum(rate(trellis_request_failures_total%s)) / sum(rate(trellis_requests_total%s))", by, by)
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
	long, short string
	severity    string
}

func burns() []burn {
	return []burn{{14.4, "1h", "5m", Page}, {6, "6h", "30m", Page}, {3, "1d", "2h", Ticket}, {1, "3d", "6h", Ticket}}
}

// OfObjectives returns a group of rules for each objective: one alert that pages and one that is a ticket, each of two pairs
// of windows, so that it is the same alert whichever of them finds the budget burning.
func OfObjectives(objectives []Objective) []telemetry.RuleGroup {
	var groups []telemetry.RuleGroup
	for _, o := range objectives {
		g := telemetry.RuleGroup{Name: "objective " + o.Service + " " + o.Name}
		for _, severity := range []string{Page, Ticket} {
			var windows []string
			for _, b := range burns() {
				limit := b.rate * (1 - o.Target)
				if b.severity != severity || limit >= 1 { // more than all requests cannot be bad
					continue
				}
				windows = append(windows, fmt.Sprintf("(%s) > %.6g and (%s) > %.6g", o.Bad(b.long), limit, o.Bad(b.short), limit))
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

// Drifted is the name of the default alert about drift.
const Drifted = "Drifted"

const driftedSummary = "%s differs from its revision in %s places: trellis drift"

// slow holds where the median of twenty seconds is three times that of the ten minutes before, and could be noticed. The
// median, because the tail of a service that is seldom asked is one request; who promises a tail writes an objective.
const slow = `histogram_quantile(0.5, sum by (service) (rate(trellis_request_duration_seconds[20s]))) > 0.1
and on (service) histogram_quantile(0.5, sum by (service) (rate(trellis_request_duration_seconds[20s])))
 > 3 * histogram_quantile(0.5, sum by (service) (rate(trellis_request_duration_seconds[10m] offset 1m)))
and on (service) sum by (service) (rate(trellis_requests_total[1m])) > 1`

// Defaults returns the rules that every project has. Each fires at the second evaluation at the latest after its condition
// holds, except those that wait to see whether what is wrong passes: InstanceUnready, MemoryNearLimit and CPUSaturated.
func Defaults() []telemetry.RuleGroup {
	rule := func(name, severity, expr string, hold time.Duration, summary string) telemetry.Rule {
		return telemetry.Rule{
			Alert: name, Expr: expr, For: hold, Labels: map[string]string{"severity": severity, LabelSource: SourceDefault},
			Annotations: map[string]string{"summary": summary},
		}
	}
	return []telemetry.RuleGroup{{Name: "defaults", Rules: []telemetry.Rule{
		rule("CrashLooping", Page, `max by (service) (trellis_service_state{state="crash-looping"}) == 1`, 0,
			"{{ $labels.service }} keeps crashing"),
		rule("ServiceFailed", Page, `max by (service) (trellis_service_state{state="failed"}) == 1`, 0,
			"{{ $labels.service }} has failed and is not started again"),
		rule("ServiceDown", Page, `trellis_replicas_ready == 0 and trellis_replicas_wanted > 0 unless on (service) trellis_service_state{state="completed"}`, 15*time.Second,
			"no instance of {{ $labels.service }} is ready"),
		rule("DriverAway", Page, `sum by (driver) (trellis_service_unknown) > 0`, 15*time.Second,
			"{{ $labels.driver }} does not answer: it is not known what runs of {{ $value }} of the services, and nothing of them is healed: trellis ps"),
		rule("InstanceUnready", Ticket, `trellis_replicas_ready > 0 and trellis_replicas_ready < trellis_replicas_wanted`, 2*time.Minute,
			"{{ $labels.service }} has {{ $value }} instances ready, fewer than it should"),
		rule("Restarting", Ticket, `sum by (service) (increase(trellis_instance_restarts_total[10m])) > 2`, 0,
			"{{ $labels.service }} was restarted {{ $value | printf \"%.0f\" }} times in ten minutes"),
		rule("OutOfMemory", Ticket, `sum by (service) (increase(trellis_instance_ends_total{reason="oom"}[2m])) > 0`, 0,
			"an instance of {{ $labels.service }} was ended because it used all the memory it may"),
		rule("InstanceHung", Ticket, `sum by (service) (increase(trellis_instance_ends_total{reason="hung"}[2m])) > 0`, 0,
			"an instance of {{ $labels.service }} ran and did not answer any more, and was replaced"),
		rule("DeployRolledBack", Ticket, `increase(trellis_deploys_rolled_back_total[2m]) > 0`, 0,
			"the newest revision was taken back, and what was before it runs: trellis history"),
		rule(Drifted, Ticket, `trellis_drifts > 0`, 0, fmt.Sprintf(driftedSummary, "{{ $labels.service }}", "{{ $value }}")),
		rule("ErrorRate", Page, `sum by (service) (rate(trellis_request_failures_total[2m])) / sum by (service) (rate(trellis_requests_total[2m])) > 0.05 and sum by (service) (rate(trellis_requests_total[2m])) > 0.2`, 0,
			"{{ $value | humanizePercentage }} of the requests to {{ $labels.service }} fail"),
		rule("Slow", Ticket, slow, 0,
			"half of the requests to {{ $labels.service }} take longer than {{ $value | humanizeDuration }}, three times what they did before"),
		rule("RetryStorm", Page, `sum by (service) (rate(trellis_retries_total[1m])) > 0.1 * sum by (service) (rate(trellis_requests_total[1m])) and sum by (service) (rate(trellis_retries_total[1m])) > 1`, 0,
			"{{ $value | humanize }} requests a second to {{ $labels.service }} are retries"),
		rule("Overloaded", Page, `sum by (service) (rate(trellis_requests_held_total[1m])) > 0.05 * sum by (service) (rate(trellis_requests_total[1m])) and sum by (service) (rate(trellis_requests_held_total[1m])) > 0.2`, 15*time.Second,
			"{{ $value | humanize }} requests a second to {{ $labels.service }} wait for a free instance"),
		rule("MemoryNearLimit", Ticket, `trellis_instance_memory_bytes / trellis_instance_memory_limit_bytes > 0.9`, 30*time.Second,
			"{{ $labels.instance }} uses {{ $value | humanizePercentage }} of the memory it may"),
		rule("CPUSaturated", Ticket, `rate(trellis_instance_cpu_seconds_total[2m]) / trellis_instance_cpu_limit > 0.95`, 5*time.Minute,
			"{{ $labels.instance }} uses all the CPU it may"),
		rule("DiskAlmostFull", Page, `trellis_disk_free_bytes and trellis_disk_free_bytes / trellis_disk_size_bytes < 0.05 or trellis_disk_free_bytes < 500e6 and trellis_disk_size_bytes > 5e9`, 0,
			"{{ $value | humanize1024 }}B are left on the disk of the project's state"),
		rule("CertificateExpiring", Page, `trellis_certificate_not_after_timestamp_seconds - time() < 0.25 * (trellis_certificate_not_after_timestamp_seconds - trellis_certificate_not_before_timestamp_seconds) and trellis_certificate_not_after_timestamp_seconds - time() < 21 * 86400`, 0,
			"the certificate of {{ $labels.name }} ends in {{ $value | humanizeDuration }}"),
		rule("TelemetryLost", Ticket, `sum by (store, reason) (increase(trellis_telemetry_lost_total[5m])) > 0`, 0,
			"{{ $value | humanize }} {{ $labels.store }} were not kept: {{ $labels.reason }}"),
	}}}
}

// fingerprint names what an alert is about.
func fingerprint(labels map[string]string) string {
	text := ""
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		text += k + "\xff" + labels[k] + "\xff"
	}
	return text
}
