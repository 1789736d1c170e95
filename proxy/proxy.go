package proxy

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"trellis/errdefs"
	"trellis/memory"
)

// Config is what a data plane is made of. Feed is required, all else has a default.
type Config struct {
	Feed   Feed
	Log    *slog.Logger // nil: nothing is logged
	Status string       // path of the unix socket that answers GET /status and GET /demand; "": none

	// Grace bounds how long requests and streams in flight may go on after the end of Run's context; 0: 30 s.
	Grace time.Duration
	// Linger is how long connections that are idle then are kept, so that their clients learn with a response, not
	// by a closed connection, to go elsewhere; 0: 5 s.
	Linger time.Duration
	// MaxConns bounds the open connections of a listener; 0: 16,384.
	MaxConns int
	// MaxOpen bounds the open connections of all listeners together; 0: what the limit of open files leaves, two for each
	// with one to an instance. Where there are as many, who has waited longest between two requests has to go.
	MaxOpen int
	// AccessLog gets the lines of the access log, many at a time; nil: nobody wants them. Snapshot.AccessLog says of which
	// requests.
	AccessLog io.Writer
	// ExposeInstance sets InstanceHeader on responses.
	ExposeInstance bool
	// Without switches mechanisms off, so that tests can show what they are worth.
	Without Without
}

// Without names what a data plane does not do: let requests wait for an instance, try a request again.
type Without struct{ Hold, Retry bool }

// from returns the services as they are without it.
func (w Without) from(services []Service) []Service {
	if w == (Without{}) {
		return services
	}
	services = slices.Clone(services)
	for i := range services {
		if w.Hold {
			services[i].Hold = -1
		}
		if w.Retry {
			services[i].Retries = -1
		}
	}
	return services
}

// Feed gives a data plane its snapshots and sockets.
type Feed interface {
	// Follow calls update, one call at a time, with what there is and then with every change, until ctx is done. It
	// returns an error when it can't go on; it is called again after a pause then, and may begin anew.
	Follow(ctx context.Context, update func(Update)) error
}

// Update is one change. Its parts are independent: a socket may come before or after the snapshot that names it.
type Update struct {
	Snapshot *Snapshot           // nil: unchanged; one that is not newer is ignored
	Sockets  map[string]*os.File // new listening sockets by Listener.Name; ownership passes
	Closed   []string            // sockets that are to be closed
	// ControlPlaneAway says that nobody else watches the instances: the data plane probes by itself.
	ControlPlaneAway bool
}

const (
	defaultGrace    = 30 * time.Second
	defaultLinger   = 5 * time.Second
	defaultMaxConns = 16384
)

// Proxy is a data plane. Make one with New.
type Proxy struct {
	cfg      Config
	log      *slog.Logger
	front    *front
	access   *accessLog
	boot     string
	began    time.Time
	spans    *spans
	table    atomic.Pointer[table]
	draining atomic.Bool
	parting  atomic.Bool   // connections that wait for a request are closed
	faults   atomic.Uint64 // panics that were kept to their request
	open     chan struct{} // one for each connection of a client

	life   context.Context // ends when everything has to end
	cutoff context.CancelFunc
	wg     sync.WaitGroup // everything that serves a client, and the listeners

	pulse     *pulse        // every client's connection
	handlers  atomic.Int64  // running ones
	waits     chan struct{} // capacity 1: a request of a measured service waits
	answers   atomic.Int64  // of serveDemand so far
	streams   set[*stream]
	links     set[*accepted]
	mirrors   atomic.Int64
	refusals  refusals
	known     identities
	lookAgain time.Duration // at the files of listeners' certificates
	reasons   reasons

	mu        sync.Mutex // one update at a time
	listeners map[string]*listener
	retired   []*service // out of the snapshot, perhaps still in use
	probing   probing
}

// New returns a data plane; Run starts it.
func New(cfg Config) *Proxy {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Grace <= 0 {
		cfg.Grace = defaultGrace
	}
	if cfg.Linger <= 0 {
		cfg.Linger = defaultLinger
	}
	if cfg.MaxConns <= 0 {
		cfg.MaxConns = defaultMaxConns
	}
	if cfg.MaxOpen <= 0 {
		cfg.MaxOpen = openLimit()
	}
	p := &Proxy{
		open: make(chan struct{}, cfg.MaxOpen), cfg: cfg, log: cfg.Log, boot: newBoot(), began: time.Now(), spans: newSpans(), listeners: map[string]*listener{},
		waits: make(chan struct{}, 1), pulse: newPulse(), known: identities{lookAgain: lookAgain}, lookAgain: lookAgain,
	}
	p.table.Store(emptyTable())
	p.front = newFront(p)
	if cfg.AccessLog != nil {
		p.access = newAccessLog(cfg.AccessLog)
	}
	p.probing.p = p
	return p
}

// Run serves until ctx is done. Then it stops accepting, tells clients to go elsewhere, lets what is in flight finish
// within the grace time, cuts the rest, and returns when all that it started has ended. The feed is followed to the
// end: a request that is in flight still sees instances come and go. Run may be called once.
func (p *Proxy) Run(ctx context.Context) error {
	if p.cfg.Feed == nil {
		return fmt.Errorf("run data plane: %w: no feed", errdefs.ErrInvalid)
	}
	p.life, p.cutoff = context.WithCancel(context.WithoutCancel(ctx))
	defer p.cutoff()
	relieving, relieved := context.WithCancel(context.WithoutCancel(ctx))
	var relief sync.WaitGroup
	relief.Go(func() { p.front.relief.Run(relieving) })
	defer relief.Wait()
	defer relieved() // when no connection is left: who serves a request meanwhile learns by it that theirs was closed
	var background sync.WaitGroup
	if p.cfg.Status != "" {
		l, err := listenUnix(p.cfg.Status)
		if err != nil {
			return fmt.Errorf("open status socket %s: %w", p.cfg.Status, err)
		}
		background.Go(func() { p.serveStatus(p.life, l) })
	}
	background.Go(func() { p.follow(p.life) })
	background.Go(func() { p.expire(p.life) })
	background.Go(func() { p.pulse.run(p.life) })
	background.Go(func() { memory.GiveBack(p.life) })
	if p.access != nil {
		background.Go(func() {
			p.access.run(p.life, func(err error) { p.log.Error("access log not written", "err", err) })
		})
	}

	<-ctx.Done()
	p.drain()
	p.cutoff()
	background.Wait()
	p.close()
	p.wg.Wait()
	for p.handlers.Load() > 0 { // their connections are closed: they are returning
		time.Sleep(time.Millisecond)
	}
	return nil
}

func listenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// follow takes updates until ctx is done.
func (p *Proxy) follow(ctx context.Context) {
	pause := 50 * time.Millisecond
	for {
		began := time.Now()
		err := p.cfg.Feed.Follow(ctx, p.update)
		if ctx.Err() != nil {
			return
		}
		p.log.Warn("feed ended", "err", err)
		if time.Since(began) > 10*time.Second {
			pause = 50 * time.Millisecond
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, 2*time.Second)
		case <-ctx.Done():
			return
		}
	}
}

// update takes over one change.
func (p *Proxy) update(u Update) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life.Err() != nil || p.draining.Load() {
		for _, f := range u.Sockets {
			f.Close()
		}
		u.Sockets = nil
	}
	for _, name := range u.Closed {
		if l := p.listeners[name]; l != nil {
			l.close()
			delete(p.listeners, name)
		}
	}
	for name, f := range u.Sockets {
		l, err := newListener(name, f, p.cfg.MaxConns)
		if err != nil {
			p.log.Error("socket not taken", "listener", name, "err", err)
			continue
		}
		if old := p.listeners[name]; old != nil {
			old.close()
		}
		p.listeners[name] = l
	}
	if u.Snapshot != nil {
		p.apply(u.Snapshot)
	}
	if !p.draining.Load() {
		t := p.table.Load()
		for name, l := range p.listeners {
			p.use(l, t.listeners[name])
		}
	}
	p.probing.set(u.ControlPlaneAway)
}

// apply makes a snapshot the current one, if it is newer and whole. p.mu is held.
func (p *Proxy) apply(s *Snapshot) {
	old := p.table.Load()
	if old.older(s) {
		if s.Epoch != old.epoch || s.Version != old.version {
			p.log.Warn("snapshot refused: older than the last", "project", s.Project, "epoch", s.Epoch, "version", s.Version)
		}
		return
	}
	now := time.Now()
	services := p.cfg.Without.from(s.Services)
	t, err := p.compile(s, old, now)
	if err != nil {
		p.log.Error("snapshot refused", "project", s.Project, "epoch", s.Epoch, "version", s.Version, "err", err)
		return
	}
	// Services first: a request that the new routes send to one finds its instances there. The version is published
	// last: who reads it in the status knows that no draining instance takes anything new any more.
	for i := range s.Services {
		svc := t.services[s.Services[i].Name]
		if old.services[svc.name] != svc { // nobody else knows it yet
			svc.waits, svc.known, svc.spare = p.waits, &p.known, p.spare
		}
		svc.mesh.Store(s.Mesh)
		svc.apply(&services[i], now)
	}
	p.table.Store(t)
	p.cutRefused(t.mesh)
	for name, svc := range old.services {
		if t.services[name] != svc {
			svc.close()
			p.retired = append(p.retired, svc)
		}
	}
	p.retired = slices.DeleteFunc(p.retired, func(s *service) bool { return s.idle() })
}

// drain stops accepting and waits until clients have gone elsewhere.
func (p *Proxy) drain() {
	p.mu.Lock()
	p.draining.Store(true)
	for _, l := range p.listeners {
		l.stop()
		if l.tcp != nil {
			l.tcp.Close()
		}
	}
	p.mu.Unlock()
	p.front.drainStreams()
	for _, l := range p.links.list() {
		p.wg.Go(l.goAway)
	}
	grace, cancel := context.WithTimeout(p.life, p.cfg.Grace)
	defer cancel()
	if len(p.table.Load().listeners) > 0 { // otherwise the project is gone, and there is nowhere else to go
		p.waitIdle(grace, min(p.cfg.Linger, p.cfg.Grace))
	}
	for _, c := range p.pulse.list() {
		if c.waiting.Load() && !c.pending() {
			c.raw.Close() // who peeks at it sees that and lets go of it
		}
	}
	for _, s := range p.streams.list() {
		if s.datagrams {
			go s.finish()
		}
	}
	p.parting.Store(true) // before: who comes to wait after that does it by itself
	for _, c := range p.pulse.list() {
		c.closeIdle()
	}
	p.waitIdle(grace, p.cfg.Grace)
	streams := p.streams.list()
	for _, s := range streams {
		go s.finish()
	}
	if len(streams) > 0 {
		last, cancel := context.WithTimeout(p.life, 2*closeTime)
		defer cancel()
		p.waitIdle(last, 2*closeTime)
	}
}

// waitIdle returns when there are neither connections nor streams any more, or the time is over.
func (p *Proxy) waitIdle(ctx context.Context, limit time.Duration) {
	end := time.After(limit)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for p.pulse.len()+p.streams.len() > 0 {
		select {
		case <-tick.C:
		case <-end:
			return
		case <-ctx.Done():
			return
		}
	}
}

// close lets go of everything that is left.
func (p *Proxy) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.probing.set(false)
	for _, l := range p.listeners {
		l.close()
	}
	for _, c := range p.pulse.list() {
		c.Close()
	}
	for _, s := range p.table.Load().services {
		s.close()
	}
}

// Status returns what the data plane says of itself.
func (p *Proxy) Status() Status {
	t := p.table.Load()
	st := Status{PID: os.Getpid(), Epoch: t.epoch, Version: t.version, InUse: map[string]int{}, Counters: map[string]Counters{}}
	p.mu.Lock()
	retired := slices.Clone(p.retired)
	p.mu.Unlock()
	for name, s := range t.services {
		if s.internal() {
			continue
		}
		s.describe(&st)
		st.Counters[name] = s.count.read()
	}
	for _, s := range retired {
		s.describe(&st)
	}
	slices.Sort(st.Ejected)
	return st
}
