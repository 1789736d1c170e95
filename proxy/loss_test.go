package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// traffic is an open-model client: a request is sent when its time has come, whether or not earlier ones are answered,
// over connections that are reused, without a retry. Lost is what section 7 of the design calls so: a connection error,
// a time-out, a truncated body, a 5xx that the program did not write, or a start that was missed.
type traffic struct {
	url    string
	method string
	rate   int // per second
	client *http.Client

	sent atomic.Int64
	lost atomic.Int64
	mu   sync.Mutex
	why  map[string]int
}

func newTraffic(t testing.TB, url, method string, rate int) *traffic {
	return &traffic{url: url, method: method, rate: rate, client: client(t), why: map[string]int{}}
}

// run sends until ctx is done, and returns when everything is answered.
func (tr *traffic) run(ctx context.Context) {
	var wg sync.WaitGroup
	interval := time.Second / time.Duration(tr.rate)
	next := time.Now()
	for i := 0; ctx.Err() == nil; i++ {
		if wait := time.Until(next); wait > 0 {
			time.Sleep(wait)
		}
		next = next.Add(interval)
		wg.Go(func() { tr.one(i) })
	}
	wg.Wait()
}

func (tr *traffic) one(i int) {
	tr.sent.Add(1)
	key := fmt.Sprintf("r%06d", i)
	var src io.Reader
	if tr.method == "POST" {
		src = struct{ io.Reader }{strings.NewReader(key)} // no GetBody: Go's client can't repeat it by itself
	}
	req, err := http.NewRequest(tr.method, tr.url+"/"+key, src)
	if err != nil {
		panic(err)
	}
	if src != nil {
		req.ContentLength = int64(len(key))
	}
	res, err := tr.client.Do(req)
	if err != nil {
		tr.miss(err.Error())
		return
	}
	data, err := io.ReadAll(res.Body)
	res.Body.Close()
	switch {
	case err != nil:
		tr.miss("body: " + err.Error())
	case res.StatusCode >= 500:
		tr.miss(fmt.Sprint(res.StatusCode, " ", res.Header.Get(ErrorHeader)))
	case string(data) != "done "+key:
		tr.miss(fmt.Sprintf("%d, another's answer or a part: %q", res.StatusCode, data))
	}
}

func (tr *traffic) miss(why string) {
	tr.lost.Add(1)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if i := strings.Index(why, "\": "); i >= 0 { // without the URL
		why = why[i+3:]
	}
	tr.why[why]++
}

// ledger is what the receivers of a service wrote down: how often each request was carried out.
type ledger struct {
	mu   sync.Mutex
	seen map[string]int
}

func (l *ledger) note(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[key]++
}

// check returns how many were carried out twice, and how many at all.
func (l *ledger) check() (twice, total int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.seen {
		if n > 1 {
			twice++
		}
	}
	return twice, len(l.seen)
}

// worker is an instance whose every answer takes a few milliseconds and goes into the ledger.
func worker(t testing.TB, addr string, l *ledger) *backend {
	return serve(t, addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := strings.TrimPrefix(r.URL.Path, "/")
		if r.Method == "POST" {
			data, err := io.ReadAll(r.Body)
			if err != nil || string(data) != key {
				return
			}
		}
		l.note(key)
		time.Sleep(5 * time.Millisecond)
		io.WriteString(w, "done "+key)
	}))
}

// kill ends a backend as SIGKILL does: every connection breaks at once, in the middle of what it does.
func (b *backend) kill() { b.srv.Close() }

const lossRate = 200

// report fails the test when anything was lost, or, for a twin whose mechanism is off, when nothing was.
func (tr *traffic) report(t *testing.T, l *ledger, twin bool) {
	t.Helper()
	twice, total := l.check()
	t.Logf("sent %d, lost %d %v, carried out %d, twice %d", tr.sent.Load(), tr.lost.Load(), tr.why, total, twice)
	switch {
	case twin && tr.lost.Load() == 0:
		t.Error("the mechanism is off and nothing was lost: the test shows nothing")
	case !twin && tr.lost.Load() > 0:
		t.Errorf("%d of %d lost: %v", tr.lost.Load(), tr.sent.Load(), tr.why)
	}
	if tr.method == "POST" && twice > 0 {
		t.Errorf("%d POSTs carried out twice", twice)
	}
	if !twin && int64(total) < tr.sent.Load() {
		t.Errorf("%d sent, %d carried out", tr.sent.Load(), total)
	}
}

// both runs a test with its mechanism on, and its twin with it off.
func both(t *testing.T, off string, run func(t *testing.T, twin bool)) {
	t.Run("on", func(t *testing.T) { run(t, false) })
	t.Run(off+" off", func(t *testing.T) { run(t, true) })
}

// TestKilledInstance: of two instances one is killed again and again; every GET is answered.
func TestKilledInstance(t *testing.T) {
	both(t, "retries", func(t *testing.T, twin bool) {
		l := &ledger{seen: map[string]int{}}
		a, b := worker(t, "127.0.0.1:0", l), worker(t, "127.0.0.1:0", l)
		r := newRig(t, Config{})
		addr := r.gateway(instanceAt("app-1", a.addr), instanceAt("app-2", b.addr))
		if twin {
			r.snap.Services[0].Retries = -1
			r.push()
		}
		tr := newTraffic(t, "http://"+addr, "GET", lossRate)
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			defer cancel()
			for range 6 {
				time.Sleep(200 * time.Millisecond)
				b.kill() // and the snapshot goes on to call it ready
				time.Sleep(100 * time.Millisecond)
				b = worker(t, b.addr, l)
			}
			time.Sleep(200 * time.Millisecond)
		}()
		tr.run(ctx)
		tr.report(t, l, twin)
	})
}

// TestKilledOnlyInstance: the only instance is killed and back a little later; the snapshot never says so.
func TestKilledOnlyInstance(t *testing.T) {
	both(t, "hold", func(t *testing.T, twin bool) {
		l := &ledger{seen: map[string]int{}}
		a := worker(t, "127.0.0.1:0", l)
		r := newRig(t, Config{})
		addr := r.gateway(instanceAt("app-1", a.addr))
		if twin {
			r.snap.Services[0].Hold = -1
			r.push()
		}
		tr := newTraffic(t, "http://"+addr, "GET", lossRate)
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			defer cancel()
			for range 3 {
				time.Sleep(200 * time.Millisecond)
				a.kill()
				time.Sleep(300 * time.Millisecond)
				a = worker(t, a.addr, l)
			}
			time.Sleep(200 * time.Millisecond)
		}()
		tr.run(ctx)
		tr.report(t, l, twin)
	})
}

// TestRollout: instances are replaced one after the other, drained first, under POSTs. The twin stops them undrained.
func TestRollout(t *testing.T) {
	both(t, "drain", func(t *testing.T, twin bool) {
		l := &ledger{seen: map[string]int{}}
		a, b := worker(t, "127.0.0.1:0", l), worker(t, "127.0.0.1:0", l)
		r := newRig(t, Config{})
		addr := r.gateway(instanceAt("app-0", a.addr), instanceAt("app-1", b.addr))
		running := []*backend{a, b}
		tr := newTraffic(t, "http://"+addr, "POST", lossRate)
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			defer cancel()
			s := &r.snap.Services[0]
			for i := 2; i < 10; i++ {
				time.Sleep(100 * time.Millisecond)
				next := worker(t, "127.0.0.1:0", l)
				s.Instances = append(s.Instances, instanceAt(fmt.Sprint("app-", i), next.addr))
				running = append(running, next)
				r.push()
				old, id := running[0], s.Instances[0].ID
				if !twin {
					s.Instances[0].Draining, s.Instances[0].DrainBy = true, time.Now().Add(5*time.Second)
					r.push()
					for r.proxy.Status().InUse[id] > 0 {
						time.Sleep(time.Millisecond)
					}
				}
				old.kill() // the moment the status says that nothing is in flight
				running = running[1:]
				s.Instances = s.Instances[1:]
				r.push()
			}
			time.Sleep(100 * time.Millisecond)
		}()
		tr.run(ctx)
		tr.report(t, l, twin)
	})
}

// TestHold: while none is ready requests wait, and are answered when one is.
func TestHold(t *testing.T) {
	both(t, "hold", func(t *testing.T, twin bool) {
		l := &ledger{seen: map[string]int{}}
		a := worker(t, "127.0.0.1:0", l)
		r := newRig(t, Config{})
		addr := r.gateway(instanceAt("app-1", a.addr))
		s := &r.snap.Services[0]
		if twin {
			s.Hold = -1
		}
		r.push()
		tr := newTraffic(t, "http://"+addr, "POST", lossRate)
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			defer cancel()
			for range 3 {
				time.Sleep(100 * time.Millisecond)
				s.Instances[0].Ready = false
				r.push()
				time.Sleep(300 * time.Millisecond)
				if n := r.proxy.Status().Holding; n == 0 && !twin {
					t.Error("the status says that nothing is held")
				}
				s.Instances[0].Ready = true
				r.push()
			}
			time.Sleep(100 * time.Millisecond)
		}()
		tr.run(ctx)
		tr.report(t, l, twin)
		if held := r.proxy.Status().Counters["app"].Held; (held == 0) != twin {
			t.Errorf("%d held", held)
		}
	})
}

// TestHoldEnds: with none ready within the hold, the answer is 503.
func TestHoldEnds(t *testing.T) {
	r := newRig(t, Config{})
	r.snap.Services = []Service{{Name: "app", Hold: 100 * time.Millisecond}}
	addr := r.listen(Listener{Name: "app", Protocol: HTTP1, Service: "app", Port: 80})
	r.push()
	began := time.Now()
	if status, _, kind := get(t, client(t), "http://"+addr+"/"); status != 503 || kind != kindNoInstance {
		t.Errorf("%d %s", status, kind)
	}
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Errorf("held for %v only", took)
	}
}

// TestHandover: a second data plane takes the same sockets, and the first ends, under POSTs, eight times over. The twin
// has no successor in time: the first ends without draining before the second is there.
func TestHandover(t *testing.T) {
	both(t, "overlap", func(t *testing.T, twin bool) {
		l := &ledger{seen: map[string]int{}}
		a := worker(t, "127.0.0.1:0", l)
		cfg := Config{Linger: 500 * time.Millisecond, Grace: 5 * time.Second}
		if twin {
			cfg.Linger, cfg.Grace = time.Nanosecond, time.Nanosecond
		}
		current := newRig(t, cfg)
		addr := current.gateway(instanceAt("app-1", a.addr))
		tr := newTraffic(t, "http://"+addr, "POST", lossRate)
		ctx, cancel := context.WithCancel(context.Background())
		var ended sync.WaitGroup
		go func() {
			defer cancel()
			for range 4 {
				time.Sleep(150 * time.Millisecond)
				next := newRig(t, cfg)
				next.snap = current.snap
				next.push()
				for name, s := range current.sockets {
					f, err := s.File()
					if err != nil {
						t.Error(err)
						return
					}
					dup, err := net.FileListener(f)
					f.Close()
					if err != nil {
						t.Error(err)
						return
					}
					next.sockets[name] = dup.(*net.TCPListener)
					next.handOver(next.feed, name)
				}
				old := current
				ended.Go(old.stop)
				current = next
			}
			time.Sleep(150 * time.Millisecond)
		}()
		tr.run(ctx)
		ended.Wait()
		tr.report(t, l, twin)
	})
}

// TestHandoverOverHTTP2: the same for HTTP/2 clients, who are told by GOAWAY.
func TestHandoverOverHTTP2(t *testing.T) {
	l := &ledger{seen: map[string]int{}}
	a := worker(t, "127.0.0.1:0", l)
	cfg := Config{Linger: 500 * time.Millisecond, Grace: 5 * time.Second}
	first := newRig(t, cfg)
	addr := first.gateway(instanceAt("app-1", a.addr))
	tr := newTraffic(t, "http://"+addr, "GET", lossRate)
	tr.client = h2client(t)
	second := newRig(t, cfg)
	second.snap = first.snap
	second.push()
	f, err := first.sockets["gateway"].File()
	if err != nil {
		t.Fatal(err)
	}
	second.feed.ch <- Update{Sockets: map[string]*os.File{"gateway": f}}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		time.Sleep(200 * time.Millisecond)
		first.stop()
		time.Sleep(200 * time.Millisecond)
	}()
	tr.run(ctx)
	tr.report(t, l, false)
}
