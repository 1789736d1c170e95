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

// message makes the request.
func (s *start) message() (message, error) {
	if s.visit == nil {
		return s.request.whole(s.seq), nil
	}
	return s.visit.request()
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

// hand sees starts through, one at a time.
type hand interface {
	// loop sees through what begin gives it, and what the run has due after that, until the run is over.
	loop(flight context.Context)
	// begin gives an idle hand its start; the pacer calls it, and it does not block.
	begin(s start, now time.Duration)
	// rest is called with run.mu held before the hand becomes idle.
	rest()
	// abort ends whatever the hand does with a connection, now and later.
	abort()
}

// run is one Run. Three parties move it: each hand has a connection or a share of one, and after every answer takes the next start that
// is due, so that a busy run is a closed loop without a hand-over; hands that find nothing due become idle; the pacer
// sleeps until the next intended start and gives it to an idle hand. A worker, the hand for HTTP/1.1, waits in Read
// meanwhile, and the pacer writes the request itself.
type run struct {
	cfg     Config
	target  *url.URL
	address string
	tls     *tls.Config // nil for http
	mix     *mix
	epoch   time.Time
	hands   []hand
	over    chan struct{} // closed when the last start has ended
	rouse   chan struct{} // wakes the pacer that waits for an idle worker
	clock   sleeper       // that the pacer sleeps by

	mu      sync.Mutex
	seq     uint64        // of the next start
	next    time.Duration // its intended time
	more    bool          // there is a next start
	idle    ring
	blocked bool          // the pacer waits for an idle worker
	wakes   time.Duration // until when the pacer sleeps; 0 where it does not
	ended   bool          // over is closed
	aborted bool          // requests in flight are given up
	missed  Result        // the last one; kept here to save an allocation each
	total   *tally
	lately  *tally  // since the last Progress; nil without OnProgress
	visits  *visits // nil without a scenario
}

func newRun(cfg Config, target *url.URL, requests *mix) *run {
	r := &run{
		cfg: cfg, target: target, mix: requests,
		over: make(chan struct{}), rouse: make(chan struct{}, 1),
		idle:  ring{slots: make([]hand, cfg.Connections*cfg.Streams)},
		total: newTally(),
	}
	if target.Scheme == "https" || target.Scheme == "wss" {
		r.tls = &tls.Config{ServerName: target.Hostname(), NextProtos: []string{"http/1.1"}, InsecureSkipVerify: cfg.Insecure}
	}
	r.address = hostPort(target)
	if cfg.OnProgress != nil {
		r.lately = newTally()
	}
	if cfg.Scenario != nil {
		r.visits = newVisits(cfg, target)
	}
	r.makeHands()
	return r
}

// makeHands makes the idle hands, each of them with its own way to get an answer.
func (r *run) makeHands() {
	if way := r.exchanges(); way != nil {
		for i := range r.cfg.Connections * r.cfg.Streams {
			r.hands = append(r.hands, &caller{run: r, way: way(i), todo: make(chan start, 1)})
		}
	} else {
		for range r.cfg.Connections {
			r.hands = append(r.hands, newWorker(r))
		}
	}
	for _, h := range r.hands {
		r.idle.push(h)
	}
}

// hostPort is the address to connect to.
func hostPort(target *url.URL) string {
	port := target.Port()
	switch {
	case port != "":
	case target.Scheme == "https" || target.Scheme == "wss":
		port = "443"
	default:
		port = "80"
	}
	return net.JoinHostPort(target.Hostname(), port)
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
	for _, w := range r.hands {
		all.Go(func() { w.loop(flight) })
	}
	r.clock = newSleeper()
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
			for _, w := range r.hands {
				w.abort()
			}
		}
		grace.Stop()
		<-r.over
	}
	for _, w := range r.hands {
		w.abort() // idle connections: their workers wait in Read
	}
	all.Wait()
	r.clock.close()
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
	if !r.more && !r.ended && r.idle.n == len(r.hands) && (r.visits == nil || r.visits.active == 0) {
		r.ended = true
		close(r.over)
	}
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

// settle records what became of h's start and gives it the next one. Without one h is idle from here on: the pacer may
// give it one at any moment.
func (r *run) settle(h hand, v *visit, result *Result) (start, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.aborted && result.Status == 0 {
		result.Kind = Abandoned
	}
	r.record(result)
	if v != nil {
		r.visits.after(v, result)
	}
	s, ok := r.due(result.Done)
	if v != nil {
		r.sooner(result.Done)
	}
	if ok {
		return s, true
	}
	h.rest()
	r.idle.push(h)
	if r.blocked {
		r.blocked = false
		r.rouse <- struct{}{}
	}
	r.endIfDone()
	return start{}, false
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
		p.InFlight, p.Limit = len(r.hands)-r.idle.n, len(r.hands)
		if r.visits != nil {
			p.Visits = r.visits.active
			p.VisitRate = float64(r.visits.counts.Started-started) / (now - last).Seconds()
			started = r.visits.counts.Started
			counts := r.visits.counts // the whole report would take its time, and the lock is held
			p.Total.Visits = &counts
		}
		r.lately.reset()
		r.mu.Unlock()
		last = now
		r.cfg.OnProgress(p)
	}
}
