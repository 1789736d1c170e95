package proxy

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestHostGone: the host of one of two instances is gone in a moment, and nothing says so: packets to it are lost. What may be
// repeated is answered by the other one, also what was with the lost one, and what had come over connections that were open;
// soon nobody is sent there any more, and when it is back it is used again.
func TestHostGone(t *testing.T) {
	t.Parallel()
	near, far := twoHosts(t, func(near, far *Snapshot) {
		near.Services[0].Instances = []Instance{
			{ID: "app-1", Host: "10.77.0.2", PortMap: map[int]int{80: 7443}, Ready: true},
			{ID: "app-2", Host: "127.0.0.1", PortMap: map[int]int{80: 9000}, Ready: true},
		}
		far.Listeners[0] = Listener{Name: "link", Protocol: HTTP1, Service: "app", Port: 80, Address: "10.77.0.2:7443"}
	})
	transport := &http.Transport{DialContext: func(_ context.Context, _, addr string) (net.Conn, error) { return near.dial(addr) }, MaxIdleConnsPerHost: 8}
	defer transport.CloseIdleConnections()
	ask := func(method string) (int, error) {
		q, err := http.NewRequest(method, "http://127.0.0.1:8000/", nil)
		if err != nil {
			return 0, err
		}
		res, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Do(q)
		if err != nil {
			return 0, err
		}
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		return res.StatusCode, err
	}
	var answered, posts, slowest atomic.Int64
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			for method := "GET"; ; {
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Millisecond):
				}
				began := time.Now()
				status, err := ask(method)
				for took, was := int64(time.Since(began)), slowest.Load(); took > was && !slowest.CompareAndSwap(was, took); was = slowest.Load() {
				}
				switch {
				case err == nil && status == http.StatusOK:
					answered.Add(1)
				case method == "GET":
					t.Errorf("a GET of caller %d after %s: %d, %v", i, time.Since(began), status, err)
				default:
					posts.Add(1)
				}
				if method = "GET"; i == 0 {
					method = "POST"
				}
			}
		})
	}
	out := func() bool { return strings.Contains(near.say(t, "status", "STATUS "), `"app-1"`) }
	time.Sleep(time.Second)
	began := time.Now()
	for _, chain := range []string{"INPUT", "OUTPUT"} {
		far.run(t, "iptables", "-w", "-A", chain, "-j", "DROP")
	}
	eventually(t, "the instance is out of the choice", out)
	noticed := time.Since(began)
	time.Sleep(3 * time.Second)
	for _, chain := range []string{"INPUT", "OUTPUT"} {
		far.run(t, "iptables", "-w", "-F", chain)
	}
	eventually(t, "the instance is used again", func() bool { return !out() })
	close(stop)
	callers.Wait()
	t.Logf("verdict: %d answered, %d POSTs lost, the slowest took %s; out of the choice after %s",
		answered.Load(), posts.Load(), time.Duration(slowest.Load()).Round(time.Millisecond), noticed.Round(time.Millisecond))
	if limit := silence + 3*time.Second; time.Duration(slowest.Load()) > limit {
		t.Errorf("a caller waited longer than %s", limit)
	}
	if posts.Load() > 4 {
		t.Error("more POSTs were lost than one caller can have had under way")
	}
}
