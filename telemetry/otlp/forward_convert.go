package otlp

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"trellis/telemetry"
)

// describe writes down who something is of.
func (s source) describe(r pcommon.Resource) {
	a := r.Attributes()
	a.PutStr("service.name", s.service)
	if s.instance != "" {
		a.PutStr("service.instance.id", s.instance)
	}
	if s.revision != 0 {
		a.PutInt("trellis.revision", s.revision)
	}
}

// tracesOf is the request that spansOf reads.
func tracesOf(spans []telemetry.Span) message {
	type place struct {
		source
		scope string
	}
	t := ptrace.NewTraces()
	lists := map[place]ptrace.SpanSlice{}
	for i := range spans {
		in := &spans[i]
		at := place{source{in.Service, in.Instance, in.Revision}, in.Scope}
		list, ok := lists[at]
		if !ok {
			rs := t.ResourceSpans().AppendEmpty()
			at.describe(rs.Resource())
			ss := rs.ScopeSpans().AppendEmpty()
			ss.Scope().SetName(at.scope)
			list = ss.Spans()
			lists[at] = list
		}
		writeSpan(list.AppendEmpty(), in)
	}
	return ptraceotlp.NewExportRequestFromTraces(t)
}

func writeSpan(out ptrace.Span, in *telemetry.Span) {
	out.SetTraceID(pcommon.TraceID(in.Trace))
	out.SetSpanID(pcommon.SpanID(in.ID))
	out.SetParentSpanID(pcommon.SpanID(in.Parent))
	out.SetName(in.Name)
	out.SetKind(map[string]ptrace.SpanKind{
		telemetry.KindInternal: ptrace.SpanKindInternal, telemetry.KindServer: ptrace.SpanKindServer, telemetry.KindClient: ptrace.SpanKindClient,
		telemetry.KindProducer: ptrace.SpanKindProducer, telemetry.KindConsumer: ptrace.SpanKindConsumer,
	}[in.Kind])
	out.SetStartTimestamp(pcommon.NewTimestampFromTime(in.Start))
	out.SetEndTimestamp(pcommon.NewTimestampFromTime(in.Start.Add(in.Duration)))
	switch in.Status {
	case telemetry.StatusOK:
		out.Status().SetCode(ptrace.StatusCodeOk)
	case telemetry.StatusError:
		out.Status().SetCode(ptrace.StatusCodeError)
	}
	out.Status().SetMessage(in.Message)
	putAll(out.Attributes(), in.Attributes)
	for _, e := range in.Events {
		one := out.Events().AppendEmpty()
		one.SetTimestamp(pcommon.NewTimestampFromTime(e.Time))
		one.SetName(e.Name)
		putAll(one.Attributes(), e.Attributes)
	}
	for _, l := range in.Links {
		one := out.Links().AppendEmpty()
		one.SetTraceID(pcommon.TraceID(l.Trace))
		one.SetSpanID(pcommon.SpanID(l.Span))
		putAll(one.Attributes(), l.Attributes)
	}
}

// logsOf is the request that recordsOf reads. Where a record came from is its attribute log.iostream.
func logsOf(records []telemetry.Record) message {
	l := plog.NewLogs()
	lists := map[source]plog.LogRecordSlice{}
	for i := range records {
		in := &records[i]
		at := source{in.Service, in.Instance, in.Revision}
		list, ok := lists[at]
		if !ok {
			rl := l.ResourceLogs().AppendEmpty()
			at.describe(rl.Resource())
			list = rl.ScopeLogs().AppendEmpty().LogRecords()
			lists[at] = list
		}
		out := list.AppendEmpty()
		out.SetTimestamp(pcommon.NewTimestampFromTime(in.Time))
		out.SetObservedTimestamp(pcommon.NewTimestampFromTime(in.Time))
		if n := severityNumbers[in.Severity]; n != 0 {
			out.SetSeverityNumber(n)
			out.SetSeverityText(in.Severity)
		}
		out.Body().SetStr(in.Body)
		out.SetTraceID(pcommon.TraceID(in.Trace))
		out.SetSpanID(pcommon.SpanID(in.Span))
		putAll(out.Attributes(), in.Attributes)
		if in.Stream != telemetry.StreamOTLP {
			out.Attributes().PutStr("log.iostream", in.Stream)
		}
	}
	return plogotlp.NewExportRequestFromLogs(l)
}

var severityNumbers = map[string]plog.SeverityNumber{
	telemetry.SeverityTrace: plog.SeverityNumberTrace, telemetry.SeverityDebug: plog.SeverityNumberDebug, telemetry.SeverityInfo: plog.SeverityNumberInfo,
	telemetry.SeverityWarn: plog.SeverityNumberWarn, telemetry.SeverityError: plog.SeverityNumberError, telemetry.SeverityFatal: plog.SeverityNumberFatal,
}

// metricsOf makes gauges, sums of what is called _total, and exponential histograms of samples. What belongs to no service
// is the project's.
func metricsOf(project string, samples []telemetry.Sample) message {
	m := pmetric.NewMetrics()
	type place struct {
		source
		name string
	}
	lists := map[source]pmetric.MetricSlice{}
	metrics := map[place]pmetric.Metric{}
	for i := range samples {
		in := &samples[i]
		at := place{source{service: cmp.Or(in.Labels["service"], project), instance: in.Labels["instance"]}, in.Labels["__name__"]}
		list, ok := lists[at.source]
		if !ok {
			rm := m.ResourceMetrics().AppendEmpty()
			at.describe(rm.Resource())
			list = rm.ScopeMetrics().AppendEmpty().Metrics()
			lists[at.source] = list
		}
		metric, ok := metrics[at]
		if !ok {
			metric = list.AppendEmpty()
			metric.SetName(at.name)
			metrics[at] = metric
		}
		writeSample(metric, in)
	}
	return pmetricotlp.NewExportRequestFromMetrics(m)
}

func writeSample(metric pmetric.Metric, in *telemetry.Sample) {
	var began pcommon.Timestamp
	if !in.Created.IsZero() {
		began = pcommon.NewTimestampFromTime(in.Created)
	}
	at := pcommon.NewTimestampFromTime(in.Time)
	if in.Distribution != nil {
		if metric.Type() != pmetric.MetricTypeExponentialHistogram {
			metric.SetEmptyExponentialHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		}
		point := metric.ExponentialHistogram().DataPoints().AppendEmpty()
		point.SetStartTimestamp(began)
		point.SetTimestamp(at)
		putLabels(point.Attributes(), in.Labels)
		writeDistribution(point, in.Distribution)
		if e := in.Exemplar; e != nil {
			to := point.Exemplars().AppendEmpty()
			to.SetTimestamp(pcommon.NewTimestampFromTime(e.Time))
			to.SetDoubleValue(e.Value)
			to.SetTraceID(pcommon.TraceID(e.Trace))
			to.SetSpanID(pcommon.SpanID(e.Span))
		}
		return
	}
	var points pmetric.NumberDataPointSlice
	switch {
	case in.Cumulative || strings.HasSuffix(in.Labels["__name__"], "_total"):
		if metric.Type() != pmetric.MetricTypeSum {
			sum := metric.SetEmptySum()
			sum.SetIsMonotonic(true)
			sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		}
		points = metric.Sum().DataPoints()
	default:
		if metric.Type() != pmetric.MetricTypeGauge {
			metric.SetEmptyGauge()
		}
		points = metric.Gauge().DataPoints()
	}
	point := points.AppendEmpty()
	point.SetStartTimestamp(began)
	point.SetTimestamp(at)
	point.SetDoubleValue(in.Value)
	putLabels(point.Attributes(), in.Labels)
}

// histogramScale makes buckets 4.4 % wide: 2^(2^-4). Bucket i holds (base^i, base^(i+1)].
const histogramScale = 4

func writeDistribution(point pmetric.ExponentialHistogramDataPoint, d *telemetry.Distribution) {
	point.SetScale(histogramScale)
	buckets := map[int]uint64{}
	var count uint64
	for v, n := range d.Counts {
		count += n
		if v <= 0 {
			point.SetZeroCount(point.ZeroCount() + n)
			continue
		}
		buckets[int(math.Ceil(math.Log2(v)*(1<<histogramScale)))-1] += n
	}
	point.SetCount(count)
	point.SetSum(d.Sum())
	if len(buckets) == 0 {
		return
	}
	keys := slices.Sorted(maps.Keys(buckets))
	counts := make([]uint64, keys[len(keys)-1]-keys[0]+1)
	for i, n := range buckets {
		counts[i-keys[0]] = n
	}
	point.Positive().SetOffset(int32(keys[0]))
	point.Positive().BucketCounts().FromRaw(counts)
}

func putLabels(m pcommon.Map, labels map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if k != "__name__" && k != "service" && k != "instance" {
			m.PutStr(k, labels[k])
		}
	}
}

func putAll(m pcommon.Map, all map[string]any) {
	for _, k := range slices.Sorted(maps.Keys(all)) {
		put(m.PutEmpty(k), all[k])
	}
}

func put(out pcommon.Value, v any) {
	switch v := v.(type) {
	case string:
		out.SetStr(v)
	case bool:
		out.SetBool(v)
	case int:
		out.SetInt(int64(v))
	case int64:
		out.SetInt(v)
	case float64:
		out.SetDouble(v)
	case []any:
		list := out.SetEmptySlice()
		for _, one := range v {
			put(list.AppendEmpty(), one)
		}
	case map[string]any:
		putAll(out.SetEmptyMap(), v)
	}
}
