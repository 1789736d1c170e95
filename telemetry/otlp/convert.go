package otlp

import (
	"math"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"trellis/telemetry"
)

// Bounds of one item: the defaults of OpenTelemetry's SDKs for counts, and a length that a value is cut to.
const (
	maxAttributes = 128
	maxKey        = 256
	maxValue      = 4096
	maxBodyText   = 64 << 10
	maxEvents     = 128
	maxLinks      = 128
	maxDepth      = 8
)

// source is who sent something, by its resource.
type source struct {
	service, instance string
	revision          int64
}

// sourceOf reads a resource. An attribute that says nothing more about the sender than Trellis knows is left out.
func sourceOf(r pcommon.Resource) (source, map[string]any) {
	s := source{service: "unknown_service"}
	rest := map[string]any{}
	r.Attributes().Range(func(k string, v pcommon.Value) bool {
		switch k {
		case "service.name":
			s.service = cut(v.AsString(), maxKey)
		case "service.instance.id":
			s.instance = cut(v.AsString(), maxKey)
		case "trellis.revision":
			s.revision, _ = strconv.ParseInt(v.AsString(), 10, 64)
		case "service.namespace", "telemetry.sdk.language", "telemetry.sdk.name", "telemetry.sdk.version", "process.pid":
		default:
			if len(rest) < 32 {
				rest[cut(k, maxKey)] = value(v, 0)
			}
		}
		return true
	})
	return s, rest
}

// spansOf returns the spans of a request and how many have no valid ID.
func spansOf(t ptrace.Traces) (all []telemetry.Span, bad int) {
	for _, rs := range t.ResourceSpans().All() {
		from, resource := sourceOf(rs.Resource())
		for _, ss := range rs.ScopeSpans().All() {
			for _, in := range ss.Spans().All() {
				if in.TraceID().IsEmpty() || in.SpanID().IsEmpty() || in.StartTimestamp() == 0 {
					bad++
					continue
				}
				all = append(all, span(in, from, resource, cut(ss.Scope().Name(), maxKey)))
			}
		}
	}
	return all, bad
}

func span(in ptrace.Span, from source, resource map[string]any, scope string) telemetry.Span {
	s := telemetry.Span{
		Trace: telemetry.TraceID(in.TraceID()), ID: telemetry.SpanID(in.SpanID()), Parent: telemetry.SpanID(in.ParentSpanID()),
		Service: from.service, Instance: from.instance, Revision: from.revision,
		Name: cut(in.Name(), maxValue), Kind: kind(in.Kind()), Start: in.StartTimestamp().AsTime(), Message: cut(in.Status().Message(), maxValue),
		Scope: scope, Attributes: attributes(in.Attributes(), resource),
	}
	s.Duration = max(0, in.EndTimestamp().AsTime().Sub(s.Start))
	switch in.Status().Code() {
	case ptrace.StatusCodeOk:
		s.Status = telemetry.StatusOK
	case ptrace.StatusCodeError:
		s.Status = telemetry.StatusError
	}
	for i := range min(in.Events().Len(), maxEvents) {
		e := in.Events().At(i)
		s.Events = append(s.Events, telemetry.SpanEvent{Time: e.Timestamp().AsTime(), Name: cut(e.Name(), maxKey), Attributes: attributes(e.Attributes(), nil)})
	}
	for i := range min(in.Links().Len(), maxLinks) {
		l := in.Links().At(i)
		s.Links = append(s.Links, telemetry.SpanLink{Trace: telemetry.TraceID(l.TraceID()), Span: telemetry.SpanID(l.SpanID()), Attributes: attributes(l.Attributes(), nil)})
	}
	return s
}

func kind(k ptrace.SpanKind) string {
	switch k {
	case ptrace.SpanKindServer:
		return telemetry.KindServer
	case ptrace.SpanKindClient:
		return telemetry.KindClient
	case ptrace.SpanKindProducer:
		return telemetry.KindProducer
	case ptrace.SpanKindConsumer:
		return telemetry.KindConsumer
	}
	return telemetry.KindInternal
}

// recordsOf returns the log records of a request.
func recordsOf(l plog.Logs) (all []telemetry.Record) {
	now := time.Now()
	for _, rl := range l.ResourceLogs().All() {
		from, resource := sourceOf(rl.Resource())
		for _, sl := range rl.ScopeLogs().All() {
			for _, in := range sl.LogRecords().All() {
				at := now
				if in.Timestamp() != 0 {
					at = in.Timestamp().AsTime()
				} else if in.ObservedTimestamp() != 0 {
					at = in.ObservedTimestamp().AsTime()
				}
				all = append(all, telemetry.Record{
					Time: at, Service: from.service, Instance: from.instance, Revision: from.revision, Stream: telemetry.StreamOTLP,
					Severity: severity(in), Body: cut(in.Body().AsString(), maxBodyText),
					Trace: telemetry.TraceID(in.TraceID()), Span: telemetry.SpanID(in.SpanID()), Attributes: attributes(in.Attributes(), resource),
				})
			}
		}
	}
	return all
}

// severity follows the ranges of OpenTelemetry's log data model. Where there is only the text, what that says counts.
func severity(in plog.LogRecord) string {
	switch n := in.SeverityNumber(); {
	case n <= 0:
		return telemetry.SeverityOf(in.SeverityText())
	case n < 5:
		return telemetry.SeverityTrace
	case n < 9:
		return telemetry.SeverityDebug
	case n < 13:
		return telemetry.SeverityInfo
	case n < 17:
		return telemetry.SeverityWarn
	case n < 21:
		return telemetry.SeverityError
	}
	return telemetry.SeverityFatal
}

// attributes returns at most maxAttributes attributes, those of the resource after the item's own.
func attributes(m pcommon.Map, resource map[string]any) map[string]any {
	if m.Len()+len(resource) == 0 {
		return nil
	}
	all := make(map[string]any, min(m.Len()+len(resource), maxAttributes))
	m.Range(func(k string, v pcommon.Value) bool {
		all[cut(k, maxKey)] = value(v, 0)
		return len(all) < maxAttributes
	})
	for k, v := range resource {
		if _, own := all[k]; !own && len(all) < maxAttributes {
			all[k] = v
		}
	}
	return all
}

func value(v pcommon.Value, depth int) any {
	switch v.Type() {
	case pcommon.ValueTypeStr:
		return cut(v.Str(), maxValue)
	case pcommon.ValueTypeBool:
		return v.Bool()
	case pcommon.ValueTypeInt:
		return v.Int()
	case pcommon.ValueTypeDouble:
		if f := v.Double(); !math.IsNaN(f) && !math.IsInf(f, 0) {
			return f
		}
	case pcommon.ValueTypeSlice:
		if depth == maxDepth {
			return "..."
		}
		list := []any{}
		for i := range min(v.Slice().Len(), maxAttributes) {
			list = append(list, value(v.Slice().At(i), depth+1))
		}
		return list
	case pcommon.ValueTypeMap:
		if depth == maxDepth {
			return "..."
		}
		all := map[string]any{}
		v.Map().Range(func(k string, v pcommon.Value) bool {
			all[cut(k, maxKey)] = value(v, depth+1)
			return len(all) < maxAttributes
		})
		return all
	}
	return cut(v.AsString(), maxValue)
}

// cut shortens a text at the begin of a character, and makes UTF-8 of what is none: the message that it is forwarded in would be refused
// as a whole. A part is a copy, for it would keep the whole of a request in memory, of which the queue that it waits in counts the part.
func cut(s string, n int) string {
	if len(s) > n {
		for n > 0 && s[n]&0xc0 == 0x80 {
			n--
		}
		s = strings.Clone(s[:n])
	}
	return strings.ToValidUTF8(s, "\ufffd")
}
