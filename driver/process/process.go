//go:build linux

package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/shim"
)

// Driver implements driver.Driver.
type Driver struct {
	cfg     Config
	log     *slog.Logger
	root    string // of the instance directories
	isolate bool
	groups  hierarchy
	lacks   []string
	sockets sockets
	wakes   wakes
	making  sync.Mutex                  // of volumes
	strays  func(record) []shim.Process // what lives of an instance without a shim

	mu        sync.Mutex
	locks     map[string]*sync.Mutex // by directory: one change of an instance at a time
	children  map[int]bool           // shims this process started and has not waited for
	specs     map[string]cachedSpec
	unwritten map[string]shim.Exit // by directory: ends that a full disk did not take
	asked     map[string]int       // by directory: the run whose stop a full disk did not take
	left      map[string]bool      // directories of which the shim was killed and something lives on
	ports     map[int]bool         // given by this process
	prepared  map[string]time.Time // when, by directory: networks whose instances this process has yet to start
	noEgress  bool                 // said once
}

// New returns a driver over cfg's directories. It starts nothing.
func New(cfg Config) (*Driver, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	d := &Driver{
		cfg: cfg, log: cfg.Log, root: filepath.Join(cfg.StateDir, "instances"),
		locks: map[string]*sync.Mutex{}, children: map[int]bool{}, specs: map[string]cachedSpec{}, ports: map[int]bool{},
		unwritten: map[string]shim.Exit{}, asked: map[string]int{}, left: map[string]bool{}, prepared: map[string]time.Time{},
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	d.strays = findStrays
	d.look()
	return d, nil
}

// look finds out what this process may do.
func (d *Driver) look() {
	if d.cfg.Unprivileged {
		d.lacks = without("privileges are not to be used")
		return
	}
	if err := privileged(); err != nil {
		d.lacks = without(err.Error())
		return
	}
	d.isolate = true
	var why string
	d.groups, why = findHierarchy(d.cfg.StateDir)
	if why != "" {
		d.lacks = append(d.lacks, "limits on CPU, memory and processes are measured, not enforced: "+why)
	}
}

// without says what lacks where instances share the machine's namespaces.
func without(why string) []string {
	return []string{
		"services have no network of their own: each gets a free port, told as PORT, and one that insists on a fixed port can have one replica: " + why,
		"services are not reached by name, only by <SERVICE>_URL, _HOST and _PORT: " + why,
		"volumes, bind mounts, tmpfs, configs and secrets cannot be put at their paths: " + why,
		"services run as the user who runs Trellis, with this user's capabilities: " + why,
		"limits on CPU, memory and processes are measured, not enforced: " + why,
	}
}

// privileged returns why namespaces cannot be made, nil if they can.
func privileged() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("this needs root, and the user is %d", os.Geteuid())
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&hdr, &have[0]); err != nil {
		return fmt.Errorf("capabilities cannot be read: %w", err)
	}
	for _, c := range []struct {
		bit  int
		name string
	}{{unix.CAP_SYS_ADMIN, "SYS_ADMIN"}, {unix.CAP_NET_ADMIN, "NET_ADMIN"}, {unix.CAP_SETUID, "SETUID"}, {unix.CAP_SETPCAP, "SETPCAP"}} {
		if have[0].Effective&(1<<c.bit) == 0 {
			return fmt.Errorf("the capability %s is missing", c.name)
		}
	}
	return nil
}

// Capabilities says what this driver can do here.
func (d *Driver) Capabilities() driver.Capabilities {
	return driver.Capabilities{
		Name: "process", Durable: true, Namespaces: d.isolate, Limits: d.groups.enforces(), Users: d.isolate, Lacks: d.lacks,
	}
}

// Run looks out for a Docker engine that is started beside instances, until ctx is done. Instances go on; nothing else of
// this driver runs but inside its calls. What was prepared and not started is taken away.
func (d *Driver) Run(ctx context.Context) error {
	d.followDocker(ctx)
	d.abandon()
	return nil
}

// lock takes the instance for one change.
func (d *Driver) lock(dir string) func() {
	l := d.mutex(dir)
	l.Lock()
	return l.Unlock
}

func (d *Driver) mutex(dir string) *sync.Mutex {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.locks[dir]
	if l == nil {
		l = &sync.Mutex{}
		d.locks[dir] = l
	}
	return l
}

// reap forgets the shims of this process that have ended.
func (d *Driver) reap() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for pid := range d.children {
		if got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); got == pid || errors.Is(err, unix.ECHILD) {
			delete(d.children, pid)
		}
	}
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

var _ driver.Driver = (*Driver)(nil)
