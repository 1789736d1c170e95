package rest

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// BudgetHeader tells the callee how many milliseconds its caller will wait.
const BudgetHeader = "Request-Budget"

// KeyHeader names a write, so that it can be repeated and happens once.
const KeyHeader = "Idempotency-Key"

// forwarded are the headers that a service hands on to those it calls, so that one visit can be followed through all.
var forwarded = [...]string{"X-Request-Id", "Traceparent", "Tracestate"}

type forwardKey struct{}

// Serve wraps a service's handler: at most budget per request, or the caller's own budget where that is less; request
// ids; a log record of what failed or was slow; a panic becomes a 500 and ends nothing but its request.
func Serve(next http.Handler, budget time.Duration, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		rec := &recorder{ResponseWriter: w}
		if r.Header.Get("X-Request-Id") == "" {
			r.Header.Set("X-Request-Id", rand.Text())
		}
		defer func() { record(log, r, rec, time.Since(started)) }()
		guard(next, rec, r, budget, log)
	})
}

// guard answers r with at most budget of time, refuses what no database can keep, and makes a 500 of a panic.
func guard(next http.Handler, rec *recorder, r *http.Request, budget time.Duration, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(forward(r), limit(r, budget))
	defer cancel()
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler {
			panic(p)
		}
		log.ErrorContext(ctx, "panic", "request", r.Header.Get("X-Request-Id"), "value", p, "stack", string(debug.Stack()))
		if rec.status == 0 {
			WriteError(rec, fmt.Errorf("panic: %v", p))
		}
	}()
	if !isText(r.URL.Path) || !isQuery(r.URL.RawQuery) {
		WriteError(rec, errNoText)
		return
	}
	next.ServeHTTP(rec, r.WithContext(ctx))
}

var errNoText = &Problem{Status: http.StatusBadRequest, Code: "no_text", Title: "The address holds characters that no text has."}

func isText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// isQuery reports whether all that a query says is text. One that cannot be read says nothing.
func isQuery(raw string) bool {
	if !strings.Contains(raw, "%") {
		return isText(raw)
	}
	decoded, err := url.QueryUnescape(raw)
	return err != nil || isText(decoded)
}

func limit(r *http.Request, budget time.Duration) time.Duration {
	if ms, err := strconv.Atoi(r.Header.Get(BudgetHeader)); err == nil && ms > 0 {
		return min(budget, time.Duration(ms)*time.Millisecond)
	}
	return budget
}

func forward(r *http.Request) context.Context {
	h := make(http.Header, len(forwarded))
	for _, name := range forwarded {
		if v := r.Header.Get(name); v != "" {
			h.Set(name, v)
		}
	}
	return context.WithValue(r.Context(), forwardKey{}, h)
}

// slow is how long a request takes that is worth a record by itself.
const slow = time.Second

// notable reports whether an answer is worth a record by itself: what failed here, and what somebody was not allowed to do.
// That a learner has no seat, or a seat nothing to pay, is an answer like any other: services ask one another for no less.
func notable(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests:
		return true
	}
	return status >= 500
}

// record writes down what failed or took long; all the rest with LOG_LEVEL=debug.
func record(log *slog.Logger, r *http.Request, rec *recorder, took time.Duration) {
	level := slog.LevelDebug
	if notable(rec.code()) || took > slow {
		level = slog.LevelInfo
	}
	if !log.Enabled(r.Context(), level) && rec.err == nil {
		return
	}
	args := []any{"method", r.Method, "path", r.URL.Path, "status", rec.code(), "ms", took.Milliseconds(),
		"request", r.Header.Get("X-Request-Id")}
	if rec.err != nil {
		level, args = slog.LevelError, append(args, "err", rec.err)
	}
	if r.URL.Path == "/healthz" || r.URL.Path == "/readyz" {
		level = slog.LevelDebug
	}
	log.Log(forward(r), level, "request", args...)
}

type recorder struct {
	http.ResponseWriter
	status int
	err    error
}

func (r *recorder) recordError(err error) { r.err = err }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) code() int {
	if r.status == 0 {
		return http.StatusOK
	}
	return r.status
}

// Unwrap serves http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

var errNoKey = &Problem{Status: http.StatusBadRequest, Code: "key_missing",
	Title: "An Idempotency-Key header of 8 to 128 characters is needed."}

// Key returns the request's idempotency key, or the problem that it has none.
func Key(r *http.Request) (string, error) {
	key := r.Header.Get(KeyHeader)
	if len(key) < 8 || len(key) > 128 {
		return "", errNoKey
	}
	return key, nil
}
