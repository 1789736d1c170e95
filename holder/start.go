package holder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// startTimeout is how long a new holder may take to answer; another one that was found to be starting gets heldPatience
// before this one is tried again.
const (
	startTimeout = 10 * time.Second
	heldPatience = 250 * time.Millisecond
)

// Start returns a client of the project's holder, which it starts if none runs: shim is the command line of
// trellis-shim, to which "hold FILE" is appended. The holder is detached: it has its own session, no file of the
// caller's, and outlives it. It writes cfg into cfg.Dir (0600 in a 0700 folder). A holder that runs already keeps its
// own Config.
func Start(ctx context.Context, shim []string, cfg Config) (*Client, error) {
	op := "start the holder of " + cfg.Project
	if len(shim) == 0 {
		return nil, fmt.Errorf("%s: no command", op)
	}
	if err := cfg.validate(); err != nil {
		return nil, wrap(op, err)
	}
	socket := filepath.Join(cfg.Dir, socketFile)
	if c, err := dialRunning(ctx, socket); err == nil || !errors.Is(err, ErrGone) {
		return c, wrap(op, err)
	}
	file, err := writeConfig(cfg)
	if err != nil {
		return nil, wrap(op, err)
	}
	within, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		ended, err := spawn(shim, file, cfg.Log)
		if err != nil {
			return nil, wrap(op, err)
		}
		c, err := awaitAnswer(within, socket, ended)
		if errors.Is(err, errHeld) && within.Err() == nil {
			continue // the one that was starting was killed before it answered, or its last moment goes on
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w; its log %s ends with: %s", op, err, cfg.Log, lastLines(cfg.Log))
		}
		return c, nil
	}
}

// dialRunning returns a client of the holder that runs, and waits for one that is stopping to be gone.
func dialRunning(ctx context.Context, socket string) (*Client, error) {
	for {
		c, err := Dial(ctx, socket)
		if !errors.Is(err, ErrStopping) {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// spawn starts the process; ended gets how it ended.
func spawn(shim []string, file, log string) (ended <-chan error, err error) {
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(shim[0], append(append([]string{}, shim[1:]...), "hold", file)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }() // as long as this process lives, or a zombie would be left
	return done, nil
}

// awaitAnswer waits for the holder to answer. One that lost the race against another ends: the other is about to answer,
// and errHeld says that it has not.
func awaitAnswer(ctx context.Context, socket string, ended <-chan error) (*Client, error) {
	var exit error
	var until time.Time // once it has ended
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		c, err := Dial(ctx, socket)
		if err == nil {
			return c, nil
		}
		if exit != nil && !time.Now().Before(until) {
			return nil, exit
		}
		select {
		case err := <-ended:
			exit, until, ended = howItEnded(err), time.Now(), nil
			if errors.Is(exit, errHeld) {
				until = until.Add(heldPatience)
			}
			pause = 0
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
		}
	}
}

func howItEnded(err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return errors.New("it ended at once")
	case errors.As(err, &exit) && exit.ExitCode() == exitHeld:
		return errHeld
	}
	return fmt.Errorf("it ended: %w", err)
}

func writeConfig(cfg Config) (file string, err error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return "", err
	}
	if err := os.Chmod(cfg.Dir, 0o700); err != nil {
		return "", err
	}
	b, err := json.MarshalIndent(cfg, "", "  ")
	if err != nil {
		return "", err
	}
	return filepath.Join(cfg.Dir, configFile), writeFile(cfg.Dir, configFile, b)
}

// writeFile writes a file that gets its name when all of it is there, 0600.
func writeFile(dir, name string, content []byte) error {
	f, err := os.CreateTemp(dir, name+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// lastLines returns the last three lines of a log.
func lastLines(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(bytes.TrimSpace(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], " | ")
}
