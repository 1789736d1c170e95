//go:build linux

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/shim"
)

// How often an instance's listening sockets are looked at: quickly while it starts, slowly later.
const (
	firstLook  = 2 * time.Millisecond
	slowerLook = 100 * time.Millisecond
	steadyLook = 10 * time.Second
	leftLook   = time.Second // at what a killed supervisor left
	// Of an instance's age, until it listens where it should and afterwards.
	waitingShare = 50
	steadyShare  = 5
	// goneOnAfter is how long after it a run is told of that its shim began by itself. There is nothing to decide, and until
	// then the processors belong to what starts: whoever is told looks at everything. See docs/decisions/160.
	goneOnAfter = 25 * time.Millisecond
)

// nextPause returns when to look again at an instance of that age. Nothing that it begins to listen on is noticed later
// than after a small part of its age, and an old one that has settled costs next to nothing.
func nextPause(age time.Duration, settled bool) time.Duration {
	if settled {
		return min(max(age/steadyShare, slowerLook), steadyLook)
	}
	return min(max(age/waitingShare, firstLook), steadyLook)
}

// settled says whether an instance listens on all ports that it is known to; where none are known, on any.
func settled(r record, listening []int) bool {
	want := slices.Clone(r.own.Ports)
	if r.own.Port != 0 && len(want) > 0 {
		mapped := r.portMap(listening)
		if port, ok := mapped[want[0]]; ok {
			want[0] = port
		}
	}
	for _, port := range want {
		if !slices.Contains(listening, port) {
			return false
		}
	}
	return len(listening) > 0
}

// Watch implements driver.Driver. Records are watched by inotify; a shim that ends in any way closes its lock.
func (d *Driver) Watch(ctx context.Context, project string, changed func(driver.ID)) error {
	w := &watcher{d: d, project: project, changed: changed, dirs: map[string]*watched{}, numbers: map[int32]string{}}
	if err := w.run(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("watch %s: %w", project, err)
	}
	return nil
}

type watcher struct {
	d       *Driver
	project string
	changed func(driver.ID)
	events  *inotify
	root    int32
	dirs    map[string]*watched // by path
	numbers map[int32]string
}

// watched is one instance directory.
type watched struct {
	id        driver.ID // "" until its record is there
	foreign   bool      // of another project
	run       int
	told      told      // what was told of last
	tell      time.Time // when to tell that its shim has begun another run by itself; zero: there is none
	listening []int
	running   bool
	left      bool // its shim was killed, and something of it lives on
	closing   int  // looks that are left until its shim, which let go of its lock, has to be gone
	started   time.Time
	look      time.Time // when its sockets are looked at next
}

// told is a run of a shim.
type told struct {
	shim shim.Process
	run  int
}

// goesOn says whether r shows a run that its shim has begun by itself since.
func (t told) goesOn(r record) bool {
	return r.state != driver.Exited && r.running.Shim == t.shim && r.running.Run > t.run && t.run > 0
}

func (w *watcher) run(ctx context.Context) error {
	events, err := newInotify()
	if err != nil {
		return err
	}
	w.events = events
	stop := context.AfterFunc(ctx, events.close)
	defer func() {
		stop()
		events.close()
	}()
	for {
		if err := w.begin(); err != nil {
			return err
		}
		if err := w.follow(ctx); !errors.Is(err, errRescan) {
			return err
		}
	}
}

var errRescan = errors.New("look at everything again")

// begin watches the directory of instances and every instance in it, and forgets what is not there any more: nobody may have told
// of that.
func (w *watcher) begin() error {
	clear(w.numbers)
	if err := os.MkdirAll(w.d.root, 0o700); err != nil {
		return err
	}
	var err error
	if w.root, err = w.events.watch(w.d.root, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE_SELF); err != nil {
		return err
	}
	names, err := w.d.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := w.add(filepath.Join(w.d.root, name)); err != nil {
			return err
		}
	}
	have := w.watchedDirs()
	for dir := range w.dirs {
		if !slices.Contains(have, dir) {
			w.forget(dir)
		}
	}
	return nil
}

// forget takes a directory that is gone off the list, and tells.
func (w *watcher) forget(dir string) {
	x := w.dirs[dir]
	delete(w.dirs, dir)
	if x != nil && x.id != "" && !x.foreign {
		w.changed(x.id)
	}
}

// add begins to watch an instance directory and looks at what happened in it before. One that cannot be watched is an
// error: nobody would hear of its end.
func (w *watcher) add(dir string) error {
	if !mayHold(filepath.Base(dir), w.project, w.d.cfg.Project) {
		return nil
	}
	wd, err := w.events.watch(dir, unix.IN_MOVED_TO|unix.IN_CLOSE_WRITE|unix.IN_DELETE_SELF)
	if isMissing(err) || errors.Is(err, unix.ENOTDIR) {
		return nil // removed again
	}
	if err != nil {
		return err
	}
	w.numbers[wd] = dir
	if w.dirs[dir] == nil {
		w.dirs[dir] = &watched{}
	}
	w.refresh(dir)
	return nil
}

// refresh reads the record of dir and tells.
func (w *watcher) refresh(dir string) {
	x := w.dirs[dir]
	if x == nil || x.foreign {
		return
	}
	r, err := w.d.settled(dir)
	if err != nil {
		if x.id != "" {
			w.changed(x.id)
		}
		return // not yet there, gone, or unreadable: List will say
	}
	if r.spec.Project != w.project {
		x.foreign = true
		return
	}
	x.id = driver.ID(r.spec.ID)
	x.running = r.state == driver.Running
	now, later, asBefore := time.Now(), x.told.goesOn(r), x.left && r.left
	x.left = r.left
	if later && x.tell.IsZero() {
		x.tell = now.Add(goneOnAfter)
	}
	if x.running && x.run != r.running.Run {
		x.run, x.look, x.listening = r.running.Run, now, nil
		x.started = now.Add(-max(now.Sub(r.running.StartedAt), 0)) // from here on no change of the clock matters
		if later {
			x.look = x.tell
		}
	}
	if x.left {
		x.look = now.Add(leftLook)
	}
	if !later && !asBefore {
		x.told, x.tell = told{r.running.Shim, r.running.Run}, time.Time{}
		w.changed(x.id)
	}
}

// follow handles events and looks at sockets until something fails or ctx is done.
func (w *watcher) follow(ctx context.Context) error {
	for {
		c, ok, err := w.events.next(w.nextLook())
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if !ok {
			w.lookAtSockets()
			w.tellLate()
			continue
		}
		if err := w.handle(c); err != nil {
			return err
		}
	}
}

func (w *watcher) handle(c change) error {
	switch {
	case c.mask&unix.IN_Q_OVERFLOW != 0:
		return errRescan
	case c.watch == w.root && c.mask&(unix.IN_DELETE_SELF|unix.IN_IGNORED) != 0:
		return errRescan
	case c.watch == w.root:
		if c.mask&unix.IN_ISDIR != 0 {
			return w.add(filepath.Join(w.d.root, c.name))
		}
		return nil
	}
	dir, ok := w.numbers[c.watch]
	if !ok {
		return nil
	}
	switch {
	case c.mask&(unix.IN_DELETE_SELF|unix.IN_IGNORED) != 0:
		delete(w.numbers, c.watch)
		if !slices.Contains(w.watchedDirs(), dir) {
			w.forget(dir)
		}
	case c.mask&unix.IN_MOVED_TO != 0 && (c.name == shim.SpecFile || c.name == shim.RunningFile || c.name == shim.ExitFile),
		c.mask&unix.IN_CLOSE_WRITE != 0 && c.name == shim.LockFile:
		w.refresh(dir)
		// The kernel tells of a closed file before it lets go of its lock.
		if x := w.dirs[dir]; c.name == shim.LockFile && x != nil && x.running {
			x.closing, x.look = 100, time.Now()
		}
	}
	return nil
}

// watchedDirs are the directories that have a watch: one that was removed and made again has the newer one.
func (w *watcher) watchedDirs() []string {
	var all []string
	for _, dir := range w.numbers {
		all = append(all, dir)
	}
	return all
}

// nextLook returns when sockets are to be looked at next, or a run is to be told of, the zero time for never.
func (w *watcher) nextLook() time.Time {
	var next time.Time
	sooner := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, x := range w.dirs {
		if x.running && !x.foreign {
			sooner(x.look)
		}
		if !x.tell.IsZero() {
			sooner(x.tell)
		}
	}
	return next
}

// tellLate tells of the runs that shims have begun by themselves a while ago.
func (w *watcher) tellLate() {
	now := time.Now()
	for dir, x := range w.dirs {
		if !x.tell.IsZero() && !x.tell.After(now) {
			x.told, x.tell = told{}, time.Time{}
			w.refresh(dir)
		}
	}
}

// lookAtSockets looks at those instances whose time has come, and tells of those that listen on something else.
func (w *watcher) lookAtSockets() {
	now := time.Now()
	view := w.d.sockets.view()
	for dir, x := range w.dirs {
		if !x.running || x.foreign || x.look.After(now) {
			continue
		}
		r, err := w.d.read(dir)
		if err != nil || r.state != driver.Running {
			x.look, x.closing = now.Add(slowerLook), 0
			w.refresh(dir)
			continue
		}
		if x.closing > 0 {
			x.closing--
			x.look = now.Add(time.Millisecond)
			continue
		}
		ports := view.listening(r)
		x.look = now.Add(nextPause(now.Sub(x.started), settled(r, ports)))
		if !slices.Equal(ports, x.listening) {
			x.listening = ports
			w.changed(x.id)
		}
	}
}
