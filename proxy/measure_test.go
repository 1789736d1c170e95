package proxy

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestHistogramIsExactToASixteenth compares quantiles with those of the durations themselves.
func TestHistogramIsExactToASixteenth(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		h, all := Histogram{}, []time.Duration{}
		scale := time.Duration(1) << r.IntN(26) * time.Microsecond
		for range 1 + r.IntN(2000) {
			d := time.Duration(r.Int64N(int64(scale) + 1))
			h[bucketOf(d)]++
			all = append(all, d)
		}
		slices.Sort(all)
		if h.Count() != uint64(len(all)) {
			t.Fatalf("%d of %d counted", h.Count(), len(all))
		}
		for _, q := range []float64{0.01, 0.5, 0.99, 1} {
			rank := max(0, int(q*float64(len(all))+0.999999)-1)
			want, got := all[rank], h.Quantile(q)
			if got < want || got > want+want/16+2*time.Microsecond {
				t.Errorf("quantile %g of %d up to %s: %s, want %s", q, len(all), scale, got, want)
			}
		}
	}
	last := time.Duration(0)
	for b := range latencyBuckets {
		end := BucketEnd(b)
		if end <= last || bucketOf(end-time.Microsecond) != b || b+1 < latencyBuckets && bucketOf(end) != b+1 {
			t.Fatalf("bucket %d ends at %s, which is in bucket %d; the one before at %s", b, end, bucketOf(end), last)
		}
		last = end
	}
	if bucketOf(time.Hour) != latencyBuckets-1 || bucketOf(-time.Second) != 0 || (Histogram{}).Quantile(0.99) != 0 {
		t.Error("the ends")
	}
}

// TestWhatCountsAsFailed sends requests that end in every way there is and looks at what the instance is blamed for.
func TestWhatCountsAsFailed(t *testing.T) {
	cut := func(c net.Conn, answer string) { readHead(c); io.WriteString(c, answer) }
	for name, c := range map[string]struct {
		up     func(c net.Conn)
		failed uint64
	}{
		"200":                {func(c net.Conn) { cut(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") }, 0},
		"404":                {func(c net.Conn) { cut(c, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") }, 0},
		"500":                {func(c net.Conn) { cut(c, "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n") }, 1},
		"no answer":          {func(c net.Conn) { readHead(c) }, 1},
		"half an answer":     {func(c net.Conn) { cut(c, "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok") }, 1},
		"something else":     {func(c net.Conn) { cut(c, "SSH-2.0-OpenSSH\r\n\r\n") }, 1},
		"half of a bad news": {func(c net.Conn) { cut(c, "HTTP/1.1 503 Oh\r\nContent-Length: 20\r\n\r\nok") }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			addr := r.gateway(instanceAt("app-1", rawServer(t, c.up)))
			req, _ := http.NewRequest("POST", "http://"+addr+"/", strings.NewReader("x")) // nothing is tried again
			res, err := client(t).Do(req)
			if err == nil {
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
			eventuallyMeasured(t, r.proxy, func(m Measure) bool { return m.Requests == 1 && m.Failed == c.failed })
		})
	}
}

// eventuallyMeasured waits until what is pushed about the one instance is as ok says.
func eventuallyMeasured(t *testing.T, p *Proxy, ok func(Measure) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var last Measures
	p.push(ctx, func(m Measures) error {
		last = m
		if len(m.Instances) == 1 && ok(m.Instances[0]) {
			return io.EOF
		}
		return nil
	})
	if ctx.Err() != nil {
		t.Errorf("measured %+v", last)
	}
}

// TestClientsThatGoAwayBlameNobody breaks off downloads and requests that are being worked on.
func TestClientsThatGoAwayBlameNobody(t *testing.T) {
	began := make(chan struct{}, 2)
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		if r.URL.Path == "/download" {
			w.Write(make([]byte, 100))
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { <-began; cancel() }()
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+addr+"/slow", nil)
	if res, err := client(t).Do(req); err == nil {
		res.Body.Close()
		t.Errorf("answered with %d", res.StatusCode)
	}
	res, err := client(t).Get("http://" + addr + "/download")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(res.Body, make([]byte, 100)); err != nil {
		t.Error(err)
	}
	res.Body.Close()
	eventually(t, "both are over", func() bool { return len(r.proxy.Status().InUse) == 0 })
	eventuallyMeasured(t, r.proxy, func(m Measure) bool { return m.Requests == 1 && m.Failed == 0 })
}

// TestDownloadsThatAreBrokenOffBlameNobody: a client that goes away while something is written to it is known to have gone.
func TestDownloadsThatAreBrokenOffBlameNobody(t *testing.T) {
	t.Parallel()
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		for _, err := w.Write(make([]byte, 1<<20)); err == nil; _, err = w.Write(make([]byte, 1<<20)) {
		}
	})
	for name, c := range map[string]*http.Client{"h1": client(t), "h2": h2client(t)} {
		r := newRig(t, Config{})
		addr := r.gateway(instanceAt("app-1", b.addr))
		const downloads = 10
		for range downloads {
			res, err := c.Get("http://" + addr + "/")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, res.Body, 1<<20); err != nil {
				t.Error(err)
			}
			res.Body.Close()
		}
		eventually(t, "all are over", func() bool { return len(r.proxy.Status().InUse) == 0 && r.proxy.handlers.Load() == 0 })
		eventuallyMeasured(t, r.proxy, func(m Measure) bool { return m.Requests == downloads && m.Failed == 0 })
		failed := uint64(0)
		for _, one := range r.proxy.Calls().Calls {
			failed += one.Failed
		}
		if failed != 0 {
			t.Errorf("%s: %d of %d calls are the instance's failures", name, failed, downloads)
		}
	}
}

// TestMeasuresArePushedWhenTheyGrow counts pushes: one at once, and another only after something was done.
func TestMeasuresArePushedWhenTheyGrow(t *testing.T) {
	t.Parallel()
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { time.Sleep(3 * time.Millisecond) })
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	var mu sync.Mutex
	var pushed []Measures
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.proxy.push(ctx, func(m Measures) error { mu.Lock(); defer mu.Unlock(); pushed = append(pushed, m); return nil })
	}()
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(pushed) }
	for batch := range 2 {
		for range 10 {
			res, err := client(t).Get("http://" + addr + "/")
			body(t, res, err)
		}
		eventually(t, "what was done is pushed", func() bool {
			mu.Lock()
			defer mu.Unlock()
			n := len(pushed)
			return n > 0 && len(pushed[n-1].Instances) == 1 && pushed[n-1].Instances[0].Requests == uint64(10+10*batch)
		})
	}
	after := count()
	time.Sleep(3 * pushInterval)
	if n := count(); n != after {
		t.Errorf("%d pushes while nothing was done", n-after)
	}
	cancel()
	<-done
	last := pushed[len(pushed)-1].Instances[0]
	if last.Requests != 20 || last.Latency.Count() != 20 || last.Latency.Quantile(0.5) < 3*time.Millisecond {
		t.Errorf("%+v", last)
	}
	for i := 1; i < len(pushed); i++ {
		if len(pushed[i].Instances) == 0 || pushed[i].Boot != pushed[0].Boot || pushed[i].UpSeconds <= pushed[i-1].UpSeconds {
			t.Errorf("push %d: %+v", i, pushed[i])
		}
	}
}

func BenchmarkTally(b *testing.B) {
	c := &tally{}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c.answered(200, 1234*time.Microsecond)
		}
	})
}
