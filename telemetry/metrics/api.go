package metrics

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	remoteapi "github.com/prometheus/client_golang/exp/api/remote"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/features"
	"github.com/prometheus/prometheus/util/notifications"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"trellis/errdefs"
)

// newHandler returns Prometheus' own API over the store. Its constructor promises nothing about its arguments: it is
// called here and nowhere else, and a test asks each endpoint.
func newHandler(s *Store, to storage.AppendableV2) http.Handler {
	registry := prometheus.NewRegistry()
	cfg := s.scraper.read
	api := v1.NewAPI(s.engine, s.db, to, s.db,
		func(context.Context) v1.ScrapePoolsRetriever { return s.scraper.manager },
		func(context.Context) v1.TargetRetriever { return s.scraper.manager },
		func(context.Context) v1.AlertmanagerRetriever { return noAlertmanagers{} },
		func() config.Config { return *cfg },
		map[string]string{}, v1.GlobalURLOptions{Scheme: "http"},
		func(f http.HandlerFunc) http.HandlerFunc { return f },
		admin{s.db}, s.cfg.Dir, false, false, 0, s.cfg.Log,
		func(context.Context) v1.RulesRetriever { return s.rules.manager },
		5e7, 10, 1<<20, false, nil,
		func() (v1.RuntimeInfo, error) {
			return v1.RuntimeInfo{
				GoroutineCount: runtime.NumGoroutine(), GOMAXPROCS: runtime.GOMAXPROCS(0), ServerTime: time.Now(), ReloadConfigSuccess: true,
				StorageRetention: s.cfg.MaxAge.String(),
			}, nil
		},
		&v1.PrometheusVersion{Version: "3.0.0", GoVersion: runtime.Version()}, // clients choose what to ask for by it
		func() []notifications.Notification { return nil },
		func() (<-chan notifications.Notification, func(), bool) { return nil, func() {}, false },
		registry, registry, nil,
		true, remoteapi.MessageTypes{remoteapi.WriteV1MessageType, remoteapi.WriteV2MessageType},
		true, false, false, 5*time.Minute, false, false, nil, features.NewRegistry(), v1.OpenAPIOptions{}, s.parser, false, 30*time.Second,
	)
	router := route.New()
	api.Register(router.WithPrefix("/api/v1"))
	router.Get("/federate", s.federate)
	return http.MaxBytesHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v1/openapi.yaml" { // who builds it is a stand-in: third_party
			http.NotFound(w, r)
			return
		}
		router.ServeHTTP(inPart(w, r))
	}), maxBody)
}

// maxBody bounds what may be sent to the API: a batch of remote write or OTLP.
const maxBody = 32 << 20

// admin answers what the API asks of the database; what would change it is refused.
type admin struct{ db *tsdb.DB }

func (a admin) CleanTombstones() error { return errdefs.ErrUnsupported }
func (a admin) Delete(context.Context, int64, int64, ...*labels.Matcher) error {
	return errdefs.ErrUnsupported
}
func (a admin) Snapshot(string, bool) error { return errdefs.ErrUnsupported }
func (a admin) Stats(label string, limit int) (*tsdb.Stats, error) {
	return a.db.Head().Stats(label, limit), nil
}
func (a admin) WALReplayStatus() (tsdb.WALReplayStatus, error) { return tsdb.WALReplayStatus{}, nil }
func (a admin) BlockMetas() ([]tsdb.BlockMeta, error)          { return a.db.BlockMetas(), nil }

type noAlertmanagers struct{}

func (noAlertmanagers) Alertmanagers() []*url.URL        { return nil }
func (noAlertmanagers) DroppedAlertmanagers() []*url.URL { return nil }

// federate answers with the newest sample of every series that matches, in Prometheus' text format, so that another
// Prometheus can scrape them. A native histogram has no text form: it is given as its count and its sum.
func (s *Store) federate(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if len(r.Form["match[]"]) == 0 {
		http.Error(w, "match[] is missing", http.StatusBadRequest)
		return
	}
	found := map[string]string{}
	for _, match := range r.Form["match[]"] {
		if _, err := s.parser.ParseMetricSelector(match); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		q, err := s.engine.NewInstantQuery(r.Context(), s.db, nil, match, time.Now())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		res := q.Exec(r.Context())
		vector, ok := res.Value.(promql.Vector)
		if res.Err != nil || !ok {
			q.Close()
			http.Error(w, fmt.Sprint(res.Err), http.StatusServiceUnavailable)
			return
		}
		for _, one := range vector {
			exposition(found, one)
		}
		q.Close()
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	lines := make([]string, 0, len(found))
	for k, v := range found {
		lines = append(lines, k+" "+v+"\n")
	}
	slices.Sort(lines)
	for _, line := range lines {
		if _, err := w.Write([]byte(line)); err != nil {
			return
		}
	}
}

// exposition adds the lines of one series to found.
func exposition(found map[string]string, one promql.Sample) {
	legal := func(name string) string { return model.EscapeName(name, model.UnderscoreEscaping) } // of the text format, which has no others
	name := legal(one.Metric.Get(model.MetricNameLabel))
	line := func(name string, v float64) {
		var b strings.Builder
		b.WriteString(name)
		sep := "{"
		one.Metric.Range(func(l labels.Label) {
			if l.Name != model.MetricNameLabel {
				b.WriteString(sep + legal(l.Name) + "=" + escaped(l.Value))
				sep = ","
			}
		})
		if sep == "," {
			b.WriteString("}")
		}
		found[b.String()] = number(v) + " " + strconv.FormatInt(one.T, 10)
	}
	if one.H == nil {
		line(name, one.F)
		return
	}
	line(name+"_count", one.H.Count)
	line(name+"_sum", one.H.Sum)
}

func escaped(v string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`).Replace(v) + `"`
}

func number(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

// Answer is the data of an answer of Prometheus' API.
type Answer struct {
	Type     string          `json:"resultType"`
	Result   json.RawMessage `json:"result"`
	Warnings []string        `json:"-"`
}

// Ask evaluates an expression as Prometheus' API does: at a moment, or where step is not 0 from start to end.
func (s *Store) Ask(ctx context.Context, expr string, start, end time.Time, step time.Duration) (Answer, error) {
	if err := s.ready(); err != nil {
		return Answer{}, err
	}
	q := url.Values{"query": {expr}, "time": {stamp(end)}}
	path := "/api/v1/query?"
	if step > 0 {
		path = "/api/v1/query_range?"
		q = url.Values{"query": {expr}, "start": {stamp(start)}, "end": {stamp(end)}, "step": {strconv.FormatFloat(step.Seconds(), 'f', -1, 64)}}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, path+q.Encode(), nil)
	if err != nil {
		return Answer{}, fmt.Errorf("query %s: %w", expr, err)
	}
	w := &answerWriter{header: http.Header{}}
	s.handler.ServeHTTP(w, r)
	var body struct {
		Data     Answer   `json:"data"`
		Kind     string   `json:"errorType"`
		Error    string   `json:"error"`
		Warnings []string `json:"warnings"`
	}
	if err := json.Unmarshal(w.body.Bytes(), &body); err != nil {
		return Answer{}, fmt.Errorf("query %s: %w", expr, err)
	}
	if body.Error != "" {
		kind := errdefs.ErrUnavailable
		if body.Kind == "bad_data" || body.Kind == "execution" {
			kind = errdefs.ErrInvalid
		}
		return Answer{}, fmt.Errorf("query %s: %w: %s", expr, kind, body.Error)
	}
	body.Data.Warnings = body.Warnings
	return body.Data, nil
}

func stamp(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }

// answerWriter is an answer in memory.
type answerWriter struct {
	header http.Header
	body   bytes.Buffer
}

func (w *answerWriter) Header() http.Header         { return w.header }
func (w *answerWriter) WriteHeader(int)             {}
func (w *answerWriter) Write(b []byte) (int, error) { return w.body.Write(b) }
