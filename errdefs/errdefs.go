// Package errdefs holds the kinds of failure that Trellis tells apart, and the one table that maps a kind to an HTTP
// status and to a process exit code. Everything that is not one of these kinds is internal: status 500, exit code 1.
//
// An error is made by wrapping a kind with the operation and its object:
//
//	fmt.Errorf("start %s: %w: image and command are both empty", id, errdefs.ErrInvalid)
//
// An error with a method Invalid() bool that returns true is of the kind ErrInvalid too: that is how packages on the
// same floor as this one have a kind.
package errdefs

import (
	"context"
	"errors"
	"net/http"
)

// The kinds of failure. Test with errors.Is.
var (
	// ErrInvalid says that the caller's input can never succeed as it is: a malformed file, an unknown flag value.
	ErrInvalid = errors.New("invalid")
	// ErrNotFound says that the named thing does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict says that the thing is not in the state the caller assumed: read again, decide again.
	ErrConflict = errors.New("conflict")
	// ErrUnavailable says that something needed is not there now; the same call may succeed later.
	ErrUnavailable = errors.New("unavailable")
	// ErrUnsupported says that this engine, driver or platform cannot do it, now or later.
	ErrUnsupported = errors.New("unsupported")
	// ErrObjective says that everything worked and a stated objective was missed.
	ErrObjective = errors.New("objective missed")
)

// The exit codes of every Trellis command.
const (
	ExitDone      = 0  // done
	ExitFailed    = 1  // failed
	ExitObjective = 2  // objectives missed, or changes with --detailed-exitcode
	ExitUsage     = 64 // wrong usage or invalid file (sysexits.h EX_USAGE)
)

type kind struct {
	err    error
	name   string
	status int
	exit   int
}

// table is the only place that knows what a kind means outside of Go.
var table = []kind{
	{ErrInvalid, "invalid", http.StatusBadRequest, ExitUsage},
	{ErrNotFound, "not-found", http.StatusNotFound, ExitFailed},
	{ErrConflict, "conflict", http.StatusConflict, ExitFailed},
	{ErrUnavailable, "unavailable", http.StatusServiceUnavailable, ExitFailed},
	{ErrUnsupported, "unsupported", http.StatusNotImplemented, ExitFailed},
	{ErrObjective, "objective", http.StatusOK, ExitObjective},
	{context.DeadlineExceeded, "timeout", http.StatusGatewayTimeout, ExitFailed},
}

func (k kind) matches(err error) bool {
	if errors.Is(err, k.err) {
		return true
	}
	var invalid interface{ Invalid() bool }
	return k.err == ErrInvalid && errors.As(err, &invalid) && invalid.Invalid()
}

// HTTPStatus returns the HTTP status of err: 200 for nil, 500 for an error of no kind.
func HTTPStatus(err error) int {
	if err == nil {
		return http.StatusOK
	}
	for _, k := range table {
		if k.matches(err) {
			return k.status
		}
	}
	return http.StatusInternalServerError
}

// ExitCode returns the process exit code of err: 0 for nil, 1 for an error of no kind.
func ExitCode(err error) int {
	if err == nil {
		return ExitDone
	}
	for _, k := range table {
		if k.matches(err) {
			return k.exit
		}
	}
	return ExitFailed
}

// Kind returns the name of err's kind as it travels over the API, "internal" for an error of no kind.
func Kind(err error) string {
	for _, k := range table {
		if k.matches(err) {
			return k.name
		}
	}
	return "internal"
}

// FromKind returns the kind of that name, nil for "internal" and for names it does not know. It is Kind's inverse.
func FromKind(name string) error {
	for _, k := range table {
		if k.name == name {
			return k.err
		}
	}
	return nil
}
