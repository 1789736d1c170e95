package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"trellis/engine/kubernetes"
	"trellis/errdefs"
	"trellis/image/registry"
	"trellis/state"
)

// imagesDir is the folder of the registry of this machine.
func imagesDir() (string, error) {
	projects, err := registryDir()
	return filepath.Join(filepath.Dir(projects), "images"), err
}

func openRegistry() (*registry.Store, error) {
	dir, err := imagesDir()
	if err != nil {
		return nil, err
	}
	return registry.Open(dir)
}

// ServeImages is the registry of this machine, for the images in a folder; it blocks until ctx is done or nobody needs it any
// more.
func ServeImages(ctx context.Context, dir string, log *slog.Logger) error {
	store, err := registry.Open(dir)
	if err != nil {
		return err
	}
	return store.Serve(ctx, log)
}

// registryPatience is how long the registry of this machine may take to answer.
const registryPatience = 30 * time.Second

// ensureRegistry has the registry of this machine run. It goes on when this process has ended.
func ensureRegistry(ctx context.Context, store *registry.Store) error {
	ctx, cancel := context.WithTimeout(ctx, registryPatience)
	defer cancel()
	log := filepath.Join(store.Dir(), "registry.log")
	var ended <-chan error
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		answers, err := store.Answers(ctx)
		if err != nil || answers {
			return err
		}
		if ended == nil {
			if ended, err = startRegistry(store.Dir(), log); err != nil {
				return fmt.Errorf("start the registry of this machine: %w", err)
			}
		}
		select {
		case err := <-ended:
			if err != nil {
				return fmt.Errorf("start the registry of this machine: %w: it ended (%w); its log is %s", errdefs.ErrUnavailable, err, log)
			}
			ended = nil // another one was there: it is about to answer, or to end
		case <-ctx.Done():
			return fmt.Errorf("start the registry of this machine: %w: it does not answer; its log is %s", errdefs.ErrUnavailable, log)
		case <-time.After(pause):
		}
	}
}

func startRegistry(dir, log string) (ended <-chan error, err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the running binary: %w", err)
	}
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600) // the one that is there goes on writing to it
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(exe, "registry", "--dir", dir)
	cmd.Stdout, cmd.Stderr, cmd.Dir, cmd.Env = out, out, "/", environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	return done, nil
}

// existingRegistry returns the registry of this machine, nil where nobody has ever put an image there.
func existingRegistry() (*registry.Store, error) {
	dir, err := imagesDir()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return registry.Open(dir)
}

// usedRegistry returns the registry of this machine where a project in a cluster pulls from it, nil where it does not.
func usedRegistry(client *kubernetes.Client, project string) (*registry.Store, error) {
	store, err := existingRegistry()
	if err != nil || store == nil || !store.Used(ownerIn(client, project)) {
		return nil, err
	}
	return store, nil
}

// ReleaseImages says that a project does not run in its cluster and pulls nothing from this machine any more. Its images go, but
// for what the cluster may still go back to.
func ReleaseImages(ctx context.Context, l Location) error {
	quiet := slog.New(slog.DiscardHandler)
	client, err := l.dial(quiet)
	if err != nil {
		return err
	}
	store, err := existingRegistry()
	if err != nil || store == nil {
		return err
	}
	if err := store.Release(ownerIn(client, l.Project)); err != nil {
		return err
	}
	revisions, err := kubernetes.New(l.Project, client, quiet).History(ctx, 0)
	if err != nil {
		return err
	}
	return keepImages(ctx, store, client, l.Project, revisions)
}

// keepImages removes from the registry of this machine what neither a revision of a project nor its data plane has.
func keepImages(ctx context.Context, store *registry.Store, client *kubernetes.Client, project string, revisions []state.Revision) error {
	trellis, err := client.PlaneMade(ctx, project)
	if err != nil {
		return err
	}
	kept := map[string]bool{}
	for _, reference := range append(imagesOf(revisions), trellis) {
		_, digest, _ := strings.Cut(reference, "@")
		kept[digest] = true
	}
	return store.Keep(ctx, ownerIn(client, project), func(digest string) bool { return kept[digest] })
}

// imagesOf returns the images that revisions run by their contents.
func imagesOf(revisions []state.Revision) []string {
	all := map[string]bool{}
	for _, rev := range revisions {
		for _, svc := range rev.Project.Services {
			all[svc.Trellis.ImageID] = true
		}
	}
	return slices.Collect(maps.Keys(all))
}
