package proxy

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"trellis/probe"
)

// TestComesBack: an instance that dies and comes back is asked by the data plane itself. It takes nothing before it is
// ready, it takes requests although the snapshots know of its end only, and a snapshot that is old does not last.
func TestComesBack(t *testing.T) {
	t.Parallel()
	var ready, early atomic.Bool
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/healthz" && !ready.Load():
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path != "/healthz" && !ready.Load():
			early.Store(true)
		}
	})
	b := serveFunc(t, func(http.ResponseWriter, *http.Request) {})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	s := &r.snap.Services[0]
	s.Hold = 10 * time.Second
	s.Probe = probe.Spec{Kind: probe.HTTP, Port: 80, Path: "/healthz"}
	r.push()
	b.srv.Close()
	answered := make(chan int, 1)
	ask := func() {
		status, _, _ := get(t, client(t), "http://"+addr+"/")
		answered <- status
	}
	go ask()
	eventually(t, "held", func() bool { return r.proxy.Status().Holding == 1 })
	s.Instances[0].Ready = false // the control plane has seen the end
	r.push()
	serve(t, b.addr, handler)
	time.Sleep(50 * time.Millisecond) // it listens, and is not ready
	select {
	case status := <-answered:
		t.Errorf("answered with %d before it was ready", status)
	default:
	}
	ready.Store(true)
	if status := <-answered; status != 200 || early.Load() {
		t.Errorf("status %d, asked before it was ready: %v", status, early.Load())
	}
	inst := r.proxy.table.Load().services["app"].instances["app-1"]
	eventually(t, "what was seen is not trusted for ever", func() bool { return !inst.ready() && !inst.takes.Load() })
	s.Instances[0].Ready = true
	r.push()
	go ask()
	if <-answered != 200 {
		t.Error("not back with the snapshot")
	}
}

// TestUnreadySnapshotsCount: nothing but a refused connection lets the data plane judge by itself.
func TestUnreadySnapshotsCount(t *testing.T) {
	b := serveFunc(t, func(http.ResponseWriter, *http.Request) {})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	s := &r.snap.Services[0]
	s.Instances[0].Ready, s.Hold = false, 100*time.Millisecond
	s.Probe = probe.Spec{Kind: probe.TCP, Port: 80}
	r.push()
	if status, _, kind := get(t, client(t), "http://"+addr+"/"); status != 503 || kind != kindNoInstance {
		t.Errorf("%d %s from an instance that is not ready", status, kind)
	}
}

func TestAwayPause(t *testing.T) {
	looks, away := 0, time.Duration(0)
	for away < time.Minute {
		pause := awayPause(away)
		if late := max(away/32, 250*time.Microsecond); pause > late {
			t.Fatalf("after %v the next look is in %v", away, pause)
		}
		away += pause
		looks++
	}
	if looks > 400 {
		t.Errorf("%d looks in the first minute", looks)
	}
}

// TestWhoBreaksOffIsLookedAt: after an answer that broke off it is found out whether anybody is still there, without
// another request.
func TestWhoBreaksOffIsLookedAt(t *testing.T) {
	asked := make(chan struct{}, 1)
	b := serveFunc(t, func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	})
	go func() {
		<-asked
		b.srv.Close() // dies, and takes the connection along
	}()
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	s := &r.snap.Services[0]
	s.Probe = probe.Spec{Kind: probe.TCP, Port: 80}
	r.push()
	resp, err := client(t).Post("http://"+addr+"/", "", nil) // is not repeated
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadGateway {
		t.Errorf("status %d", resp.StatusCode)
	}
	inst := r.proxy.table.Load().services["app"].instances["app-1"]
	eventually(t, "known to be away", func() bool { return inst.pool(80).health.ejectedAt(time.Now()) })
}
