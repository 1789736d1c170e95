package rest

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
)

// LogHandler adds to each record which trace and span the request is of that it was written for, under the names that
// OpenTelemetry has for them.
func LogHandler(next slog.Handler) slog.Handler { return traced{next} }

type traced struct{ slog.Handler }

func (t traced) Handle(ctx context.Context, r slog.Record) error {
	if h, ok := ctx.Value(forwardKey{}).(http.Header); ok {
		if part := strings.Split(h.Get("Traceparent"), "-"); len(part) >= 4 {
			r.AddAttrs(slog.String("trace_id", part[1]), slog.String("span_id", part[2]))
		}
	}
	return t.Handler.Handle(ctx, r)
}

func (t traced) WithAttrs(attrs []slog.Attr) slog.Handler { return traced{t.Handler.WithAttrs(attrs)} }

func (t traced) WithGroup(name string) slog.Handler { return traced{t.Handler.WithGroup(name)} }
