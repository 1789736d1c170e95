package metrics

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"trellis/telemetry"
)

// Expose answers a scrape with samples as they are now, in the format that whoever asks takes best. Native histograms are in the binary
// one alone; any other has only how many values there were, and their sum. Of labels, which whoever scrapes has a value of its own for,
// one that a sample has not is said to be empty, so that it stays away.
func Expose(w http.ResponseWriter, r *http.Request, samples []telemetry.Sample, labels ...string) {
	format := expfmt.NegotiateAccept(r.Header, expfmt.DefaultAcceptedFormats()...)
	w.Header().Set("Content-Type", string(format))
	enc := expfmt.NewEncoder(w, format)
	for _, f := range families(samples, labels) {
		if enc.Encode(f) != nil {
			return // who asked does not listen any more
		}
	}
}

// families are samples by the names of their metrics, in order.
func families(samples []telemetry.Sample, labels []string) []*dto.MetricFamily {
	byName := map[string]*dto.MetricFamily{}
	for i := range samples {
		sample := &samples[i]
		name := sample.Labels["__name__"]
		f := byName[name]
		if f == nil {
			kind := dto.MetricType_GAUGE
			switch {
			case sample.Distribution != nil:
				kind = dto.MetricType_HISTOGRAM
			case sample.Cumulative || strings.HasSuffix(name, "_total"):
				kind = dto.MetricType_COUNTER
			}
			f = &dto.MetricFamily{Name: &name, Type: &kind}
			byName[name] = f
		}
		one := &dto.Metric{Label: pairs(sample.Labels, labels)}
		switch f.GetType() {
		case dto.MetricType_HISTOGRAM:
			one.Histogram = exposed(sample.Distribution)
		case dto.MetricType_COUNTER:
			one.Counter = &dto.Counter{Value: &sample.Value}
		default:
			one.Gauge = &dto.Gauge{Value: &sample.Value}
		}
		f.Metric = append(f.Metric, one)
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b *dto.MetricFamily) int { return cmp.Compare(a.GetName(), b.GetName()) })
}

func pairs(of map[string]string, labels []string) []*dto.LabelPair {
	var all []*dto.LabelPair
	add := func(name, value string) { all = append(all, &dto.LabelPair{Name: &name, Value: &value}) }
	for _, name := range slices.Sorted(maps.Keys(of)) {
		if name != "__name__" {
			add(name, of[name])
		}
	}
	for _, name := range labels {
		if _, has := of[name]; !has {
			add(name, "")
		}
	}
	return all
}

// exposed is a distribution as it is exposed: the native histogram that Append would have written.
func exposed(d *telemetry.Distribution) *dto.Histogram {
	h := native(d)
	out := &dto.Histogram{
		SampleCount: &h.Count, SampleSum: &h.Sum, Schema: &h.Schema, ZeroThreshold: &h.ZeroThreshold, ZeroCount: &h.ZeroCount,
		PositiveDelta: h.PositiveBuckets,
	}
	for _, s := range h.PositiveSpans {
		out.PositiveSpan = append(out.PositiveSpan, &dto.BucketSpan{Offset: &s.Offset, Length: &s.Length})
	}
	return out
}
