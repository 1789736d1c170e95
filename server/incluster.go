package server

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"trellis/api"
	"trellis/compose"
	"trellis/console"
	"trellis/engine/judge"
	"trellis/engine/kubernetes"
	"trellis/errdefs"
	"trellis/memory"
	"trellis/proxy"
	"trellis/state"
)

// ServeInCluster is the control plane of a project in the cluster that this runs in, with the account of its pod. It waits until it
// holds the project's Lease, and then looks after the project and serves its telemetry, console and API until ctx is done or the
// Lease is lost, which is an error.
func ServeInCluster(ctx context.Context, project, namespace string, log *slog.Logger) error {
	log = log.With("project", project)
	fail := func(err error) error { return fmt.Errorf("serve %s in the cluster: %w", project, err) }
	client, err := kubernetes.Dial(project, kubernetes.Access{Namespace: namespace}, log)
	if err != nil {
		return fail(err)
	}
	serves := &atomic.Pointer[inCluster]{}
	health, err := net.Listen("tcp", ":"+strconv.Itoa(kubernetes.HealthPort))
	if err != nil {
		return fail(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+kubernetes.HealthPath, func(w http.ResponseWriter, _ *http.Request) {
		if serves.Load() == nil {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	// How much there is to do anyone in the cluster may ask, as the metrics API does, which knows the keys of no project.
	mux.HandleFunc("GET "+kubernetes.LoadPath, func(w http.ResponseWriter, r *http.Request) {
		c := serves.Load()
		if c == nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		c.tellLoad(w, r)
	})
	mux.Handle("GET "+kubernetes.ExposedPath, keyed(func() string {
		if c := serves.Load(); c != nil {
			return c.scrapeKey()
		}
		return ""
	}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serves.Load().exposeTold(w, r) })))
	asked := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = asked.Serve(health) }()
	defer asked.Close()
	pod, err := os.Hostname()
	if err != nil {
		return fail(err)
	}
	err = client.Hold(ctx, project, pod, log, func(ctx context.Context) error {
		c, err := newInCluster(client, project, kubernetes.StateDir, os.Getenv(kubernetes.ImageEnv), log)
		if err != nil {
			return err
		}
		defer c.store.Close()
		return c.run(ctx, func() { serves.Store(c) })
	})
	if err != nil && ctx.Err() == nil {
		return fail(err)
	}
	return nil
}

// inCluster is the control plane of a project in its cluster.
type inCluster struct {
	cluster
	*sight
	store     state.Store // of events
	chronicle *chronicle
	pods      *podPlanes
	tally     *judge.Tally
	loads     loads
	key       string // of the console
	log       *slog.Logger

	states recent[stateNow]
	cpu    cpuTimes
}

var (
	_ api.Control = (*inCluster)(nil)
	_ subject     = (*inCluster)(nil)
)

func newInCluster(client *kubernetes.Client, project, dir, image string, log *slog.Logger) (*inCluster, error) {
	e := kubernetes.New(project, client, log)
	e.UsePlane(kubernetes.Plane{Default: image, Version: Version})
	tally := &judge.Tally{}
	e.UseControl(kubernetes.Control{Image: image, Tally: tally})
	l := Location{Project: project, StateDir: filepath.Join(dir, "trellis")} // at the top of a volume there may be lost+found
	if err := os.MkdirAll(telemetryDir(l.StateDir), 0o700); err != nil {
		return nil, fmt.Errorf("use the volume: %w", err)
	}
	key, err := l.consoleKey()
	if err != nil {
		return nil, err
	}
	store, err := state.Open(filepath.Join(l.StateDir, "state.db"))
	if err != nil {
		return nil, err
	}
	changed := &broadcast{}
	c := &inCluster{
		cluster: cluster{location: l, engine: e, changed: changed}, store: store, pods: &podPlanes{engine: e}, tally: tally, key: key, log: log,
	}
	c.chronicle = &chronicle{store: store, project: project, observe: c.observe, events: e.Events, changed: changed}
	c.sight = newSight(watching{
		subject: c, project: project, dir: l.StateDir, engine: e, planes: c.pods, traffic: &traffic{}, changed: changed, listen: listenInPod,
		receive: notFromPages, tells: true,
	}, log)
	return c, nil
}

// listenInPod opens one of telemetry's sockets. Every pod may send; what was kept only the pod itself is told.
func listenInPod(ctx context.Context, l proxy.Listener) (net.Listener, error) {
	address := ":" + strconv.Itoa(kubernetes.OTLPPort)
	if l.Name == prometheusSocket {
		address = onLoopback(kubernetes.PrometheusPort)
	}
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", address)
}

func onLoopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// notFromPages refuses what a web page has a browser send.
func notFromPages(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") != "" {
			http.Error(w, "this address answers programs, and no web pages", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// run runs the parts until ctx is done or one of them fails, and returns when all have ended. serves is called once they answer.
func (c *inCluster) run(ctx context.Context, serves func()) error {
	handler, err := console.New(console.Config{
		API: api.Handler(c, c.log), Key: c.key, Project: c.location.Project, Actor: "somebody in the console", Log: c.log,
	})
	if err != nil {
		return err
	}
	at, err := net.Listen("tcp", onLoopback(kubernetes.APIPort))
	if err != nil {
		return err
	}
	shown, err := net.Listen("tcp", onLoopback(kubernetes.ConsolePort))
	if err != nil {
		_ = at.Close()
		return err
	}
	c.open(ctx)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return c.cluster.engine.Run(ctx, func(string) {
			c.states.forget()
			c.cluster.changed.wake()
		})
	})
	// Who may forward ports here may not be one who may deploy: nothing but what the console can is done in the name of this pod.
	g.Go(func() error { return serveHTTP(ctx, at, api.WatchHandler(c), c.log) })
	g.Go(func() error { return serveHTTP(ctx, shown, handler, c.log) })
	g.Go(func() error { return c.sight.run(ctx) })
	g.Go(func() error {
		memory.GiveBack(ctx)
		return nil
	})
	g.Go(func() error { return c.measureTraffic(ctx) })
	g.Go(func() error {
		return followPlanes(ctx, c.pods, "/measures", func(m proxy.Measures) {
			c.traffic.take(m)
			c.tally.Take(m)
		})
	})
	g.Go(func() error {
		return followPlanes(ctx, c.pods, "/demand", func(d proxy.Demands) { c.loads.take(d, time.Now()) })
	})
	for name, part := range map[string]func(context.Context) error{"instances": c.chronicle.watch, "events": c.chronicle.listen} {
		g.Go(func() error {
			c.again(ctx, name, part)
			return nil
		})
	}
	serves()
	err = g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Status implements api.Observer.
func (c *inCluster) Status(ctx context.Context) (api.Status, error) {
	s, err := c.cluster.Status(ctx)
	s.ControlPlane.PID = os.Getpid()
	url := "http://" + onLoopback(kubernetes.ConsolePort)
	s.Console = &url
	return s, err
}

// Watch implements api.Observer. The loop of the engine runs in any case.
func (c *inCluster) Watch(ctx context.Context, fn func(api.Status) error) error {
	return watchIn(ctx, c.cluster.changed, c.Status, fn)
}

// Events implements api.Observer, as the chronicle has them.
func (c *inCluster) Events(ctx context.Context, f state.EventFilter, follow bool, fn func(state.Event) error) error {
	return eventsIn(ctx, c.store, c.cluster.changed, f, follow, fn)
}

// Door implements api.Viewer. Its address is the pod's own: who comes from elsewhere is led there.
func (c *inCluster) Door(context.Context) (api.Door, error) {
	return api.Door{URL: "http://" + onLoopback(kubernetes.ConsolePort), Key: c.key}, nil
}

func (c *inCluster) latest(ctx context.Context) (state.Revision, error) { return c.revision(ctx, 0) }

// revision returns one that is kept, 0 for the newest.
func (c *inCluster) revision(ctx context.Context, number int64) (state.Revision, error) {
	all, err := c.cluster.engine.History(ctx, 0)
	if err != nil {
		return state.Revision{}, err
	}
	for _, rev := range all {
		if number == 0 || rev.Number == number {
			return rev, nil
		}
	}
	return state.Revision{}, fmt.Errorf("revision %d of %s: %w", number, c.location.Project, errdefs.ErrNotFound)
}

func (c *inCluster) happened(ctx context.Context, f state.EventFilter) iter.Seq2[state.Event, error] {
	return func(yield func(state.Event, error) bool) {
		var all []state.Event
		for e, err := range c.store.Events(ctx, f) {
			if err != nil {
				yield(e, err)
				return
			}
			all = append(all, e)
		}
		for _, e := range inOrder(all) {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (c *inCluster) content(ref string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return c.cluster.engine.Content(ctx, ref)
}

// certificates implements subject: in a cluster there are those alone that the file names.
func (c *inCluster) certificates(p compose.Project) []certificate {
	if g := p.Trellis.Gateway; g == nil || g.HTTPS == "" {
		return nil
	}
	return namedCertificates(p, c.content)
}

// drifts implements subject: the cluster looks for drift by a clock of its own.
func (c *inCluster) drifts() map[string]int { return nil }
