//go:build linux

package process_test

import (
	"context"
	"time"
)

// contextFor is independent of a test's own context, which ends before its cleanup.
func contextFor(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}
