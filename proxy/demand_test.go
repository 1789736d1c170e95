package proxy

import (
	"context"
	"encoding/json"
	"math"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// demands follows the demand of a data plane until the test ends.
func demands(t *testing.T, socket string) <-chan map[string]Demand {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	res, err := (&http.Client{Transport: tr}).Get("http://proxy/demand")
	if err != nil {
		t.Fatal(err)
	}
	lines, done := make(chan map[string]Demand, 10_000), make(chan struct{})
	go func() {
		defer close(done)
		for dec := json.NewDecoder(res.Body); ; {
			var one Demands
			if dec.Decode(&one) != nil {
				return
			}
			lines <- one.Services
		}
	}()
	t.Cleanup(func() { res.Body.Close(); <-done; tr.CloseIdleConnections() })
	return lines
}

// nextLine returns the next demand that is told.
func nextLine(t *testing.T, lines <-chan map[string]Demand) map[string]Demand {
	t.Helper()
	select {
	case line := <-lines:
		return line
	case <-time.After(20 * time.Second):
		t.Fatal("no demand was told for 20 s")
		return nil
	}
}

// TestDemand: requests and the time they take are counted from where the answer begins, for measured services alone.
func TestDemand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "proxy.sock")
	seen := make(chan struct{})
	b := serveFunc(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/before" {
			<-seen
		}
	})
	r := newRig(t, Config{Status: path})
	addr := r.gateway(instanceAt("app-1", b.addr))
	r.snap.Services[0].Measured = true
	r.snap.Services = append(r.snap.Services, Service{Name: "other"})
	r.push()
	get(t, client(t), "http://"+addr+"/before")
	lines := demands(t, path)
	if first := nextLine(t, lines); len(first) != 1 || first["app"].Requests != 0 {
		t.Errorf("first line %+v", first)
	}
	began := time.Now()
	var all sync.WaitGroup
	defer all.Wait()
	defer close(seen)
	for range 20 {
		all.Go(func() { get(t, client(t), "http://"+addr+"/") })
	}
	// Two lines are at least demandPause apart: 20 at a time are that much more in the second one, however busy the machine is.
	var last, busy float64
	eventually(t, "20 at a time are counted", func() bool {
		app := nextLine(t, lines)["app"]
		last, busy = busy, app.BusySeconds
		return app.Requests == 20 && busy-last >= 20*0.9*demandPause.Seconds()
	})
	// And never more than were there at all, from the sample before the first one came.
	if took := time.Since(began) + 2*demandSample; busy > 20*took.Seconds()+1 {
		t.Errorf("%.2f busy seconds of 20 requests in %v", busy, took)
	}
}

// TestDemandIsToldAtOnce when a request waits, and not only when the next line is due.
func TestDemandIsToldAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "proxy.sock")
	r := newRig(t, Config{Status: path})
	addr := r.gateway()
	r.snap.Services[0].Measured, r.snap.Services[0].Hold = true, 20*time.Second
	r.push()
	lines := demands(t, path)
	eventually(t, "a line comes before it is due", func() bool { // a test that is held up itself tries again
		for nextLine(t, lines)["app"].Waiting > 0 { // the one before
		}
		told := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+addr+"/", nil)
			if res, err := client(t).Do(req); err == nil {
				res.Body.Close()
				t.Errorf("answered with %d", res.StatusCode)
			}
		}()
		defer func() { cancel(); <-done }()
		for line := nextLine(t, lines); line["app"].Waiting != 1; line = nextLine(t, lines) {
			told = time.Now()
		}
		return time.Since(told) < demandPause*4/5
	})
}

// TestDemandOfADataPlaneThatWasHeldUp: the crowd that came while nobody could look is not counted as if it had been there all along;
// what was there before is.
func TestDemandOfADataPlaneThatWasHeldUp(t *testing.T) {
	for _, c := range []struct {
		before, after int64
		passed        time.Duration
		least, most   float64 // busy seconds
	}{
		{before: 0, after: 40, passed: 50 * time.Millisecond, least: 2, most: 2},
		{before: 40, after: 0, passed: 50 * time.Millisecond},
		{before: 0, after: 60, passed: 3 * time.Second, least: 60 * 0.05, most: 60 * 0.2},
		{before: 2, after: 60, passed: 3 * time.Second, least: 2 * 3, most: 2*3 + 60*0.2},
		{before: 60, after: 2, passed: 3 * time.Second, least: 2 * 3, most: 2 * 3},
		{before: 10, after: 10, passed: 3 * time.Second, least: 30, most: 30},
	} {
		svc := newTestService(Service{Name: "app", Measured: true})
		defer svc.close()
		p := New(Config{})
		p.table.Store(&table{services: map[string]*service{"app": svc}})
		now := time.Now()
		m := meter{p: p, services: map[string]*metered{}, last: now}
		svc.holding.Store(c.before)
		m.sample(now)
		svc.holding.Store(c.after)
		m.sample(now.Add(c.passed))
		if busy := m.demand()["app"].BusySeconds; busy < c.least-1e-9 || busy > c.most+1e-9 {
			t.Errorf("%d in flight, and %d after %s: %.2f busy seconds, want %.2f to %.2f", c.before, c.after, c.passed, busy, c.least, c.most)
		}
	}
}

// TestSamplesFollowNoRhythm: load that comes and goes in time with a fixed sampling would be seen always or never.
func TestSamplesFollowNoRhythm(t *testing.T) {
	m := meter{services: map[string]*metered{"app": nil}}
	sum, square := 0.0, 0.0
	const n = 1000
	for range n {
		pause := m.pause().Seconds()
		sum, square = sum+pause, square+pause*pause
	}
	mean := sum / n
	if deviation := math.Sqrt(square/n - mean*mean); math.Abs(mean-demandSample.Seconds()) > 0.005 || deviation < 0.01 {
		t.Errorf("pauses of %.3f s, deviating by %.3f s", mean, deviation)
	}
}
