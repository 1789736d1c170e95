// Package docker runs instances as containers of a Docker Engine: driver.Driver over the engine's API, 1.40 and later.
//
// An instance is two containers. The first, made from the shim alone, holds the network: its namespace, its addresses,
// its hosts file and the redirection of names to the mesh; it lives as long as the instance is known. The second is the
// service's own and joins the first, so that it keeps its addresses through restarts. Both are found again by their
// labels. What the engine cannot keep (how often an instance was started again, that its stop was asked for) lies in
// StateDir/containers.
package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/client"

	"trellis/driver"
	kinds "trellis/errdefs"
)

// Config says where a Driver lives.
type Config struct {
	Project string // for log records
	// StateDir holds what has to outlive a reboot, RuntimeDir the secrets and configs that are mounted. Absolute. Required.
	StateDir   string
	RuntimeDir string
	// Shim is the command line of the shim, before its verb. The program has to be static. Required.
	Shim []string
	// WorkingDir is the project's directory, told in the labels of containers.
	WorkingDir string
	// Host is the engine's address; "" as DOCKER_HOST or the docker command's context says.
	Host string
	// Published goes to instances through ports published on the loopback even where their addresses can be reached.
	Published bool
	// Log takes what goes wrong where nobody can be told; nil discards it.
	Log *slog.Logger
}

func (c Config) validate() error {
	switch {
	case !filepath.IsAbs(c.StateDir) || !filepath.IsAbs(c.RuntimeDir):
		return fmt.Errorf("docker driver: %w: StateDir %q and RuntimeDir %q have to be absolute", kinds.ErrInvalid, c.StateDir, c.RuntimeDir)
	case len(c.Shim) == 0:
		return fmt.Errorf("docker driver: %w: no command line of the shim", kinds.ErrInvalid)
	}
	return nil
}

// Driver implements driver.Driver.
type Driver struct {
	cfg       Config
	log       *slog.Logger
	engine    *Engine
	published bool
	enter     bool // the namespaces of containers can be entered from here
	lacks     []string

	making sync.Mutex // of networks

	mu        sync.Mutex
	left      []string                  // networks that could not be removed, and why
	locks     map[driver.ID]*sync.Mutex // one start or removal of an instance at a time
	starting  map[driver.ID]bool
	stops     map[driver.ID]*stopping
	unwritten map[driver.ID]record // of stops that a full disk did not take
	sandboxes map[string]string    // container that holds a network to the file of its namespace
	first     chan struct{}        // closed when the first container is about to be made
	pause     string               // the image of the network holders, once it is known to be there
}

// New returns a driver. It asks nothing of the engine: that happens with the first call that needs it.
func New(cfg Config) (*Driver, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	engine, err := Open(cfg.Host)
	if err != nil {
		return nil, err
	}
	d := &Driver{
		cfg: cfg, log: cfg.Log, engine: engine, locks: map[driver.ID]*sync.Mutex{}, starting: map[driver.ID]bool{},
		stops: map[driver.ID]*stopping{}, unwritten: map[driver.ID]record{}, sandboxes: map[string]string{}, first: make(chan struct{}),
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	d.look()
	return d, nil
}

// look finds out what this process may do.
func (d *Driver) look() {
	here := runtime.GOOS == "linux" && engine(d.engine.host).local()
	d.enter = here && os.Geteuid() == 0 && !d.cfg.Published
	d.published = d.cfg.Published || !here
	switch {
	case d.published:
		d.lacks = append(d.lacks, "containers are reached through ports published on 127.0.0.1, the TCP ports that the file names, because "+
			"their own addresses cannot be reached from here")
		fallthrough
	case !d.enter:
		d.lacks = append(d.lacks, "containers reach each other by name directly and not through the mesh (no retries, no waiting for a ready "+
			"instance), and processes are not reached by name from containers, because the network namespaces of containers cannot be entered: that needs root on the engine's own machine")
	}
}

// engine is an engine's address.
type engine string

// local says whether the engine runs on this machine, as far as its address tells.
func (e engine) local() bool {
	u, err := url.Parse(string(e))
	return err == nil && u.Scheme == "unix" && !strings.Contains(u.Path, "/.docker/desktop/")
}

// elsewhere says whether the engine is another machine's.
func (e engine) elsewhere() bool {
	u, err := url.Parse(string(e))
	if err != nil || u.Scheme == "unix" || u.Scheme == "npipe" {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())
}

// Capabilities says what this driver can do here.
func (d *Driver) Capabilities() driver.Capabilities {
	return driver.Capabilities{
		Name: "docker", Durable: true, Namespaces: true, Limits: true, Users: true, Apart: true, Lacks: d.lacks,
	}
}

// Run waits until ctx is done. Instances go on; nothing of this driver runs but inside its calls, and the greeting of an engine that
// hangs.
func (d *Driver) Run(ctx context.Context) error {
	<-ctx.Done()
	return d.engine.Close()
}

// lock takes the instance for one change.
func (d *Driver) lock(id driver.ID) func() {
	l := d.lockOf(id)
	l.Lock()
	return l.Unlock
}

// tryLock is lock for those who do not wait.
func (d *Driver) tryLock(id driver.ID) (unlock func(), ok bool) {
	l := d.lockOf(id)
	return l.Unlock, l.TryLock()
}

func (d *Driver) lockOf(id driver.ID) *sync.Mutex {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.locks[id]
	if l == nil {
		l = &sync.Mutex{}
		d.locks[id] = l
	}
	return l
}

// Engine is a Docker Engine.
type Engine struct {
	api  *client.Client
	host string

	mu       sync.Mutex
	prefers  build.BuilderVersion // as it said last
	greeted  bool                 // it has answered once
	greeting *greeting            // under way; nil: none
}

// Open returns the engine at host; "" is DOCKER_HOST, or else what the docker command's current context says, or else
// the engine's usual socket. It connects to nothing yet.
func Open(host string) (*Engine, error) {
	host = cmp.Or(host, os.Getenv("DOCKER_HOST"), contextHost(), client.DefaultDockerHost)
	api, err := client.New(client.FromEnv, client.WithHost(host))
	if err != nil {
		return nil, fmt.Errorf("use the Docker engine at %s: %w: %w", host, kinds.ErrInvalid, err)
	}
	return &Engine{api: api, host: host}, nil
}

// Close lets go of the connections.
func (e *Engine) Close() error { return e.api.Close() }

// Ping asks whether the engine is there. It is not: ErrUnavailable. It is another machine's, whose containers cannot be
// reached from here: ErrUnsupported.
func (e *Engine) Ping(ctx context.Context) error {
	if engine(e.host).elsewhere() {
		return fmt.Errorf("use the Docker engine at %s: %w: it is on another machine, and services run on this one", e.host, kinds.ErrUnsupported)
	}
	said, err := e.api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true})
	if err != nil {
		return fmt.Errorf("reach the Docker engine at %s: %w: %w", e.host, kinds.ErrUnavailable, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.prefers = said.BuilderVersion
	return nil
}

// greeting is a first question to an engine.
type greeting struct {
	done chan struct{}
	err  error // once done is closed
}

// greet waits until the engine has answered once, but no longer than ctx. The client asks for the version of the API before its first
// call, whoever calls first, and everybody else waits for that whatever their own time: behind a call without a bound for as long as
// the engine hangs. One greeting is under way at a time; it may outlive the call, until the engine answers or ends.
func (e *Engine) greet(ctx context.Context) error {
	e.mu.Lock()
	if e.greeted {
		e.mu.Unlock()
		return nil
	}
	g := e.greeting
	if g == nil {
		g = &greeting{done: make(chan struct{})}
		e.greeting = g
		go func() {
			defer close(g.done)
			_, g.err = e.api.Ping(context.WithoutCancel(ctx), client.PingOptions{NegotiateAPIVersion: true})
			e.mu.Lock()
			defer e.mu.Unlock()
			e.greeted, e.greeting = g.err == nil, nil
		}()
	}
	e.mu.Unlock()
	select {
	case <-g.done:
		return g.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// unreachable says that an engine does not answer.
type unreachable struct {
	host string
	why  string
	err  error
}

func (u unreachable) Error() string {
	return fmt.Sprintf("the Docker engine at %s does not answer: %s", u.host, u.why)
}

func (u unreachable) Unwrap() []error { return []error{kinds.ErrUnavailable, u.err} }

// Remedy says what to do about it.
func (u unreachable) Remedy() string {
	return "start it again ('systemctl restart docker', or Docker Desktop)"
}

// unanswered is kind, and says so where the engine was asked in vain.
func (e *Engine) unanswered(ctx context.Context, err error) error {
	var op *net.OpError
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return unreachable{e.host, "it hangs", err}
	case errors.As(err, &op):
		return unreachable{e.host, op.Err.Error(), err}
	case client.IsErrConnectionFailed(err):
		return unreachable{e.host, "nobody listens there", err}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return unreachable{e.host, "it broke the connection off", err}
	}
	return kind(err)
}

// kind gives an error of the engine's API a kind of ours.
func kind(err error) error {
	switch {
	case err == nil:
		return nil
	case errdefs.IsNotFound(err):
		return fmt.Errorf("%w: %w", kinds.ErrNotFound, err)
	case errdefs.IsConflict(err):
		return fmt.Errorf("%w: %w", kinds.ErrConflict, err)
	case errdefs.IsInvalidArgument(err):
		return fmt.Errorf("%w: %w", kinds.ErrInvalid, err)
	case client.IsErrConnectionFailed(err):
		return fmt.Errorf("%w: %w", kinds.ErrUnavailable, err)
	}
	return err
}

func isNotFound(err error) bool { return errdefs.IsNotFound(err) || errors.Is(err, kinds.ErrNotFound) }

var _ driver.Driver = (*Driver)(nil)
