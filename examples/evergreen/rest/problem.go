// Package rest is how Evergreen's services speak to one another: JSON bodies, problem+json errors (RFC 9457), a time
// budget that travels with each request, and idempotency keys that make a write safe to repeat.
package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Problem is an error as it stands in a response. Code is the stable word that programs decide by.
type Problem struct {
	Status     int           `json:"status"`
	Code       string        `json:"code"`
	Title      string        `json:"title"`
	Detail     string        `json:"detail,omitempty"`
	Field      string        `json:"field,omitempty"` // of the request, where one is to blame
	RetryAfter time.Duration `json:"-"`               // Retry-After, in whole seconds; 0 none
}

// Error returns the problem in one line.
func (p *Problem) Error() string {
	if p.Detail == "" {
		return fmt.Sprintf("%d %s: %s", p.Status, p.Code, p.Title)
	}
	return fmt.Sprintf("%d %s: %s: %s", p.Status, p.Code, p.Title, p.Detail)
}

// The problems that every service knows.
var (
	ErrNotFound     = &Problem{Status: http.StatusNotFound, Code: "not_found", Title: "There is nothing here."}
	ErrUnauthorized = &Problem{Status: http.StatusUnauthorized, Code: "unauthorized", Title: "Sign in first."}
	ErrUnavailable  = &Problem{Status: http.StatusServiceUnavailable, Code: "unavailable",
		Title: "This cannot be answered right now.", RetryAfter: time.Second}
)

// Is makes errors.Is compare problems by status and code, so that one that came over the network equals its sentinel.
func (p *Problem) Is(target error) bool {
	t, ok := target.(*Problem)
	return ok && t.Status == p.Status && t.Code == p.Code
}

// Invalid is the problem of one field of a request.
func Invalid(field, title string) *Problem {
	return &Problem{Status: http.StatusUnprocessableEntity, Code: "invalid", Title: title, Field: field}
}

// Write answers with v as JSON.
func Write(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		WriteError(w, fmt.Errorf("encode response: %w", err))
		return
	}
	Send(w, status, "application/json", append(body, '\n'))
}

// Send answers with a body that is there as a whole. Its length is told: what is sent in chunks is read and written in more
// pieces by everybody on its way.
func Send(w http.ResponseWriter, status int, kind string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
}

// Answer answers with v, or with err where there is one.
func Answer(w http.ResponseWriter, status int, v any, err error) {
	if err != nil {
		WriteError(w, err)
		return
	}
	Write(w, status, v)
}

// WriteError answers with err as problem+json. An error that holds no Problem is a 500 that tells nothing of it; the
// middleware logs the error, which is why it is kept on w where w takes it.
func WriteError(w http.ResponseWriter, err error) {
	var p *Problem
	if !errors.As(err, &p) {
		p = &Problem{Status: http.StatusInternalServerError, Code: "internal", Title: "Something went wrong on our side."}
		if r, ok := w.(interface{ recordError(error) }); ok {
			r.recordError(err)
		}
	}
	if p.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((p.RetryAfter+time.Second-1)/time.Second)))
	}
	body, _ := json.Marshal(p)
	Send(w, p.Status, "application/problem+json", append(body, '\n'))
}

const maxBody = 64 << 10

// Read decodes the request's JSON body into v: at most 64 KiB, one value, no unknown fields.
func Read(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return badBody(err)
	}
	if bytes.Contains(body, []byte(`\u0000`)) {
		return badBody(errors.New("the character U+0000 is in no text"))
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return badBody(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return badBody(errors.New("more than one value"))
	}
	return nil
}

func badBody(err error) *Problem {
	return &Problem{Status: http.StatusBadRequest, Code: "bad_body", Title: "The body is not what this address takes.",
		Detail: err.Error()}
}
