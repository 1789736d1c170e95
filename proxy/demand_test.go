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

// TestDemand: requests and the time they take are counted from where the answer begins, for measured services alone.
func TestDemand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "proxy.sock")
	b := serveFunc(t, func(http.ResponseWriter, *http.Request) { time.Sleep(200 * time.Millisecond) })
	r := newRig(t, Config{Status: path})
	addr := r.gateway(instanceAt("app-1", b.addr))
	r.snap.Services[0].Measured = true
	r.snap.Services = append(r.snap.Services, Service{Name: "other"})
	r.push()
	get(t, client(t), "http://"+addr+"/") // before
	lines := demands(t, path)
	if first := <-lines; len(first) != 1 || first["app"].Requests != 0 {
		t.Errorf("first line %+v", first)
	}
	began := time.Now()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { get(t, client(t), "http://"+addr+"/") })
	}
	all.Wait()
	took := time.Since(began)
	var last map[string]Demand
	eventually(t, "all are told", func() bool { last = <-lines; return last["app"].Requests == 20 })
	// 20 at a time for as long as one takes, and never more than were there at all. Sampling and a busy machine blur it.
	if busy := last["app"].BusySeconds; busy < 20*0.2*0.4 || busy > 20*took.Seconds()*1.2+1 {
		t.Errorf("%.2f busy seconds of 20 requests of 200 ms in %v", busy, took)
	}
}

// TestDemandIsToldAtOnce when a request waits.
func TestDemandIsToldAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "proxy.sock")
	r := newRig(t, Config{Status: path})
	addr := r.gateway()
	r.snap.Services[0].Measured, r.snap.Services[0].Hold = true, time.Second
	r.push()
	lines := demands(t, path)
	<-lines
	done := make(chan struct{})
	go func() {
		defer close(done)
		get(t, client(t), "http://"+addr+"/")
	}()
	for line := range lines { // of those told by the clock, some may come before
		if line["app"].Waiting == 1 && line["app"].Requests == 1 {
			break
		}
	}
	<-done
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
