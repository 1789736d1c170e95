package metrics

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"trellis/telemetry"
)

// sent is one sample that a program sends.
type sent struct {
	name, id string
	at       time.Time
	value    float64
}

// postedOTLP sends a batch by OTLP, and returns the answer.
func postedOTLP(t *testing.T, s *Store, batch []sent) *httptest.ResponseRecorder {
	t.Helper()
	all := pmetric.NewMetrics()
	scope := all.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty()
	for _, one := range batch {
		m := scope.Metrics().AppendEmpty()
		m.SetName(one.name)
		p := m.SetEmptyGauge().DataPoints().AppendEmpty()
		p.Attributes().PutStr("id", one.id)
		p.SetTimestamp(pcommon.NewTimestampFromTime(one.at))
		p.SetDoubleValue(one.value)
	}
	body, err := pmetricotlp.NewExportRequestFromMetrics(all).MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	return posted(s, "/api/v1/otlp/v1/metrics", "application/x-protobuf", body)
}

// postedWrite is postedOTLP by remote write 1.0.
func postedWrite(t *testing.T, s *Store, batch []sent) *httptest.ResponseRecorder {
	t.Helper()
	var req prompb.WriteRequest
	for _, one := range batch {
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
			Labels:  []prompb.Label{{Name: "__name__", Value: one.name}, {Name: "id", Value: one.id}},
			Samples: []prompb.Sample{{Value: one.value, Timestamp: one.at.UnixMilli()}},
		})
	}
	body, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return posted(s, "/api/v1/write", "application/x-protobuf", snappy.Encode(nil, body))
}

// postedWrite2 is postedOTLP by remote write 2.0.
func postedWrite2(t *testing.T, s *Store, batch []sent) *httptest.ResponseRecorder {
	t.Helper()
	symbols := writev2.NewSymbolTable()
	var req writev2.Request
	for _, one := range batch {
		req.Timeseries = append(req.Timeseries, writev2.TimeSeries{
			LabelsRefs: []uint32{symbols.Symbolize("__name__"), symbols.Symbolize(one.name), symbols.Symbolize("id"), symbols.Symbolize(one.id)},
			Samples:    []writev2.Sample{{Value: one.value, Timestamp: one.at.UnixMilli()}},
		})
	}
	req.Symbols = symbols.Symbols()
	body, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return posted(s, "/api/v1/write", "application/x-protobuf;proto=io.prometheus.write.v2.Request", snappy.Encode(nil, body))
}

func posted(s *Store, path, kind string, body []byte) *httptest.ResponseRecorder {
	w, req := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
	req.Header.Set("Content-Type", kind)
	if path == "/api/v1/write" {
		req.Header.Set("Content-Encoding", "snappy")
	}
	s.Handler().ServeHTTP(w, req)
	return w
}

// TestABatchIsTakenInPart: what one program does wrong costs nobody else whose metrics come in the same batch, whatever it is and comes
// by; its sender is told, not to send it again, and the loss is counted.
func TestABatchIsTakenInPart(t *testing.T) {
	for way, post := range map[string]func(*testing.T, *Store, []sent) *httptest.ResponseRecorder{"OTLP": postedOTLP, "write 1": postedWrite, "write 2": postedWrite2} {
		t.Run(way, func(t *testing.T) {
			s, stop := opened(t, Config{MaxSeries: 20})
			defer stop()
			now := time.Now()
			if w := post(t, s, []sent{{"good", "a", now.Add(-2 * time.Second), 1}, {"good", "b", now.Add(-2 * time.Second), 1}}); w.Code/100 != 2 {
				t.Fatalf("a good batch: %d %s", w.Code, w.Body)
			}
			batch := []sent{
				{"good", "a", now.Add(-30 * time.Hour), 7}, {"large", strings.Repeat("ü", maxLabels/2), now, 1}, {"good", "a", now, 2},
			}
			for i := range 30 {
				batch = append(batch, sent{"bomb", fmt.Sprint(i), now, 1})
			}
			w := post(t, s, append(batch, sent{"good", "b", now, 3}))
			if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "too old sample") {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if got := only(t, s, "sum(good)", now); got != 5 {
				t.Errorf("beside what was refused is written %v, want 5", got)
			}
			bombs := int(only(t, s, "count(bomb)", now))
			if bombs < 10 || bombs > 18 {
				t.Errorf("%d series of 20", bombs)
			}
			lost := s.Health().Lost
			if lost[telemetry.LossLimit] != uint64(30-bombs) || lost[telemetry.LossTooLarge] != 1 || way != "write 2" && lost[telemetry.LossTooLate] != 1 {
				t.Errorf("lost %v with %d bombs", lost, bombs)
			}
			if got, want := w.Header().Get(telemetry.RefusedHeader), fmt.Sprint(30-bombs+2); way != "write 2" && got != want {
				t.Errorf("told are %q, want %s", got, want)
			}
		})
	}
}

// TestWhatIsNotWrittenIsNotSaidToBe: a receiver that does not look at how a batch was written must not answer that it was.
func TestWhatIsNotWrittenIsNotSaidToBe(t *testing.T) {
	for why, want := range map[error]int{nil: 204, errSeriesLimit: 400, errors.New("no space left on device"): 503} {
		w := httptest.NewRecorder()
		(&answer{ResponseWriter: w, why: why}).WriteHeader(http.StatusNoContent)
		if w.Code != want || (why != nil) != strings.Contains(w.Body.String(), fmt.Sprint(why)) {
			t.Errorf("%v: %d %s", why, w.Code, w.Body)
		}
	}
}
