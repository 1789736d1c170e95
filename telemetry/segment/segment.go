// Package segment keeps rows in SQLite files of one hour each, so that what is too old or too much goes by unlinking a
// file. One writer empties a bounded queue in batches; whoever adds a row never waits for the disk. What could not be
// kept is counted by its reason.
//
// A file is in WAL mode with synchronous=NORMAL: what was committed survives the death of this process by any signal,
// and the last moments may be lost with the machine's power. The choice and its figures: docs/decisions/112.
package segment

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"trellis/errdefs"
)

// Config says what a Store keeps. The zero value of a number is its default.
type Config[T any] struct {
	Dir    string // made, with mode 0700, by the first write
	Name   string // first part of the files' names
	Schema string // makes the table rows and its indices in a new file
	// Columns are those of the table rows that Row returns values for.
	Columns []string
	Row     func(*T) []any
	Time    func(*T) time.Time // decides the hour
	Size    func(*T) int       // in memory, in bytes, about
	Written func()             // called by the writer when a batch is in its files, before Changed says so; nil: nothing is

	MaxBytes int64         // of all files together; default 512 MiB
	MaxAge   time.Duration // default 7 days
	MaxQueue int           // bytes that wait for the writer; default 16 MiB
	MaxItem  int           // bytes of one row; default 256 KiB
	// MinFree is how much space the disk has to have left for a write; default 64 MiB. The rest of the machine, and
	// Trellis' own state, come first.
	MinFree int64

	Now func() time.Time // default time.Now
	Log *slog.Logger
}

const (
	batchPause = 100 * time.Millisecond // between two batches
	batchRows  = 10_000                 // that make a batch at once
	future     = 10 * time.Minute       // that a clock may be ahead
	idle       = time.Minute            // after which a file that nothing is written to is closed
)

// Reasons for a loss, as telemetry has them.
const (
	LossQueueFull = "queue full"
	LossTooLate   = "too late"
	LossTooLarge  = "too large"
	LossDisk      = "disk"
)

// Health says how a store does; telemetry.Health is the same.
type Health struct {
	Accepted uint64            // since New
	Lost     map[string]uint64 // by reason, since New
	Bytes    int64             // on disk
	MaxBytes int64
	Oldest   time.Time // of what is kept
	Problem  string    // why nothing can be written now; "" it can
}

// Store keeps rows. All methods are safe for concurrent use; nothing is written unless Run runs.
type Store[T any] struct {
	cfg   Config[T]
	wake  chan struct{} // capacity 1
	files files[T]

	mu       sync.Mutex
	queue    []T
	bytes    int // of queue
	accepted uint64
	lost     map[string]uint64
	problem  string
	changed  chan struct{} // closed and replaced when rows were written
	flushes  []chan struct{}
}

// New returns a store. It touches no file.
func New[T any](cfg Config[T]) *Store[T] {
	set(&cfg.MaxBytes, 512<<20)
	set(&cfg.MaxAge, 7*24*time.Hour)
	set(&cfg.MaxQueue, 16<<20)
	set(&cfg.MaxItem, 256<<10)
	set(&cfg.MinFree, 64<<20)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Store[T]{cfg: cfg, wake: make(chan struct{}, 1), lost: map[string]uint64{}, changed: make(chan struct{})}
	s.files = files[T]{cfg: &s.cfg, open: map[key]*file{}}
	return s
}

func set[N int | int64 | time.Duration](n *N, otherwise N) {
	if *n == 0 {
		*n = otherwise
	}
}

// Add takes what it can of rows, without waiting, and returns how many it dropped, and why.
func (s *Store[T]) Add(rows []T) (dropped int, why string) {
	now := s.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range rows {
		size := s.cfg.Size(&rows[i])
		reason := ""
		switch at := s.cfg.Time(&rows[i]); {
		case size > s.cfg.MaxItem:
			reason = LossTooLarge
		case at.Before(now.Add(-s.cfg.MaxAge)) || at.After(now.Add(future)):
			reason = LossTooLate
		case s.bytes+size > s.cfg.MaxQueue:
			reason = LossQueueFull
		}
		if reason != "" {
			s.lost[reason]++
			dropped++
			why = reason
			continue
		}
		s.queue = append(s.queue, rows[i])
		s.bytes += size
	}
	if len(s.queue) > 0 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	return dropped, why
}

// Lose counts what was dropped before it came here.
func (s *Store[T]) Lose(reason string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost[reason] += uint64(n)
}

// Run is the writer. It returns when ctx is done and what was added before is written.
func (s *Store[T]) Run(ctx context.Context) error {
	defer s.files.closeAll()
	tick := time.NewTicker(idle)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.write()
			return nil
		case <-tick.C:
			s.files.closeIdle(s.cfg.Now())
			s.files.prune(s.cfg.Now())
			continue
		case <-s.wake:
		}
		s.write()
		select { // more of it makes a larger batch
		case <-time.After(batchPause):
		case <-ctx.Done():
		}
	}
}

// Flush blocks until what was added before it is written or lost.
func (s *Store[T]) Flush(ctx context.Context) error {
	done := make(chan struct{})
	s.mu.Lock()
	s.flushes = append(s.flushes, done)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("flush %s: %w", s.cfg.Name, ctx.Err())
	}
}

// write empties the queue.
func (s *Store[T]) write() {
	for {
		s.mu.Lock()
		rows, flushes := s.queue, s.flushes
		if len(rows) > batchRows {
			rows, s.queue, flushes = rows[:batchRows], rows[batchRows:], nil
		} else {
			s.queue, s.flushes = nil, nil
		}
		for i := range rows {
			s.bytes -= s.cfg.Size(&rows[i])
		}
		s.mu.Unlock()
		if len(rows) > 0 {
			written, err := s.files.write(rows, s.cfg.Now())
			if s.cfg.Written != nil {
				s.cfg.Written()
			}
			s.note(written, len(rows)-written, err)
		}
		for _, done := range flushes {
			close(done)
		}
		if len(rows) < batchRows {
			return
		}
	}
}

// note counts what became of a batch.
func (s *Store[T]) note(written, dropped int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted += uint64(written)
	if dropped > 0 {
		s.lost[LossDisk] += uint64(dropped)
	}
	switch {
	case err != nil && s.problem == "":
		s.cfg.Log.Error("telemetry cannot be written; it is counted and dropped", "store", s.cfg.Name, "err", err)
	case err == nil && s.problem != "":
		s.cfg.Log.Info("telemetry is written again", "store", s.cfg.Name)
	}
	s.problem = ""
	if err != nil {
		s.problem = err.Error()
	}
	if written > 0 {
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// Changed returns a channel that is closed when the next rows are written.
func (s *Store[T]) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Health says how the store does.
func (s *Store[T]) Health() Health {
	s.mu.Lock()
	h := Health{Accepted: s.accepted, Lost: map[string]uint64{}, MaxBytes: s.cfg.MaxBytes, Problem: s.problem}
	for reason, n := range s.lost {
		h.Lost[reason] = n
	}
	s.mu.Unlock()
	list, err := s.files.list()
	if err != nil {
		return h
	}
	for _, f := range list {
		h.Bytes += f.bytes
	}
	if len(list) > 0 {
		h.Oldest = list[0].start()
	}
	return h
}

// diskFull says that there is too little space left to write.
func (c *Config[T]) diskFull() error {
	free, err := freeBytes(c.Dir)
	if err != nil {
		return fmt.Errorf("look at the disk under %s: %w", c.Dir, err)
	}
	if free < c.MinFree {
		return fmt.Errorf("%w: %d MiB are left on the disk under %s, and %d MiB are kept free: free some",
			errdefs.ErrUnavailable, free>>20, c.Dir, c.MinFree>>20)
	}
	return nil
}

// prepare makes the folder.
func (c *Config[T]) prepare() error {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", c.Dir, err)
	}
	return c.diskFull()
}

// key names one file: an hour, and which of the files of that hour.
type key struct {
	hour int64 // since 1970
	part int
}

func hourOf(t time.Time) int64 { return t.Unix() / 3600 }

func (k key) start() time.Time { return time.Unix(k.hour*3600, 0).UTC() }

func (k key) name(store string) string {
	return fmt.Sprintf("%s-%s-%03d.db", store, k.start().Format("2006010215"), k.part)
}

func (k key) path(dir, store string) string { return filepath.Join(dir, k.name(store)) }
