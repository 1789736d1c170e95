package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/proxy"
	"trellis/telemetry"
	"trellis/telemetry/alerts"
	"trellis/telemetry/logs"
	"trellis/telemetry/metrics"
	"trellis/telemetry/otlp"
	"trellis/telemetry/traces"
)

// The sockets of telemetry. Only this machine reaches them.
const (
	anyPort          = "127.0.0.1:0"
	prometheusSocket = "prometheus"
)

// sight is what a project tells of itself: the stores, and what fills them. Whatever fails in it is said and tried again;
// it never ends the control plane.
type sight struct {
	of      subject
	project string
	dir     string // of the project's state
	engine  engine.Engine
	planes  planes
	traffic *traffic
	changed *broadcast
	listen  func(context.Context, proxy.Listener) (net.Listener, error)
	started time.Time
	metrics *metrics.Store
	traces  *traces.Store
	logs    *logs.Store
	log     *slog.Logger

	prometheus, otlp socket
	redactor         atomic.Pointer[logs.Redactor]
	secrets          secrets
	lostSpans        spanLoss
	ends             ends
	examples         examples
	targets          targets
	tells            bool                      // told is kept
	told             atomic.Pointer[gathering] // the newest round, without what the data planes tell
	notifier         *alerts.Notifier
	spent            spending
	forward          *otlp.Forwarder
}

// telemetryDir is where the stores are.
func telemetryDir(stateDir string) string { return filepath.Join(stateDir, "telemetry") }

// watching is what a sight is made of.
type watching struct {
	subject subject
	project string
	dir     string // where the project's state is
	engine  engine.Engine
	planes  planes
	traffic *traffic
	changed *broadcast
	// listen opens one of telemetry's own sockets.
	listen func(context.Context, proxy.Listener) (net.Listener, error)
	// receive keeps those out who may not send telemetry.
	receive func(http.Handler) http.Handler
	// tells says that somebody may ask for what was written down last.
	tells bool
}

func newSight(w watching, log *slog.Logger) *sight {
	dir := telemetryDir(w.dir)
	s := &sight{
		of: w.subject, project: w.project, dir: w.dir, engine: w.engine, planes: w.planes, traffic: w.traffic, changed: w.changed, listen: w.listen,
		tells: w.tells, log: log, started: time.Now(),
		traces: traces.New(traces.Config{Dir: filepath.Join(dir, "traces"), Log: log}),
		logs:   logs.New(logs.Config{Dir: filepath.Join(dir, "logs"), Log: log}),
	}
	s.forward = otlp.NewForwarder(otlp.ForwarderConfig{Project: w.project, Log: log})
	s.notifier = alerts.New(alerts.Config{Project: w.project, File: filepath.Join(dir, "alerts.json"), Log: quiet(log)})
	s.metrics = metrics.New(metrics.Config{Dir: filepath.Join(dir, "metrics"), Log: quiet(log), Notify: s.notifier.Take, Scraped: func(samples []telemetry.Sample) { s.forward.AddSamples(samples) }})
	s.redactor.Store(logs.NewRedactor(nil))
	s.secrets = secrets{known: map[int64]bool{}, values: map[string]bool{}}
	s.prometheus = socket{at: proxy.Listener{Name: prometheusSocket, Address: anyPort}, guard: fromHere}
	s.otlp = socket{at: proxy.Listener{Name: "otlp", Address: anyPort}, guard: w.receive}
	return s
}

// quiet leaves out what Prometheus' packages say of their own doings.
func quiet(log *slog.Logger) *slog.Logger { return slog.New(louder{log.Handler()}) }

type louder struct{ slog.Handler }

// Enabled implements slog.Handler.
func (h louder) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && h.Handler.Enabled(ctx, l)
}

// WithAttrs implements slog.Handler.
func (h louder) WithAttrs(a []slog.Attr) slog.Handler { return louder{h.Handler.WithAttrs(a)} }

// WithGroup implements slog.Handler.
func (h louder) WithGroup(name string) slog.Handler { return louder{h.Handler.WithGroup(name)} }

// run runs the stores and what fills them until ctx is done.
func (s *sight) run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	for name, part := range map[string]func(context.Context) error{
		"metrics": s.metrics.Run, "traces": s.traces.Run, "logs": s.logs.Run, "collect": s.collect, "spans": s.followSpans,
		"output": s.followOutput, "secrets": s.followSecrets, "prometheus": s.servePrometheus, "otlp": s.serveOTLP,
		"rules": s.followRules, "alerts": s.notifier.Run, "forward": s.forward.Run,
	} {
		all.Go(func() { s.again(ctx, name, part) })
	}
	<-ctx.Done()
	return nil
}

// The pauses before a part that has failed runs again. One that ran for as long as the longest of them begins with the first anew.
const (
	partPause    = time.Second
	partPauseMax = time.Minute
)

// again runs a part until ctx is done.
func (s *sight) again(ctx context.Context, name string, part func(context.Context) error) {
	for pause := partPause; ; pause = min(2*pause, partPauseMax) {
		began := time.Now()
		err := part(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) >= partPauseMax {
			pause = partPause
		}
		if err != nil {
			s.log.Error("telemetry failed; it is tried again", "part", name, "err", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// socket is one of the holder's that a part of telemetry listens on.
type socket struct {
	at       proxy.Listener
	guard    func(http.Handler) http.Handler // keeps those out who may not come there
	address  atomic.Pointer[string]          // host:port, nil until it is open
	listener net.Listener                    // that open has taken and serve has not
}

// open takes the sockets, so that instances can be told where telemetry is received before the first of them starts.
func (s *sight) open(ctx context.Context) {
	for _, one := range []*socket{&s.prometheus, &s.otlp} {
		if err := s.take(ctx, one); err != nil && ctx.Err() == nil {
			s.log.Error("telemetry has no address yet", "socket", one.at.Name, "err", err)
		}
	}
}

// take opens a socket that is not open.
func (s *sight) take(ctx context.Context, one *socket) error {
	if one.listener != nil {
		return nil
	}
	l, err := s.listen(ctx, one.at)
	if err != nil {
		return err
	}
	bound := l.Addr().String()
	one.listener = l
	one.address.Store(&bound)
	s.changed.wake()
	return nil
}

// servePrometheus serves Prometheus' API.
func (s *sight) servePrometheus(ctx context.Context) error {
	return s.serve(ctx, &s.prometheus, s.metrics.Handler())
}

// serveOTLP serves the receiver.
func (s *sight) serveOTLP(ctx context.Context) error {
	r := s.receiver()
	defer r.Close()
	return s.serve(ctx, &s.otlp, r)
}

// receiver takes what programs send by OTLP.
func (s *sight) receiver() *otlp.Receiver {
	to := received{s}
	return otlp.New(otlp.Config{Spans: to, Records: to, Metrics: to, Log: s.log})
}

// serve serves h at a socket until ctx is done, over HTTP/1.1 and HTTP/2 without TLS.
func (s *sight) serve(ctx context.Context, at *socket, h http.Handler) error {
	if err := s.take(ctx, at); err != nil {
		return err
	}
	l := at.listener
	at.listener = nil
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler: at.guard(h), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10, Protocols: protocols,
		BaseContext: func(net.Listener) context.Context { return ctx }, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); ctx.Err() == nil {
		return fmt.Errorf("serve %s: %w", at.at.Name, err)
	}
	return nil
}

// fromHere refuses what a web page of elsewhere has a browser send here: by a foreign Origin, or by a name that was made
// to resolve to this machine.
func fromHere(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		ip := net.ParseIP(host)
		if host != "" && host != "localhost" && (ip == nil || !ip.IsLoopback()) && !strings.HasSuffix(host, ".localhost") || r.Header.Get("Origin") != "" {
			http.Error(w, "this address answers programs of this machine: ask localhost, and not from a web page", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// AddSpans implements telemetry.SpanSink: it takes secrets out first.
func (s *sight) AddSpans(spans []telemetry.Span) (int, string) {
	s.cleanSpans(spans)
	s.forward.AddSpans(spans)
	return s.traces.AddSpans(spans)
}

// AddRecords implements telemetry.RecordSink: it takes secrets out first.
func (s *sight) AddRecords(records []telemetry.Record) (int, string) {
	s.cleanRecords(records)
	s.forward.AddRecords(records)
	return s.logs.AddRecords(records)
}

// cleanSpans takes secrets out, in place.
func (s *sight) cleanSpans(spans []telemetry.Span) {
	r := s.redactor.Load()
	for i := range spans {
		r.Span(&spans[i])
	}
}

// cleanRecords takes secrets out, in place.
func (s *sight) cleanRecords(records []telemetry.Record) {
	r := s.redactor.Load()
	for i := range records {
		r.Record(&records[i])
	}
}

// desired returns the project that is wanted. None was applied: ErrNotFound.
func (s *sight) desired(ctx context.Context) (compose.Project, error) {
	st, err := s.of.observe(ctx)
	if err != nil {
		return compose.Project{}, err
	}
	if st.Desired == nil {
		return compose.Project{}, fmt.Errorf("project %s: %w: nothing was applied", s.project, errdefs.ErrNotFound)
	}
	return *st.Desired, nil
}
