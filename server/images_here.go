package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"trellis/engine/kubernetes"
	"trellis/errdefs"
	"trellis/image/registry"
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
const registryPatience = 10 * time.Second

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

// usedRegistry returns the registry of this machine where a project in a cluster pulls from it, nil where it does not.
func usedRegistry(client *kubernetes.Client, project string) (*registry.Store, error) {
	dir, err := imagesDir()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	store, err := registry.Open(dir)
	if err != nil || !store.Used(ownerIn(client, project)) {
		return nil, err
	}
	return store, nil
}

// ReleaseImages says that a project does not run in its cluster and pulls nothing from this machine any more.
func ReleaseImages(l Location) error {
	client, err := l.dial(slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	store, err := usedRegistry(client, l.Project)
	if err != nil || store == nil {
		return err
	}
	return store.Release(ownerIn(client, l.Project))
}
