package proxy

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testFeed hands a data plane what a test gives it.
type testFeed struct{ ch chan Update }

func (f *testFeed) Follow(ctx context.Context, update func(Update)) error {
	for {
		select {
		case u := <-f.ch:
			update(u)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// rig is a running data plane and what it is fed with.
type rig struct {
	t       testing.TB
	proxy   *Proxy
	feed    *testFeed
	snap    Snapshot
	sockets map[string]*net.TCPListener
	stop    func()
}

// newRig starts a data plane that ends with the test.
func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	r := &rig{t: t, feed: &testFeed{ch: make(chan Update)}, sockets: map[string]*net.TCPListener{}}
	r.snap = Snapshot{Project: "test", Epoch: 1}
	cfg.Feed = r.feed
	if os.Getenv("PROXY_TEST_LOG") != "" {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if cfg.Linger == 0 {
		cfg.Linger = 200 * time.Millisecond
	}
	if cfg.Grace == 0 {
		cfg.Grace = 2 * time.Second
	}
	r.proxy = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.proxy.Run(ctx) }()
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("Run: %v", err)
				}
			case <-time.After(20 * time.Second):
				var all strings.Builder
				_ = pprof.Lookup("goroutine").WriteTo(&all, 1)
				t.Errorf("Run has not returned:\n%s", &all)
			}
			for _, l := range r.sockets {
				l.Close()
			}
		})
	}
	t.Cleanup(r.stop)
	return r
}

// listen opens a socket, hands a copy over, and names it in the next snapshot. It returns its address.
func (r *rig) listen(l Listener) string {
	r.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	tcp := ln.(*net.TCPListener)
	r.sockets[l.Name] = tcp
	l.Address = ln.Addr().String()
	r.snap.Listeners = append(r.snap.Listeners, l)
	r.handOver(r.feed, l.Name)
	return l.Address
}

func (r *rig) handOver(feed *testFeed, name string) {
	r.t.Helper()
	f, err := r.sockets[name].File()
	if err != nil {
		r.t.Fatal(err)
	}
	feed.ch <- Update{Sockets: map[string]*os.File{name: f}}
}

// push publishes the snapshot as it is now.
func (r *rig) push() {
	r.snap.Version++
	s := r.snap
	s.Listeners = append([]Listener(nil), s.Listeners...)
	s.Services = append([]Service(nil), s.Services...)
	for i := range s.Services {
		s.Services[i].Instances = append([]Instance(nil), s.Services[i].Instances...)
	}
	r.feed.ch <- Update{Snapshot: &s}
	eventually(r.t, "snapshot applied", func() bool { return r.proxy.table.Load().version == s.Version })
}

// gateway opens a gateway whose every request goes to the service "app", and publishes it.
func (r *rig) gateway(instances ...Instance) string {
	r.t.Helper()
	r.snap.Services = []Service{{Name: "app", Instances: instances}}
	r.snap.Routes = []Route{{Service: "app", Port: 80, Decision: Decision{Auth: "none"}}}
	addr := r.listen(Listener{Name: "gateway", Protocol: HTTP1})
	r.push()
	return addr
}

// instanceAt describes a ready instance behind an address, reached as port 80 of its service.
func instanceAt(id, addr string) Instance {
	host, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.Atoi(port)
	return Instance{ID: id, Host: host, PortMap: map[int]int{80: n}, Ready: true}
}

// backend is an HTTP server on loopback.
type backend struct {
	addr string
	srv  *http.Server
	ln   net.Listener
}

// reserve returns an address on loopback that is the test's until its end, though nobody listens there: a socket is bound to it
// that never listens, so that nobody is given the port who asks for any. But for Linux it is only likely to stay free.
func reserve(t testing.TB) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.CloseOnExec(fd)
	if end := func() { unix.Close(fd) }; runtime.GOOS == "linux" {
		t.Cleanup(end)
	} else { // no other socket could be bound beside it
		defer end()
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil { // others may then bind who ask for it by name
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint("127.0.0.1:", at.(*unix.SockaddrInet4).Port)
}

// serve serves at an address, which is the test's until its end where it is any of loopback.
func serve(t testing.TB, addr string, h http.Handler) *backend {
	t.Helper()
	if addr == "127.0.0.1:0" {
		addr = reserve(t)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	b := &backend{addr: ln.Addr().String(), srv: &http.Server{Handler: h, Protocols: &p, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}, ln: ln}
	go b.srv.Serve(ln)
	t.Cleanup(func() { b.srv.Close() })
	return b
}

func serveFunc(t testing.TB, h http.HandlerFunc) *backend { return serve(t, "127.0.0.1:0", h) }

// client is an HTTP client without retries of ours; its idle connections end with the test.
func client(t testing.TB) *http.Client {
	tr := &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func body(t testing.TB, res *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within 10 s: %s", what)
}

func TestGatewayPassesARequestOn(t *testing.T) {
	var seen *http.Request
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		seen = r
		data, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Answer", "42")
		w.WriteHeader(201)
		w.Write(append([]byte("got "), data...))
	})
	r := newRig(t, Config{Status: filepath.Join(t.TempDir(), "s.sock"), ExposeInstance: true})
	addr := r.gateway(instanceAt("app-1", b.addr))
	req, _ := http.NewRequest("POST", "http://"+addr+"/a/b?c=d", strings.NewReader("hello"))
	req.Header.Set("X-Forwarded-For", "6.6.6.6")
	req.Header.Set("X_Forwarded_For", "6.6.6.6")
	req.Header.Set("Connection", "X-Secret")
	req.Header.Set("X-Secret", "1")
	res, err := client(t).Do(req)
	if got := body(t, res, err); got != "got hello" || res.StatusCode != 201 || res.Header.Get("X-Answer") != "42" {
		t.Fatalf("answer %d %q %v", res.StatusCode, got, res.Header)
	}
	if res.Header.Get(InstanceHeader) != "app-1" || res.Header.Get(ErrorHeader) != "" {
		t.Errorf("response header: %v", res.Header)
	}
	if seen.URL.RequestURI() != "/a/b?c=d" || seen.Host != addr {
		t.Errorf("upstream saw %s %s", seen.Host, seen.URL)
	}
	if ff := seen.Header["X-Forwarded-For"]; len(ff) != 1 || ff[0] != "127.0.0.1" {
		t.Errorf("X-Forwarded-For: %q", ff)
	}
	for _, k := range []string{"X_forwarded_for", "X-Secret", "Connection"} {
		if seen.Header[k] != nil {
			t.Errorf("%s went on: %q", k, seen.Header[k])
		}
	}
	if len(seen.Header.Get("X-Request-Id")) != 32 {
		t.Errorf("X-Request-Id: %q", seen.Header.Get("X-Request-Id"))
	}
}

// parseAddrs reads addresses.
func parseAddrs(t testing.TB, texts ...string) []netip.Addr {
	t.Helper()
	var all []netip.Addr
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	return all
}

// pipes starts a process, whose input and output are the caller's.
func pipes(t testing.TB, cmd *exec.Cmd) (in io.WriteCloser, out io.ReadCloser) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if out, err = cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return in, out
}
