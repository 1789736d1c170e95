package docker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// The labels that docker compose gives its containers.
const (
	composeService = "com.docker.compose.service"
	composeOneOff  = "com.docker.compose.oneoff"
	composeFiles   = "com.docker.compose.project.config_files"
)

// ComposeContainer is a running container that docker compose started.
type ComposeContainer struct {
	ID      string
	Name    string
	Service string
	Files   string // the Compose files it came from, as docker compose writes them
	Volumes []string
}

// Compose returns the running containers that docker compose started for a project, in order of name.
func (e *Engine) Compose(ctx context.Context, project string) ([]ComposeContainer, error) {
	found, err := e.api.ContainerList(ctx, client.ContainerListOptions{
		Filters: make(client.Filters).Add("label", composeProject+"="+project).Add("status", string(container.StateRunning)),
	})
	if err != nil {
		return nil, fmt.Errorf("look for containers of docker compose: %w", kind(err))
	}
	var all []ComposeContainer
	for _, c := range found.Items {
		if c.Labels[labelProject] != "" || strings.EqualFold(c.Labels[composeOneOff], "true") || len(c.Names) == 0 {
			continue
		}
		one := ComposeContainer{
			ID: c.ID, Name: strings.TrimPrefix(c.Names[0], "/"), Service: c.Labels[composeService], Files: c.Labels[composeFiles],
		}
		for _, m := range c.Mounts {
			if m.Type == "volume" {
				one.Volumes = append(one.Volumes, m.Name)
			}
		}
		slices.Sort(one.Volumes)
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b ComposeContainer) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// Elsewhere returns the folders of others that have containers of a project of this name, running or not: stateDir is whose
// they are not.
func (e *Engine) Elsewhere(ctx context.Context, project, stateDir string) ([]string, error) {
	found, err := e.api.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: make(client.Filters).Add("label", labelProject+"="+project),
	})
	if err != nil {
		return nil, fmt.Errorf("look for containers of another checkout: %w", kind(err))
	}
	var dirs []string
	for _, c := range found.Items {
		if c.Labels[labelState] != stateDir {
			dirs = append(dirs, c.Labels[labelDir])
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs), nil
}

// Halt stops containers, each within grace, and keeps them.
func (e *Engine) Halt(ctx context.Context, ids []string, grace time.Duration) error {
	seconds := int(grace / time.Second)
	for _, id := range ids {
		if _, err := e.api.ContainerStop(ctx, id, client.ContainerStopOptions{Timeout: &seconds}); err != nil && !isNotFound(err) {
			return fmt.Errorf("stop the container %s: %w", id, kind(err))
		}
	}
	return nil
}

// Resume starts containers that were halted.
func (e *Engine) Resume(ctx context.Context, ids []string) error {
	for _, id := range ids {
		if _, err := e.api.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
			return fmt.Errorf("start the container %s: %w", id, kind(err))
		}
	}
	return nil
}

// Discard removes containers that were halted; their volumes stay.
func (e *Engine) Discard(ctx context.Context, ids []string) error {
	for _, id := range ids {
		if _, err := e.api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{}); err != nil && !isNotFound(err) {
			return fmt.Errorf("remove the container %s: %w", id, kind(err))
		}
	}
	return nil
}
