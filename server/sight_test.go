package server

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestPausesFallBack: the pauses before a part of telemetry runs again grow while it fails, and no failure of long ago prolongs them.
func TestPausesFallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		runs := []time.Duration{0, 0, 0, 0, 0, 0, 0, 0, time.Hour, 0, 0}
		var pauses []time.Duration
		ended := time.Now()
		(&sight{log: slog.New(slog.DiscardHandler)}).again(ctx, "part", func(context.Context) error {
			pauses = append(pauses, time.Since(ended))
			if len(runs) == 0 {
				cancel()
				return nil
			}
			time.Sleep(runs[0])
			runs, ended = runs[1:], time.Now()
			return errors.New("no disk")
		})
		const s = time.Second
		if want := []time.Duration{0, s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 60 * s, 60 * s, s, 2 * s, 4 * s}; !slices.Equal(pauses, want) {
			t.Errorf("%v, want %v", pauses, want)
		}
	})
}
