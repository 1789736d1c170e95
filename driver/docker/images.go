package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"trellis/compose"
	kinds "trellis/errdefs"
)

// ImageOptions say how the image of a service is come by.
type ImageOptions struct {
	Pull  bool // ask the registry even where the image is here
	Force bool // build without what earlier builds have left
	// Output takes what a build says; nil: the end of it stands in the error of a build that fails.
	Output io.Writer
	// Ignore are directories that are no part of a build, absolute.
	Ignore []string
}

// Image is an image that is here.
type Image struct {
	ID   string // by its content: a reference for Spec.Image that stands for nothing else
	Done string // "built", "pulled", or "" where it was here
	// Healthcheck is the image's own, nil for none.
	Healthcheck *compose.Healthcheck
}

// Image builds or pulls the image of a service as its build and pull_policy say, and returns what it is now. Not
// reachable: ErrUnavailable. It is to be here and is not: ErrNotFound.
func (e *Engine) Image(ctx context.Context, project string, svc compose.Service, opt ImageOptions) (Image, error) {
	name := ImageName(project, svc)
	fail := func(err error) (Image, error) { return Image{}, fmt.Errorf("service %s: %w", svc.Name, err) }
	if _, err := reference.ParseNormalizedNamed(name); err != nil {
		return fail(fmt.Errorf("image %q: %w: %w", name, kinds.ErrInvalid, err))
	}
	before, err := e.imageID(ctx, name)
	if err != nil && !errors.Is(err, kinds.ErrNotFound) {
		return fail(err)
	}
	pull := opt.Pull || pullsAlways(svc.PullPolicy)
	switch {
	case svc.Build != nil && (svc.Image == "" || !pull && svc.PullPolicy != "never"):
		if err := e.build(ctx, name, svc, opt); err != nil {
			return fail(fmt.Errorf("build the image %s: %w", name, err))
		}
		return e.now(ctx, name, before, "built")
	case pull || before == "" && svc.PullPolicy != "never":
		if err := e.pull(ctx, name, svc.Platform); err != nil {
			return fail(fmt.Errorf("pull the image %s: %w", name, err))
		}
		return e.now(ctx, name, before, "pulled")
	case before == "":
		return fail(fmt.Errorf("%w: the image %s is not here, and pull_policy is never", kinds.ErrNotFound, name))
	}
	return e.now(ctx, name, before, "")
}

// ImageName is the reference of a service's image: its own, or the one that docker compose gives to what it builds.
func ImageName(project string, svc compose.Service) string {
	return firstOf(svc.Image, project+"-"+svc.Name)
}

// pullsAlways says whether a pull policy asks the registry each time. Those by age do, because an image does not tell
// when it was asked for last.
func pullsAlways(policy string) bool {
	return policy == "always" || policy == "daily" || policy == "weekly" || strings.HasPrefix(policy, "every_")
}

func (e *Engine) now(ctx context.Context, name, before, done string) (Image, error) {
	found, err := e.api.ImageInspect(ctx, name)
	if err != nil {
		return Image{}, fmt.Errorf("look for the image %s: %w", name, kind(err))
	}
	if found.ID == before {
		done = ""
	}
	i := Image{ID: found.ID, Done: done}
	if found.Config != nil && found.Config.Healthcheck != nil && len(found.Config.Healthcheck.Test) > 0 {
		i.Healthcheck = healthcheckOf(*found.Config.Healthcheck)
	}
	return i, nil
}

// healthcheckOf is the health check of an image as a file would have it.
func healthcheckOf(h dockerspec.HealthcheckConfig) *compose.Healthcheck {
	span := func(d time.Duration) *compose.Duration {
		if d == 0 {
			return nil
		}
		s := compose.Duration(d)
		return &s
	}
	hc := &compose.Healthcheck{
		Test: h.Test, Interval: span(h.Interval), Timeout: span(h.Timeout), StartPeriod: span(h.StartPeriod), StartInterval: span(h.StartInterval),
	}
	if h.Retries != 0 {
		hc.Retries = &h.Retries
	}
	return hc
}

// imageID returns what a reference stands for here. Nothing: ErrNotFound.
func (e *Engine) imageID(ctx context.Context, name string) (string, error) {
	found, err := e.api.ImageInspect(ctx, name)
	if err != nil {
		return "", fmt.Errorf("look for the image %s: %w", name, kind(err))
	}
	return found.ID, nil
}

func (e *Engine) pull(ctx context.Context, name, platform string) error {
	auth, err := registryAuth(name)
	if err != nil {
		return err
	}
	opt := client.ImagePullOptions{RegistryAuth: auth}
	if platform != "" {
		opt.Platforms = []ocispec.Platform{*platformOf(platform)}
	}
	body, err := e.api.ImagePull(ctx, name, opt)
	if err != nil {
		return kind(err)
	}
	defer body.Close()
	return answer(body, nil)
}

// platformOf reads "os/arch[/variant]".
func platformOf(text string) *ocispec.Platform {
	parts := append(strings.SplitN(text, "/", 3), "", "")
	return &ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
}
