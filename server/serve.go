package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"trellis/api"
	"trellis/driver/docker"
	"trellis/driver/process"
	"trellis/engine/local"
	"trellis/errdefs"
	"trellis/holder"
	"trellis/memory"
	"trellis/probe"
	"trellis/state"
)

// readLocation reads what prepare wrote.
func readLocation(file string) (Location, error) {
	var l Location
	b, err := os.ReadFile(file)
	if err != nil {
		return l, fmt.Errorf("read the project's location: %w", err)
	}
	if err := json.Unmarshal(b, &l); err != nil {
		return l, fmt.Errorf("read the project's location: %s: %w: %w", file, errdefs.ErrInvalid, err)
	}
	return l, nil
}

// Serve is the control plane of the project registered in file. It is started by the holder, blocks until ctx is done
// or the holder is gone, and leaves every instance running.
func Serve(ctx context.Context, file string, log *slog.Logger) error {
	l, err := readLocation(file)
	if err != nil {
		return err
	}
	answered := false
	err = serve(ctx, l, log, func() { answered = true })
	if errors.Is(err, holder.ErrStranger) { // the new holder has a control plane of its own, which waits for the lock
		log.Warn("the holder that started this control plane was killed; ending", "project", l.Project, "err", err)
		return nil
	}
	if err != nil && !answered && ctx.Err() == nil {
		l.tellFailure(err, log)
	}
	return err
}

// serve is Serve of the project at l; it calls answers when the API is about to answer.
func serve(ctx context.Context, l Location, log *slog.Logger, answers func()) error {
	unlock, err := lock(filepath.Join(l.StateDir, "control.lock"))
	if err != nil {
		return fmt.Errorf("serve %s: %w", l.Project, err)
	}
	defer unlock()
	store, err := state.Open(filepath.Join(l.StateDir, "state.db"))
	if err != nil {
		return fmt.Errorf("serve %s: %w", l.Project, err)
	}
	defer store.Close()
	contents, err := state.OpenContents(l.contents())
	if err != nil {
		return fmt.Errorf("serve %s: %w", l.Project, err)
	}
	client, err := holder.Dial(ctx, l.holderSocket())
	if err != nil {
		return fmt.Errorf("serve %s: %w", l.Project, err)
	}
	defer client.Close()
	if err := client.Hello(ctx, holder.RoleControlPlane); err != nil {
		return fmt.Errorf("serve %s: %w", l.Project, err)
	}
	s, err := build(l, store, contents, client, log)
	if err != nil {
		return fmt.Errorf("serve %s: %w", l.Project, err)
	}
	if err := l.forgetFailure(); err != nil {
		return fmt.Errorf("serve %s: %w", l.Project, err)
	}
	answers()
	return s.run(ctx)
}

// controlPlane is every part of a control plane, built and not yet running.
type controlPlane struct {
	location Location
	holder   *holder.Client
	process  *process.Driver
	docker   *docker.Driver
	engine   *local.Engine
	control  *control
	log      *slog.Logger
}

func build(l Location, store state.Store, contents *state.Contents, client *holder.Client, log *slog.Logger) (*controlPlane, error) {
	run, err := newDrivers(l, log)
	if err != nil {
		return nil, err
	}
	own := log.With("project", l.Project) // driver and engine say it themselves
	chosen, err := loadAddresses(l)
	if err != nil {
		return nil, err
	}
	block, err := chosen.block()
	if err != nil {
		return nil, err
	}
	plane := &plane{holder: client, location: l, log: own, chosen: chosen, asked: map[string]spot{}, bound: map[string]string{}}
	eng, err := local.New(local.Config{
		Project: l.Project, Store: store, Plane: plane, Block: block, Probe: probe.Do, Log: log,
		Drivers:    run.byName(),
		ContentDir: l.contents(), ArtifactDir: l.Artifacts(), WatchedDir: l.Watched(), TLSDir: l.TLS(), IdentityDir: l.Identities(),
	})
	if err != nil {
		return nil, err
	}
	id, err := buildID()
	if err != nil {
		return nil, err
	}
	key, err := l.consoleKey()
	if err != nil {
		return nil, err
	}
	c := &control{
		location: l, engine: eng, store: store, contents: contents, plane: plane, changed: &broadcast{},
		once: eng.RunOnce, drifted: eng.Drifted, log: own, build: id, console: &consoleDoor{key: key},
	}
	c.sight = newSight(watching{
		subject: c, project: l.Project, dir: l.StateDir, engine: eng, planes: localPlanes{l}, traffic: &plane.traffic, changed: c.changed, listen: plane.own, receive: fromHere,
	}, own)
	plane.sight = c.sight
	c.stop = sync.OnceFunc(func() {
		c.stopping.Store(true)
		// The holder ends this process too, so the wait for it is not waited for.
		go func() {
			if err := client.Stop(context.Background()); err != nil {
				own.Error("holder does not stop", "err", err)
			}
		}()
	})
	return &controlPlane{location: l, holder: client, process: run.process, docker: run.docker, engine: eng, control: c, log: own}, nil
}

// run runs the parts until ctx is done or one of them fails, and returns when all have ended.
func (s *controlPlane) run(ctx context.Context) error {
	s.control.sight.open(ctx)
	s.control.identifyLatest(ctx, time.Now()) // before anything is started that reads them
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.process.Run(ctx) })
	g.Go(func() error { return s.docker.Run(ctx) })
	g.Go(func() error {
		return s.engine.Run(ctx, func(string) { s.control.changed.wake() })
	})
	g.Go(func() error { return s.serveAPI(ctx) })
	g.Go(func() error { return s.serveConsole(ctx) })
	g.Go(func() error { return s.control.retain(ctx) })
	g.Go(func() error { return s.control.expire(ctx) })
	g.Go(func() error { return s.control.certify(ctx) })
	g.Go(func() error { return s.control.obtain(ctx) })
	g.Go(func() error { return s.control.identify(ctx) })
	g.Go(func() error { return s.control.sight.measureTraffic(ctx) })
	g.Go(func() error { return s.control.sight.run(ctx) })
	g.Go(func() error {
		memory.GiveBack(ctx)
		return nil
	})
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-s.holder.Done():
			return errHolderGone // an orderly end sends SIGTERM first
		}
	})
	err := g.Wait()
	if errors.Is(err, errHolderGone) && !s.control.stopping.Load() {
		return s.reviveHolder()
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// errHolderGone says that the holder ended without telling its children to.
var errHolderGone = fmt.Errorf("the holder is gone: %w", errdefs.ErrUnavailable)

// reviveHolder starts a new holder in place of one that was killed; it starts a new control plane and data plane, so
// this one ends.
func (s *controlPlane) reviveHolder() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s.log.Error("holder was killed; starting another", "err", errHolderGone)
	client, err := startHolder(ctx, s.location)
	if err != nil {
		return fmt.Errorf("start another holder: %w", err)
	}
	return client.Close()
}

// serveAPI serves the API on its unix socket, and beside it what Go's own tools know of the process (/debug/pprof; by whom memory was taken
// only where GODEBUG has a memprofilerate): who may use the socket may do anything to the project.
func (s *controlPlane) serveAPI(ctx context.Context) error {
	socket := s.location.apiSocket()
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("serve the API: %w", err)
	}
	// The folder is 0700, so there is no moment in which others can connect.
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("serve the API: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return fmt.Errorf("serve the API: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", api.Handler(s.control, s.log))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	return serveHTTP(ctx, listener, mux, s.log)
}

// serveHTTP serves handler until ctx is done, and gives what is under way two seconds.
func serveHTTP(ctx context.Context, listener net.Listener, handler http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(listener)
	if stop() { // it ended by itself
		return fmt.Errorf("serve at %s: %w", listener.Addr(), err)
	}
	<-done
	return nil
}

// lock takes an exclusive lock on file, waiting up to 10 s for a predecessor to end.
func lock(file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w: another control plane runs", file, errdefs.ErrConflict)
		}
	}
}
