package server

import (
	"context"
	"io"
	"time"

	"trellis/compose"
	"trellis/driver/docker"
)

// publishedEnv set to 1 makes the control plane reach containers through ports published on 127.0.0.1.
const publishedEnv = "TRELLIS_DOCKER_PUBLISHED"

// Images builds and pulls the images of services.
type Images struct {
	engine *docker.Engine
	ignore []string
}

// Image is an image that is here; see docker.Image.
type Image struct {
	ID   string
	Done string // "built", "pulled", "" for neither
	// Healthcheck is the image's own, nil for none.
	Healthcheck *compose.Healthcheck
}

// OpenImages reaches the Docker engine that runs the containers of a project. It is not there: ErrUnavailable.
func OpenImages(ctx context.Context, l Location) (Images, error) {
	engine, err := docker.Open("")
	if err != nil {
		return Images{}, err
	}
	if err := engine.Ping(ctx); err != nil {
		_ = engine.Close()
		return Images{}, err
	}
	return Images{engine, []string{l.StateDir}}, nil
}

// Get builds or pulls the image of a service where it has to be; pull asks the registry and force builds in any case.
// What a build says goes to output, or with nil into its error.
func (i Images) Get(ctx context.Context, project string, svc compose.Service, pull, force bool, output io.Writer) (Image, error) {
	got, err := i.engine.Image(ctx, project, svc, docker.ImageOptions{Pull: pull, Force: force, Output: output, Ignore: i.ignore})
	return Image{got.ID, got.Done, got.Healthcheck}, err
}

// ComposeContainer is a running container that docker compose started.
type ComposeContainer = docker.ComposeContainer

// Compose returns the running containers that docker compose started for a project.
func (i Images) Compose(ctx context.Context, project string) ([]ComposeContainer, error) {
	return i.engine.Compose(ctx, project)
}

// Elsewhere returns the folders from which others have containers of the project that l would run.
func (i Images) Elsewhere(ctx context.Context, l Location) ([]string, error) {
	return i.engine.Elsewhere(ctx, l.Project, l.StateDir)
}

// Halt stops such containers, each within grace, and keeps them; Resume starts them again, Discard removes them and leaves
// their volumes.
func (i Images) Halt(ctx context.Context, ids []string, grace time.Duration) error {
	return i.engine.Halt(ctx, ids, grace)
}

// Resume starts containers that were halted.
func (i Images) Resume(ctx context.Context, ids []string) error { return i.engine.Resume(ctx, ids) }

// Discard removes containers that were halted; their volumes stay.
func (i Images) Discard(ctx context.Context, ids []string) error { return i.engine.Discard(ctx, ids) }

// Close lets go of the engine.
func (i Images) Close() error { return i.engine.Close() }
