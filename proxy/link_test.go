package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"trellis/identity"
)

// hosts are two data planes: the one here calls instances that the other one leads to.
type hosts struct {
	*mutualRig
	far  *rig
	door string // of the far data plane
}

func newHosts(t testing.TB) *hosts {
	t.Helper()
	h := &hosts{mutualRig: newMutualRig(t)}
	h.far = newRig(t, Config{Log: slog.New(slog.NewTextHandler(h.log, nil))})
	h.far.proxy.known.lookAgain = h.proxy.known.lookAgain
	h.snap.Mesh = h.mesh()
	h.far.snap.Mesh = h.mesh()
	h.door = h.far.listen(Listener{Name: "link", Protocol: Link})
	return h
}

func (m *mutualRig) mesh() *Mesh {
	return &Mesh{Domain: "test", Identities: filepath.Join(m.dir, "issued")}
}

// serves makes a service of both sides: with these instances there, and nothing of them here but their names.
func (h *hosts) serves(s Service) {
	h.far.snap.Services = append(h.far.snap.Services, s)
	here := s
	here.Instances = nil
	for _, inst := range s.Instances {
		here.Instances = append(here.Instances, Instance{ID: inst.ID, Host: "192.0.2.1", Plane: h.door, Ready: true}) // nobody has that address (RFC 5737)
	}
	h.snap.Services = append(h.snap.Services, here)
}

func (h *hosts) publish() {
	h.far.push()
	h.push()
}

// TestLink: HTTP/1.1, HTTP/2, a server that speaks first, WebSockets and programs that ask for mutual TLS, all by way of
// the data plane of their host.
func TestLink(t *testing.T) {
	t.Parallel()
	h := newHosts(t)
	plain := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d", r.Proto, r.Header.Get("X-Forwarded-For"), len(b))
	})
	greeter := listenFunc(t, func(c net.Conn) {
		fmt.Fprint(c, "hello\n")
		line, _ := bufio.NewReader(c).ReadString('\n')
		fmt.Fprint(c, "heard ", line)
	})
	h.serves(Service{Name: "app", Instances: []Instance{instanceAt("app-1", plain.addr)}})
	two := instanceAt("web-1", plain.addr)
	h.serves(Service{Name: "web", Instances: []Instance{two}, HTTP2: []int{80}})
	h.serves(Service{Name: "api", Instances: []Instance{instanceAt("api-1", greeter)}})
	h.issue("/service/app2", "/service/app2", time.Now())
	m := h.mutual()
	m.ID = identity.ServiceID("test", "app2")
	h.serves(Service{Name: "app2", Instances: []Instance{h.program(h.config("/service/app2"))}, Mutual: m})
	h.snap.Routes = []Route{{Service: "app", Port: 80, Decision: Decision{Auth: "none"}}}
	gateway := h.listen(Listener{Name: "gateway", Protocol: HTTP1})
	first := h.listen(Listener{Name: "first", Protocol: Detect, Service: "app", Port: 80, Caller: "web"})
	second := h.listen(Listener{Name: "second", Protocol: Detect, Service: "web", Port: 80, Caller: "api"})
	third := h.listen(Listener{Name: "third", Protocol: Detect, Service: "api", Port: 80, Caller: "web"})
	fourth := h.listen(Listener{Name: "fourth", Protocol: Detect, Service: "app2", Port: 80, Caller: "web"})
	h.publish()
	c := client(t)
	for range 3 { // over links that were used before too
		for addr, want := range map[string]string{gateway: "HTTP/1.1 127.0.0.1 100000", first: "HTTP/1.1  100000", second: "HTTP/2.0  100000"} {
			res, err := c.Post("http://"+addr+"/", "", strings.NewReader(strings.Repeat("x", 100_000)))
			if got := body(t, res, err); got != want {
				t.Errorf("%s: %d %q, want %q", addr, res.StatusCode, got, want)
			}
		}
		if status, text := shownAt(t, c, fourth); status != 200 || !strings.HasPrefix(text, "spiffe://test/service/web HTTP/1.1 ") {
			t.Errorf("mutual TLS over a link: %d %q", status, text)
		}
		conn, err := net.Dial("tcp", third)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		in := bufio.NewReader(conn)
		line, _ := in.ReadString('\n')
		fmt.Fprint(conn, "you\n")
		rest, err := io.ReadAll(in)
		if line != "hello\n" || string(rest) != "heard you\n" || err != nil {
			t.Errorf("%q %q %v", line, rest, err)
		}
		conn.Close()
	}
	for _, s := range []string{"app", "web", "api", "app2"} {
		if n := h.far.proxy.Status().Counters[s].Connections; n == 0 {
			t.Errorf("no link led to %s", s)
		}
	}
}

// listenFunc serves connections with f until the test ends, and returns the address.
func listenFunc(t testing.TB, f func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				f(c)
			})
		}
	})
	t.Cleanup(serving.Wait)
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String()
}

// TestLinkAsksTheList: the far data plane has the list of who may call whom too, and keeps to it whatever the calling one
// says; a link that was made before ends.
func TestLinkAsksTheList(t *testing.T) {
	t.Parallel()
	h := newHosts(t)
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		if r.URL.Path == "/wait" {
			<-r.Context().Done()
		}
	})
	h.serves(Service{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}})
	h.far.snap.Mesh.Calls = map[string][]string{"web": {"app"}}
	h.snap.Routes = []Route{{Service: "app", Port: 80, Decision: Decision{Auth: "none"}}}
	gateway := h.listen(Listener{Name: "gateway", Protocol: HTTP1})
	web := h.listen(Listener{Name: "web", Protocol: Detect, Service: "app", Port: 80, Caller: "web"})
	api := h.listen(Listener{Name: "api", Protocol: Detect, Service: "app", Port: 80, Caller: "api"})
	h.publish()
	c := client(t)
	for addr, want := range map[string]int{gateway: 200, web: 200, api: 503} {
		if status, kind := shownAt(t, c, addr); status != want || want == 503 && kind != kindIdentity {
			t.Errorf("%s: %d %s, want %d", addr, status, kind, want)
		}
	}
	if got, _ := h.far.proxy.refusals.since(0); len(got) != 1 || got[0] != (Refusal{Caller: "api", Callee: "app", Count: 1}) {
		t.Errorf("refused: %v", got)
	}
	res, err := c.Get("http://" + web + "/wait")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	mesh := *h.far.snap.Mesh
	mesh.Calls = map[string][]string{"api": {"app"}}
	h.far.snap.Mesh = &mesh
	h.far.push()
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("a call went on that is not allowed any more")
	}
	for addr, want := range map[string]int{gateway: 200, web: 503, api: 200} {
		if status, kind := shownAt(t, c, addr); status != want {
			t.Errorf("%s: %d %s, want %d", addr, status, kind, want)
		}
	}
}

// TestLinkFailsClosed: without a proof from both ends nothing is called, and nothing goes to the instance's own address.
func TestLinkFailsClosed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, reason string
		broken       func(h *hosts)
	}{
		{"the far end is another service", "not spiffe://test/service/app", func(h *hosts) { h.issue("/service/app", "/service/web", time.Now()) }},
		{"the far end has expired", "has expired|remote error", func(h *hosts) { h.issue("/service/app", "/service/app", time.Now().Add(-25*time.Hour)) }},
		{"ours has expired", "has expired or is not yet valid", func(h *hosts) { h.issue("/gateway", "/gateway", time.Now().Add(-25*time.Hour)) }},
		{"ours is not there", "not found", func(h *hosts) { h.snap.Mesh.Identities += "/nowhere" }},
		{"ours is of another authority", "unknown authority", func(h *hosts) {
			h.open("foreign", time.Now())
			h.snap.Mesh.Identities = filepath.Join(h.dir, "other")
			f, err := h.domain.Issue("/gateway", nil, time.Now())
			if err == nil {
				f.Bundle, err = os.ReadFile(filepath.Join(h.dir, "authority", "1", "root.crt")) // it would believe the far end
			}
			if err == nil {
				err = f.Write(filepath.Join(h.snap.Mesh.Identities, "gateway"))
			}
			if err != nil {
				h.t.Fatal(err)
			}
		}},
		{"a certificate that is nobody's", "does not let", func(h *hosts) { h.issue("/gateway", "/somebody", time.Now()) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHosts(t)
			asked := atomic.Int64{}
			b := serveFunc(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
			h.serves(Service{Name: "app", Hold: 200 * time.Millisecond, Instances: []Instance{instanceAt("app-1", b.addr)}})
			h.snap.Services[0].Instances[0].Host = "127.0.0.1" // where it could be reached
			h.snap.Services[0].Instances[0].PortMap = h.far.snap.Services[0].Instances[0].PortMap
			h.snap.Routes = []Route{{Service: "app", Port: 80, Decision: Decision{Auth: "none"}}}
			c.broken(h)
			addr := h.listen(Listener{Name: "gateway", Protocol: HTTP1})
			h.publish()
			if status, kind := shownAt(t, client(t), addr); status != 503 {
				t.Errorf("answered %d %s", status, kind)
			}
			if n := asked.Load(); n > 0 {
				t.Errorf("the instance was asked %d times", n)
			}
			said := false
			for reason := range strings.SplitSeq(c.reason, "|") {
				said = said || strings.Contains(h.log.String(), reason)
			}
			if !said {
				t.Errorf("the log says: %s", h.log.String())
			}
		})
	}
}

// TestLinkTakesNobodyElse: who comes to the door without a certificate of the project, or speaks no TLS, gets nothing.
func TestLinkTakesNobodyElse(t *testing.T) {
	t.Parallel()
	h := newHosts(t)
	b := serveFunc(t, func(http.ResponseWriter, *http.Request) { t.Error("somebody was served") })
	h.serves(Service{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}})
	h.publish()
	conn, err := net.Dial("tcp", h.door)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: app\r\n\r\n")
	if got, _ := io.ReadAll(conn); strings.Contains(string(got), "HTTP") {
		t.Errorf("plain: %q", got)
	}
	conn.Close()
	h.open("foreign", time.Now())
	h.issue("/foreign", "/gateway", time.Now())
	pair, err := tls.LoadX509KeyPair(filepath.Join(h.folder("/foreign"), identity.ChainFile), filepath.Join(h.folder("/foreign"), identity.KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, conf := range []*tls.Config{
		{InsecureSkipVerify: true, ServerName: "app.service", NextProtos: []string{linkProtocol}, Certificates: []tls.Certificate{pair}},
		{InsecureSkipVerify: true, ServerName: "app.service", NextProtos: []string{linkProtocol}},
		{InsecureSkipVerify: true, ServerName: "app.service"},
		{InsecureSkipVerify: true, ServerName: "nobody.service", NextProtos: []string{linkProtocol}},
	} {
		conn, err := tls.Dial("tcp", h.door, conf)
		if err != nil {
			continue
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if answer, err := askLink(conn, "app-1", 80, true); err == nil {
			t.Errorf("answered %d", answer)
		}
		conn.Close()
	}
}

// TestLinkNextInstance: an instance that its data plane does not know, one that refuses connections, and one behind a data
// plane that is not there, cost no request: the others get them, and those only.
func TestLinkNextInstance(t *testing.T) {
	t.Parallel()
	h := newHosts(t)
	asked := atomic.Int64{}
	b := serveFunc(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	gone := serveFunc(t, nil)
	gone.srv.Close()
	h.serves(Service{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr), instanceAt("app-2", gone.addr), instanceAt("app-3", b.addr), instanceAt("app-4", b.addr)}})
	far := &h.far.snap.Services[0]
	far.Instances = far.Instances[:3]
	far.Instances[2].Ready = false
	h.snap.Services[0].Instances = append(h.snap.Services[0].Instances, Instance{ID: "app-5", Host: "192.0.2.1", Plane: gone.addr, Ready: true})
	h.snap.Routes = []Route{{Service: "app", Port: 80, Decision: Decision{Auth: "none"}}}
	addr := h.listen(Listener{Name: "gateway", Protocol: HTTP1})
	h.publish()
	c := client(t)
	const n = 50
	for range n {
		res, err := c.Post("http://"+addr+"/", "", strings.NewReader("once"))
		if body(t, res, err); res.StatusCode != 200 {
			t.Fatal(res.Status, res.Header)
		}
	}
	if asked.Load() != n {
		t.Errorf("the instance was asked %d times", asked.Load())
	}
}

// TestLinkNeverArrived: an instance that has closed a connection between two requests, of which the calling data plane may
// not know yet, loses none and gets none twice, though none may be repeated that it could have had.
func TestLinkNeverArrived(t *testing.T) {
	t.Parallel()
	h := newHosts(t)
	var served atomic.Int64
	closed := make(chan struct{}, 1)
	addr := listenFunc(t, func(c net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		io.Copy(io.Discard, req.Body)
		served.Add(1)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		c.Close()
		closed <- struct{}{}
	})
	h.serves(Service{Name: "app", Instances: []Instance{instanceAt("app-1", addr)}})
	h.snap.Routes = []Route{{Service: "app", Port: 80, Decision: Decision{Auth: "none"}}}
	gateway := h.listen(Listener{Name: "gateway", Protocol: HTTP1})
	h.publish()
	c := client(t)
	const n = 60
	for i := range n {
		res, err := c.Post("http://"+gateway+"/", "", strings.NewReader("once"))
		if got := body(t, res, err); got != "ok" {
			t.Fatalf("request %d: %d %q", i, res.StatusCode, got)
		}
		<-closed
	}
	if served.Load() != n {
		t.Errorf("%d requests were served of %d", served.Load(), n)
	}
}

// TestDelivery: what an instance that has ended got of what was written to it.
func TestDelivery(t *testing.T) {
	for _, c := range []struct {
		name   string
		end    func(*net.TCPConn)
		first  []string // what is written before its end is read
		unused bool
		got    string // what it reads after its end
	}{
		{name: "closed, and then written to", end: func(c *net.TCPConn) { c.Close() }, first: []string{"request"}, unused: true},
		{name: "closed, and then written to in parts", end: func(c *net.TCPConn) { c.Close() }, first: []string{"head", "body"}, unused: true},
		{name: "closed, and its end was seen", end: func(c *net.TCPConn) { c.Close() }, unused: true},
		{name: "half-closed, reads on", end: func(c *net.TCPConn) { c.CloseWrite() }, first: []string{"requ", "est"}, got: "request"},
		{name: "half-closed, and its end was seen", end: func(c *net.TCPConn) { c.CloseWrite() }, unused: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ended, got := make(chan struct{}), make(chan string, 1)
			addr := listenFunc(t, func(conn net.Conn) {
				io.ReadFull(conn, make([]byte, 5))
				io.WriteString(conn, "answer")
				c.end(conn.(*net.TCPConn))
				close(ended)
				b, _ := io.ReadAll(conn)
				got <- string(b)
			})
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			d := &delivery{TCPConn: conn.(*net.TCPConn), one: true, writing: make(chan struct{}, 1)}
			io.WriteString(d, "hello")
			if _, err := io.ReadFull(d, make([]byte, 6)); err != nil {
				t.Fatal(err)
			}
			<-ended
			for _, part := range c.first {
				if _, err := io.WriteString(d, part); err != nil {
					t.Error(err)
				}
			}
			if _, err := d.Read(make([]byte, 1)); err != io.EOF {
				t.Fatal(err)
			}
			if c.first == nil {
				if _, err := io.WriteString(d, "request"); err != nil {
					t.Error(err)
				}
			}
			conn.Close()
			if d.unused() != c.unused {
				t.Errorf("unused: %v", d.unused())
			}
			if text := <-got; text != c.got {
				t.Errorf("it got %q, not %q", text, c.got)
			}
		})
	}
}

// TestDrainWaitsForNoIdleLink: links that nobody uses end soon after their data plane goes away, long before its grace time.
func TestDrainWaitsForNoIdleLink(t *testing.T) {
	t.Parallel()
	h := newHosts(t)
	b := serveFunc(t, func(http.ResponseWriter, *http.Request) {})
	h.serves(Service{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}})
	h.serves(Service{Name: "web", Instances: []Instance{instanceAt("web-1", b.addr)}, HTTP2: []int{80}})
	var doors []string
	for _, name := range []string{"app", "web"} {
		doors = append(doors, h.listen(Listener{Name: name, Protocol: Detect, Service: name, Port: 80, Caller: "api"}))
	}
	h.publish()
	for _, door := range doors {
		if status, _, _ := get(t, client(t), "http://"+door+"/"); status != 200 {
			t.Fatalf("answered %d", status)
		}
	}
	if n := h.far.proxy.streams.len(); n != len(doors) {
		t.Fatalf("%d links", n)
	}
	h.far.proxy.cfg.Grace = 15 * time.Second
	began := time.Now()
	h.far.stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("gone after %s", took)
	}
}

// TestLinkDrain: while the far data plane is replaced again and again, nothing is lost, and each is gone when its links carry nothing,
// long before its grace time.
func TestLinkDrain(t *testing.T) {
	t.Parallel()
	h := newHosts(t)
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "ok")
	})
	h.serves(Service{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}})
	h.serves(Service{Name: "web", Instances: []Instance{instanceAt("web-1", b.addr)}, HTTP2: []int{80}})
	doors := []string{
		h.listen(Listener{Name: "app", Protocol: Detect, Service: "app", Port: 80, Caller: "api"}),
		h.listen(Listener{Name: "web", Protocol: Detect, Service: "web", Port: 80, Caller: "api"}),
	}
	h.publish()
	h.far.proxy.cfg.Grace = 15 * time.Second
	c := client(t)
	stop := make(chan struct{})
	done := make(chan int)
	for _, door := range doors {
		go func() {
			n := 0
			for {
				select {
				case <-stop:
					done <- n
					return
				default:
				}
				res, err := c.Post("http://"+door+"/", "", strings.NewReader("once"))
				if err != nil {
					t.Error(err)
					continue
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if res.StatusCode != 200 {
					t.Errorf("%s %v", res.Status, res.Header)
				}
				n++
			}
		}()
	}
	for range 3 {
		time.Sleep(50 * time.Millisecond) // some traffic over the one that is there
		next := newRig(t, Config{Grace: 15 * time.Second})
		next.snap = h.far.snap
		for name, ln := range h.far.sockets {
			next.sockets[name] = ln
			next.handOver(next.feed, name)
		}
		next.push()
		h.far.sockets = nil
		began := time.Now()
		h.far.stop()
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("gone after %s", took)
		}
		h.far = next
	}
	close(stop)
	for range doors {
		if n := <-done; n == 0 {
			t.Error("no request was made")
		}
	}
}

// TestLinkRotationUnderStreams: 1,000 streams over links go on while every certificate, and then the root, is replaced
// again and again, and what is new goes over links that show the newest.
func TestLinkRotationUnderStreams(t *testing.T) {
	t.Parallel()
	h := newHosts(t)
	b := serveFunc(t, echoLines)
	h.serves(Service{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}, HTTP2: []int{80}})
	addr := h.listen(Listener{Name: "web", Protocol: Detect, Service: "app", Port: 80, Caller: "web"})
	h.publish()
	seen := map[string]bool{}
	for _, who := range []string{"/service/web", identity.GatewayPath} { // what is there before
		f, err := identity.ReadFiles(h.folder(who))
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(f.Chain, f.Key)
		if err != nil {
			t.Fatal(err)
		}
		seen[pair.Leaf.SerialNumber.String()] = true
	}
	h.rotateUnderStreams(addr, func(c *http.Client) string {
		res, err := c.Get("http://" + addr + "/")
		if body(t, res, err); res.StatusCode != 200 {
			return ""
		}
		for _, l := range h.far.proxy.links.list() {
			if serial := l.ConnectionState().PeerCertificates[0].SerialNumber.String(); !seen[serial] {
				seen[serial] = true
				return serial
			}
		}
		return ""
	})
}
