package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"trellis/errdefs"
)

// maxBody bounds a request: a resolved project with the contents of its secrets and configs.
const maxBody = 64 << 20

// wireError is an error on its way: its kind survives, so that errors.Is works on the other side.
type wireError struct {
	Kind    string `json:"kind"`
	Message string `json:"message"`
}

// kindEnded is an error of the API alone: the control plane ended while it was asked. Who asked is still there to hear it.
const kindEnded = "ended"

func toWire(err error) *wireError {
	if errors.Is(err, context.Canceled) {
		return &wireError{Kind: kindEnded, Message: "the control plane ended meanwhile"}
	}
	return &wireError{Kind: errdefs.Kind(err), Message: err.Error()}
}

// remoteError is a wireError that has arrived.
type remoteError struct {
	message string
	kind    error
}

func (e *remoteError) Error() string { return e.message }
func (e *remoteError) Unwrap() error { return e.kind }

func (w *wireError) err() error {
	if w.Kind == kindEnded {
		return fmt.Errorf("%w: %s", ErrUnreachable, w.Message)
	}
	return &remoteError{message: w.Message, kind: errdefs.FromKind(w.Kind)}
}

// frame is one line of a streamed answer: a value, or the error that ended the stream.
type frame[T any] struct {
	Value *T         `json:"value,omitempty"`
	Error *wireError `json:"error,omitempty"`
	End   bool       `json:"end,omitempty"` // the stream is complete; without it, it was cut
}

// writeError answers with err's kind.
func writeError(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/problem+json")
	status := errdefs.HTTPStatus(err)
	if errors.Is(err, context.Canceled) {
		status = http.StatusServiceUnavailable
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(toWire(err))
}

// readError makes an error of an answer that is not 2xx.
func readError(resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var w wireError
	if json.Unmarshal(body, &w) != nil || w.Message == "" {
		if resp.StatusCode == http.StatusNotFound {
			return fmt.Errorf("%w: the control plane is of a version that does not know this; 'trellis up' replaces it", errdefs.ErrUnsupported)
		}
		return fmt.Errorf("control plane answered %s", resp.Status)
	}
	return w.err()
}

// stream writes frames as long as produce calls its argument.
func stream[T any](w http.ResponseWriter, produce func(func(T) error) error) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	_ = control.Flush()
	enc := json.NewEncoder(w)
	err := produce(func(v T) error {
		if err := enc.Encode(frame[T]{Value: &v}); err != nil {
			return err
		}
		return control.Flush()
	})
	if err != nil {
		_ = enc.Encode(frame[T]{Error: toWire(err)})
		return
	}
	_ = enc.Encode(frame[T]{End: true})
}

// receive reads frames and calls fn for each value.
func receive[T any](r io.Reader, fn func(T) error) error {
	dec := json.NewDecoder(r)
	for {
		var f frame[T]
		if err := dec.Decode(&f); err != nil {
			return fmt.Errorf("control plane went away: %w", errdefs.ErrUnavailable)
		}
		switch {
		case f.Error != nil:
			return f.Error.err()
		case f.End:
			return nil
		case f.Value != nil:
			if err := fn(*f.Value); err != nil {
				return err
			}
		}
	}
}
