package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"trellis/errdefs"
)

// failedStart is why a control plane ended before it answered anybody. It lies in the runtime directory, because whoever
// waits for the control plane has no other way to learn it.
type failedStart struct {
	Kind    string `json:"kind"`
	Message string `json:"message"`
}

func (l Location) failure() string { return filepath.Join(l.RuntimeDir, "serve.failed") }

// tellFailure leaves err for whoever waits for this control plane.
func (l Location) tellFailure(err error, log *slog.Logger) {
	b, merr := json.Marshal(failedStart{errdefs.Kind(err), err.Error()})
	if merr == nil {
		merr = os.WriteFile(l.failure(), b, 0o600)
	}
	if merr != nil {
		log.Warn("nobody will learn why the start failed", "project", l.Project, "err", merr)
	}
}

// forgetFailure removes what an earlier start has left.
func (l Location) forgetFailure() error {
	if err := os.Remove(l.failure()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget an earlier start: %w", err)
	}
	return nil
}

// failedToStart returns why the last control plane ended before it answered, nil if none did.
func (l Location) failedToStart() error {
	b, err := os.ReadFile(l.failure())
	var f failedStart
	if err != nil || json.Unmarshal(b, &f) != nil || f.Message == "" {
		return nil
	}
	return startError{f.Message, errdefs.FromKind(f.Kind)}
}

// startError says what the control plane said, and is of the same kind.
type startError struct {
	message string
	kind    error
}

func (e startError) Error() string { return e.message }
func (e startError) Unwrap() error { return e.kind }
