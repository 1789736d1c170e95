package proxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// busy is a backend that says how many requests were with it at a time, at the most.
type busy struct {
	now, most atomic.Int64
	work      time.Duration
}

func (b *busy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := b.now.Add(1)
	defer b.now.Add(-1)
	for was := b.most.Load(); n > was && !b.most.CompareAndSwap(was, n); was = b.most.Load() {
	}
	time.Sleep(b.work)
	fmt.Fprint(w, "done")
}

// TestConcurrencyIsBounded: no instance has more than it may, whatever arrives, and everybody is served who can be within
// the hold. The twin has no bound.
func TestConcurrencyIsBounded(t *testing.T) {
	both(t, "bound", func(t *testing.T, twin bool) {
		one, two := &busy{work: 5 * time.Millisecond}, &busy{work: 5 * time.Millisecond}
		a, b := serve(t, "127.0.0.1:0", one), serve(t, "127.0.0.1:0", two)
		r := newRig(t, Config{})
		addr := r.gateway(instanceAt("a", a.addr), instanceAt("b", b.addr))
		if !twin {
			r.snap.Services[0].Concurrency = 3
		}
		r.push()
		c := client(t)
		var all sync.WaitGroup
		var failed atomic.Int64
		for range 120 {
			all.Go(func() {
				if status, _, _ := get(t, c, "http://"+addr+"/"); status != 200 {
					failed.Add(1)
				}
			})
		}
		all.Wait()
		if n := failed.Load(); n > 0 {
			t.Errorf("%d of 120 failed", n)
		}
		if over := max(one.most.Load(), two.most.Load()) > 3; over != twin {
			t.Errorf("at most %d and %d at a time, bound is 3", one.most.Load(), two.most.Load())
		}
		if n := r.proxy.table.Load().services["app"].lane(80).queue.n.Load(); n != 0 {
			t.Errorf("%d are left in the queue", n)
		}
	})
}

// TestQueueIsFair: those who wait get their place in the order in which they came, also where newcomers try all the time.
func TestQueueIsFair(t *testing.T) {
	s := newTestService(Service{Name: "app", Concurrency: 1, Instances: []Instance{{ID: "a", Host: "h", Ready: true}}})
	defer s.close()
	l := s.lane(80)
	holder := l.acquire(nil)
	order := make(chan int, 50)
	var all sync.WaitGroup
	for i := range cap(order) {
		all.Go(func() {
			var w waiter
			p, f := w.acquire(context.Background(), l, &tried{})
			if f != nil {
				t.Errorf("%d: %v", i, f)
				return
			}
			order <- i
			p.inst.release()
		})
		eventually(t, "it waits", func() bool { return int(l.queue.n.Load()) == i+1 })
	}
	holder.inst.release()
	all.Wait()
	for i := range cap(order) {
		if got := <-order; got != i {
			t.Fatalf("number %d was served as number %d", got, i)
		}
	}
}

// TestQueueEnds: who gets no place within the hold is told to come again, and takes nobody's place with it.
func TestQueueEnds(t *testing.T) {
	hang := make(chan struct{})
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			<-hang
		}
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("a", b.addr))
	r.snap.Services[0].Concurrency, r.snap.Services[0].Hold = 1, 100*time.Millisecond
	r.push()
	c := client(t)
	hanging := make(chan int)
	go func() {
		status, _, _ := get(t, c, "http://"+addr+"/hang")
		hanging <- status
	}()
	eventually(t, "the place is taken", func() bool { return r.proxy.Status().InUse["a"] == 1 })
	res, err := c.Get("http://" + addr + "/")
	if text := body(t, res, err); res.StatusCode != 503 || res.Header.Get(ErrorHeader) != kindOverload || res.Header.Get("Retry-After") == "" {
		t.Errorf("%d %v %s", res.StatusCode, res.Header, text)
	}
	close(hang)
	if status := <-hanging; status != 200 {
		t.Errorf("the one that was served: %d", status)
	}
	eventually(t, "the place is free", func() bool { return len(r.proxy.Status().InUse) == 0 }) // the client has its answer a moment before
	if status, _, _ := get(t, c, "http://"+addr+"/"); status != 200 {
		t.Errorf("afterwards: %d", status)
	}
}

// TestWaitingPage: a person whose page's service is being started is told so, and sees the page when it is there; a
// program waits.
func TestWaitingPage(t *testing.T) {
	t.Parallel()
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "awake") })
	r := newRig(t, Config{})
	addr := r.gateway()
	r.snap.Services[0].Hold, r.snap.Services[0].Wakes = 20*time.Second, true
	r.push()
	ask := func(method, name, value string) (*http.Response, error) {
		req, err := http.NewRequest(method, "http://"+addr+"/", nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set(name, value)
		return client(t).Do(req)
	}
	program := make(chan string)
	go func() {
		res, err := ask("GET", "Accept", "application/json")
		if err != nil {
			program <- err.Error()
			return
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		program <- fmt.Sprint(res.StatusCode, " ", string(text))
	}()
	var pages sync.WaitGroup
	for _, header := range [][2]string{{"Sec-Fetch-Mode", "navigate"}, {"Accept", "text/html,application/xhtml+xml"}} {
		pages.Go(func() {
			res, err := ask("GET", header[0], header[1])
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			text := string(b)
			if err != nil || res.StatusCode != 503 || res.Header.Get(ErrorHeader) != kindWaking || !strings.Contains(text, `http-equiv="refresh"`) ||
				!strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") || res.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%v: %d %v %s %v", header, res.StatusCode, res.Header, text, err)
			}
		})
	}
	pages.Wait()
	select {
	case got := <-program:
		t.Fatalf("a program did not wait: %s", got)
	default:
	}
	r.snap.Services[0].Instances = []Instance{instanceAt("a", b.addr)}
	r.push()
	if got := <-program; got != "200 awake" {
		t.Errorf("the program got %q", got)
	}
	// The pages were not served, and what comes now does not wait.
	if status, _, _ := get(t, client(t), "http://"+addr+"/"); status != 200 {
		t.Errorf("afterwards: %d", status)
	}
	cold := r.proxy.Calls().Services["app"].ColdStarts
	if took := cold.Quantile(1); cold.Count() != 1 || took < pageAfter || took > 20*time.Second {
		t.Errorf("one request waited for the start, at least as long as the pages; counted are %d, of %v", cold.Count(), took)
	}
}
