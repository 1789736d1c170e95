// Package local is the engine for one machine: a pure planner of steps, and the level-triggered loop that carries them
// out through drivers. The loop keeps nothing that it could not find again: instances are known by IDs that follow from
// what is wanted, everything else by the store, so a loop that was killed anywhere goes on where it was.
package local

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
	"trellis/engine/judge"
	"trellis/errdefs"
	"trellis/probe"
	"trellis/proxy"
	"trellis/state"
)

// Plane is the data plane as the engine sees it.
type Plane interface {
	// Publish opens the sockets of a snapshot and hands it on. It returns when the data plane has been told. Sockets that
	// cannot be opened do not keep the rest from being served; they are reported in the error.
	Publish(ctx context.Context, s proxy.Snapshot) error
	// Epoch returns the epoch of the newest snapshot that was published, by whomever; 0 where there is none.
	Epoch(ctx context.Context) (uint64, error)
	// InUse returns what is in flight by instance, and the lowest version of this epoch that every serving data plane has
	// taken over.
	InUse(ctx context.Context) (inUse map[string]int, version uint64, err error)
	// Measures calls fn with what the data planes push about their instances, one call at a time, until ctx is done.
	Measures(ctx context.Context, fn func(proxy.Measures)) error
}

// Told is the optional ability of a Plane to say where the listeners of Doors are bound, by name, so that instances are
// told. The map is not changed any more.
type Told interface {
	Doors() map[string]string
	// OTLP returns the address (host:port) on this machine at which telemetry is received, "" for none.
	OTLP() string
}

// The optional abilities of a driver.
type (
	// HostSetter changes the names that a running instance resolves.
	HostSetter interface {
		SetHosts(id driver.ID, hosts map[string]string) error
	}
	// Preparer makes an instance's network namespace before the instance is started, so that names can be served in it
	// from its first moment. Start of the same spec uses it, Remove removes it.
	Preparer interface {
		Prepare(ctx context.Context, spec driver.Spec) (netns string, err error)
	}
	// Reviver begins the next run of an instance by itself, sooner than anybody could tell it to. restarts says which run
	// is meant: that one's end, and no later one's.
	Reviver interface {
		Revive(id driver.ID, restarts int, when driver.Revival) error
	}
	// VolumeRemover removes volumes by their full names. Unknown ones: nil. Volumes lists those that were made for a project.
	VolumeRemover interface {
		Volumes(ctx context.Context, project string) ([]string, error)
		RemoveVolumes(ctx context.Context, names []string) error
	}
	// Leaver says, one sentence each, what it had made for the project's instances and could not remove with the last of them.
	Leaver interface {
		Left() []string
	}
)

// Config says what an Engine works with.
type Config struct {
	Project string                   // the one project of this engine
	Store   state.Store              // of that project
	Drivers map[string]driver.Driver // by name: "process", "docker"; the only one takes every service
	Plane   Plane                    // nil: nothing is routed
	Block   int                      // of the names' loopback addresses outside of namespaces, below Blocks; see BlockOf
	// Probe asks an instance once; nil: probe.Do.
	Probe func(ctx context.Context, s probe.Spec, host string, port int, exec probe.Executor) probe.Result
	// ContentDir holds the contents of secrets and configs by Ref, ArtifactDir the artefacts by digest, WatchedDir the
	// copies of those that `up --watch` writes to: see WatchedCopy.
	ContentDir  string
	ArtifactDir string
	WatchedDir  string
	// TLSDir holds what LocalCertificate names.
	TLSDir string
	// IdentityDir holds the files of each of Identities, in a folder after its path.
	IdentityDir string
	// BaseEnv are the variables that a process gets where its file does not set them; nil: PATH and HOME of this process.
	BaseEnv []string
	// Patience is what a service gets beyond its start period and probes until an apply has failed; 0: 60 s.
	Patience time.Duration
	// Parallel bounds the starts at a time, of each driver; 0: four for each CPU.
	Parallel int
	Log      *slog.Logger // nil: none
}

func (c Config) validate() error {
	switch {
	case c.Project == "":
		return fmt.Errorf("local engine: %w: no project", errdefs.ErrInvalid)
	case c.Store == nil:
		return fmt.Errorf("local engine: %w: no store", errdefs.ErrInvalid)
	case c.Block < 0 || c.Block >= Blocks:
		return fmt.Errorf("local engine: %w: block %d", errdefs.ErrInvalid, c.Block)
	case len(c.Drivers) == 0:
		return fmt.Errorf("local engine: %w: no driver", errdefs.ErrInvalid)
	}
	return nil
}

// Engine runs one project on this machine. It implements engine.Engine.
type Engine struct {
	cfg       Config
	log       *slog.Logger
	wake      chan struct{}            // capacity 1: something may have changed
	seats     map[string]chan struct{} // by driver, so that one that hangs holds nobody up: one for each start at a time
	registers map[string]*register     // by driver
	boot      string                   // names the machine's present run

	writes sync.Mutex // held by Apply, Override and Delete
	reads  sync.Mutex // held while what is wanted is read

	mu      sync.Mutex // guards what follows
	stale   bool       // the store holds something newer than desired
	desired *desired   // nil: nothing was ever applied, or it is not read yet
	memory  memory
	built   built
	records recorder
	pub     publisher

	tally    judge.Tally
	drifts   drifts
	refusals refusals
}

var _ engine.Engine = (*Engine)(nil)

// New returns an engine that does nothing until Run.
func New(cfg Config) (*Engine, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Probe == nil {
		cfg.Probe = probe.Do
	}
	if cfg.Patience == 0 {
		cfg.Patience = time.Minute
	}
	if cfg.Parallel == 0 {
		cfg.Parallel = 4 * runtime.NumCPU()
	}
	if cfg.BaseEnv == nil {
		cfg.BaseEnv = baseEnv()
	}
	e := &Engine{
		cfg: cfg, log: cfg.Log.With("project", cfg.Project), wake: make(chan struct{}, 1),
		seats: map[string]chan struct{}{}, registers: map[string]*register{}, boot: bootID(), stale: true, memory: newMemory(),
		records: recorder{due: make(chan struct{}, 1), lastListed: "{}"}, pub: publisher{due: make(chan struct{}, 1), moved: make(chan struct{})},
	}
	for name := range cfg.Drivers {
		e.seats[name] = make(chan struct{}, cfg.Parallel)
		e.registers[name] = &register{gone: make(chan struct{}, 1)}
	}
	return e, nil
}

func baseEnv() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/"}
	if path := os.Getenv("PATH"); path != "" {
		env[0] = "PATH=" + path
	}
	if home := os.Getenv("HOME"); home != "" {
		env[1] = "HOME=" + home
	}
	return env
}

// Capabilities implements engine.Engine.
func (e *Engine) Capabilities() engine.Capabilities {
	c := engine.Capabilities{Name: "local"}
	for _, name := range sortedKeys(e.cfg.Drivers) {
		c.Drivers = append(c.Drivers, e.cfg.Drivers[name].Capabilities())
	}
	return c
}

// poke wakes the loop.
func (e *Engine) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// driverOf names the driver that runs a service.
func (e *Engine) driverOf(svc compose.Service) (string, error) {
	if len(e.cfg.Drivers) == 1 {
		for name := range e.cfg.Drivers {
			if name == "process" && svc.Trellis.Process == nil {
				return "", fmt.Errorf("service %s: %w: it has no x-trellis.process, and only the process driver is here",
					svc.Name, errdefs.ErrUnsupported)
			}
			return name, nil
		}
	}
	name := "docker"
	if svc.Trellis.Process != nil {
		name = "process"
	}
	if _, ok := e.cfg.Drivers[name]; !ok {
		return "", fmt.Errorf("service %s: %w: it needs the driver %s, which is not here", svc.Name, errdefs.ErrUnsupported, name)
	}
	return name, nil
}

func (e *Engine) checkProject(project string) error {
	if project != e.cfg.Project {
		return fmt.Errorf("project %s: %w: this engine runs %s", project, errdefs.ErrNotFound, e.cfg.Project)
	}
	return nil
}
