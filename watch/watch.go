// Package watch notices which files of a project were changed, added or removed. Bursts (a save that renames over, a
// checkout of a thousand files) come as one batch, folders that are left out are not even read, new folders are taken up,
// and where the kernel lost events everything is looked at again.
package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"trellis/errdefs"
)

// Rule says which files matter.
type Rule struct {
	Path string // absolute; a file, or a folder with all below it
	// Ignore are patterns of a .dockerignore, relative to Path; Include, where there are any, are the only files that
	// matter. Version control, Trellis' own state and the temporary files of editors never do.
	Ignore, Include []string
	// Skip leaves out more, by path relative to Path with slashes; nil: nothing.
	Skip func(path string, dir bool) bool
}

// Change is a file that is not as it was.
type Change struct {
	Rule int    // index of the rule
	Path string // absolute
	Gone bool
}

// DefaultQuiet is Config.Quiet where it is not set: an editor or a checkout writes its files one soon after another.
const DefaultQuiet = 100 * time.Millisecond

// Config says what a Watcher works with.
type Config struct {
	Rules []Rule
	// Quiet is how long nothing has to happen before a batch is delivered (0: DefaultQuiet), Longest how long a batch may grow
	// while something does (0: 2 s).
	Quiet, Longest time.Duration
	// Warn takes a sentence about a folder that cannot be watched, once for each; nil: nobody.
	Warn func(string)
}

// Watcher watches files.
type Watcher struct {
	cfg   Config
	rules []*rule
	add   func(dir string) error // watches one folder; again: nothing
	drop  func(dir string) error // ends that
	told  map[string]bool
}

// New returns a Watcher that watches nothing until Run. A path that is not there, or a pattern that is none: ErrInvalid.
func New(cfg Config) (*Watcher, error) {
	if cfg.Quiet == 0 {
		cfg.Quiet = DefaultQuiet
	}
	if cfg.Longest == 0 {
		cfg.Longest = 2 * time.Second
	}
	if cfg.Warn == nil {
		cfg.Warn = func(string) {}
	}
	w := &Watcher{cfg: cfg, told: map[string]bool{}}
	for i, r := range cfg.Rules {
		compiled, err := compile(r)
		if err != nil {
			return nil, fmt.Errorf("watch %s: %w: %w", r.Path, errdefs.ErrInvalid, err)
		}
		compiled.index = i
		w.rules = append(w.rules, compiled)
	}
	return w, nil
}

// Run watches until ctx is done and calls fn with what changed since the call before, at first since Run began. fn is not
// called again before it has returned; what changes meanwhile is in the next batch. ready, if it is not nil, is closed when
// nothing is missed any more. Too many folders for the kernel: ErrUnavailable with what to do.
func (w *Watcher) Run(ctx context.Context, ready chan<- struct{}, fn func([]Change)) error {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return limits(err)
	}
	var all sync.WaitGroup
	defer all.Wait()
	defer notify.Close() // ends notify.Errors
	failures := make(chan error, 1)
	all.Go(func() {
		// fsnotify waits for an error to be read while nobody can add a folder, as a look does.
		for err := range notify.Errors {
			select {
			case failures <- err:
			default: // one that was not heard of yet says enough
			}
		}
	})
	w.add, w.drop = notify.Add, notify.Remove
	if _, err := w.look(nil, true); err != nil {
		return err
	}
	if ready != nil {
		close(ready)
	}
	return w.loop(ctx, notify.Events, failures, w.look, fn)
}

// loop gathers events into batches. look says what came of the paths of a batch, or of everything.
func (w *Watcher) loop(
	ctx context.Context, events <-chan fsnotify.Event, failures <-chan error,
	look func(dirty map[string]bool, all bool) ([]Change, error), fn func([]Change),
) error {
	dirty, all := map[string]bool{}, false
	var first, due time.Time
	quiet := time.NewTimer(time.Hour)
	quiet.Stop()
	working := make(chan struct{}, 1) // fn runs
	done := make(chan struct{}, 1)
	defer func() {
		if len(working) > 0 {
			<-done
		}
	}()
	touched := func() {
		if first.IsZero() {
			first = time.Now()
		}
		wait := min(w.cfg.Quiet, max(w.cfg.Longest-time.Since(first), 0))
		due = time.Now().Add(wait)
		quiet.Reset(wait)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-events:
			if !ok {
				return nil
			}
			dirty[e.Name] = true
			touched()
		case err := <-failures:
			// fsnotify lets go of a folder that was moved; of one that was removed since the kernel has let go itself.
			if !errors.Is(err, fsnotify.ErrEventOverflow) && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("watch: %w", err)
			}
			all = true
			touched()
		case <-quiet.C:
			if len(working) > 0 {
				continue // when fn is done
			}
			// On a machine that held this process up, events may wait that have not been read.
			if late := time.Since(due); late > w.cfg.Quiet/2 && time.Since(first) < w.cfg.Longest {
				touched()
				continue
			}
			changes, err := look(dirty, all)
			if err != nil {
				return err
			}
			clear(dirty)
			all, first = false, time.Time{}
			if len(changes) > 0 {
				working <- struct{}{}
				go func() { fn(changes); done <- struct{}{} }()
			}
		case <-done:
			<-working
			if len(dirty) > 0 || all {
				touched()
			}
		}
	}
}

// limits explains an error of the kernel that a user can do something about.
func limits(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("watch: %w: the kernel's limit of watched folders is reached; raise it with "+
			"'sysctl fs.inotify.max_user_watches=524288', or leave folders out with ignore", errdefs.ErrUnavailable)
	case errors.Is(err, unix.EMFILE):
		return fmt.Errorf("watch: %w: the limit of open files or of watching programs is reached; raise it with "+
			"'sysctl fs.inotify.max_user_instances=512' or 'ulimit -n'", errdefs.ErrUnavailable)
	}
	return fmt.Errorf("watch: %w", err)
}

// watchFolder watches one folder; false where it cannot be, which is told once.
func (w *Watcher) watchFolder(dir string) (bool, error) {
	err := w.add(dir)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return false, nil // gone again
	case errors.Is(err, fs.ErrPermission):
		w.warnOnce(dir, "it cannot be read")
		return false, nil
	}
	return false, limits(err)
}

func (w *Watcher) warnOnce(dir, why string) {
	if !w.told[dir] {
		w.told[dir] = true
		w.cfg.Warn(fmt.Sprintf("%s is not watched: %s; leave it out with ignore", dir, why))
	}
}

// within says whether path is dir or lies below it.
func within(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == filepath.Separator || dir == "/")
}
