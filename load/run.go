package load

import (
	"context"
	"crypto/tls"
	"net"
	"net/url"
	"sync"
	"time"
)

const (
	// cancelGrace is what requests in flight get when the run is cancelled.
	cancelGrace = time.Second
	// nap bounds one sleep of the pacer, so that it notices the end of the run.
	nap = 20 * time.Millisecond
)

// start is one line of the schedule.
type start struct {
	seq     uint64
	at      time.Duration
	request *template
}

// run is one Run. Three parties move it: each worker owns a connection, and after every answer takes the next start that
// is due, so that a busy run is a closed loop without a hand-over; workers that find nothing due become idle; the pacer
// sleeps until the next intended start and then writes the request itself, on the connection of a worker that is
// already waiting in Read for the answer.
type run struct {
	cfg     Config
	target  *url.URL
	address string
	tls     *tls.Config // nil for http
	mix     *mix
	epoch   time.Time
	workers []*worker
	over    chan struct{} // closed when the last start has ended
	rouse   chan struct{} // wakes the pacer that waits for an idle worker

	mu      sync.Mutex
	seq     uint64        // of the next start
	next    time.Duration // its intended time
	more    bool          // there is a next start
	idle    ring
	blocked bool   // the pacer waits for an idle worker
	ended   bool   // over is closed
	aborted bool   // requests in flight are given up
	missed  Result // the last one; kept here to save an allocation each
	total   *tally
	lately  *tally // since the last Progress; nil without OnProgress
}

func newRun(cfg Config, target *url.URL, requests *mix) *run {
	r := &run{
		cfg: cfg, target: target, mix: requests,
		over: make(chan struct{}), rouse: make(chan struct{}, 1),
		idle:  ring{slots: make([]*worker, cfg.Connections)},
		total: newTally(),
	}
	port := target.Port()
	if target.Scheme == "https" {
		r.tls = &tls.Config{ServerName: target.Hostname(), NextProtos: []string{"http/1.1"}, InsecureSkipVerify: cfg.Insecure}
		if port == "" {
			port = "443"
		}
	} else if port == "" {
		port = "80"
	}
	r.address = net.JoinHostPort(target.Hostname(), port)
	if cfg.OnProgress != nil {
		r.lately = newTally()
	}
	for range cfg.Connections {
		w := &worker{run: r, wake: make(chan struct{}, 1)}
		w.look = w.peek
		r.workers = append(r.workers, w)
		r.idle.push(w)
	}
	return r
}

func (r *run) since() time.Duration { return time.Since(r.epoch) }

// drive carries the run out.
func (r *run) drive(ctx context.Context) Report {
	flight, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	r.epoch = time.Now()
	r.next, r.more = r.cfg.Pacer.Next()
	if !r.more {
		r.endIfDone()
	}
	var all sync.WaitGroup
	for _, w := range r.workers {
		all.Go(func() { w.loop(flight) })
	}
	all.Go(r.pace)
	if r.cfg.OnProgress != nil {
		all.Go(r.progress)
	}
	partial := false
	select {
	case <-r.over:
	case <-ctx.Done():
		partial = r.cancel()
		grace := time.NewTimer(cancelGrace)
		select {
		case <-r.over:
		case <-grace.C:
			r.mu.Lock()
			r.aborted = true
			r.mu.Unlock()
			abort()
			for _, w := range r.workers {
				w.abort()
			}
		}
		grace.Stop()
		<-r.over
	}
	for _, w := range r.workers {
		w.abort() // idle connections: their workers wait in Read
	}
	all.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	elapsed := r.since()
	if !partial {
		elapsed = max(r.total.last, r.cfg.Duration)
	}
	report := r.total.report(elapsed)
	report.Partial = partial
	return report
}

// cancel ends the schedule now; it says whether that changed anything.
func (r *run) cancel() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return false
	}
	r.more = false
	r.endIfDone()
	return true
}

// endIfDone is called with r.mu held wherever the run may have ended.
func (r *run) endIfDone() {
	if !r.more && !r.ended && r.idle.n == len(r.workers) {
		r.ended = true
		close(r.over)
	}
}

// due takes the first start that is due and may still be sent, and counts those before it as missed. It is called with
// r.mu held.
func (r *run) due(now time.Duration) (start, bool) {
	for r.more && r.next <= now {
		s := start{seq: r.seq, at: r.next, request: r.mix.of(r.seq)}
		r.seq++
		r.next, r.more = r.cfg.Pacer.Next()
		late := now-s.at >= r.cfg.Timeout || r.cfg.Duration > 0 && now >= r.cfg.Duration+r.cfg.Drain
		if !late {
			return s, true
		}
		r.missed = Result{Seq: s.seq, Request: s.request.index, Intended: s.at, Done: now, Kind: Missed}
		r.record(&r.missed)
	}
	return start{}, false
}

// record is called with r.mu held.
func (r *run) record(result *Result) {
	r.total.add(result)
	if r.lately != nil {
		r.lately.add(result)
	}
	if r.cfg.OnResult != nil {
		r.cfg.OnResult(result)
	}
}

// settle records what became of w's start and gives it the next one. Without one w is idle from here on: the pacer may
// give it one at any moment.
func (r *run) settle(w *worker, result *Result) (start, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.aborted && result.Status == 0 {
		result.Kind = Abandoned
	}
	r.record(result)
	if s, ok := r.due(result.Done); ok {
		return s, true
	}
	w.sent, w.assigned = false, false
	r.idle.push(w)
	if r.blocked {
		r.blocked = false
		r.rouse <- struct{}{}
	}
	r.endIfDone()
	return start{}, false
}

// pace gives due starts to idle workers until the schedule is over.
func (r *run) pace() {
	clock := newSleeper()
	for {
		w, s, wait := r.dispatch()
		switch {
		case w != nil:
			w.begin(s, r.since())
		case wait > 0:
			clock.sleep(min(wait, nap))
		case wait == 0:
			select {
			case <-r.rouse:
			case <-r.over:
				return
			}
		default:
			return
		}
	}
}

// dispatch returns an idle worker and its start, or how long to wait for the next start; 0 is until a worker is idle,
// below 0 for ever.
func (r *run) dispatch() (*worker, start, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.since()
	switch {
	case !r.more:
		return nil, start{}, -1
	case r.idle.n == 0:
		r.blocked = true
		return nil, start{}, 0
	case r.next > now:
		return nil, start{}, r.next - now
	}
	s, ok := r.due(now)
	if !ok {
		r.endIfDone()
		if !r.more {
			return nil, start{}, -1
		}
		return nil, start{}, max(r.next-now, 1)
	}
	return r.idle.pop(), s, 0
}

// progress reports once a second.
func (r *run) progress() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := time.Duration(0)
	for {
		select {
		case <-r.over:
			return
		case <-tick.C:
		}
		r.mu.Lock()
		now := r.since()
		p := Progress{Elapsed: now, Total: r.total.report(now), Last: r.lately.report(now - last)}
		r.lately.reset()
		r.mu.Unlock()
		last = now
		r.cfg.OnProgress(p)
	}
}

// ring is a queue of fixed size: workers are used in turn, so that every connection is.
type ring struct {
	slots   []*worker
	head, n int
}

func (q *ring) push(w *worker) {
	q.slots[(q.head+q.n)%len(q.slots)] = w
	q.n++
}

func (q *ring) pop() *worker {
	w := q.slots[q.head]
	q.head = (q.head + 1) % len(q.slots)
	q.n--
	return w
}
