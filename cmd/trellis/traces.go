package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/telemetry"
)

func (p *program) tracesCommand() *cobra.Command {
	var f telemetry.TraceFilter
	var from string
	slow := span(0)
	var attributes []string
	cmd := &cobra.Command{
		Use:   "traces [TRACE]",
		Short: "Find traces, or show one with its logs",
		Long: `Traces lists the newest traces that match, or shows one span by span. The data
plane records a span for each request that it passes on, so services without
instrumentation show too; those with it send theirs to the address in their
OTEL_EXPORTER_OTLP_ENDPOINT. Of many requests a part is kept, and all that fail or
take longer than a second.`,
		Example: `  trellis traces --service api --errors
  trellis traces --slower 500ms --since 1h
  trellis traces --name /checkout
  trellis traces 4bf92f3577b34da6a3ce929d0e0e4736`,
		Args: arguments(0, 1),
	}
	cmd.Flags().StringVar(&f.Service, "service", "", "only traces with a span of `SERVICE`")
	cmd.Flags().StringVar(&f.Name, "name", "", "only traces with a span that has `TEXT` in its name or path")
	cmd.Flags().StringVar(&from, "since", "", "only what is newer than `TIME`: 10m (ago) or 2026-11-23T15:04:05Z; unset: 1h")
	cmd.Flags().BoolVar(&f.Errors, "errors", false, "only traces with a span that failed")
	cmd.Flags().Var(&slow, "slower", "only traces with a span that took `DURATION` or longer")
	cmd.Flags().StringArrayVar(&attributes, "attribute", nil, "only traces with a span that has `NAME=VALUE`; may be repeated")
	limit := atMost(telemetry.DefaultTraceLimit)
	cmd.Flags().VarP(&limit, "limit", "n", "at most `N` traces")
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var err error
		if f.Since, err = moment(from, p.now()); err != nil {
			return usageError{err.Error(), cmd.CommandPath()}
		}
		f.MinDuration, f.Limit = time.Duration(slow), int(limit)
		for _, a := range attributes {
			name, value, ok := strings.Cut(a, "=")
			if !ok {
				return usageError{fmt.Sprintf("--attribute %q: want NAME=VALUE", a), cmd.CommandPath()}
			}
			if f.Attributes == nil {
				f.Attributes = map[string]string{}
			}
			f.Attributes[name] = value
		}
		return p.withControl(cmd.Context(), func(control api.Control, _ location) error {
			if len(args) == 1 {
				return p.showTrace(cmd, control, args[0], format.json())
			}
			traces, err := control.Traces(cmd.Context(), f)
			if err != nil {
				return err
			}
			if format.json() {
				return p.writeJSON(append([]telemetry.TraceSummary{}, traces...))
			}
			return p.writeTraces(traces)
		})
	}
	return p.project(cmd)
}

// wideTraces is the width from which on a list of traces has all its columns on a terminal.
const wideTraces = 110

// writeTraces lists traces, on a terminal each in one line of it.
func (p *program) writeTraces(traces []telemetry.TraceSummary) error {
	s := p.styleOf(p.stdout)
	width := 0
	if terminal(p.stdout) {
		width, _ = sizeOf(p.stdout)
	}
	t := table{head: []string{"TRACE", "TIME", "TOOK", "SPANS", "ERRORS", "STATUS", "SERVICE", "REQUEST"}, right: map[int]bool{2: true, 3: true, 4: true}}
	short := width > 0 && width < wideTraces
	if short {
		t = table{head: []string{"TRACE", "TIME", "TOOK", "REQUEST"}, right: map[int]bool{2: true}}
	}
	for _, one := range traces {
		paint := func(text string) string { return text }
		if one.Errors > 0 {
			paint = s.red
		}
		cells := []string{one.Trace.String(), clock(one.Start, p.now())}
		if short {
			cells = append(cells, paint(brief(one.Duration)))
		} else {
			cells = append(cells, brief(one.Duration), strconv.Itoa(one.Spans), paint(strconv.Itoa(one.Errors)), orDash(digits(int64(one.HTTP))), oneLine(one.Service))
		}
		t.add(append(cells, oneLine(one.Request()))...)
	}
	if width > 0 {
		t.crop(width, s)
	}
	return t.write(p.stdout, s)
}

func brief(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}

func (p *program) showTrace(cmd *cobra.Command, control api.Control, text string, asJSON bool) error {
	id, err := telemetry.ParseTraceID(text)
	if err != nil {
		return usageError{err.Error(), cmd.CommandPath()}
	}
	trace, err := control.Trace(cmd.Context(), id)
	if err != nil {
		return err
	}
	if asJSON {
		return p.writeJSON(trace)
	}
	return p.writeTrace(p.stdout, p.styleOf(p.stdout), trace)
}

// writeTrace prints the spans as a tree, each with when it began and how long it took, and the log records below.
func (p *program) writeTrace(w io.Writer, s style, trace api.Trace) error {
	children := map[telemetry.SpanID][]telemetry.Span{}
	known := map[telemetry.SpanID]bool{}
	for _, span := range trace.Spans {
		known[span.ID] = true
	}
	for _, span := range trace.Spans {
		parent := span.Parent
		if !known[parent] || parent == span.ID {
			parent = telemetry.SpanID{}
		}
		children[parent] = append(children[parent], span)
	}
	t := table{head: []string{"START", "TOOK", "SPAN"}, right: map[int]bool{0: true, 1: true}}
	begin := trace.Spans[0].Start
	shown := map[telemetry.SpanID]bool{}
	var add func(parent telemetry.SpanID, depth int)
	add = func(parent telemetry.SpanID, depth int) {
		for _, span := range children[parent] {
			if shown[span.ID] {
				continue // two of the same ID
			}
			shown[span.ID] = true
			what := strings.Repeat("  ", depth) + s.bold(oneLine(span.Service)) + " " + oneLine(span.Request())
			if span.Status == telemetry.StatusError {
				what += " " + s.red(strings.TrimSpace("failed "+oneLine(span.Message)))
			}
			if code, ok := span.Attributes["http.response.status_code"]; ok {
				what += s.dim(" " + oneLine(fmt.Sprint(code)))
			}
			t.add(brief(span.Start.Sub(begin)), brief(span.Duration), what)
			add(span.ID, depth+1)
		}
	}
	add(telemetry.SpanID{}, 0)
	if err := t.write(w, s); err != nil {
		return err
	}
	if len(trace.Records) > 0 {
		fmt.Fprintln(w)
	}
	for _, r := range trace.Records {
		if _, err := fmt.Fprintln(w, p.recordLine(s, r, logStyle{prefix: true})); err != nil {
			return err
		}
	}
	return nil
}

// recordLine writes a log record for people. What is in it may be anybody's.
func (p *program) recordLine(s style, r telemetry.Record, look logStyle) string {
	who := r.Service
	if r.Instance != "" {
		who = r.Instance
	}
	severity := pad(r.Severity, 5)
	switch r.Severity {
	case telemetry.SeverityError, telemetry.SeverityFatal:
		severity = s.red(severity)
	case telemetry.SeverityWarn:
		severity = s.yellow(severity)
	}
	at := clock(r.Time, p.now()) + r.Time.Format(".000")
	if look.times {
		at = exact(r.Time)
	}
	line := s.dim(at) + " " + severity + " "
	if look.prefix {
		line += s.bold(oneLine(who)) + " "
	}
	line += harmless(r.Body)
	if !r.Trace.IsZero() {
		line += s.dim(" trace=" + r.Trace.String())
	}
	return line
}
