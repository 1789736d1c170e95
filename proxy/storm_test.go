package proxy

import (
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// long says whether the long form of a test is to run.
func long() bool { return os.Getenv("FAULTS") == "long" }

// TestAllGoneAndBack: every instance refuses connections, hundreds of clients wait, and then all instances are back. Each
// request is answered, soon, and the instances get no more than a fifth on top of what was asked for.
func TestAllGoneAndBack(t *testing.T) {
	clients := 300
	if long() {
		clients = 5000
	}
	var seen atomic.Int64
	h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { seen.Add(1) })
	first, second := serve(t, "127.0.0.1:0", h), serve(t, "127.0.0.1:0", h)
	for _, b := range []*backend{first, second} {
		b.srv.Close()
	}
	r := newRig(t, Config{MaxOpen: clients + 100})
	r.snap.Services = []Service{{Name: "app", Hold: time.Minute, Instances: []Instance{instanceAt("app-1", first.addr), instanceAt("app-2", second.addr)}}}
	r.snap.Routes = []Route{{Service: "app", Port: 80, Decision: Decision{Auth: "none"}}}
	addr := r.listen(Listener{Name: "gateway", Protocol: HTTP1})
	r.push()
	c := client(t)
	c.Timeout = 2 * time.Minute
	var wg sync.WaitGroup
	var failed atomic.Int64
	for range clients {
		wg.Go(func() {
			res, err := c.Get("http://" + addr + "/")
			if err != nil || res.StatusCode != 200 {
				failed.Add(1)
			}
			if err == nil {
				res.Body.Close()
			}
		})
	}
	for end := time.Now().Add(time.Minute); r.proxy.Status().Holding < clients; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of %d wait", r.proxy.Status().Holding, clients)
		}
	}
	serve(t, first.addr, h)
	serve(t, second.addr, h)
	back := time.Now()
	wg.Wait()
	held := 1
	if n := failed.Load(); n > 0 {
		held = 0
		t.Errorf("%d of %d were lost", n, clients)
	}
	t.Logf("verdict: 1 tried, %d held, %d requests, %d lost, seed 0", held, clients, failed.Load())
	if n := int(seen.Load()); n > clients*6/5 {
		t.Errorf("%d requests became %d", clients, n)
	}
	if took := time.Since(back); took > 10*time.Second {
		t.Errorf("the last one was answered %v after the instances were back", took)
	}
}

// TestBusyInstancesAreLeftAlone: an instance that says when to come again is not asked a second time, and the client is told.
func TestBusyInstancesAreLeftAlone(t *testing.T) {
	var seen atomic.Int64
	busy := func(w http.ResponseWriter, _ *http.Request) {
		seen.Add(1)
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", serveFunc(t, busy).addr), instanceAt("app-2", serveFunc(t, busy).addr))
	c := client(t)
	for range 50 {
		res, err := c.Get("http://" + addr + "/")
		body(t, res, err)
		if res.StatusCode != 503 || res.Header.Get("Retry-After") != "7" || res.Header.Get(ErrorHeader) != "" {
			t.Fatalf("%d %v", res.StatusCode, res.Header)
		}
	}
	if n := seen.Load(); n != 50 {
		t.Errorf("50 requests became %d", n)
	}
}

// latencies measures what good clients see.
type latencies []time.Duration

func (l *latencies) ask(t *testing.T, c *http.Client, url string, n int) {
	t.Helper()
	for range n {
		began := time.Now()
		if status, _, _ := get(t, c, url); status != 200 {
			t.Errorf("a good client got %d", status)
		}
		*l = append(*l, time.Since(began))
	}
}

func (l latencies) p99() time.Duration {
	sorted := slices.Sorted(slices.Values(l))
	return sorted[len(sorted)*99/100]
}
