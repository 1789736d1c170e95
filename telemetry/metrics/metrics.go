// Package metrics keeps a project's metrics in Prometheus' own time series database, and answers with its own PromQL
// engine, rule manager and HTTP API. It is the only package that knows Prometheus: no type of it stands in a signature
// here. What of Prometheus has no promise to stay as it is (the API's constructor) is called in api.go alone.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"trellis/errdefs"
	"trellis/telemetry"
)

// Config says what a Store keeps. The zero value of a number is its default.
type Config struct {
	Dir      string
	MaxBytes int64         // on disk; default 1 GiB
	MaxAge   time.Duration // default 15 days, as Prometheus'
	// MaxSeries is how many may be written to at a time; default 100 000: about 400 MB of memory would be needed beyond. A fifth
	// of it comes on top for Append and for rules.
	MaxSeries int
	// Evaluate is the pause between two evaluations of the rules; default 15 s.
	Evaluate time.Duration
	// Scrape is the pause between two scrapes of a target; default 15 s.
	Scrape time.Duration
	// Notify is told of alerts that fire, every minute while they do, and of those that do so no more. It must not block.
	Notify func(alerts []telemetry.Alert)
	// Scraped is given what each scrape has found, besides the store. It must neither block nor keep samples.
	Scraped func(samples []telemetry.Sample)
	Log     *slog.Logger

	tidy time.Duration // the pause between two looks at what may leave memory; default a minute
}

// Store is a metrics store. Its methods answer ErrUnavailable until Run has opened it. They are safe for concurrent use.
type Store struct {
	cfg     Config
	opened  chan struct{} // closed when db and what rests on it can be used
	db      *tsdb.DB
	parser  parser.Parser
	engine  *promql.Engine
	rules   ruler
	scraper scraper
	remote  remoteWriter
	handler http.Handler

	accepted atomic.Uint64
	mu       sync.Mutex
	lost     map[string]uint64
	problem  string
	refs     map[string]*series // by key, of what Append was given
}

// New returns a store. It touches no file.
func New(cfg Config) *Store {
	set(&cfg.MaxBytes, 1<<30)
	set(&cfg.MaxAge, 15*24*time.Hour)
	set(&cfg.MaxSeries, 100_000)
	set(&cfg.Evaluate, 15*time.Second)
	set(&cfg.Scrape, 15*time.Second)
	set(&cfg.tidy, time.Minute)
	if cfg.Scraped == nil {
		cfg.Scraped = func([]telemetry.Sample) {}
	}
	if cfg.Notify == nil {
		cfg.Notify = func([]telemetry.Alert) {}
	}
	s := &Store{cfg: cfg, opened: make(chan struct{}), lost: map[string]uint64{}, refs: map[string]*series{}}
	s.parser = parser.NewParser(parser.Options{})
	s.rules.groups, s.rules.due = map[string][]telemetry.RuleGroup{}, make(chan struct{}, 1)
	s.scraper.due, s.remote.due = make(chan struct{}, 1), make(chan struct{}, 1)
	return s
}

func set[N int | int64 | time.Duration](n *N, otherwise N) {
	if *n == 0 {
		*n = otherwise
	}
}

// Run opens the store, evaluates rules and scrapes, until ctx is done. Where the folder is damaged beyond what the
// write-ahead log repairs, it is moved aside and the store begins anew: the newest of these is kept, as long as metrics are, and
// counts in MaxBytes.
func (s *Store) Run(ctx context.Context) error {
	db, err := s.open()
	if err != nil {
		return err
	}
	s.db = db
	defer func() {
		if err := db.Close(); err != nil {
			s.cfg.Log.Warn("metrics were not closed in order; the write-ahead log has them", "err", err)
		}
	}()
	s.engine = promql.NewEngine(engineOptions(s.cfg.Log, s.parser))
	defer s.engine.Close()
	stop, err := s.start(ctx)
	if err != nil {
		return err
	}
	close(s.opened)
	<-ctx.Done()
	stop()
	return nil
}

// maxExemplars is how many are kept, the newest ones: about 2 MB.
const maxExemplars = 10_000

// engineOptions are the bounds of Prometheus' defaults, but for half the memory of one query.
func engineOptions(log *slog.Logger, p parser.Parser) promql.EngineOpts {
	return promql.EngineOpts{
		Logger: log, MaxSamples: 25_000_000, Timeout: 30 * time.Second, LookbackDelta: 5 * time.Minute,
		NoStepSubqueryIntervalFn: func(int64) int64 { return time.Minute.Milliseconds() },
		EnableAtModifier:         true, EnableNegativeOffset: true, Parser: p,
	}
}

// open opens the database.
func (s *Store) open() (*tsdb.DB, error) {
	if err := s.dropAside(); err != nil {
		s.cfg.Log.Warn("metrics that were moved aside stay", "err", err)
	}
	db, err := s.openOnce()
	if err == nil || errors.Is(err, os.ErrPermission) {
		return db, err
	}
	if free, ferr := freeBytes(filepath.Dir(s.cfg.Dir)); ferr == nil && free < 16<<20 {
		return nil, fmt.Errorf("open metrics: %w: the disk is full: %w", errdefs.ErrUnavailable, err)
	}
	if err := s.moveAside(err); err != nil {
		return nil, fmt.Errorf("open metrics: %w", err)
	}
	return s.openOnce()
}

// options are those of the database.
func (s *Store) options() *tsdb.Options {
	opts := tsdb.DefaultOptions()
	opts.RetentionDuration = s.cfg.MaxAge.Milliseconds()
	// The head and its log come on top: prometheus/prometheus#8884. What was moved aside never takes all of it.
	opts.MaxBytes = max(s.cfg.MaxBytes-s.bytesAside(), s.cfg.MaxBytes/4) / 4 * 3
	opts.StripeSize = 512 // 16384 are for millions of series, and cost megabytes
	opts.WALSegmentSize = 16 << 20
	opts.WALCompression = "snappy"
	opts.OutOfOrderTimeWindow = (10 * time.Minute).Milliseconds() // OTLP is pushed, and late
	opts.HeadChunksWriteQueueSize = 0
	opts.HeadChunksWriteBufferSize = chunks.MinWriteBufferSize // 4 MB are for millions of series too
	opts.EnableExemplarStorage, opts.MaxExemplars = true, maxExemplars
	return opts
}

func (s *Store) openOnce() (*tsdb.DB, error) {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open metrics: %w", err)
	}
	db, err := tsdb.Open(s.cfg.Dir, slog.New(overlapping{s.cfg.Log.Handler()}), nil, s.options(), nil)
	if err != nil {
		return nil, fmt.Errorf("open metrics: %w", err)
	}
	return db, nil
}

// start starts what runs beside the database; stop ends it.
func (s *Store) start(ctx context.Context) (stop func(), err error) {
	limited := limiter{s, s.cfg.MaxSeries}
	s.remote.start(s)
	if err := s.scraper.start(s, teller{limited, s.cfg.Scraped}); err != nil {
		return nil, err
	}
	s.rules.start(ctx, s)
	s.handler = newHandler(s, receivers{limited})
	var all sync.WaitGroup
	all.Go(func() { s.scraper.run(ctx) })
	all.Go(func() { s.rules.run(ctx, s) })
	all.Go(func() { s.remote.run(ctx, s) })
	all.Go(func() { s.tidyUp(ctx) })
	return all.Wait, nil
}

// enoughEnded is from how many ended series on it is worth writing a block of them: of some thirty instances of a service.
const enoughEnded = 500

// tidyUp has the series of what was replaced go to the disk once they are as many as those that live. Prometheus by itself would
// keep them for up to three hours; its own threshold knows shares only, and would write a block with every deploy of a small project.
func (s *Store) tidyUp(ctx context.Context) {
	tick := time.NewTicker(s.cfg.tidy)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		head := s.db.Head()
		if ended := head.NumStaleSeries(); ended < enoughEnded || 2*ended < head.NumSeries() {
			continue
		}
		if err := s.db.CompactStaleHead(); err != nil {
			s.cfg.Log.Warn("metrics of what has ended stay in memory", "err", err)
		}
		debug.FreeOSMemory() // each block is written through 30 MB of buffers, which the runtime would give back over minutes
	}
}

// ready returns ErrUnavailable until Run has opened the store.
func (s *Store) ready() error {
	select {
	case <-s.opened:
		return nil
	default:
		return fmt.Errorf("metrics: %w: they are being opened", errdefs.ErrUnavailable)
	}
}

// Opened is closed when the store can be used.
func (s *Store) Opened() <-chan struct{} { return s.opened }

// Handler returns Prometheus' HTTP API below /api/v1, with the receivers of remote write (api/v1/write) and of metrics
// by OTLP (api/v1/otlp/v1/metrics), and /federate. It checks no identity.
func (s *Store) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		s.handler.ServeHTTP(w, r)
	})
}

// Health says how the store does.
func (s *Store) Health() telemetry.Health {
	h := telemetry.Health{Accepted: s.accepted.Load(), Lost: map[string]uint64{}, MaxBytes: s.cfg.MaxBytes}
	s.mu.Lock()
	for reason, n := range s.lost {
		h.Lost[reason] = n
	}
	h.Problem = s.problem
	s.mu.Unlock()
	if s.ready() != nil {
		return h
	}
	h.Bytes = bytesUnder(s.cfg.Dir) + s.bytesAside()
	oldest := s.db.Head().MinTime()
	for _, b := range s.db.BlockMetas() {
		oldest = min(oldest, b.MinTime)
	}
	if oldest != math.MaxInt64 {
		h.Oldest = timeOf(oldest)
	}
	return h
}

func (s *Store) lose(reason string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost[reason] += uint64(n)
}

// failed notes whether the last write could be made.
func (s *Store) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problem = ""
	if err != nil {
		s.problem = err.Error()
	}
}

func bytesUnder(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // what is deleted meanwhile takes no space
		}
		if info, err := d.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n
}

// Query evaluates a PromQL expression at a moment and returns its series; a scalar is one without labels. What is no
// number (a string), and an expression that is wrong: ErrInvalid.
func (s *Store) Query(ctx context.Context, expr string, at time.Time) ([]telemetry.Sample, error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	q, err := s.engine.NewInstantQuery(ctx, s.db, nil, expr, at)
	if err != nil {
		return nil, fmt.Errorf("query %s: %w: %w", expr, errdefs.ErrInvalid, err)
	}
	defer q.Close()
	res := q.Exec(ctx)
	if res.Err != nil {
		return nil, fmt.Errorf("query %s: %w", expr, res.Err)
	}
	switch v := res.Value.(type) {
	case promql.Scalar:
		return []telemetry.Sample{{Time: timeOf(v.T), Value: v.V}}, nil
	case promql.Vector:
		all := make([]telemetry.Sample, 0, len(v))
		for _, one := range v {
			all = append(all, telemetry.Sample{Labels: one.Metric.Map(), Time: timeOf(one.T), Value: one.F})
		}
		return all, nil
	}
	return nil, fmt.Errorf("query %s: %w: it is a %s, not a number", expr, errdefs.ErrInvalid, res.Value.Type())
}

func timeOf(ms int64) time.Time { return model.Time(ms).Time() }

var _ storage.AppendableV2 = limiter{}
