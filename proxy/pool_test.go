package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// keepAlive is an instance that answers every request on a connection until it is closed, and counts connections.
type keepAlive struct {
	addr  string
	conns atomic.Int32
	open  atomic.Int32
}

func newKeepAlive(t testing.TB, extra string) *keepAlive {
	k := &keepAlive{}
	k.addr = rawServer(t, func(c net.Conn) {
		k.conns.Add(1)
		k.open.Add(1)
		defer k.open.Add(-1)
		br := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"+extra+"\r\nok")
		}
	})
	return k
}

func TestConnectionsAreReused(t *testing.T) {
	for name, c := range map[string]struct {
		extra string
		want  int32
	}{"kept": {"", 1}, "closed": {"Connection: close\r\n", 5}, "kept for a second": {"Keep-Alive: timeout=1\r\n", 5}, "kept for a minute": {"Keep-Alive: max=5, timeout=60\r\n", 1}} {
		up := newKeepAlive(t, c.extra)
		r := newRig(t, Config{})
		addr := r.gateway(instanceAt("app-1", up.addr))
		for range 5 {
			get(t, client(t), "http://"+addr+"/")
		}
		if got := up.conns.Load(); got != c.want {
			t.Errorf("%s: %d connections for 5 requests, want %d", name, got, c.want)
		}
	}
}

// TestIdleConnectionsGo: they close the moment an instance drains, turns unready or leaves, and when they are old.
func TestIdleConnectionsGo(t *testing.T) {
	for name, change := range map[string]func(r *rig){
		"drains":  func(r *rig) { r.snap.Services[0].Instances[0].Draining = true; r.push() },
		"unready": func(r *rig) { r.snap.Services[0].Instances[0].Ready = false; r.push() },
		"leaves":  func(r *rig) { r.snap.Services[0].Instances = nil; r.push() },
		"service leaves": func(r *rig) {
			r.snap.Services, r.snap.Routes = nil, nil
			r.push()
		},
		"old": func(r *rig) {
			for _, inst := range r.proxy.table.Load().services["app"].all() {
				inst.expire(time.Now().Add(idleTime + time.Second))
			}
		},
	} {
		up := newKeepAlive(t, "")
		r := newRig(t, Config{})
		addr := r.gateway(instanceAt("app-1", up.addr))
		get(t, client(t), "http://"+addr+"/")
		if up.open.Load() != 1 {
			t.Fatalf("%s: %d connections after a request", name, up.open.Load())
		}
		change(r)
		eventually(t, name+": closed", func() bool { return up.open.Load() == 0 })
	}
}

// TestConnectsAreBounded: hundreds of requests at once wait for connects or for connections that become free.
func TestConnectsAreBounded(t *testing.T) {
	up := newKeepAlive(t, "")
	r := newRig(t, Config{})
	r.gateway(instanceAt("app-1", up.addr))
	inst := r.proxy.table.Load().services["app"].all()[0]
	p := inst.pool(80)
	for range maxDials {
		p.dials <- struct{}{} // all under way
	}
	got := make(chan *upstream)
	go func() {
		c, reused, err := p.plain.get(context.Background(), false)
		if err != nil || !reused {
			t.Errorf("reused %v, %v", reused, err)
		}
		got <- c
	}()
	conn, err := net.Dial("tcp", up.addr)
	if err != nil {
		t.Fatal(err)
	}
	c := newUpstream(conn.(*net.TCPConn))
	c.begin(&p.plain)
	for {
		p.plain.put(c, time.Now())
		if p.plain.pop() == nil {
			break // it was waited for
		}
		time.Sleep(time.Millisecond)
	}
	if given := <-got; given != c {
		t.Error("another connection")
	}
	c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := p.plain.get(ctx, false); err == nil {
		t.Error("a connect beyond the bound")
	}
	for range maxDials {
		<-p.dials
	}
}

// TestSilentConnects: connects that time out take an instance out only when several in a row do.
func TestSilentConnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestService(Service{Instances: []Instance{{ID: "a", Host: "h", Ready: true}}})
		defer s.close()
		a := s.instances["a"].pool(80)
		for range 10 {
			a.unanswered()
			a.unanswered()
			a.connected()
		}
		if s.lane(80).acquire(nil) == nil {
			t.Fatal("out though every third connect succeeded")
		}
		for range silentToEject {
			a.unanswered()
		}
		if s.lane(80).acquire(nil) != nil {
			t.Error("not out after three in a row")
		}
	})
}

func TestNoFilesLeak(t *testing.T) {
	count := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	up := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	round := func() {
		r := newRig(t, Config{})
		addr := r.gateway(instanceAt("app-1", up.addr))
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				tr := &http.Transport{DisableKeepAlives: true}
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				pr, pw := io.Pipe()
				go func() { fmt.Fprint(pw, "x"); pw.CloseWithError(io.EOF) }()
				var src io.Reader = strings.NewReader("x")
				if i%2 == 0 {
					src = pr
				}
				req, _ := http.NewRequestWithContext(ctx, "POST", "http://"+addr+"/", src)
				if i%3 == 0 {
					go cancel()
				}
				if res, err := (&http.Client{Transport: tr}).Do(req); err == nil {
					res.Body.Close()
				}
				pr.Close()
			})
		}
		wg.Wait()
		r.stop()
	}
	round()
	eventually(t, "settled", func() bool { before := count(); time.Sleep(20 * time.Millisecond); return count() == before })
	before := count()
	for range 5 {
		round()
	}
	eventually(t, "as many files as before", func() bool { return count() <= before })
}

func TestUpgradesThatStayHere(t *testing.T) {
	up := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s%s%s", r.Header["Upgrade"], r.Header["Connection"], r.Header["Http2-Settings"])
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", up.addr))
	for _, upgrade := range []string{"h2c", "H2C", "websocket, h2c", "TLS/1.0", "HTTP/2.0"} {
		req, _ := http.NewRequest("GET", "http://"+addr+"/", nil)
		req.Header.Set("Upgrade", upgrade)
		req.Header.Set("Connection", "Upgrade, HTTP2-Settings")
		req.Header.Set("Http2-Settings", "x")
		res, err := client(t).Do(req)
		if got := body(t, res, err); got != "[][][]" {
			t.Errorf("%s: upstream saw %q", upgrade, got)
		}
	}
}
