package proxy

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"trellis/proxy/http1"
)

func TestTimings(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"1H": time.Hour, "2M": 2 * time.Minute, "3S": 3 * time.Second, "4m": 4 * time.Millisecond, "5u": 5 * time.Microsecond, "6n": 6,
		"99999999H": longestTiming, "00000001S": time.Second,
		"": -1, "S": -1, "1": -1, "1s": -1, "-1S": -1, "+1S": -1, "1.5S": -1, "123456789S": -1, " 1S": -1, "1S ": -1,
	} {
		got, ok := grpcTimeout(value)
		if want < 0 && ok || want >= 0 && (!ok || got != want) {
			t.Errorf("%q: %s %v", value, got, ok)
		}
	}
	now := time.Now()
	for _, c := range []struct {
		grpc   bool
		fields []string
		want   time.Duration // 0: untimed
	}{
		{true, []string{"Grpc-Timeout", "100m"}, 100 * time.Millisecond},
		{false, []string{"Grpc-Timeout", "100m"}, 0},
		{false, []string{"Connect-Timeout-Ms", "250"}, 250 * time.Millisecond},
		{false, []string{"x-request-timeout-ms", "250"}, 250 * time.Millisecond},
		{false, []string{"X-Request-Timeout-Ms", "250", "X-Request-Timeout-Ms", "99999"}, 0},
		{false, []string{"X-Request-Timeout-Ms", "1e9"}, 0},
		{false, []string{"Accept", "250"}, 0},
	} {
		q := &request{grpc: c.grpc}
		for i := 0; i < len(c.fields); i += 2 {
			q.header = append(q.header, http1.Field{Name: c.fields[i], Value: c.fields[i+1]})
		}
		q.setDeadline(now)
		if timed := q.timing != untimed; timed != (c.want > 0) || timed && q.deadline.Sub(now) != c.want {
			t.Errorf("%q: %v %s", c.fields, q.timing, q.deadline.Sub(now))
		}
	}
}

func FuzzTimings(f *testing.F) {
	for _, s := range []string{"1H", "99999999n", "", "S", "0u", "1234567890"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		now := time.Now()
		for _, q := range []*request{
			{grpc: true, header: header{{Name: "Grpc-Timeout", Value: s}}},
			{header: header{{Name: "X-Request-Timeout-Ms", Value: s}}},
		} {
			q.setDeadline(now)
			if q.timing == untimed {
				continue
			}
			if d := q.deadline.Sub(now); d < 0 || d > longestTiming {
				t.Fatalf("%q is %s", s, d)
			}
			again := &request{grpc: q.grpc, header: header{{Name: timingFields[q.timing], Value: q.left(now)}}}
			again.setDeadline(now)
			if d := again.deadline.Sub(q.deadline); again.timing != q.timing || d > time.Millisecond {
				t.Fatalf("%q goes on as %q", s, q.left(now))
			}
		}
	})
}

// TestDeadlines: an instance is told what is left of a caller's time, and nobody is waited for longer than that, wherever
// the time goes.
func TestDeadlines(t *testing.T) {
	var told atomic.Pointer[http.Header]
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		h := r.Header.Clone()
		told.Store(&h)
		d, _ := time.ParseDuration(r.URL.Query().Get("sleep"))
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
	})
	r := newRig(t, Config{})
	r.snap.Services = []Service{
		{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}, HTTP2: []int{81}}, {Name: "gone"},
	}
	r.snap.Services[0].Instances[0].PortMap[81] = r.snap.Services[0].Instances[0].PortMap[80]
	r.snap.Routes = []Route{
		{Service: "app", Port: 80, Decision: Decision{Auth: "none"}}, {Path: "/two", Service: "app", Port: 81, Decision: Decision{Auth: "none"}},
		{Path: "/gone", Service: "gone", Port: 80, Decision: Decision{Auth: "none"}},
	}
	addr := r.listen(Listener{Name: "gateway", Protocol: HTTP1})
	r.push()
	c := client(t)
	ask := func(path string, fields ...string) (*http.Response, time.Duration) {
		t.Helper()
		req, err := http.NewRequest("GET", "http://"+addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(fields); i += 2 {
			req.Header.Add(fields[i], fields[i+1])
		}
		began := time.Now()
		res, err := c.Do(req)
		body(t, res, err)
		return res, time.Since(began)
	}
	for _, path := range []string{"/", "/two"} {
		for _, field := range []string{"X-Request-Timeout-Ms", "Connect-Timeout-Ms"} {
			res, _ := ask(path, field, "9000")
			h := *told.Load()
			left, err := strconv.Atoi(h.Get(field))
			if res.StatusCode != 200 || err != nil || left > 9000 || left < 1000 || len(h.Values(field)) != 1 {
				t.Errorf("%s with %s: %d, told %q", path, field, res.StatusCode, h.Values(field))
			}
		}
		if res, took := ask(path+"?sleep=20s", "X-Request-Timeout-Ms", "300"); res.StatusCode != 504 || res.Header.Get(ErrorHeader) != kindTimeout || took > 5*time.Second {
			t.Errorf("%s that takes too long: %d after %s", path, res.StatusCode, took)
		}
	}
	if res, _ := ask("/", "X-Request-Timeout-Ms", "soon"); res.StatusCode != 200 || told.Load().Get("X-Request-Timeout-Ms") != "soon" {
		t.Errorf("what is no time: %d, told %q", res.StatusCode, told.Load().Get("X-Request-Timeout-Ms"))
	}
	if res, took := ask("/gone", "X-Request-Timeout-Ms", "200"); res.StatusCode != 504 || took > 4*time.Second {
		t.Errorf("without an instance: %d after %s", res.StatusCode, took)
	}
	if res, _ := ask("/", "X-Request-Timeout-Ms", "0"); res.StatusCode != 504 {
		t.Errorf("without any time: %d", res.StatusCode)
	}
}

// TestDeadlineOfAConnect: whose time is over while a connection is waited for is told so, and nothing is held against the
// instance, which has not had its say.
func TestDeadlineOfAConnect(t *testing.T) {
	t.Parallel()
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	p := r.proxy.table.Load().services["app"].instances["app-1"].pool(80)
	p.health.trial.Store(trialOpen)
	for range maxDials {
		p.dials <- struct{}{}
	}
	for name, c := range map[string]*http.Client{"h1": client(t), "h2": h2client(t)} {
		req, _ := http.NewRequest("POST", "http://"+addr+"/", strings.NewReader("x"))
		req.Header.Set("X-Request-Timeout-Ms", "200")
		res, err := c.Do(req)
		if text := body(t, res, err); res.StatusCode != 504 || res.Header.Get(ErrorHeader) != kindTimeout || !strings.Contains(text, "X-Request-Timeout-Ms") {
			t.Errorf("%s: %d %s", name, res.StatusCode, text)
		}
	}
	if st := r.proxy.Status(); st.Counters["app"].Failed != 2 || st.InUse["app-1"] != 0 || p.health.trial.Load() != trialOpen {
		t.Errorf("failed %d, in use %d, trial %d", st.Counters["app"].Failed, st.InUse["app-1"], p.health.trial.Load())
	}
	for range maxDials {
		<-p.dials
	}
	if status, _, _ := get(t, client(t), "http://"+addr+"/"); status != 200 {
		t.Errorf("with room for a connect: %d", status)
	}
}

// TestHastyCallers: who is outside, and says that it waits for no time at all, has no instance taken for one that does not answer. The
// project's own services, and whoever waits for a second, do.
func TestHastyCallers(t *testing.T) {
	t.Parallel()
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	r := newRig(t, Config{})
	inside := r.listen(Listener{Name: "name", Protocol: HTTP1, Service: "app", Port: 80, Caller: "web"})
	addr := r.gateway(instanceAt("app-1", b.addr))
	c := client(t)
	for _, ask := range []struct {
		addr, ms string
		times    int
		breaks   int32
	}{{addr, "50", 6, 0}, {addr, "1200", 1, 1}, {inside, "50", 1, 2}} {
		for range ask.times {
			req, err := http.NewRequest("GET", "http://"+ask.addr+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Request-Timeout-Ms", ask.ms)
			res, err := c.Do(req)
			if body(t, res, err); res.StatusCode != 504 {
				t.Errorf("%+v: %d", ask, res.StatusCode)
			}
		}
		h := &r.proxy.table.Load().services["app"].instances["app-1"].pool(80).health
		if got := h.broken.Load(); got != ask.breaks || h.ejectedAt(time.Now()) {
			t.Errorf("%+v: %d times it was taken for broken, out of the choice %t", ask, got, h.ejectedAt(time.Now()))
		}
	}
}

// TestDeadlineOfGRPC: the client gets gRPC's own word for it.
func TestDeadlineOfGRPC(t *testing.T) {
	var told atomic.Value
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/a.B/Told" {
			told.Store(r.Header.Get("Grpc-Timeout"))
			return
		}
		<-r.Context().Done()
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	c := h2client(t)
	call := func(method, timeout string) *http.Response {
		t.Helper()
		req, err := http.NewRequest("POST", "http://"+addr+"/a.B/"+method, strings.NewReader("\x00\x00\x00\x00\x00"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
		req.Header.Set("Grpc-Timeout", timeout)
		res, err := c.Do(req)
		body(t, res, err)
		return res
	}
	if res := call("Hangs", "400m"); res.StatusCode != 200 || res.Header.Get("Grpc-Status") != "4" || res.Header.Get("Content-Type") != "application/grpc" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
	call("Told", "20S")
	var ms int
	if _, err := fmt.Sscanf(fmt.Sprint(told.Load()), "%dm", &ms); err != nil || ms > 20_000 || ms < 1 {
		t.Errorf("told %v", told.Load())
	}
}

// TestTryTimeout: of two instances one hangs. What may be repeated is answered by the other one, the rest is told.
func TestTryTimeout(t *testing.T) {
	over := make(chan struct{})
	defer close(over)
	hung := serveFunc(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-over:
		}
	})
	good := serveFunc(t, func(http.ResponseWriter, *http.Request) {})
	r := newRig(t, Config{})
	r.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", hung.addr), instanceAt("app-2", good.addr)}}}
	r.snap.Routes = []Route{{Service: "app", Port: 80, Try: 100 * time.Millisecond, Timeout: 20 * time.Second, Decision: Decision{Auth: "none"}}}
	addr := r.listen(Listener{Name: "gateway", Protocol: HTTP1})
	r.push()
	c := client(t)
	began := time.Now()
	for range 20 {
		if status, _, kind := get(t, c, "http://"+addr+"/"); status != 200 {
			t.Fatalf("%d %s", status, kind)
		}
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("20 requests took %s", took)
	}
	if n := r.proxy.Status().Counters["app"].Retries; n == 0 || n > 20 {
		t.Errorf("%d retries", n)
	}
	r.snap.Services[0].Instances = r.snap.Services[0].Instances[:1]
	r.push()
	res, err := c.Post("http://"+addr+"/", "", strings.NewReader("x"))
	body(t, res, err)
	if res.StatusCode != 504 {
		t.Errorf("a POST: %d", res.StatusCode)
	}
}

// TestBreaker: an instance whose program fails is left out, unless all fail; and no more wait than may.
func TestBreaker(t *testing.T) {
	var failures, sent atomic.Int64
	bad := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { failures.Add(1); w.WriteHeader(500) })
	good := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { sent.Add(1) })
	r := newRig(t, Config{})
	r.snap.Services = []Service{
		{Name: "app", Failures: 3, Instances: []Instance{instanceAt("app-1", bad.addr), instanceAt("app-2", good.addr), instanceAt("app-3", good.addr)}},
		{Name: "gone", Pending: 2, Hold: 300 * time.Millisecond},
	}
	r.snap.Routes = []Route{{Service: "app", Port: 80, Decision: Decision{Auth: "none"}}, {Path: "/gone", Service: "gone", Port: 80, Decision: Decision{Auth: "none"}}}
	addr := r.listen(Listener{Name: "gateway", Protocol: HTTP1})
	r.push()
	c := client(t)
	eventually(t, "the one that fails is left out", func() bool {
		get(t, c, "http://"+addr+"/")
		return len(r.proxy.Status().Ejected) == 1
	})
	if n := failures.Load(); n < 3 {
		t.Errorf("it was asked %d times, want 3", n)
	}
	r.snap.Services[0].Instances = r.snap.Services[0].Instances[:1]
	r.push()
	for range 10 {
		if status, _, _ := get(t, c, "http://"+addr+"/"); status != 500 {
			t.Fatalf("the only one that is there is not asked: %d", status)
		}
	}
	kinds := make(chan string, 5)
	for range cap(kinds) {
		go func() {
			_, _, kind := get(t, c, "http://"+addr+"/gone")
			kinds <- kind
		}()
	}
	seen := map[string]int{}
	for range cap(kinds) {
		seen[<-kinds]++
	}
	if seen[kindOverload] < 1 || seen[kindNoInstance] < 1 || seen[kindNoInstance]+seen[kindOverload] != cap(kinds) {
		t.Errorf("of five that wait for two places: %v", seen)
	}
}

// TestTooLateInWords: who speaks gRPC or Connect is told in the words of that protocol that time is over.
func TestTooLateInWords(t *testing.T) {
	late := &failure{status: 504, kind: kindTimeout, detail: "over"}
	for _, one := range []struct {
		fields               []string
		status               int
		contentType, content string
		grpc                 string
	}{
		{[]string{"Content-Type", "application/grpc+json"}, 200, "application/grpc+json", "", "4"},
		{[]string{"Content-Type", "application/grpc-web+proto"}, 200, "application/grpc-web+proto", "", "4"},
		{[]string{"Content-Type", "application/connect+proto"}, 200, "application/connect+proto",
			"\x02\x00\x00\x00\x37" + `{"error":{"code":"deadline_exceeded","message":"over"}}`, ""},
		{[]string{"Content-Type", "application/proto", "Connect-Protocol-Version", "1"}, 504, "application/json", `{"code":"deadline_exceeded","message":"over"}`, ""},
		{[]string{"Content-Type", "application/json"}, 504, "application/problem+json", "*", ""},
	} {
		q := &request{header: fields(one.fields...)}
		f := q.worded(late)
		contentType, content := f.content("id")
		if one.content == "*" {
			one.content = string(content)
		}
		if f.status != one.status || contentType != one.contentType || f.fields("id").Get("Grpc-Status") != one.grpc || f.fields("id").Get(ErrorHeader) != kindTimeout {
			t.Errorf("%q: %d %s %v", one.fields, f.status, contentType, f.fields("id"))
		}
		if string(content) != one.content {
			t.Errorf("%q: %q, want %q", one.fields, content, one.content)
		}
	}
	if other := badRequest("no"); (&request{header: fields("Content-Type", "application/grpc")}).worded(other) != other {
		t.Error("another failure was worded")
	}
}
