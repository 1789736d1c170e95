package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"trellis/errdefs"
	"trellis/telemetry"
)

// SeerHandler serves a Seer over HTTP. Arguments that have a shape of their own stand as JSON in the query's q:
//
//	GET  /v1/metrics?q={MetricQuery}
//	GET  /v1/traces?q={telemetry.TraceFilter}
//	GET  /v1/traces/{id}
//	GET  /v1/graph?window=5m
//	GET  /v1/records?q={telemetry.RecordFilter}&follow=true    a stream of frames
//	GET  /v1/alerts
//	POST /v1/silences, DELETE /v1/silences/{id}
//	GET  /v1/why/{service}
//	GET  /v1/telemetry
//
// Like Handler it checks no identity.
func SeerHandler(s Seer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/metrics", asked(s.Metrics))
	mux.HandleFunc("GET /v1/traces", asked(s.Traces))
	mux.HandleFunc("GET /v1/traces/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, err := telemetry.ParseTraceID(r.PathValue("id"))
		if err != nil {
			writeError(w, err)
			return
		}
		t, err := s.Trace(r.Context(), id)
		respond(w, t, err)
	})
	mux.HandleFunc("GET /v1/graph", func(w http.ResponseWriter, r *http.Request) {
		window, err := span(r.URL.Query(), "window", defaultWindow)
		if err != nil {
			writeError(w, err)
			return
		}
		g, err := s.Graph(r.Context(), window)
		respond(w, g, err)
	})
	mux.HandleFunc("GET /v1/records", func(w http.ResponseWriter, r *http.Request) {
		f, err := question[telemetry.RecordFilter](r)
		if err != nil {
			writeError(w, err)
			return
		}
		stream(w, func(send func(telemetry.Record) error) error {
			return s.Records(r.Context(), f, r.URL.Query().Get("follow") == "true", send)
		})
	})
	mux.HandleFunc("GET /v1/alerts", get(s.Alerts))
	mux.HandleFunc("POST /v1/silences", post(func(ctx context.Context, one Silence) (silenced, error) {
		id, err := s.Silence(ctx, one)
		return silenced{id}, err
	}))
	mux.HandleFunc("DELETE /v1/silences/{id}", func(w http.ResponseWriter, r *http.Request) {
		respond(w, struct{}{}, s.Unsilence(r.Context(), r.PathValue("id")))
	})
	mux.HandleFunc("GET /v1/why/{service}", func(w http.ResponseWriter, r *http.Request) {
		why, err := s.Why(r.Context(), r.PathValue("service"))
		respond(w, why, err)
	})
	mux.HandleFunc("GET /v1/telemetry", get(s.Telemetry))
	return mux
}

const defaultWindow = 5 * time.Minute

type silenced struct {
	ID string `json:"id"`
}

// question reads the query's q.
func question[Q any](r *http.Request) (Q, error) {
	var q Q
	text := r.URL.Query().Get("q")
	if text == "" {
		return q, nil
	}
	if err := json.Unmarshal([]byte(text), &q); err != nil {
		return q, fmt.Errorf("read q: %w: %w", errdefs.ErrInvalid, err)
	}
	return q, nil
}

// asked serves a call whose one argument is the query's q.
func asked[Q, T any](call func(context.Context, Q) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q, err := question[Q](r)
		if err != nil {
			writeError(w, err)
			return
		}
		v, err := call(r.Context(), q)
		respond(w, v, err)
	}
}

func span(q url.Values, key string, otherwise time.Duration) (time.Duration, error) {
	if !q.Has(key) {
		return otherwise, nil
	}
	d, err := time.ParseDuration(q.Get(key))
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%s=%q: %w: not a duration such as 5m", key, q.Get(key), errdefs.ErrInvalid)
	}
	return d, nil
}

var _ Seer = (*Client)(nil)

// Metrics implements Seer.
func (c *Client) Metrics(ctx context.Context, q MetricQuery) (MetricResult, error) {
	return ask[MetricResult](ctx, c, "/v1/metrics", q)
}

// Traces implements Seer.
func (c *Client) Traces(ctx context.Context, f telemetry.TraceFilter) ([]telemetry.TraceSummary, error) {
	return ask[[]telemetry.TraceSummary](ctx, c, "/v1/traces", f)
}

// Trace implements Seer.
func (c *Client) Trace(ctx context.Context, id telemetry.TraceID) (Trace, error) {
	return call[Trace](ctx, c, http.MethodGet, "/v1/traces/"+id.String(), nil)
}

// Graph implements Seer.
func (c *Client) Graph(ctx context.Context, window time.Duration) (Graph, error) {
	return call[Graph](ctx, c, http.MethodGet, "/v1/graph?window="+window.String(), nil)
}

// Records implements Seer.
func (c *Client) Records(ctx context.Context, f telemetry.RecordFilter, forever bool, fn func(telemetry.Record) error) error {
	q, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("ask for log records: %w", err)
	}
	return follow(ctx, c, "/v1/records?follow="+strconv.FormatBool(forever)+"&q="+url.QueryEscape(string(q)), fn)
}

// Alerts implements Seer.
func (c *Client) Alerts(ctx context.Context) (Alerts, error) {
	return call[Alerts](ctx, c, http.MethodGet, "/v1/alerts", nil)
}

// Silence implements Seer.
func (c *Client) Silence(ctx context.Context, s Silence) (string, error) {
	v, err := call[silenced](ctx, c, http.MethodPost, "/v1/silences", s)
	return v.ID, err
}

// Unsilence implements Seer.
func (c *Client) Unsilence(ctx context.Context, id string) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, "/v1/silences/"+url.PathEscape(id), nil)
	return err
}

// Why implements Seer.
func (c *Client) Why(ctx context.Context, service string) (Why, error) {
	return call[Why](ctx, c, http.MethodGet, "/v1/why/"+url.PathEscape(service), nil)
}

// Telemetry implements Seer.
func (c *Client) Telemetry(ctx context.Context) (TelemetryHealth, error) {
	return call[TelemetryHealth](ctx, c, http.MethodGet, "/v1/telemetry", nil)
}

// ask sends q as the query's q.
func ask[T any](ctx context.Context, c *Client, path string, q any) (T, error) {
	b, err := json.Marshal(q)
	if err != nil {
		var none T
		return none, fmt.Errorf("GET %s: %w", path, err)
	}
	return call[T](ctx, c, http.MethodGet, path+"?q="+url.QueryEscape(string(b)), nil)
}
