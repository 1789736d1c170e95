package metrics

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"

	"trellis/telemetry"
)

// series is one that Append has written to.
type series struct {
	ref    storage.SeriesRef
	labels labels.Labels
	round  uint64 // of the last Append that named it
	histo  bool
}

// Both are refused like a sample that is too old: whoever sent it must not send it again.
var (
	errSeriesLimit = fmt.Errorf("too many series: %w", storage.ErrOutOfBounds)
	errLabelsSize  = fmt.Errorf("labels of more than %d bytes: %w", maxLabels, storage.ErrOutOfBounds)
)

// maxLabels bounds names and values of one series' labels together, in bytes: with MaxSeries it bounds what they need of memory.
const maxLabels = 16 << 10

// counted says that the limiter has counted a sample as lost.
func counted(err error) bool { return errors.Is(err, errSeriesLimit) || errors.Is(err, errLabelsSize) }

// Append writes samples that belong to one round. Series that the round before had and this one has not are ended, so
// that a query does not see them for another five minutes. What cannot be written is counted; the error is that of the
// whole round.
func (s *Store) Append(ctx context.Context, round uint64, samples []telemetry.Sample) error {
	if err := s.ready(); err != nil {
		s.lose(telemetry.LossDisk, len(samples))
		return err
	}
	s.mu.Lock()
	refs := s.refs
	s.mu.Unlock()
	app := s.own().AppenderV2(ctx)
	written := 0
	for i := range samples {
		if s.appendOne(app, refs, round, &samples[i]) {
			written++
		}
	}
	now := time.Now().UnixMilli()
	for key, one := range refs {
		if one.round == round {
			continue
		}
		delete(refs, key)
		stale(app, one, now) // one that cannot be ended ends by itself
	}
	err := app.Commit()
	s.failed(err)
	if err != nil {
		clear(refs) // their end was not written either
		s.lose(telemetry.LossDisk, written)
		return fmt.Errorf("append metrics: %w", err)
	}
	s.accepted.Add(uint64(written))
	return nil
}

// stale ends a series.
func stale(app storage.AppenderV2, one *series, now int64) {
	if one.histo {
		_, _ = app.Append(one.ref, one.labels, 0, now, 0, &histogram.Histogram{Sum: math.Float64frombits(value.StaleNaN)}, nil, storage.AppendV2Options{})
		return
	}
	_, _ = app.Append(one.ref, one.labels, 0, now, math.Float64frombits(value.StaleNaN), nil, nil, storage.AppendV2Options{})
}

func (s *Store) appendOne(app storage.AppenderV2, refs map[string]*series, round uint64, sample *telemetry.Sample) bool {
	key := keyOf(sample.Labels)
	one := refs[key]
	fresh := one == nil
	if fresh {
		one = &series{labels: labels.FromMap(sample.Labels), histo: sample.Distribution != nil}
	}
	at := sample.Time.UnixMilli()
	var h *histogram.Histogram
	if one.histo {
		h = native(sample.Distribution)
	}
	if fresh && !sample.Created.IsZero() && sample.Created.UnixMilli() < at { // a rate is to see the first of it too
		var zero *histogram.Histogram
		if one.histo {
			zero = &histogram.Histogram{Schema: nativeSchema, ZeroThreshold: zeroThreshold}
		}
		var err error
		if one.ref, err = app.Append(0, one.labels, 0, sample.Created.UnixMilli(), 0, zero, nil, storage.AppendV2Options{}); counted(err) {
			return false
		}
	}
	opts := storage.AppendV2Options{}
	if e := sample.Exemplar; e != nil {
		opts.Exemplars = []exemplar.Exemplar{{
			Labels: labels.FromStrings("trace_id", e.Trace.String(), "span_id", e.Span.String()), Value: e.Value, Ts: e.Time.UnixMilli(), HasTs: true,
		}}
	}
	ref, err := app.Append(one.ref, one.labels, 0, at, sample.Value, h, nil, opts)
	_, err = (*storage.AppendPartialError)(nil).Handle(err) // an exemplar that is too old is no loss
	switch {
	case counted(err):
		return false
	case err != nil:
		s.lose(telemetry.LossInvalid, 1)
		return false
	}
	one.ref, one.round = ref, round
	refs[key] = one
	return true
}

func keyOf(l map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(l)) {
		b.WriteString(k)
		b.WriteByte(0xff)
		b.WriteString(l[k])
		b.WriteByte(0xff)
	}
	return b.String()
}

// A native histogram of this schema has 16 buckets to each power of two, each 4.4 % wider than the one before.
const (
	nativeSchema  = 4
	zeroThreshold = 1e-9 // seconds: no duration is as short
)

// native makes a native histogram of a distribution.
func native(d *telemetry.Distribution) *histogram.Histogram {
	h := &histogram.Histogram{Schema: nativeSchema, ZeroThreshold: zeroThreshold, Sum: d.Sum()}
	buckets := map[int]uint64{}
	for v, n := range d.Counts {
		h.Count += n
		if v <= zeroThreshold {
			h.ZeroCount += n
			continue
		}
		buckets[int(math.Ceil(math.Log2(v)*(1<<nativeSchema)))] += n
	}
	next, last := 0, int64(0)
	for i, at := range slices.SortedFunc(maps.Keys(buckets), cmp.Compare[int]) {
		if i == 0 || at != next {
			h.PositiveSpans = append(h.PositiveSpans, histogram.Span{Offset: int32(at - next)})
		}
		h.PositiveSpans[len(h.PositiveSpans)-1].Length++
		n := int64(buckets[at])
		h.PositiveBuckets = append(h.PositiveBuckets, n-last)
		next, last = at+1, n
	}
	return h
}

// reserved is the part of MaxSeries that comes on top for what Trellis itself measures and for what rules record: a program
// that floods the store must not hide itself, nor anything else that goes wrong.
const reserved = 5

// limiter refuses samples of new series when there are max, and of labels beyond maxLabels, and counts them as lost. It stands before
// everything that writes.
type limiter struct {
	s   *Store
	max int
}

// own is the limiter of what Trellis itself measures and of rules.
func (s *Store) own() limiter { return limiter{s, s.cfg.MaxSeries + s.cfg.MaxSeries/reserved} }

// AppenderV2 implements storage.AppendableV2.
func (l limiter) AppenderV2(ctx context.Context) storage.AppenderV2 { return l.limited(ctx) }

func (l limiter) limited(ctx context.Context) *limited {
	return &limited{AppenderV2: l.s.db.AppenderV2(ctx), s: l.s, max: uint64(l.max), tracker: l.s.remote.storage.AppenderV2(ctx)}
}

type limited struct {
	storage.AppenderV2
	s       *Store
	max     uint64
	tracker storage.AppenderV2 // of what is sent on: it only counts, and sees to it that there are connections enough

	taken, refused, large int // samples: written, beyond max, beyond maxLabels
}

func (l *limited) Append(ref storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, opts storage.AppendV2Options) (storage.SeriesRef, error) {
	if ref == 0 && ls.ByteSize() > maxLabels {
		l.large++
		return 0, errLabelsSize
	}
	if ref == 0 && l.s.db.Head().NumSeries() >= l.max && !l.known(ls) {
		l.refused++
		return 0, errSeriesLimit
	}
	got, err := l.AppenderV2.Append(ref, ls, st, t, v, h, fh, opts)
	if err == nil {
		l.taken++
		_, _ = l.tracker.Append(0, ls, st, t, v, h, fh, opts)
	}
	return got, err
}

// AppendExemplars implements storage.ExemplarAppenderV2, which remote write comes in by.
func (l *limited) AppendExemplars(ref storage.SeriesRef, ls labels.Labels, exemplars []exemplar.Exemplar) (storage.SeriesRef, error) {
	to, ok := l.AppenderV2.(storage.ExemplarAppenderV2)
	if !ok {
		return ref, nil
	}
	return to.AppendExemplars(ref, ls, exemplars)
}

// Commit implements storage.AppenderTransaction.
func (l *limited) Commit() error {
	l.lose()
	if err := l.AppenderV2.Commit(); err != nil {
		_ = l.tracker.Rollback()
		return err
	}
	return l.tracker.Commit()
}

// lose counts what was refused.
func (l *limited) lose() {
	if l.refused > 0 {
		l.s.lose(telemetry.LossLimit, l.refused)
	}
	if l.large > 0 {
		l.s.lose(telemetry.LossTooLarge, l.large)
	}
}

// Rollback implements storage.AppenderTransaction. Whoever takes a refusal for that of all, which scrapes do not, loses with the samples
// that were refused those beside them.
func (l *limited) Rollback() error {
	if l.refused > 0 {
		l.refused += l.taken
	} else if l.large > 0 {
		l.large += l.taken
	}
	l.lose()
	_ = l.tracker.Rollback()
	return l.AppenderV2.Rollback()
}

// known says whether the head has the series already.
func (l *limited) known(ls labels.Labels) bool {
	getter, ok := l.AppenderV2.(storage.GetRef)
	if !ok {
		return false
	}
	ref, _ := getter.GetRef(ls, ls.Hash())
	return ref != 0
}

// GetRef implements storage.GetRef for those that keep references.
func (l *limited) GetRef(ls labels.Labels, hash uint64) (storage.SeriesRef, labels.Labels) {
	if getter, ok := l.AppenderV2.(storage.GetRef); ok {
		return getter.GetRef(ls, hash)
	}
	return 0, labels.EmptyLabels()
}
