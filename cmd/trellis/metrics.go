package main

import (
	"encoding/json"
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"trellis/api"
)

func (p *program) metricsCommand() *cobra.Command {
	var from string
	step := span(0)
	cmd := &cobra.Command{
		Use:   "metrics PROMQL",
		Short: "Ask the project's metrics, in PromQL",
		Long: `Metrics evaluates a PromQL expression over what the project's services expose, send
by OTLP, and what Trellis measures of each of them without any code of theirs:
trellis_requests_total, trellis_request_failures_total,
trellis_request_duration_seconds (a native histogram) and
trellis_requests_in_flight by service, instance, revision, caller and route
(those without an instance wait for one); CPU, memory, I/O and network of each
instance; replicas, restarts, readiness. 'trellis ps --format json' has the
address at which Prometheus' own API answers, for Grafana and promtool.`,
		Example: `  trellis metrics 'sum by (service) (rate(trellis_requests_total[1m]))'
  trellis metrics --since 10m 'histogram_quantile(0.99, sum by (service) (rate(trellis_request_duration_seconds[1m])))'`,
		Args: arguments(1, 1),
	}
	cmd.Flags().StringVar(&from, "since", "", "evaluate from `TIME` until now: 10m (ago) or 2026-11-23T15:04:05Z")
	cmd.Flags().Var(&step, "step", "`DURATION` between two values with --since; unset: 250 values")
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		q := api.MetricQuery{Query: args[0], Step: time.Duration(step)}
		var err error
		if q.Start, err = moment(from, p.now()); err != nil {
			return usageError{err.Error(), cmd.CommandPath()}
		}
		return p.withControl(cmd.Context(), func(control api.Control, _ location) error {
			result, err := control.Metrics(cmd.Context(), q)
			if err != nil {
				return err
			}
			for _, w := range result.Warnings {
				p.progressf("warning: %s", w)
			}
			if format.json() {
				return p.writeJSON(result)
			}
			t, err := metricTable(result, p.now())
			if err != nil {
				return err
			}
			return t.write(p.stdout, p.styleOf(p.stdout))
		})
	}
	return p.project(cmd)
}

// metricPoint is a moment in seconds since 1970 and a value as text, as Prometheus writes them.
type metricPoint [2]json.RawMessage

// value is the number with at most six digits where it is no whole one: JSON has all of them.
func (m metricPoint) value() string {
	text := strings.Trim(string(m[1]), `"`)
	v, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil || !strings.ContainsAny(text, ".e"):
		return text
	case math.Abs(v) >= 1e5:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 6, 64)
}

func (m metricPoint) time(now time.Time) string {
	var at float64
	if json.Unmarshal(m[0], &at) != nil {
		return "-"
	}
	return clock(time.UnixMilli(int64(at*1000)), now)
}

// metricTable makes a table of a result: a line for each series, or for each moment of one.
func metricTable(r api.MetricResult, now time.Time) (table, error) {
	if r.Type == "scalar" || r.Type == "string" {
		var one metricPoint
		err := json.Unmarshal(r.Result, &one)
		return table{head: []string{"VALUE"}, rows: [][]string{{one.value()}}}, err
	}
	var series []struct {
		Metric     map[string]string   `json:"metric"`
		Value      *metricPoint        `json:"value"`
		Values     []metricPoint       `json:"values"`
		Histogram  []json.RawMessage   `json:"histogram"`
		Histograms [][]json.RawMessage `json:"histograms"`
	}
	if err := json.Unmarshal(r.Result, &series); err != nil {
		return table{}, fmt.Errorf("read the answer: %w", err)
	}
	if r.Type == "matrix" {
		t := table{head: []string{"SERIES", "TIME", "VALUE"}, right: map[int]bool{2: true}}
		for _, s := range series {
			for _, v := range s.Values {
				t.add(seriesName(s.Metric), v.time(now), v.value())
			}
			for range s.Histograms {
				t.add(seriesName(s.Metric), "-", "a histogram: ask histogram_quantile of it")
			}
		}
		return t, nil
	}
	t := table{head: []string{"SERIES", "VALUE"}, right: map[int]bool{1: true}}
	for _, s := range series {
		value := "a histogram: ask histogram_quantile of it"
		if s.Value != nil {
			value = s.Value.value()
		}
		t.add(seriesName(s.Metric), value)
	}
	return t, nil
}

// seriesName writes a series as PromQL does.
func seriesName(labels map[string]string) string {
	var pairs []string
	for k, v := range labels {
		if k != "__name__" {
			pairs = append(pairs, fmt.Sprintf("%s=%q", k, v))
		}
	}
	sort.Strings(pairs)
	name := labels["__name__"]
	if len(pairs) > 0 || name == "" {
		name += "{" + strings.Join(pairs, ", ") + "}"
	}
	return name
}
