package rest

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"time"
)

// Local carries calls to a handler of this process, so that a domain is called in the same way wherever it runs: with
// its time budget, and with an error where it panics.
func Local(h http.Handler, budget time.Duration, log *slog.Logger) http.RoundTripper {
	return local{h, budget, log}
}

type local struct {
	handler http.Handler
	budget  time.Duration
	log     *slog.Logger
}

func (l local) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := &answer{header: http.Header{}}
	rec := &recorder{ResponseWriter: w}
	guard(l.handler, rec, r, l.budget, l.log)
	if rec.err != nil {
		l.log.Error("inside", "method", r.Method, "path", r.URL.Path, "err", rec.err)
	}
	return &http.Response{StatusCode: rec.code(), Header: w.header, Body: io.NopCloser(&w.body), Request: r,
		ContentLength: int64(w.body.Len()), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}, nil
}

type answer struct {
	header http.Header
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(int)             {}
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }
