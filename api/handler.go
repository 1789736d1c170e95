package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// Handler serves a Control over HTTP. It checks no identity: whoever reaches it may do everything, so it belongs on a
// unix socket that only its owner can open.
func Handler(c Control, log *slog.Logger) http.Handler {
	h := handler{control: c, log: log}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", get(c.Status))
	mux.HandleFunc("GET /v1/routes", get(c.Routes))
	mux.HandleFunc("GET /v1/top", get(c.Top))
	mux.HandleFunc("GET /v1/drift", get(c.Drift))
	mux.HandleFunc("GET /v1/volumes", get(c.Volumes))
	mux.Handle("/v1/", SeerHandler(c))
	mux.HandleFunc("GET /v1/history", h.history)
	mux.HandleFunc("GET /v1/watch", h.watch)
	mux.HandleFunc("GET /v1/events", h.events)
	mux.HandleFunc("GET /v1/logs", h.logs)
	view(mux, c)
	mux.HandleFunc("POST /v1/plan", post(c.Plan))
	mux.HandleFunc("POST /v1/apply", post(c.Apply))
	mux.HandleFunc("POST /v1/revert", post(c.Revert))
	mux.HandleFunc("POST /v1/rollback", post(func(ctx context.Context, r rollbackRequest) (state.Revision, error) {
		return c.Rollback(ctx, r.Number, r.Actor)
	}))
	mux.HandleFunc("POST /v1/rollout", post(func(ctx context.Context, r RolloutRequest) (struct{}, error) {
		return struct{}{}, c.Rollout(ctx, r)
	}))
	mux.HandleFunc("POST /v1/override", post(func(ctx context.Context, r OverrideRequest) (struct{}, error) {
		return struct{}{}, c.Override(ctx, r)
	}))
	mux.HandleFunc("POST /v1/down", post(func(ctx context.Context, o engine.DeleteOptions) (downAnswer, error) {
		var a downAnswer
		o.Left = func(what string) { a.Left = append(a.Left, what) }
		err := c.Down(ctx, o)
		return a, err
	}))
	mux.HandleFunc("POST /v1/shutdown", post(func(ctx context.Context, r shutdownRequest) (struct{}, error) {
		return struct{}{}, c.Shutdown(ctx, r.Stop)
	}))
	mux.HandleFunc("POST /v1/exec", h.exec)
	return mux
}

type handler struct {
	control Control
	log     *slog.Logger
}

type rollbackRequest struct {
	Number int64  `json:"number"`
	Actor  string `json:"actor"`
}

// downAnswer says what a Down has left, as DeleteOptions.Left is told.
type downAnswer struct {
	Left []string `json:"left,omitempty"`
}

type shutdownRequest struct {
	Stop bool `json:"stop"`
}

// get serves a call without arguments.
func get[T any](call func(context.Context) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := call(r.Context())
		respond(w, v, err)
	}
}

// post serves a call whose one argument is the body.
func post[A, T any](call func(context.Context, A) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var arg A
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&arg); err != nil {
			writeError(w, fmt.Errorf("read the request: %w: %w", errdefs.ErrInvalid, err))
			return
		}
		v, err := call(r.Context(), arg)
		respond(w, v, err)
	}
}

func respond(w http.ResponseWriter, v any, err error) {
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func (h handler) history(w http.ResponseWriter, r *http.Request) {
	limit, err := number(r.URL.Query(), "limit")
	if err != nil {
		writeError(w, err)
		return
	}
	revs, err := h.control.History(r.Context(), int(limit))
	respond(w, revs, err)
}

func (h handler) watch(w http.ResponseWriter, r *http.Request) {
	stream(w, func(send func(Status) error) error { return h.control.Watch(r.Context(), send) })
}

func (h handler) events(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	f := state.EventFilter{Service: q.Get("service")}
	var err error
	if f.After, err = number(q, "after"); err == nil {
		var limit int64
		limit, err = number(q, "limit")
		f.Limit = int(limit)
	}
	if err == nil {
		f.Since, err = instant(q, "since")
	}
	if err != nil {
		writeError(w, err)
		return
	}
	stream(w, func(send func(state.Event) error) error {
		return h.control.Events(r.Context(), f, q.Get("follow") == "true", send)
	})
}

func (h handler) logs(w http.ResponseWriter, r *http.Request) {
	var req LogsRequest
	if err := json.Unmarshal([]byte(r.URL.Query().Get("q")), &req); err != nil {
		writeError(w, fmt.Errorf("read the request: %w: %w", errdefs.ErrInvalid, err))
		return
	}
	out, err := h.control.Logs(r.Context(), req)
	if err != nil {
		writeError(w, err)
		return
	}
	defer out.Close()
	stop := context.AfterFunc(r.Context(), func() { _ = out.Close() })
	defer stop()
	w.Header().Set("Content-Type", "application/x-ndjson")
	control := http.NewResponseController(w)
	_ = control.Flush()
	buf := make([]byte, 32<<10)
	for {
		n, err := out.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return
			}
			_ = control.Flush()
		}
		switch {
		case err == nil:
		case r.Context().Err() != nil: // nobody reads any more, or the control plane ends
			panic(http.ErrAbortHandler) // an end in order would say that this was all
		case err == io.EOF:
			return
		default:
			h.log.Warn("logs ended early", "err", err)
			_ = json.NewEncoder(w).Encode(LogLine{Time: time.Now(), Stream: "system", Text: "output ends early: " + err.Error()})
			_ = control.Flush()
			panic(http.ErrAbortHandler)
		}
	}
}

func number(q url.Values, key string) (int64, error) {
	if !q.Has(key) {
		return 0, nil
	}
	n, err := strconv.ParseInt(q.Get(key), 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s=%q: %w: not a number", key, q.Get(key), errdefs.ErrInvalid)
	}
	return n, nil
}

func instant(q url.Values, key string) (time.Time, error) {
	if !q.Has(key) {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, q.Get(key))
	if err != nil {
		return time.Time{}, fmt.Errorf("%s=%q: %w: not a time (RFC 3339)", key, q.Get(key), errdefs.ErrInvalid)
	}
	return t, nil
}
