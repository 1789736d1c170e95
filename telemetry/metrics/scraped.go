package metrics

import (
	"context"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"

	"trellis/telemetry"
)

// teller gives what is scraped to Config.Scraped too. Native histograms are left out: they are the store's own form.
type teller struct {
	to   storage.AppendableV2
	tell func([]telemetry.Sample)
}

// AppenderV2 implements storage.AppendableV2.
func (t teller) AppenderV2(ctx context.Context) storage.AppenderV2 {
	return &telling{AppenderV2: t.to.AppenderV2(ctx), tell: t.tell}
}

// telling is one scrape.
type telling struct {
	storage.AppenderV2
	tell    func([]telemetry.Sample)
	samples []telemetry.Sample
}

// ownSeries are what Prometheus notes of a scrape itself.
func ownSeries(name string) bool {
	return slices.Contains([]string{
		"up", "scrape_duration_seconds", "scrape_samples_scraped", "scrape_samples_post_metric_relabeling", "scrape_series_added",
	}, name)
}

func (t *telling) Append(ref storage.SeriesRef, ls labels.Labels, st, at int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, opts storage.AppendV2Options) (storage.SeriesRef, error) {
	got, err := t.AppenderV2.Append(ref, ls, st, at, v, h, fh, opts)
	if h == nil && fh == nil && !value.IsStaleNaN(v) && !ownSeries(ls.Get(model.MetricNameLabel)) {
		one := telemetry.Sample{Labels: ls.Map(), Time: timeOf(at), Value: v, Cumulative: opts.Metadata.Type == model.MetricTypeCounter}
		if st > 0 {
			one.Created = timeOf(st)
		}
		t.samples = append(t.samples, one)
	}
	return got, err
}

func (t *telling) Commit() error {
	err := t.AppenderV2.Commit()
	t.tell(t.samples)
	return err
}
