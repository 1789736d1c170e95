package main

import (
	"context"
	"io"
	"log/slog"
	"time"

	"trellis/api"
	"trellis/compose"
	"trellis/state"
)

// backend is how the commands reach control planes; tests put another one in its place.
type backend interface {
	// Connect returns the control plane of a project, ErrNotFound where none runs.
	Connect(ctx context.Context, l location) (api.Control, io.Closer, error)
	// Ensure returns the control plane of a project and starts one where none runs.
	Ensure(ctx context.Context, l location) (api.Control, io.Closer, error)
	// Projects returns every project that runs on this machine, with down those that do not and whose state exists too.
	Projects(ctx context.Context, down bool) ([]running, error)
	// Look returns what this machine has for services that run as processes, as containers, or both, as this user.
	Look(l location, processes, containers bool) (machine, error)
	// Images reaches the Docker engine, ErrUnavailable where there is none.
	Images(ctx context.Context, l location) (images, error)
	// Deposit returns where the images of a project in a cluster are put; registry is the one that somebody has named, if any.
	Deposit(l location, registry string) (deposit, error)
	// ServeImages is the registry of this machine; it blocks until ctx is done or nobody needs it any more.
	ServeImages(ctx context.Context, dir string, log *slog.Logger) error
	// Serve and Proxy are the control plane and the data plane; they block until ctx is done.
	Serve(ctx context.Context, location string, log *slog.Logger) error
	Proxy(ctx context.Context, location string, log *slog.Logger) error
	// ServeInCluster and ProxyInCluster are those of a project in the cluster that this runs in, and TellDriftInCluster is one look for
	// drift.
	ServeInCluster(ctx context.Context, project, namespace string, log *slog.Logger) error
	ProxyInCluster(ctx context.Context, project, namespace string, accessLog io.Writer, log *slog.Logger) error
	TellDriftInCluster(ctx context.Context, project, namespace string, log *slog.Logger) error
	// ServeMetricsAPI serves external metrics of every project in the cluster that this runs in; it blocks until ctx is done.
	ServeMetricsAPI(ctx context.Context, namespace string, log *slog.Logger) error
}

// deposit makes the images that a project runs in a cluster and puts them where the cluster pulls them from; see
// server.Deposit.
type deposit interface {
	Registry(ctx context.Context) (string, error)
	Of(ctx context.Context, svc compose.Service) (reference string, err error)
	Trellis(ctx context.Context) (reference string, err error)
	Put(ctx context.Context, tell func(what string)) error
	Keep(ctx context.Context, revisions []state.Revision) error
	Close() error
}

// images is a Docker engine as far as commands need it: it builds and pulls images of services, and has the containers
// that docker compose started.
type images interface {
	Get(ctx context.Context, project string, svc compose.Service, pull, force bool, output io.Writer) (image, error)
	Compose(ctx context.Context, project string) ([]composeContainer, error)
	Elsewhere(ctx context.Context, l location) ([]string, error)
	Halt(ctx context.Context, ids []string, grace time.Duration) error
	Resume(ctx context.Context, ids []string) error
	Discard(ctx context.Context, ids []string) error
	Close() error
}
