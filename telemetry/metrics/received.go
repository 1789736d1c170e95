package metrics

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"trellis/telemetry"
)

// receivers gives out the appenders of what programs and other stores send. Prometheus' receivers of OTLP and of remote write 1.0 take
// one sample that is refused for a refusal of the whole request; what one program does wrong would cost all whose metrics came in its
// batch. Here what can be written is, and what was refused is said at the end. (The receiver of remote write 2.0 does so by itself.)
type receivers struct{ limiter }

// answer is that to a request that is taken in part. Prometheus' receiver of OTLP does not look at what Commit returns.
type answer struct {
	http.ResponseWriter
	why error // what Commit returned
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	switch {
	case a.why == nil || status/100 != 2:
		a.ResponseWriter.WriteHeader(status)
	case final(a.why):
		http.Error(a.ResponseWriter, a.why.Error(), http.StatusBadRequest)
	default:
		http.Error(a.ResponseWriter, a.why.Error(), http.StatusServiceUnavailable)
	}
}

// answerKey is that of an answer in the context of its request.
type answerKey struct{}

// inPart has r be taken as far as it can be, where its receiver would not do so.
func inPart(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, *http.Request) {
	switch r.URL.Path {
	case "/api/v1/otlp/v1/metrics":
	case "/api/v1/write":
		if _, params, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || params["proto"] == "io.prometheus.write.v2.Request" {
			return w, r
		}
	default:
		return w, r
	}
	a := &answer{ResponseWriter: w}
	return a, r.WithContext(context.WithValue(r.Context(), answerKey{}, a))
}

// AppenderV2 implements storage.AppendableV2.
func (r receivers) AppenderV2(ctx context.Context) storage.AppenderV2 {
	to := r.limited(ctx)
	if a, ok := ctx.Value(answerKey{}).(*answer); ok {
		return &received{limited: to, answer: a}
	}
	return to
}

// received is the appender of one request that is taken in part.
type received struct {
	*limited
	answer   *answer
	all, bad int   // samples: that came, that were refused
	why      error // of the first that was refused
}

// Append keeps what must not be sent again to itself until Commit.
func (r *received) Append(ref storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, opts storage.AppendV2Options) (storage.SeriesRef, error) {
	r.all++
	got, err := r.limited.Append(ref, ls, st, t, v, h, fh, opts)
	if err == nil || errors.Is(err, (*storage.AppendPartialError)(nil)) || !final(err) {
		return got, err
	}
	switch {
	case counted(err):
	case errors.Is(err, storage.ErrDuplicateSampleForTimestamp):
		r.s.lose(telemetry.LossInvalid, 1)
	default:
		r.s.lose(telemetry.LossTooLate, 1)
	}
	if r.bad++; r.why == nil {
		r.why = fmt.Errorf("%s: %w", shortened(ls.String()), err)
	}
	return 0, nil
}

// final says that a sample is refused whenever it is sent.
func final(err error) bool {
	return errors.Is(err, storage.ErrOutOfOrderSample) || errors.Is(err, storage.ErrOutOfBounds) ||
		errors.Is(err, storage.ErrDuplicateSampleForTimestamp) || errors.Is(err, storage.ErrTooOldSample)
}

// Commit writes what was taken. It returns why the rest was not, which its sender is told, as is how much it is.
func (r *received) Commit() error {
	err := r.limited.Commit()
	if err == nil && r.bad > 0 {
		r.answer.Header().Set(telemetry.RefusedHeader, strconv.Itoa(r.bad))
		err = fmt.Errorf("%d of %d samples are not taken, the first of them %w", r.bad, r.all, r.why)
	}
	r.answer.why = err
	return err
}

// maxTold bounds what is told of a series, in bytes.
const maxTold = 300

func shortened(series string) string {
	if len(series) <= maxTold {
		return series
	}
	return strings.ToValidUTF8(series[:maxTold], "") + "…"
}
