package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/api"
	"trellis/errdefs"
	"trellis/telemetry"
)

// echoSeer answers with what it was asked.
type echoSeer struct {
	api.Seer // what a test does not need must not be called

	query   api.MetricQuery
	filter  telemetry.RecordFilter
	follow  bool
	window  time.Duration
	service string
	ended   string
}

var traceID = telemetry.TraceID{1, 2, 3}

func (s *echoSeer) Metrics(_ context.Context, q api.MetricQuery) (api.MetricResult, error) {
	s.query = q
	return api.MetricResult{Type: "scalar", Result: json.RawMessage(`[1,"2"]`)}, nil
}

func (s *echoSeer) Traces(_ context.Context, f telemetry.TraceFilter) ([]telemetry.TraceSummary, error) {
	s.service = f.Service
	return []telemetry.TraceSummary{{Trace: traceID, Services: []string{"a"}}}, nil
}

func (s *echoSeer) Trace(_ context.Context, id telemetry.TraceID) (api.Trace, error) {
	if id != traceID {
		return api.Trace{}, fmt.Errorf("trace %s: %w", id, errdefs.ErrNotFound)
	}
	return api.Trace{ID: id, Spans: []telemetry.Span{{Trace: id, Attributes: map[string]any{"a": "b"}}}}, nil
}

func (s *echoSeer) Graph(_ context.Context, window time.Duration) (api.Graph, error) {
	s.window = window
	return api.Graph{Window: window}, nil
}

func (s *echoSeer) Records(_ context.Context, f telemetry.RecordFilter, follow bool, fn func(telemetry.Record) error) error {
	s.filter, s.follow = f, follow
	for i := range int64(3) {
		if err := fn(telemetry.Record{Seq: i + 1, Body: "<b>"}); err != nil {
			return err
		}
	}
	return nil
}

func (s *echoSeer) Alerts(context.Context) (api.Alerts, error) {
	return api.Alerts{Waiting: 3}, nil
}

func (s *echoSeer) Silence(_ context.Context, one api.Silence) (string, error) {
	return "for " + one.Comment, nil
}

func (s *echoSeer) Unsilence(_ context.Context, id string) error {
	s.ended = id
	return nil
}

func (s *echoSeer) Why(_ context.Context, service string) (api.Why, error) {
	return api.Why{Service: service}, nil
}

func (s *echoSeer) Telemetry(context.Context) (api.TelemetryHealth, error) {
	return api.TelemetryHealth{Logs: telemetry.Health{Lost: map[string]uint64{telemetry.LossDisk: 7}}}, nil
}

func seer(t *testing.T, s api.Seer) *api.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: api.SeerHandler(s)}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	client := api.NewClient(socket)
	t.Cleanup(func() { _ = client.Close(); _ = server.Close(); <-done })
	return client
}

func TestSeerIsTheSameOverHTTP(t *testing.T) {
	s := &echoSeer{}
	c, ctx := seer(t, s), t.Context()
	q := api.MetricQuery{Query: `up{job="a&b"}`, Start: time.Unix(1, 0).UTC(), End: time.Unix(9, 0).UTC(), Step: time.Second}
	result, err := c.Metrics(ctx, q)
	if err != nil || result.Type != "scalar" || string(result.Result) != `[1,"2"]` || cmp.Diff(q, s.query) != "" {
		t.Errorf("Metrics: %+v, %v, asked %+v", result, err, s.query)
	}
	traces, err := c.Traces(ctx, telemetry.TraceFilter{Service: "a/b"})
	if err != nil || len(traces) != 1 || traces[0].Trace != traceID || s.service != "a/b" {
		t.Errorf("Traces: %+v, %v", traces, err)
	}
	if one, err := c.Trace(ctx, traceID); err != nil || len(one.Spans) != 1 || one.Spans[0].Trace != traceID {
		t.Errorf("Trace: %+v, %v", one, err)
	}
	if _, err := c.Trace(ctx, telemetry.TraceID{9}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Trace of none: %v", err)
	}
	if g, err := c.Graph(ctx, time.Minute); err != nil || g.Window != time.Minute {
		t.Errorf("Graph: %+v, %v", g, err)
	}
	f := telemetry.RecordFilter{Services: []string{"a"}, Grep: "x&y=z", Trace: traceID, Since: time.Unix(5, 0).UTC()}
	n := 0
	err = c.Records(ctx, f, true, func(telemetry.Record) error { n++; return nil })
	if err != nil || n != 3 || !s.follow || cmp.Diff(f, s.filter) != "" {
		t.Errorf("Records: %d, %v, asked %+v", n, err, s.filter)
	}
	if a, err := c.Alerts(ctx); err != nil || a.Waiting != 3 {
		t.Errorf("Alerts: %+v, %v", a, err)
	}
	if id, err := c.Silence(ctx, api.Silence{Comment: "repair"}); err != nil || id != "for repair" {
		t.Errorf("Silence: %q, %v", id, err)
	}
	if err := c.Unsilence(ctx, "a b"); err != nil || s.ended != "a b" {
		t.Errorf("Unsilence: %q, %v", s.ended, err)
	}
	if w, err := c.Why(ctx, "web"); err != nil || w.Service != "web" {
		t.Errorf("Why: %+v, %v", w, err)
	}
	if h, err := c.Telemetry(ctx); err != nil || h.Logs.Lost[telemetry.LossDisk] != 7 {
		t.Errorf("Telemetry: %+v, %v", h, err)
	}
}

func TestSeerRefusesWhatIsNoQuestion(t *testing.T) {
	h := api.SeerHandler(&echoSeer{})
	for _, path := range []string{"/v1/metrics?q={", "/v1/traces?q=[]", "/v1/traces/xyz", "/v1/graph?window=-5m", "/v1/records?q=7"} {
		r, _ := http.NewRequest(http.MethodGet, path, nil)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}
