package load

import (
	"context"
	"crypto/tls"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	// cancelGrace is what requests in flight get when the run is cancelled.
	cancelGrace = time.Second
	// nap bounds one sleep of the pacer, so that it notices the end of the run.
	nap = 20 * time.Millisecond
)

// start is one line of the schedule: a request of its own, or the next one of a visit.
type start struct {
	seq     uint64
	at      time.Duration
	request *template // nil for a visit's
	visit   *visit
}

// append writes the request behind b.
func (s *start) append(b []byte) ([]byte, error) {
	if s.visit == nil {
		return s.request.append(b, s.seq), nil
	}
	m, err := s.visit.request()
	if err != nil {
		return b, err
	}
	return m.append(b, s.seq), nil
}

func (s *start) method() string {
	if s.visit == nil {
		return s.request.method
	}
	return s.visit.step().method
}

// result is where what becomes of s is written.
func (s *start) result() Result {
	if s.visit == nil {
		return Result{Seq: s.seq, Request: s.request.index, Intended: s.at}
	}
	return Result{Seq: s.seq, Request: s.visit.step().index, Visit: s.visit.number, Intended: s.at}
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
	lately  *tally  // since the last Progress; nil without OnProgress
	visits  *visits // nil without a scenario
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
	if cfg.Scenario != nil {
		r.visits = newVisits(cfg, target)
	}
	for range cfg.Connections {
		w := &worker{run: r, wake: make(chan struct{}, 1), reader: reader{instanceHeader: strings.ToLower(cfg.InstanceHeader)}}
		w.look = w.peek
		r.workers = append(r.workers, w)
		r.idle.push(w)
	}
	return r
}

func (r *run) since() time.Duration { return time.Since(r.epoch) }

// drive carries the run out.
func (r *run) drive(ctx context.Context) (Report, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	flight, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	r.epoch = time.Now()
	var recorded error // written before all.Wait returns
	var all sync.WaitGroup
	if r.cfg.Record != nil {
		r.cfg.Record.begin(r.epoch, r.cfg.Scenario)
		all.Go(func() {
			if recorded = r.cfg.Record.run(r.over); recorded != nil {
				stop()
			}
		})
	}
	r.next, r.more = r.cfg.Pacer.Next()
	if !r.more {
		r.endIfDone()
	}
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
	if r.visits != nil {
		r.visits.report(&report, elapsed)
	}
	return report, recorded
}

// cancel ends the schedule now; it says whether that changed anything.
func (r *run) cancel() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return false
	}
	r.more = false
	if r.visits != nil {
		r.visits.cancel()
	}
	r.endIfDone()
	return true
}

// endIfDone is called with r.mu held wherever the run may have ended.
func (r *run) endIfDone() {
	if !r.more && !r.ended && r.idle.n == len(r.workers) && (r.visits == nil || r.visits.active == 0) {
		r.ended = true
		close(r.over)
	}
}

// due takes the first start that is due and may still be sent, and counts those before it as missed. It is called with
// r.mu held.
func (r *run) due(now time.Duration) (start, bool) {
	for {
		s, ok := r.take(now)
		if !ok {
			return start{}, false
		}
		first := s.visit == nil || s.visit.next == 0
		late := now-s.at >= r.cfg.Timeout || first && r.cfg.Duration > 0 && now >= r.cfg.Duration+r.cfg.Drain
		if !late {
			return s, true
		}
		r.missed = s.result()
		r.missed.Done, r.missed.Kind = now, Missed
		r.record(&r.missed)
		if s.visit != nil {
			r.visits.after(s.visit, &r.missed)
		}
	}
}

// take takes the first start that is due, of the schedule or of a visit under way.
func (r *run) take(now time.Duration) (start, bool) {
	for {
		scheduled := r.more && r.next <= now
		if r.visits == nil {
			if !scheduled {
				return start{}, false
			}
			return r.scheduled(), true
		}
		if v := r.visits.first(); v != nil && v.due <= now && !(scheduled && r.next < v.due) {
			r.visits.pop()
			r.seq++
			return start{seq: r.seq - 1, at: v.due, visit: v}, true
		}
		if !scheduled {
			return start{}, false
		}
		at := r.next
		r.next, r.more = r.cfg.Pacer.Next()
		if v := r.visits.open(at); v != nil { // one too many
			r.missed = Result{Seq: r.seq, Visit: v.number, Intended: at, Done: now, Kind: Missed}
			r.seq++
			r.record(&r.missed)
		}
	}
}

// scheduled takes the next start of the schedule.
func (r *run) scheduled() start {
	s := start{seq: r.seq, at: r.next, request: r.mix.of(r.seq)}
	r.seq++
	r.next, r.more = r.cfg.Pacer.Next()
	return s
}

// wait is how long nothing will be due; more is false when nothing ever will. It is called with r.mu held.
func (r *run) wait(now time.Duration) (wait time.Duration, more bool) {
	if r.visits == nil {
		return r.next - now, r.more
	}
	wait = visitNap // a visit whose request is under way may be due again at any time
	if r.more {
		wait = min(wait, r.next-now)
	}
	if v := r.visits.first(); v != nil {
		wait = min(wait, v.due-now)
	}
	return wait, !r.ended
}

// record is called with r.mu held.
func (r *run) record(result *Result) {
	r.total.add(result)
	if r.visits != nil {
		r.visits.steps[result.Request].add(result)
	}
	if r.lately != nil {
		r.lately.add(result)
	}
	if r.cfg.Record != nil {
		r.cfg.Record.add(result)
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
	if v := w.start.visit; v != nil {
		r.visits.after(v, result)
	}
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
	wait, more := r.wait(now)
	switch {
	case !more:
		return nil, start{}, -1
	case r.idle.n == 0:
		r.blocked = true
		return nil, start{}, 0
	case wait > 0:
		return nil, start{}, wait
	}
	s, ok := r.due(now)
	if !ok {
		r.endIfDone()
		if wait, more = r.wait(now); !more {
			return nil, start{}, -1
		}
		return nil, start{}, max(wait, 1)
	}
	return r.idle.pop(), s, 0
}

// progress reports once a second.
func (r *run) progress() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last, started := time.Duration(0), 0
	for {
		select {
		case <-r.over:
			return
		case <-tick.C:
		}
		r.mu.Lock()
		now := r.since()
		p := Progress{Elapsed: now, Total: r.total.report(now), Last: r.lately.report(now - last)}
		p.Stage, p.Target = stageAt(r.cfg.Stages, now)
		p.InFlight = len(r.workers) - r.idle.n
		if r.visits != nil {
			p.Visits = r.visits.active
			p.VisitRate = float64(r.visits.counts.Started-started) / (now - last).Seconds()
			started = r.visits.counts.Started
			r.visits.report(&p.Total, now)
		}
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
