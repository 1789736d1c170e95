package metrics

import (
	"context"
	"log/slog"
	"strings"
)

// overlapping leaves out of the database's log that blocks overlap: those of what has ended lie within the hours of the others, on
// purpose, and are merged with them later.
type overlapping struct{ slog.Handler }

// Handle implements slog.Handler.
func (h overlapping) Handle(ctx context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "Overlapping blocks found") {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h overlapping) WithAttrs(a []slog.Attr) slog.Handler {
	return overlapping{h.Handler.WithAttrs(a)}
}

// WithGroup implements slog.Handler.
func (h overlapping) WithGroup(name string) slog.Handler {
	return overlapping{h.Handler.WithGroup(name)}
}
