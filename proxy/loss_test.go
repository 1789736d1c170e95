package proxy

import (
	"bufio"
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

// traffic is an open-model client: a request is sent when its time has come, over connections that are reused in turn,
// without a retry. Lost is what section 7 of the design calls so: a connection error, a time-out, a truncated body, or a
// 5xx that the program did not write. With all connections busy, on a machine without CPU to spare, a request starts
// late and is still sent.
type traffic struct {
	addr   string
	method string
	h2     *http.Client // nil: HTTP/1.1
	idle   chan *wire

	sent atomic.Int64
	lost atomic.Int64
	mu   sync.Mutex
	why  map[string]int
}

// wire is one connection of a client, nil while there is none.
type wire struct {
	conn *net.TCPConn
	br   *bufio.Reader
}

func newTraffic(addr, method string) *traffic {
	tr := &traffic{addr: addr, method: method, why: map[string]int{}, idle: make(chan *wire, 32)}
	for range cap(tr.idle) {
		tr.idle <- &wire{}
	}
	return tr
}

// run sends until ctx is done, and returns when everything is answered.
func (tr *traffic) run(ctx context.Context) {
	var wg sync.WaitGroup
	next := time.Now()
	for i := 0; ctx.Err() == nil; i++ {
		if wait := time.Until(next); wait > 0 {
			time.Sleep(wait)
		}
		next = next.Add(time.Second / lossRate)
		w := <-tr.idle
		wg.Go(func() {
			tr.one(w, fmt.Sprintf("r%06d", i))
			tr.idle <- w
		})
	}
	wg.Wait()
	for range cap(tr.idle) {
		(<-tr.idle).close()
	}
}

// during sends for as long as script takes.
func (tr *traffic) during(script func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var sending sync.WaitGroup
	sending.Go(func() { tr.run(ctx) })
	defer sending.Wait()
	defer cancel()
	script()
}

func (tr *traffic) one(w *wire, key string) {
	tr.sent.Add(1)
	res, err := tr.exchange(w, key)
	if err != nil {
		w.close()
		tr.miss(err.Error())
		return
	}
	data, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || res.Close {
		w.close()
	}
	switch {
	case err != nil:
		tr.miss("body: " + err.Error())
	case res.StatusCode >= 500:
		tr.miss(fmt.Sprint(res.StatusCode, " ", res.Header.Get(ErrorHeader)))
	case string(data) != "done "+key:
		tr.miss(fmt.Sprintf("%d, another's answer or a part: %q", res.StatusCode, data))
	}
}

// exchange sends one request and reads the head of the answer.
func (tr *traffic) exchange(w *wire, key string) (*http.Response, error) {
	if tr.h2 != nil {
		return tr.h2.Get("http://" + tr.addr + "/" + key)
	}
	if w.conn == nil || !w.alive() {
		w.close()
		conn, err := net.Dial("tcp", tr.addr)
		if err != nil {
			return nil, err
		}
		w.conn, w.br = conn.(*net.TCPConn), bufio.NewReader(conn)
	}
	w.conn.SetDeadline(time.Now().Add(30 * time.Second))
	head := tr.method + " /" + key + " HTTP/1.1\r\nHost: a\r\n"
	if tr.method == "POST" {
		head += fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(key), key)
	} else {
		head += "\r\n"
	}
	if _, err := io.WriteString(w.conn, head); err != nil {
		return nil, err
	}
	return http.ReadResponse(w.br, nil)
}

// alive says whether the server has not closed the connection, as any client looks before it uses one again.
func (w *wire) alive() (alive bool) {
	raw, err := w.conn.SyscallConn()
	if err != nil {
		return false
	}
	raw.Control(func(fd uintptr) { alive = nothingToRead(int(fd)) })
	return alive
}

func (w *wire) close() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

func (tr *traffic) miss(why string) {
	tr.lost.Add(1)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if i := strings.LastIndex(why, ": "); i >= 0 { // without addresses
		why = why[i+2:]
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

// worker is an instance whose every answer takes 20 ms and goes into the ledger.
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
		time.Sleep(20 * time.Millisecond)
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
	t.Parallel()
	both(t, "retries", func(t *testing.T, twin bool) {
		l := &ledger{seen: map[string]int{}}
		a, b := worker(t, "127.0.0.1:0", l), worker(t, "127.0.0.1:0", l)
		r := newRig(t, Config{})
		addr := r.gateway(instanceAt("app-1", a.addr), instanceAt("app-2", b.addr))
		if twin {
			r.snap.Services[0].Retries = -1
			r.push()
		}
		tr := newTraffic(addr, "GET")
		tr.during(func() {
			for range 6 {
				time.Sleep(200 * time.Millisecond)
				b.kill() // and the snapshot goes on to call it ready
				time.Sleep(100 * time.Millisecond)
				b = worker(t, b.addr, l)
			}
			time.Sleep(200 * time.Millisecond)
		})
		tr.report(t, l, twin)
	})
}

// TestKilledOnlyInstance: the only instance is killed and back a little later; the snapshot never says so.
func TestKilledOnlyInstance(t *testing.T) {
	t.Parallel()
	both(t, "hold", func(t *testing.T, twin bool) {
		l := &ledger{seen: map[string]int{}}
		a := worker(t, "127.0.0.1:0", l)
		r := newRig(t, Config{})
		addr := r.gateway(instanceAt("app-1", a.addr))
		if twin {
			r.snap.Services[0].Hold = -1
			r.push()
		}
		tr := newTraffic(addr, "GET")
		tr.during(func() {
			for range 3 {
				time.Sleep(200 * time.Millisecond)
				a.kill()
				time.Sleep(300 * time.Millisecond)
				a = worker(t, a.addr, l)
			}
			time.Sleep(200 * time.Millisecond)
		})
		tr.report(t, l, twin)
	})
}

// TestRollout: instances are replaced one after the other, drained first, under POSTs. The twin stops them undrained.
func TestRollout(t *testing.T) {
	t.Parallel()
	both(t, "drain", func(t *testing.T, twin bool) {
		l := &ledger{seen: map[string]int{}}
		a, b := worker(t, "127.0.0.1:0", l), worker(t, "127.0.0.1:0", l)
		r := newRig(t, Config{})
		addr := r.gateway(instanceAt("app-0", a.addr), instanceAt("app-1", b.addr))
		running := []*backend{a, b}
		tr := newTraffic(addr, "POST")
		tr.during(func() {
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
		})
		tr.report(t, l, twin)
	})
}

// TestHold: while none is ready requests wait, and are answered when one is.
func TestHold(t *testing.T) {
	t.Parallel()
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
		tr := newTraffic(addr, "POST")
		tr.during(func() {
			for range 3 {
				time.Sleep(100 * time.Millisecond)
				s.Instances[0].Ready = false
				r.push()
				time.Sleep(300 * time.Millisecond)
				if !twin {
					eventually(t, "the status says that requests are held", func() bool { return r.proxy.Status().Holding > 0 })
				}
				s.Instances[0].Ready = true
				r.push()
			}
			time.Sleep(100 * time.Millisecond)
		})
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
	t.Parallel()
	both(t, "overlap", func(t *testing.T, twin bool) {
		l := &ledger{seen: map[string]int{}}
		a := worker(t, "127.0.0.1:0", l)
		cfg := Config{Linger: 10 * time.Second, Grace: 15 * time.Second}
		if twin {
			cfg.Linger, cfg.Grace = time.Nanosecond, time.Nanosecond
		}
		current := newRig(t, cfg)
		addr := current.gateway(instanceAt("app-1", a.addr))
		tr := newTraffic(addr, "POST")
		var ended sync.WaitGroup
		tr.during(func() {
			for range 4 {
				time.Sleep(150 * time.Millisecond)
				next := newRig(t, cfg)
				next.snap = current.snap
				next.push()
				for name, s := range current.sockets {
					f, err := s.File()
					if err != nil {
						t.Fatal(err)
					}
					dup, err := net.FileListener(f)
					f.Close()
					if err != nil {
						t.Fatal(err)
					}
					next.sockets[name] = dup.(*net.TCPListener)
					next.handOver(next.feed, name)
				}
				old := current
				ended.Go(old.stop)
				current = next
			}
			time.Sleep(150 * time.Millisecond)
		})
		ended.Wait()
		tr.report(t, l, twin)
	})
}

// TestHandoverOverHTTP2: the same for HTTP/2 clients, who are told by GOAWAY.
func TestHandoverOverHTTP2(t *testing.T) {
	t.Parallel()
	l := &ledger{seen: map[string]int{}}
	a := worker(t, "127.0.0.1:0", l)
	cfg := Config{Linger: 10 * time.Second, Grace: 15 * time.Second}
	first := newRig(t, cfg)
	addr := first.gateway(instanceAt("app-1", a.addr))
	tr := newTraffic(addr, "GET")
	tr.h2 = h2client(t)
	second := newRig(t, cfg)
	second.snap = first.snap
	second.push()
	f, err := first.sockets["gateway"].File()
	if err != nil {
		t.Fatal(err)
	}
	second.feed.ch <- Update{Sockets: map[string]*os.File{"gateway": f}}
	tr.during(func() {
		time.Sleep(200 * time.Millisecond)
		first.stop()
		time.Sleep(200 * time.Millisecond)
	})
	tr.report(t, l, false)
}
