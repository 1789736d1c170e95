package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// flights tells what is in flight, as "caller route -> instance", without what is 0.
func (r *rig) flights() map[string]int64 {
	all := map[string]int64{}
	for _, f := range r.proxy.Calls().InFlight {
		if f.Count != 0 {
			all[fmt.Sprintf("%s %s -> %s%s r%d", f.Caller, f.Route, f.Service, f.Instance, f.Revision)] += f.Count
		}
	}
	return all
}

// TestInFlightByWay: everything that is under way is counted once, by who called, over which route, and the instance's revision, until it
// has ended.
func TestInFlightByWay(t *testing.T) {
	let := make(chan bool)
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" { // its head is there long before its end
			w.(http.Flusher).Flush()
		}
		select {
		case <-let:
		case <-r.Context().Done():
		}
	})
	closed := make(chan uint16, 1)
	r := newRig(t, Config{})
	one, two := instanceAt("1", b.addr), instanceAt("1", echoFrames(t, closed))
	one.Revision, two.Revision = 3, 4
	r.snap.Services = []Service{
		{Name: "app", Instances: []Instance{one}}, {Name: "chat", Instances: []Instance{two}}, {Name: "away", Hold: 20 * time.Second},
		{Name: "db", Instances: []Instance{instanceAt("1", rawServer(t, func(c net.Conn) { io.Copy(c, c) }))}},
		{Name: "dns", Instances: []Instance{instanceAt("1", echoUDP(t))}},
	}
	open := Decision{Auth: "none"}
	r.snap.Routes = []Route{
		{Path: "/a/*", Service: "app", Port: 80, Decision: open}, {Path: "/stream", Service: "app", Port: 80, Decision: open},
		{Path: "/ws", Service: "chat", Port: 80, Decision: open}, {Path: "/away", Service: "away", Port: 80, Decision: open},
	}
	gateway := r.listen(Listener{Name: "gateway", Protocol: HTTP1})
	inside := r.listen(Listener{Name: "inside", Protocol: Detect, Service: "app", Port: 80, Caller: "web"})
	db := r.listen(Listener{Name: "db", Protocol: TCP, Service: "db", Port: 80, Caller: "web"})
	dns := r.listenUDP(Listener{Name: "dns", Service: "dns", Port: 80, Caller: "web"})
	r.push()
	if got := r.proxy.Calls().InFlight; len(got) != 4 || got[0].Count != 0 {
		t.Errorf("before anything came: %+v", got) // each instance is told, with 0
	}
	var wg sync.WaitGroup
	ctx, goAway := context.WithCancel(context.Background())
	defer goAway()
	ask := func(c *http.Client, url string) {
		wg.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+url, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if res, err := c.Do(req); err == nil {
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		})
	}
	over1, over2 := client(t), h2client(t)
	for range 3 {
		ask(over1, gateway+"/a/x")
		ask(over2, gateway+"/a/y")
	}
	ask(over1, gateway+"/stream")
	ask(over2, inside+"/any")
	ask(over1, gateway+"/away")
	ask(over2, gateway+"/away")
	ws, _ := dialWebSocket(t, gateway)
	conn, err := net.Dial("tcp", db)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	session, err := net.Dial("udp", dns)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	for range 2 { // of one session
		io.WriteString(session, "x")
	}
	want := map[string]int64{
		" /a/* -> app1 r3": 6, " /stream -> app1 r3": 1, "web  -> app1 r3": 1, " /ws -> chat1 r4": 1, "web  -> db1 r0": 1, "web  -> dns1 r0": 1,
		" /away -> away r0": 2,
	}
	eventually(t, "all under way", func() bool { return maps.Equal(r.flights(), want) })
	for range 8 {
		let <- true
	}
	conn.Close()
	ws.Close()
	gone := &r.snap.Services[4].Instances[0] // nothing else ends a session before it is idle
	gone.Draining, gone.DrainBy = true, time.Now()
	r.push()
	want = map[string]int64{" /away -> away r0": 2}
	eventually(t, "those that were answered have ended", func() bool { return maps.Equal(r.flights(), want) })
	goAway()
	wg.Wait()
	eventually(t, "nothing is under way", func() bool { return len(r.flights()) == 0 })
}

// TestConnectionsMadeInAdvance: what a client connects to before it has a request, or for want of one, is not in flight, starts no service
// that is scaled to nothing, and takes a request later.
func TestConnectionsMadeInAdvance(t *testing.T) {
	t.Parallel()
	var open sync.Map
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateNew {
			open.Store(c, true)
		} else {
			open.Delete(c)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	r := newRig(t, Config{})
	r.snap.Services = []Service{
		{Name: "app", Instances: []Instance{instanceAt("1", s.Listener.Addr().String())}},
		{Name: "zero", Hold: 20 * time.Second, Wakes: true},
	}
	app := r.listen(Listener{Name: "app", Protocol: Detect, Service: "app", Port: 80, Caller: "web"})
	zero := r.listen(Listener{Name: "zero", Protocol: Detect, Service: "zero", Port: 80, Caller: "web"})
	r.push()
	r.proxy.table.Load().services["zero"].setHint(80, plainHTTP)
	var conns []net.Conn
	connect := func(addr string) {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		conns = append(conns, conn)
	}
	connect(app)
	eventually(t, "before anything was said, the instance may speak", func() bool { return r.flights()["web  -> app1 r0"] == 1 })
	if status, _, kind := get(t, client(t), "http://"+app+"/"); status != 200 {
		t.Fatal(status, kind)
	}
	connect(app)
	connect(zero)
	connected := time.Now()
	eventually(t, "no instance is kept for them", func() bool {
		kept := len(r.flights())
		open.Range(func(any, any) bool { kept++; return true })
		return kept == 0 && time.Since(connected) > 2*speakHTTP
	})
	if held := r.proxy.Calls().Services["zero"].Held; held != 0 {
		t.Errorf("%d waited for a service to start", held)
	}
	r.snap.Services[1].Instances = []Instance{instanceAt("2", s.Listener.Addr().String())}
	r.push()
	for i, conn := range conns {
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if text := body(t, res, err); text != "hello" {
			t.Errorf("connection %d: %q", i, text)
		}
	}
}

// TestNothingStaysInFlight: whatever becomes of requests, and of instances under them, in the end there is nothing in flight, and there
// never was more than was asked.
func TestNothingStaysInFlight(t *testing.T) {
	t.Parallel()
	good := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/late":
			time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		case "/broken":
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "part")
			panic(http.ErrAbortHandler)
		case "/stream":
			for r.Context().Err() == nil {
				fmt.Fprint(w, "data: x\n\n")
				w.(http.Flusher).Flush()
				time.Sleep(time.Millisecond)
			}
		}
	})
	chat := rawServer(t, func(c net.Conn) {
		readHead(c)
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		io.Copy(c, c)
	})
	r := newRig(t, Config{})
	open := Decision{Auth: "none"}
	app := Service{Name: "app", Concurrency: 6, Hold: 50 * time.Millisecond}
	for i, addr := range []string{serve(t, "127.0.0.1:0", good).addr, serve(t, "127.0.0.1:0", good).addr, newBreaker(t).addr, "127.0.0.1:1"} {
		app.Instances = append(app.Instances, instanceAt(fmt.Sprint("app-", i+1), addr))
	}
	r.snap.Services = []Service{
		app, {Name: "chat", Instances: []Instance{instanceAt("chat-1", chat)}},
		{Name: "db", Instances: []Instance{instanceAt("db-1", rawServer(t, func(c net.Conn) { io.Copy(c, c) })), instanceAt("db-2", "127.0.0.1:1")}},
	}
	r.snap.Routes = []Route{
		{Path: "/late", Service: "app", Port: 80, Timeout: 10 * time.Millisecond, Try: 5 * time.Millisecond, Decision: open},
		{Path: "/ws", Service: "chat", Port: 80, Decision: open}, {Path: "/*", Service: "app", Port: 80, Decision: open},
	}
	gateway := r.listen(Listener{Name: "gateway", Protocol: HTTP1})
	inside := r.listen(Listener{Name: "inside", Protocol: Detect, Service: "app", Port: 80, Caller: "web"})
	db := r.listen(Listener{Name: "db", Protocol: Detect, Service: "db", Port: 80, Caller: "web"})
	r.push()
	over1, over2 := client(t), h2client(t)
	get := func(c *http.Client, url string, patience time.Duration) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+url, nil)
		if res, err := c.Do(req); err == nil {
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
	}
	kinds := []func(){
		func() { get(over1, gateway+"/", time.Second) },
		func() { get(over2, gateway+"/", time.Second) },
		func() { get(over1, inside+"/", time.Second) },
		func() { get(over1, gateway+"/late", 8*time.Millisecond) },
		func() { get(over2, inside+"/late", 8*time.Millisecond) },
		func() { get(over1, gateway+"/broken", time.Second) },
		func() { get(over2, gateway+"/broken", time.Second) },
		func() { get(over1, gateway+"/stream", 10*time.Millisecond) },
		func() { get(over2, inside+"/stream", 10*time.Millisecond) },
		func() { // an upgrade, and one that is left before its answer
			for _, wait := range []time.Duration{0, 5 * time.Millisecond} {
				if c, err := net.Dial("tcp", gateway); err == nil {
					io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
					time.Sleep(wait)
					c.Close()
				}
			}
		},
		func() {
			if c, err := net.Dial("tcp", db); err == nil {
				io.WriteString(c, "\x00\x01")
				c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
				c.Read(make([]byte, 2))
				c.Close()
			}
		},
	}
	const each, rounds = 3, 15
	ended := make(chan bool)
	var wg, beside sync.WaitGroup
	most := int64(0)
	beside.Go(func() { // instances come and go, and somebody looks
		for n := 1; ; n++ {
			select {
			case <-ended:
				return
			case <-time.After(5 * time.Millisecond):
			}
			sum := int64(0)
			for _, f := range r.proxy.Calls().InFlight {
				if f.Count < 0 {
					t.Errorf("%+v", f)
				}
				sum += f.Count
			}
			most = max(most, sum)
			if n%5 == 0 {
				inst := &r.snap.Services[0].Instances[n/5%2]
				inst.ID, inst.Revision = fmt.Sprint("app-", n), int64(n)
				r.push()
			}
		}
	})
	for _, kind := range kinds {
		for range each {
			wg.Go(func() {
				for range rounds {
					kind()
				}
			})
		}
	}
	wg.Wait()
	close(ended)
	beside.Wait()
	eventually(t, "nothing is in flight", func() bool { return len(r.flights()) == 0 })
	st := r.proxy.Status()
	if len(st.InUse) > 0 || st.Holding > 0 {
		t.Errorf("in use %v, %d wait", st.InUse, st.Holding)
	}
	if most == 0 || most > int64(2*each*len(kinds)) { // a connection may be seen ended by the client before it has ended here
		t.Errorf("%d were seen in flight of %d at most", most, each*len(kinds))
	}
	if n := r.proxy.Status().Counters["app"].Retries; n == 0 {
		t.Error("nothing was tried again")
	}
}

// TestFaultsLeaveNothingInFlight: a request that runs into a fault of ours when it has its instance leaves that.
func TestFaultsLeaveNothingInFlight(t *testing.T) {
	b := serveFunc(t, func(http.ResponseWriter, *http.Request) {})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	inst := r.proxy.table.Load().services["app"].instances["app-1"]
	sound := inst.conf.Swap(nil) // whoever connects panics
	status, _, kind := get(t, client(t), "http://"+addr+"/")
	inst.conf.Store(sound)
	if status != 500 || kind != kindFault {
		t.Errorf("%d %s", status, kind)
	}
	if n := inst.inUse.Load(); n != 0 || len(r.flights()) > 0 {
		t.Errorf("in use %d, in flight %v", n, r.flights())
	}
}

// BenchmarkSeat is what counting by way adds to a request, at an instance that knows so many ways, of which it comes the last.
func BenchmarkSeat(b *testing.B) {
	for _, n := range []int{1, 10, maxWays} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newTestService(Service{Instances: []Instance{{ID: "a", Host: "h", Ready: true}}})
			inst := s.instances["a"]
			last := way{}
			for i := range n {
				last = way{caller: "web", route: fmt.Sprint("/api/courses/", i)}
				inst.seat(last)
			}
			b.ReportAllocs()
			for b.Loop() {
				inst.inUse.Add(1)
				inst.seat(last).leave()
			}
		})
	}
}
