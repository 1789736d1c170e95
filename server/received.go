package server

import (
	"bytes"
	"io"
	"net/http"

	"trellis/telemetry"
	"trellis/telemetry/otlp"
)

// received takes what programs send by OTLP. What the stores refuse for now is sent again, so that it is forwarded once they
// have taken it; of what Trellis hears itself nothing comes twice, and a sight forwards all.
type received struct{ *sight }

// AddSpans implements telemetry.SpanSink.
func (r received) AddSpans(spans []telemetry.Span) (int, string) {
	r.cleanSpans(spans)
	dropped, why := r.traces.AddSpans(spans)
	if !otlp.SentAgain(dropped, len(spans), why) {
		r.forward.AddSpans(spans)
	}
	return dropped, why
}

// AddRecords implements telemetry.RecordSink.
func (r received) AddRecords(records []telemetry.Record) (int, string) {
	r.cleanRecords(records)
	dropped, why := r.logs.AddRecords(records)
	if !otlp.SentAgain(dropped, len(records), why) {
		r.forward.AddRecords(records)
	}
	return dropped, why
}

// ServeHTTP takes metrics: the receiver of the store itself.
func (r received) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body) // that the receiver has unpacked, and bounded
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	req.URL.Path, req.RequestURI = "/api/v1/otlp/v1/metrics", ""
	to := &answered{ResponseWriter: w, status: http.StatusOK}
	r.metrics.Handler().ServeHTTP(to, req)
	if to.status/100 == 2 || to.status == http.StatusBadRequest {
		r.forward.AddMetrics(body)
	}
}

// answered is an answer whose status is looked at.
type answered struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (a *answered) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}
