//go:build linux

package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/errdefs"
	"trellis/shim"
)

// owner is what this package adds to a shim.Spec.
type owner struct {
	Ports   []int             `json:"ports,omitempty"`
	Port    int               `json:"port,omitempty"` // allocated in place of Ports[0]
	Address string            `json:"address,omitempty"`
	Gateway string            `json:"gateway,omitempty"`
	Hosts   map[string]string `json:"hosts,omitempty"`
	Shared  bool              `json:"shared,omitempty"` // the machine's network
	Limited bool              `json:"limited,omitempty"`
}

// record is all that an instance directory says.
type record struct {
	dir     string
	spec    shim.Spec
	own     owner
	state   driver.State
	left    bool         // its shim was killed, and something of the instance lives on
	running shim.Running // zero before the first start
	exit    *shim.Exit
	before  *shim.Exit // of the run before
}

type cachedSpec struct {
	modified time.Time
	size     int64
	inode    uint64
	spec     shim.Spec
	own      owner
}

// directory returns the directory of id, which may not exist.
func (d *Driver) directory(id driver.ID) (string, error) {
	project, name, _ := strings.Cut(string(id), "/")
	if !plain(project) || !plain(name) {
		return "", fmt.Errorf("instance %q: %w: want <project>/<service>-<slot>-<generation>", id, errdefs.ErrInvalid)
	}
	return filepath.Join(d.root, fileName(project, name, d.cfg.Project)), nil
}

// fileName returns the name of an instance's directory: its name, and that of its project where that is not the
// driver's own.
func fileName(project, name, own string) string {
	if project == own {
		return name
	}
	return project + "+" + name
}

// mayHold says whether the directory of that name may be one of project's.
func mayHold(name, project, own string) bool {
	if prefix, _, ok := strings.Cut(name, "+"); ok {
		return prefix == project
	}
	return project == own
}

// plain says whether name is one safe element of a path.
func plain(name string) bool {
	if name == "" || len(name) > 200 || name[0] == '.' {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	})
}

// spec reads the Spec of a directory, which changes rarely and is read often.
func (d *Driver) spec(dir string) (shim.Spec, owner, error) {
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, shim.SpecFile), &st); err != nil {
		return shim.Spec{}, owner{}, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	d.mu.Lock()
	c, ok := d.specs[dir]
	d.mu.Unlock()
	modified := time.Unix(st.Mtim.Unix())
	if ok && c.inode == st.Ino && c.size == st.Size && c.modified.Equal(modified) {
		return c.spec, c.own, nil
	}
	spec, err := shim.ReadSpec(dir)
	if err != nil {
		return spec, owner{}, err
	}
	c = cachedSpec{modified: modified, size: st.Size, inode: st.Ino, spec: spec}
	if len(spec.Owner) > 0 {
		if err := json.Unmarshal(spec.Owner, &c.own); err != nil {
			return spec, owner{}, fmt.Errorf("read %s: owner: %w", filepath.Join(dir, shim.SpecFile), err)
		}
	}
	d.mu.Lock()
	d.specs[dir] = c
	d.mu.Unlock()
	return c.spec, c.own, nil
}

// vanished is the State of an instance whose shim is gone without a word; it never leaves this package.
const vanished driver.State = "vanished"

// read returns what dir says of its instance now. No instance: fs.ErrNotExist.
func (d *Driver) read(dir string) (record, error) {
	r := record{dir: dir}
	var err error
	if r.spec, r.own, err = d.spec(dir); err != nil {
		return r, err
	}
	r.running, err = shim.ReadRunning(dir)
	switch {
	case isMissing(err):
		r.running = shim.Running{}
	case errors.Is(err, shim.ErrVersion):
		return r, err
	case err != nil: // torn by a machine that failed: nothing of it can run
		r.running = shim.Running{}
		d.log.Warn("a record is unreadable", "project", r.spec.Project, "service", r.spec.Service, "instance", r.spec.ID, "err", err)
	}
	r.before = r.running.Before
	if r.over() {
		if r.followed() {
			return d.read(dir)
		}
		return r, nil
	}
	held, err := shim.Held(dir)
	if err != nil {
		return r, err
	}
	if !held {
		// The end may have been written since: a shim lets go of its directory only after that.
		ended := r.over()
		if r.followed() {
			return d.read(dir)
		}
		if ended {
			return r, nil
		}
		r.state = vanished
		return r, nil
	}
	r.state = driver.Starting
	if r.running.Program.PID != 0 {
		r.state = driver.Running
	}
	return r, nil
}

// shim returns a pidfd of the instance's shim; shim.ErrGone without one, and after a restart of the machine, when its
// pid and even its start time may be another's.
func (r record) shim() (int, error) {
	boot, err := shim.BootID()
	if err != nil {
		return -1, err
	}
	if r.running.BootID != boot {
		return -1, shim.ErrGone
	}
	return r.running.Shim.Open()
}

// followed says whether another run has begun since r was read. A next run is visible before the end of the one before
// is, so that an end which no run has followed when it was read is the last.
func (r record) followed() bool {
	running, err := shim.ReadRunning(r.dir)
	return err == nil && running.Run != r.running.Run
}

// over says whether the exit of the last run is recorded, and takes it.
func (r *record) over() bool {
	exit, err := shim.ReadExit(r.dir)
	if err != nil {
		return false
	}
	if r.running.Run != 0 && exit.Run != r.running.Run {
		if exit.Run == r.running.Run-1 {
			r.before = &exit
		}
		return false
	}
	r.exit, r.before, r.state = &exit, exit.Before, driver.Exited
	return true
}

// List returns the instances of a project, in order of ID.
func (d *Driver) List(ctx context.Context, project string) ([]driver.Instance, error) {
	d.reap()
	names, err := d.names()
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", project, err)
	}
	all := []driver.Instance{}
	look := d.sockets.view()
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !mayHold(name, project, d.cfg.Project) {
			continue
		}
		r, err := d.settled(filepath.Join(d.root, name))
		if isMissing(err) {
			if err := d.clear(filepath.Join(d.root, name)); err != nil {
				return nil, fmt.Errorf("list %s: %w", project, err)
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", project, err)
		}
		if r.spec.Project == project {
			all = append(all, r.instance(look))
		}
	}
	if err := d.sweepNetworks(project, names); err != nil {
		return nil, fmt.Errorf("list %s: %w", project, err)
	}
	slices.SortFunc(all, func(a, b driver.Instance) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return all, nil
}

// clear takes away a directory without a record: Trellis ended while it made or removed it. One that somebody works on
// is left to them.
func (d *Driver) clear(dir string) error {
	l := d.mutex(dir)
	if !l.TryLock() {
		return nil
	}
	defer l.Unlock()
	if _, err := os.Stat(filepath.Join(dir, shim.SpecFile)); err == nil || !isMissing(err) {
		return err
	}
	if _, err := os.Stat(dir); isMissing(err) {
		return nil
	}
	if held, err := shim.Held(dir); held || err != nil {
		return err
	}
	return d.forget(record{dir: dir})
}

// names returns the names of the instance directories.
func (d *Driver) names() ([]string, error) {
	entries, err := os.ReadDir(d.root)
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// instance is r as the contract has it.
func (r record) instance(look *socketView) driver.Instance {
	inst := driver.Instance{
		ID: driver.ID(r.spec.ID), Project: r.spec.Project, Service: r.spec.Service, Slot: r.spec.Slot,
		Hash: r.spec.Hash, Revision: r.spec.Revision, State: r.state, StartedAt: r.running.StartedAt,
		Restarts: max(r.running.Run-1, 0), Host: r.own.Address, Netns: r.spec.Netns,
	}
	if r.state == driver.Exited && !isNamespace(r.spec.Netns) {
		inst.Netns = "" // gone with the machine's last run; a start makes it anew
	}
	if r.own.Shared {
		inst.Host = "127.0.0.1"
	}
	inst.Exit, inst.Before = exitOf(r.exit), exitOf(r.before)
	if r.state == driver.Running {
		inst.PID = r.running.Program.PID
	}
	if r.state == driver.Running && !r.left {
		inst.Listening = look.listening(r)
	}
	inst.PortMap = r.portMap(inst.Listening)
	return inst
}

func exitOf(e *shim.Exit) *driver.Exit {
	if e == nil {
		return nil
	}
	return &driver.Exit{Code: e.Code, Signal: e.Signal, OOM: e.OOM, Time: e.Time, Error: e.Error, Asked: e.Asked}
}

// portMap says where the first port of the file is: at the one allocated, unless the program listens on the file's own.
func (r record) portMap(listening []int) map[int]int {
	if r.own.Port == 0 || len(r.own.Ports) == 0 || r.own.Ports[0] == r.own.Port {
		return nil
	}
	if slices.Contains(listening, r.own.Ports[0]) && !slices.Contains(listening, r.own.Port) {
		return nil
	}
	return map[int]int{r.own.Ports[0]: r.own.Port}
}
