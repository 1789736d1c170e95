//go:build linux

package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/errdefs"
	"trellis/shim"
)

// Start implements driver.Driver.
func (d *Driver) Start(ctx context.Context, spec driver.Spec) error {
	if err := d.start(ctx, spec); err != nil {
		return fmt.Errorf("start %s: %w", spec.ID, err)
	}
	return nil
}

func (d *Driver) start(ctx context.Context, spec driver.Spec) error {
	if err := check(spec); err != nil {
		return err
	}
	if !d.isolate {
		if err := d.carriable(spec); err != nil {
			return err
		}
	}
	dir, err := d.directory(spec.ID)
	if err != nil {
		return err
	}
	d.reap()
	defer d.lock(dir)()
	if err := ctx.Err(); err != nil {
		return err
	}
	defer d.setPrepared(dir, time.Time{}) // whatever comes of it
	before, err := d.settle(dir)
	switch {
	case isMissing(err):
		before = record{dir: dir}
	case err != nil:
		return err
	case before.spec.Hash != spec.Hash:
		return fmt.Errorf("%w: it is there with another specification", errdefs.ErrConflict)
	case before.state != driver.Exited:
		return nil
	}
	for _, path := range []string{dir, filepath.Join(dir, shim.SkeletonDir), filepath.Join(dir, shim.FilesDir)} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return err
		}
	}
	// The directory is taken before there is anything in it: what is half made and not taken is abandoned.
	lock, running, err := d.take(ctx, dir)
	if err != nil || running {
		return err
	}
	defer unix.Close(lock)
	if err := d.prepare(dir, spec, before.own); err != nil {
		return err
	}
	return d.launch(ctx, dir, lock)
}

// prepare makes what the instance needs around it and writes its record.
func (d *Driver) prepare(dir string, spec driver.Spec, own owner) error {
	own.Ports, own.Hosts, own.Shared = spec.Ports, spec.Hosts, !d.isolate || spec.HostNetwork
	own.Limited = spec.Limits != driver.Limits{}
	if !d.isolate && len(spec.Ports) > 0 && own.Port == 0 {
		port, err := d.freePort()
		if err != nil {
			return fmt.Errorf("find a free port: %w", err)
		}
		own.Port = port
	}
	s := translate(spec, own)
	if d.isolate {
		if err := d.surround(dir, spec, &s, &own); err != nil {
			return err
		}
	}
	var err error
	if s.Owner, err = json.Marshal(own); err != nil {
		return err
	}
	now, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(filepath.Join(dir, shim.SpecFile)); err == nil && bytes.Equal(old, now) {
		return nil // durable already: a restart need not wait for the disk
	}
	if err := shim.Write(dir, shim.SpecFile, s); err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	for _, parent := range []string{d.root, d.cfg.StateDir} {
		if err := syncDir(parent); err != nil {
			return fmt.Errorf("write the record: %w", err)
		}
	}
	return nil
}

// surround makes the instance's network namespace, files and control groups, and puts them into s.
func (d *Driver) surround(dir string, spec driver.Spec, s *shim.Spec, own *owner) error {
	s.Isolate, s.Confine = true, true
	s.Hostname = hostname(spec)
	s.Mask = []string{d.root, d.netnsDir()}
	// Entering a control group waits for every processor (tens of milliseconds on a busy machine), so only what is
	// limited has one; the rest of an instance is held together by its network namespace.
	if own.Limited || own.Shared {
		s.Cgroups = d.groups.of(filepath.Base(dir), spec.Limits)
	}
	if !own.Shared {
		n, err := d.network(dir, own.Address)
		if err != nil {
			return fmt.Errorf("make the network: %w", err)
		}
		own.Address, own.Gateway, s.Netns = n.inside, n.host, n.path
	}
	for _, m := range spec.Mounts {
		t, err := d.mount(m, spec.User)
		if err != nil {
			return err
		}
		s.Mounts = append(s.Mounts, t)
	}
	more, err := d.etc(dir, spec, *s, *own)
	if err != nil {
		return err
	}
	taken := map[string]bool{}
	for _, m := range spec.Mounts {
		taken[filepath.Clean(m.Target)] = true
	}
	for _, f := range spec.Files {
		taken[filepath.Clean(f.Target)] = true
	}
	for _, m := range more {
		if !taken[m.Target] { // the file's own mount comes before ours
			s.Mounts = append(s.Mounts, m)
		}
	}
	return nil
}

// mount is m as the shim has it; the directory of a volume is made, for user.
func (d *Driver) mount(m driver.Mount, user string) (shim.Mount, error) {
	t := shim.Mount{
		Kind: m.Kind, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly, CreateSource: m.CreateSource,
		Subpath: m.Subpath, Size: m.Size, Mode: m.Mode,
	}
	if m.Kind == shim.Volume {
		t.Source = d.VolumeDir(m.Source)
		if err := d.makeVolume(m.Source, user); err != nil {
			return t, fmt.Errorf("make volume %s: %w", m.Source, err)
		}
	}
	return t, nil
}

// translate is spec as the shim has it, as far as it does not depend on this machine.
func translate(spec driver.Spec, own owner) shim.Spec {
	s := shim.Spec{
		Version: shim.Version, ID: string(spec.ID), Project: spec.Project, Service: spec.Service, Slot: spec.Slot,
		Hash: spec.Hash, Revision: spec.Revision,
		Command: spec.Command, Env: slices.Clone(spec.Env), Dir: spec.Dir, User: spec.User, GroupAdd: spec.GroupAdd,
		StopSignal: spec.StopSignal, ReadOnly: spec.ReadOnly, ShmSize: spec.ShmSize, Privileged: spec.Privileged,
		NoNewPrivileges: spec.NoNewPrivileges, CapAdd: spec.CapAdd, CapDrop: spec.CapDrop, Sysctls: spec.Sysctls,
		OomScore: spec.OomScore, TimerSlack: spec.TimerSlack, PostStart: hooks(spec.PostStart), PreStop: hooks(spec.PreStop),
		Log: shim.LogLimit{MaxSize: spec.Log.MaxSize, MaxFiles: spec.Log.MaxFiles},
	}
	if own.Port != 0 {
		s.Env = slices.DeleteFunc(s.Env, func(kv string) bool { return strings.HasPrefix(kv, "PORT=") })
		s.Env = append(s.Env, fmt.Sprintf("PORT=%d", own.Port))
	}
	for name, l := range spec.Ulimits {
		if s.Ulimits == nil {
			s.Ulimits = map[string]shim.Ulimit{}
		}
		s.Ulimits[name] = shim.Ulimit{Soft: l.Soft, Hard: l.Hard}
	}
	for _, f := range spec.Files {
		mode := f.Mode
		if mode == 0 {
			mode = 0o444
			if f.Secret {
				mode = 0o400
			}
		}
		s.Files = append(s.Files, shim.File{Source: f.Source, Target: f.Target, UID: f.UID, GID: f.GID, Mode: mode})
	}
	return s
}

func hooks(all []driver.Hook) []shim.Hook {
	var out []shim.Hook
	for _, h := range all {
		out = append(out, shim.Hook{Command: h.Command, Env: h.Env, Dir: h.Dir, User: h.User})
	}
	return out
}

// launch starts a shim for dir, gives it the lock, and returns when it says that the start is decided. The caller's end does not end it.
func (d *Driver) launch(ctx context.Context, dir string, lock int) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		w.Close()
		return err
	}
	defer null.Close()
	trouble, err := os.OpenFile(filepath.Join(dir, shim.ErrorFile), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		w.Close()
		return err
	}
	defer trouble.Close()
	argv := append(slices.Clone(d.cfg.Shim), "run", dir)
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Dir:   "/",
		Env:   shimEnvironment(),
		Files: []uintptr{null.Fd(), w.Fd(), trouble.Fd(), uintptr(lock)},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	w.Close()
	if err != nil {
		return fmt.Errorf("start the shim %s: %w", argv[0], err)
	}
	d.mu.Lock()
	d.children[pid] = true
	d.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	answer, err := io.ReadAll(io.LimitReader(r, 4096))
	word := strings.TrimSpace(string(answer))
	switch {
	case word == shim.Started:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ctx.Err()
	case word == shim.Busy:
		return fmt.Errorf("%w: another shim has just been started for it", errdefs.ErrConflict)
	case word != "":
		return fmt.Errorf("the shim failed: %s", word)
	}
	said, _ := os.ReadFile(filepath.Join(dir, shim.ErrorFile))
	return fmt.Errorf("the shim ended before it had started anything: %s", bytes.TrimSpace(said[:min(len(said), 2048)]))
}

// take locks dir for a shim. Where another program's shim has been faster the instance runs already.
func (d *Driver) take(ctx context.Context, dir string) (lock int, running bool, err error) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		lock, err := shim.Lock(dir)
		if !errors.Is(err, shim.ErrBusy) {
			return lock, false, err
		}
		if r, err := d.read(dir); err == nil && r.state == driver.Running {
			return -1, true, nil
		}
		if err := ctx.Err(); err != nil {
			return -1, false, err
		}
		if time.Now().After(deadline) {
			return -1, false, fmt.Errorf("%w: another shim holds its directory", errdefs.ErrUnavailable)
		}
	}
}

// shimEnvironment is small and fixed: the shim's own environment is not the program's.
func shimEnvironment() []string {
	return []string{"GOMAXPROCS=2", "GOGC=50", "PATH=" + shim.DefaultPath}
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
