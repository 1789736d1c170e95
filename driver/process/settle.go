//go:build linux

package process

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/shim"
)

// settled reads dir; an instance whose shim was killed is ended for good first: what is left of it is killed, and its
// end is written down as what it is, unknown. As long as anything of it lives, it has not ended: another run beside it would
// find its volumes and ports taken.
func (d *Driver) settled(dir string) (record, error) {
	r, err := d.read(dir)
	if err != nil || r.state != vanished {
		return r, err
	}
	defer d.lock(dir)()
	return d.settle(dir)
}

// settle is settled for the holder of the instance's lock.
func (d *Driver) settle(dir string) (record, error) {
	r, err := d.read(dir)
	if err != nil || r.state != vanished {
		return r, err
	}
	exit := shim.Exit{Version: shim.Version, ID: r.spec.ID, Run: max(r.running.Run, 1), Code: -1, Time: time.Now()}
	boot, err := shim.BootID()
	if err != nil {
		return r, err
	}
	switch {
	case r.running.Run == 0:
		exit.Error = "it was never started: Trellis ended before that"
	case r.running.BootID != boot:
		exit.Error = "the machine was restarted while it ran: nothing is known of its end"
	default:
		exit.Error = "its supervisor was killed: nothing is known of its end"
		if r.left = !d.sweep(r); r.left {
			r.state = driver.Running
			return r, nil
		}
	}
	exit.PID, exit.StartTime, exit.BootID = r.running.Program.PID, r.running.Program.StartTime, r.running.BootID
	exit.Before = r.running.Before
	exit.Asked = d.wasAsked(dir, exit.Run)
	return d.end(r, exit)
}

// end writes down how an instance ended. Where that cannot be written, on a full disk, it is kept in memory and tried again:
// that one record is missing is no reason not to know of the others.
func (d *Driver) end(r record, exit shim.Exit) (record, error) {
	d.mu.Lock()
	before, again := d.unwritten[r.dir]
	d.mu.Unlock()
	if again = again && before.Run == exit.Run; again {
		exit = before
	}
	err := shim.Write(r.dir, shim.ExitFile, exit)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		delete(d.unwritten, r.dir)
	} else {
		d.unwritten[r.dir] = exit
	}
	if err != nil && !again {
		d.log.Error("the end of an instance could not be written", "project", r.spec.Project, "service", r.spec.Service,
			"instance", r.spec.ID, "err", err)
	}
	r.exit, r.state = &exit, driver.Exited
	return r, nil
}

// sweep kills what is left of an instance without a shim. The kernel has killed the program with it; its children are
// found by what they cannot leave, or did not: control group, network namespace, session. It says whether all has ended. What
// has much memory, or waits for a disk, takes its time: the first call waits a little, those after it only look.
func (d *Driver) sweep(r record) bool {
	d.mu.Lock()
	again := d.left[r.dir]
	d.mu.Unlock()
	failed := r.running.Program.Signal(unix.SIGKILL)
	shim.KillGroups(shim.RunGroups(r.spec.Cgroups, r.running.Run))
	for n := range 50 {
		left := d.strays(r)
		for _, p := range left {
			_ = p.Signal(unix.SIGKILL)
		}
		if len(left) == 0 && !r.running.Program.Alive() {
			d.mu.Lock()
			delete(d.left, r.dir)
			d.mu.Unlock()
			return true
		}
		if again && n > 0 {
			return false
		}
		time.Sleep(2 * time.Millisecond)
	}
	if errors.Is(failed, shim.ErrGone) {
		failed = nil
	}
	d.log.Warn("what a killed supervisor left does not end; nothing is started in its place until it has", "project", r.spec.Project,
		"service", r.spec.Service, "instance", r.spec.ID, "err", failed)
	d.mu.Lock()
	d.left[r.dir] = true
	d.mu.Unlock()
	return false
}

// findStrays returns the processes of an instance without a shim.
func findStrays(r record) []shim.Process {
	var left []shim.Process
	netns, machine := namespaceOf(r.spec.Netns), ownMounts()
	if machine == 0 {
		netns = 0
	}
	_ = shim.Processes(func(s shim.Stat) bool {
		p := shim.Process{PID: s.PID, StartTime: s.StartTime}
		switch {
		case s.State == 'Z' || s.PID == os.Getpid():
		case netns != 0 && inNamespace(s.PID, "net", netns) && !inNamespace(s.PID, "mnt", machine):
			// Who serves an instance's names may be in its network, and sees the machine's files; its own processes don't.
			left = append(left, p)
		case netns == 0 && s.Session == r.running.Program.PID && s.StartTime >= r.running.Program.StartTime && sameEnvironment(s.PID, r.spec.Env):
			left = append(left, p)
		}
		return true
	})
	return left
}

// sameEnvironment says whether a process has the instance's whole environment: a session's number may have come to
// name another session, which has another one.
func sameEnvironment(pid int, env []string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil || len(env) == 0 {
		return false
	}
	have := strings.Split(string(b), "\x00")
	for _, kv := range env {
		if !slices.Contains(have, kv) {
			return false
		}
	}
	return true
}
