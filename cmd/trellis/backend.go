package main

import (
	"context"
	"io"
	"log/slog"

	"trellis/api"
)

// backend is how the commands reach control planes; tests put another one in its place.
type backend interface {
	// Connect returns the control plane of a project, ErrNotFound where none runs.
	Connect(ctx context.Context, l location) (api.Control, io.Closer, error)
	// Ensure returns the control plane of a project and starts one where none runs.
	Ensure(ctx context.Context, l location) (api.Control, io.Closer, error)
	// Projects returns every project that runs on this machine, with down those that do not and whose state exists too.
	Projects(ctx context.Context, down bool) ([]running, error)
	// Look returns what this machine has for services that run as processes, as this user.
	Look(l location) (machine, error)
	// Serve and Proxy are the control plane and the data plane; they block until ctx is done.
	Serve(ctx context.Context, location string, log *slog.Logger) error
	Proxy(ctx context.Context, location string, log *slog.Logger) error
}
