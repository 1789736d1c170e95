package errdefs

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

func TestKindsRoundTrip(t *testing.T) {
	for _, k := range table {
		err := fmt.Errorf("start web-1: %w: because", k.err)
		if got := Kind(err); got != k.name {
			t.Errorf("Kind(%v) = %q, want %q", err, got, k.name)
		}
		if got := FromKind(k.name); !errors.Is(got, k.err) {
			t.Errorf("FromKind(%q) = %v, want %v", k.name, got, k.err)
		}
		if got := HTTPStatus(err); got != k.status {
			t.Errorf("HTTPStatus(%v) = %d, want %d", err, got, k.status)
		}
		if got := ExitCode(err); got != k.exit {
			t.Errorf("ExitCode(%v) = %d, want %d", err, got, k.exit)
		}
	}
}

func TestErrorsOfNoKindAreInternal(t *testing.T) {
	for _, err := range []error{errors.New("boom"), context.Canceled} {
		if Kind(err) != "internal" || HTTPStatus(err) != 500 || ExitCode(err) != ExitFailed {
			t.Errorf("%v: kind %q, status %d, exit %d", err, Kind(err), HTTPStatus(err), ExitCode(err))
		}
	}
	if HTTPStatus(nil) != 200 || ExitCode(nil) != 0 || FromKind("internal") != nil {
		t.Error("nil is not done")
	}
}
