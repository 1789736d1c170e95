package main

import (
	"context"
	"io"
	"log/slog"
	"os"

	"trellis/api"
	"trellis/holder"
	"trellis/server"
	"trellis/shim"
)

// beShim is the program beside instances and sockets, for a binary that does not have the small one embedded.
func beShim(args []string) int {
	if len(args) > 0 && args[0] == "hold" {
		return holder.Main(args[1:])
	}
	return shim.Main(args)
}

// location says where a project keeps what it has.
type location = server.Location

// running is a project that runs on this machine.
type running = server.Running

// machine is what this machine has for services.
type machine = server.Machine

// image is an image that is here.
type image = server.Image

// composeContainer is a running container that docker compose started.
type composeContainer = server.ComposeContainer

// locate returns where a project keeps what it has.
func locate(project, workingDir, stateDir string) (location, error) {
	return server.Locate(project, workingDir, stateDir)
}

func buildVersion() string { return server.Version }

// platform is the backend outside of tests.
type platform struct{}

func (platform) Connect(ctx context.Context, l location) (api.Control, io.Closer, error) {
	if l.Cluster != nil {
		return server.ConnectCluster(ctx, l, false, clusterLog())
	}
	return server.Connect(ctx, l)
}

func (platform) Ensure(ctx context.Context, l location) (api.Control, io.Closer, error) {
	if l.Cluster != nil {
		return server.ConnectCluster(ctx, l, true, clusterLog())
	}
	return server.Ensure(ctx, l)
}

// clusterLog writes what a cluster warns of to standard error: there is no control plane that could keep it.
func clusterLog() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{
		Level: slog.LevelWarn,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

func (platform) Projects(ctx context.Context, down bool) ([]running, error) {
	return server.Projects(ctx, down)
}

func (platform) Look(l location, processes, containers bool) (machine, error) {
	return server.Look(l, processes, containers)
}

func (platform) Images(ctx context.Context, l location) (images, error) {
	return server.OpenImages(ctx, l)
}

func (platform) Deposit(l location, registry string) (deposit, error) {
	return server.OpenDeposit(l, registry)
}

func (platform) ServeImages(ctx context.Context, dir string, log *slog.Logger) error {
	return server.ServeImages(ctx, dir, log)
}

func (platform) Serve(ctx context.Context, location string, log *slog.Logger) error {
	return server.Serve(ctx, location, log)
}

func (platform) Proxy(ctx context.Context, location string, log *slog.Logger) error {
	return server.Proxy(ctx, location, log)
}

func (platform) ServeInCluster(ctx context.Context, project, namespace string, log *slog.Logger) error {
	return server.ServeInCluster(ctx, project, namespace, log)
}

func (platform) ServeMetricsAPI(ctx context.Context, namespace string, log *slog.Logger) error {
	return server.ServeMetricsAPI(ctx, namespace, log)
}

func (platform) ProxyInCluster(ctx context.Context, project, namespace string, accessLog io.Writer, log *slog.Logger) error {
	return server.ProxyInCluster(ctx, project, namespace, accessLog, log)
}

func (platform) TellDriftInCluster(ctx context.Context, project, namespace string, log *slog.Logger) error {
	return server.TellDriftInCluster(ctx, project, namespace, log)
}
