package proxy

import (
	"fmt"
	"math"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"trellis/probe"
)

func newTestService(conf Service) *service {
	s := newService(conf.Name, time.Now())
	s.apply(&conf, time.Now())
	return s
}

// untold is a probe that a data plane cannot ask by itself.
var untold = probe.Spec{Kind: probe.Exec, Command: []string{"true"}}

// shares draws n times without anything in flight and returns what each instance got.
func shares(s *service, n int, keep bool) map[string]int {
	got := map[string]int{}
	for range n {
		p := s.lane(80).acquire(nil)
		got[p.inst.id]++
		if !keep {
			p.inst.release()
		}
	}
	return got
}

func TestWeightsAreShares(t *testing.T) {
	s := newTestService(Service{Instances: []Instance{
		{ID: "a", Host: "h", Ready: true, Weight: 90}, {ID: "b", Host: "h", Ready: true, Weight: 10},
		{ID: "c", Host: "h", Ready: false}, {ID: "d", Host: "h", Ready: true, Draining: true},
	}})
	defer s.close()
	for _, keep := range []bool{false, true} {
		got := shares(s, 10_000, keep)
		if got["c"]+got["d"] > 0 {
			t.Errorf("unready or draining ones were chosen: %v", got)
		}
		if share := float64(got["b"]) / 10_000; math.Abs(share-0.1) > 0.02 {
			t.Errorf("in flight %v: share of b is %.3f, want 0.1", keep, share)
		}
	}
}

func TestLeastRequests(t *testing.T) {
	s := newTestService(Service{Instances: []Instance{{ID: "a", Host: "h", Ready: true}, {ID: "b", Host: "h", Ready: true}, {ID: "c", Host: "h", Ready: true}}})
	defer s.close()
	s.instances["a"].inUse.Add(1_000_000) // slow
	got := shares(s, 90_000, true)
	if d := got["b"] - got["c"]; got["a"] > 0 || d > 40 || d < -40 { // each more is half as likely; by chance alone it would be some 300
		t.Errorf("%v", got)
	}
}

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		s := newTestService(Service{Instances: []Instance{
			{ID: "old", Host: "h", Ready: true, WarmFrom: now.Add(-time.Minute)}, {ID: "new", Host: "h", Ready: true, WarmFrom: now.Add(-time.Second)},
		}})
		defer s.close()
		if got := shares(s, 10_000, false); got["new"] < 300 || got["new"] > 1800 { // a tenth to about a sixth
			t.Errorf("%v", got)
		}
		if w := weight(s.instances["new"], now.Add(9*time.Second)); w != 100*1000 {
			t.Errorf("warm weight %d", w)
		}
		if w := weight(s.instances["new"], now.Add(4*time.Second)); w != 100*1000/2 {
			t.Errorf("weight half-way %d", w)
		}
	})
}

func TestTriedComeLast(t *testing.T) {
	s := newTestService(Service{Instances: []Instance{{ID: "a", Host: "h", Ready: true}, {ID: "b", Host: "h", Ready: true}}})
	defer s.close()
	var tr tried
	tr.add(s.instances["a"].pool(80))
	for range 50 {
		if p := s.lane(80).acquire(&tr); p.inst.id != "b" {
			t.Fatalf("chose %s", p.inst.id)
		}
	}
	tr.add(s.instances["b"].pool(80))
	if s.lane(80).acquire(&tr) == nil {
		t.Error("all were tried: none was chosen")
	}
}

func TestEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var list []Instance
		for i := range 4 {
			list = append(list, Instance{ID: fmt.Sprint(i), Host: "h", Ready: true})
		}
		s := newTestService(Service{Instances: list, Probe: untold})
		defer s.close()
		eject := func(id string) {
			for range breaksToEject {
				s.instances[id].pool(80).broke()
			}
		}
		eject("0")
		eject("1")
		if got := shares(s, 200, false); got["0"]+got["1"] > 0 {
			t.Errorf("ejected ones were chosen: %v", got)
		}
		st := Status{InUse: map[string]int{}}
		s.describe(&st)
		if len(st.Ejected) != 2 {
			t.Errorf("status: %v", st.Ejected)
		}
		eject("2") // fewer than half are left: panic
		if got := shares(s, 400, false); len(got) != 4 {
			t.Errorf("in panic: %v", got)
		}
		s.instances["0"].pool(80).unreachable() // not to be connected to: out even in panic
		if got := shares(s, 400, false); got["0"] > 0 {
			t.Errorf("unreachable, in panic: %v", got)
		}
		eventually(t, "back after a second, on trial", func() bool {
			p := s.lane(80).acquire(nil)
			defer p.inst.release()
			defer p.connected()
			return p.inst.id == "0"
		})
	})
}

// TestPortsAreJudgedApart: nobody listens on one port of an instance; the callers of another don't notice.
func TestPortsAreJudgedApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestService(Service{Instances: []Instance{{ID: "a", Host: "h", Ready: true}}, Probe: untold})
		defer s.close()
		for range 5 {
			s.instances["a"].pool(9999).unreachable()
		}
		if s.lane(9999).acquire(nil) != nil {
			t.Error("chosen for the port that refuses")
		}
		if s.lane(80).acquire(nil) == nil {
			t.Error("not chosen for the port that answers")
		}
	})
}

func TestBreaksInARowOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestService(Service{Instances: []Instance{{ID: "a", Host: "h", Ready: true}, {ID: "b", Host: "h", Ready: true}}})
		defer s.close()
		for range 20 {
			for range breaksToEject - 1 {
				s.instances["a"].pool(80).broke()
			}
			s.instances["a"].pool(80).health.answered()
		}
		if got := shares(s, 100, false); got["a"] == 0 {
			t.Error("ejected though it answered in between")
		}
	})
}

// TestTrial: after a failed connect exactly one request may try, and the rest waits for what it finds out.
func TestTrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestService(Service{Instances: []Instance{{ID: "a", Host: "h", Ready: true}}, Probe: untold})
		defer s.close()
		a := s.instances["a"].pool(80)
		a.unreachable()
		if s.lane(80).acquire(nil) != nil {
			t.Fatal("chosen right after a failed connect")
		}
		eventually(t, "on trial", func() bool { return s.lane(80).acquire(nil) != nil })
		if s.lane(80).acquire(nil) != nil {
			t.Error("two on trial")
		}
		a.abandoned()
		if s.lane(80).acquire(nil) == nil {
			t.Error("an abandoned trial was not given to the next")
		}
		a.connected()
		for range 2 {
			if s.lane(80).acquire(nil) == nil {
				t.Error("not back after a good trial")
			}
		}
	})
}

func TestBudget(t *testing.T) {
	now := time.Now()
	b := &budget{}
	take := func(at time.Time) (taken int) {
		for b.take(at) {
			taken++
		}
		return taken
	}
	if n := take(now); n != 100 {
		t.Errorf("%d without a request, want 10 s of 10", n)
	}
	for i := range 2000 { // 400 a second for five seconds
		b.deposit(now.Add(time.Duration(i) * 2500 * time.Microsecond))
	}
	now = now.Add(5 * time.Second)
	if n := take(now); n != 400 {
		t.Errorf("%d after 2000 requests, want 20 %% of them", n)
	}
	if n := take(now.Add(time.Second)); n != 0 {
		t.Errorf("%d a second later, want none: all are spent", n)
	}
	if n := take(now.Add(time.Minute)); n != 100 {
		t.Errorf("%d a minute later, want 100", n)
	}
}

// TestRetryStorm: a service that breaks every answer off sees at most 20 % and 10 a second more than was sent to it.
func TestRetryStorm(t *testing.T) {
	up := newBreaker(t)
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", up.addr))
	began := time.Now()
	const n = 1000
	c := client(t)
	var wg sync.WaitGroup
	for range 25 {
		wg.Go(func() {
			for range n / 25 {
				res, err := c.Get("http://" + addr + "/")
				if err != nil {
					t.Error(err)
					return
				}
				res.Body.Close()
			}
		})
	}
	wg.Wait()
	limit := n + n/5 + 100 + int(10*time.Since(began).Seconds()) + 1
	if seen := int(up.seen.Load()); seen > limit || seen <= n {
		t.Errorf("%d requests became %d, at most %d wanted", n, seen, limit)
	}
}

func TestSnapshots(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	url := "http://" + addr + "/"
	ok := func(what string) {
		t.Helper()
		if status, _, _ := get(t, client(t), url); status != 200 {
			t.Errorf("%s: %d", what, status)
		}
	}
	ok("first")
	for name, s := range map[string]*Snapshot{
		"older version":      {Epoch: 1, Version: 0},
		"older epoch":        {Epoch: 0, Version: 99},
		"no such service":    {Epoch: 1, Version: 99, Routes: []Route{{Service: "nobody"}}},
		"broken route":       {Epoch: 1, Version: 99, Services: []Service{{Name: "app"}}, Routes: []Route{{Service: "app", Path: "x"}}},
		"unknown protocol":   {Epoch: 1, Version: 99, Listeners: []Listener{{Name: "gateway", Protocol: "smtp"}}},
		"a service twice":    {Epoch: 1, Version: 99, Services: []Service{{Name: "app"}, {Name: "app"}}},
		"an instance twice":  {Epoch: 1, Version: 99, Services: []Service{{Name: "app", Instances: []Instance{{ID: "a", Host: "h"}, {ID: "a", Host: "h"}}}}},
		"a name of nobody":   {Epoch: 1, Version: 99, Services: []Service{{Name: "app"}}, Listeners: []Listener{{Name: "n", Protocol: Detect, Names: map[string]string{"127.88.0.1": "nobody"}}}},
		"gateway on raw TCP": {Epoch: 1, Version: 99, Listeners: []Listener{{Name: "gateway", Protocol: TCP}}},
	} {
		r.feed.ch <- Update{Snapshot: s}
		r.feed.ch <- Update{} // the one before has been taken over when this one is
		if st := r.proxy.Status(); st.Epoch != 1 || st.Version != r.snap.Version {
			t.Errorf("%s: taken over", name)
		}
		ok(name)
	}
	r.snap.Epoch, r.snap.Version = 2, 0
	r.push()
	ok("next epoch")
	r.snap.Listeners = nil
	r.push()
	conn := make(chan int, 1)
	go func() {
		status, _, _ := get(t, client(t), url)
		conn <- status
	}()
	select {
	case status := <-conn:
		t.Errorf("answered %d though no snapshot names the socket", status)
	case <-time.After(100 * time.Millisecond):
	}
	r.snap.Listeners = []Listener{{Name: "gateway", Protocol: HTTP1}}
	r.push()
	if status := <-conn; status != 200 {
		t.Errorf("waiting connection: %d", status)
	}
	r.feed.ch <- Update{Closed: []string{"gateway"}}
	r.sockets["gateway"].Close()
	r.feed.ch <- Update{}
	if res, err := client(t).Get(url); err == nil {
		res.Body.Close()
		t.Errorf("answered %d though the socket was closed", res.StatusCode)
	}
}

// TestSnapshotBeforeSocket: the parts of an update may come in any order.
func TestSnapshotBeforeSocket(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {})
	r := newRig(t, Config{})
	r.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}}}
	r.snap.Routes = []Route{{Service: "app", Port: 80}}
	r.snap.Listeners = []Listener{{Name: "gateway", Protocol: HTTP1}}
	r.push()
	addr := r.listen(Listener{Name: "gateway", Protocol: HTTP1})
	if status, _, _ := get(t, client(t), "http://"+addr+"/"); status != 200 {
		t.Errorf("%d", status)
	}
}

// TestOwnProbes: while the control plane is away the data plane finds out by itself who is ready, and forgets it when
// the control plane is back.
func TestOwnProbes(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {})
	b.srv.Close()
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	s := &r.snap.Services[0]
	s.Hold = 10 * time.Second
	s.Instances[0].Ready = false
	s.Probe = probe.Spec{Kind: probe.HTTP, Port: 80, Path: "/", Interval: 100 * time.Millisecond, Retries: 2}
	r.push()
	answered := make(chan int, 1)
	go func() {
		status, _, _ := get(t, client(t), "http://"+addr+"/")
		answered <- status
	}()
	eventually(t, "held", func() bool { return r.proxy.Status().Holding == 1 })
	r.feed.ch <- Update{ControlPlaneAway: true}
	b = serve(t, b.addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	if status := <-answered; status != 200 {
		t.Errorf("held until the probe succeeded: %d", status)
	}
	svc := r.proxy.table.Load().services["app"]
	b.srv.Close()
	eventually(t, "out after two failed probes", func() bool { return len(svc.lane(80).available.Load().list) == 0 && !svc.instances["app-1"].ready() })
	serve(t, b.addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	eventually(t, "in again", func() bool { return len(svc.lane(80).available.Load().list) == 1 })
	r.feed.ch <- Update{}
	eventually(t, "forgotten", func() bool { return len(svc.lane(80).available.Load().list) == 0 })
}

func TestStatusSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "proxy.sock")
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {})
	r := newRig(t, Config{Status: path})
	addr := r.gateway(instanceAt("app-1", b.addr))
	get(t, client(t), "http://"+addr+"/")
	var st Status
	eventually(t, "nothing in flight", func() bool { // the client has its answer a moment before
		st = readStatus(t, path)
		return len(st.InUse) == 0
	})
	if st.PID == 0 || st.Epoch != 1 || st.Version != r.snap.Version || st.Counters["app"].Requests != 1 {
		t.Errorf("%+v", st)
	}
}
