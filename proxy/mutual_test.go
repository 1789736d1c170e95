package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"trellis/identity"
)

// mutualRig is a data plane whose service app speaks mutual TLS, and the authority of who has which certificate.
type mutualRig struct {
	*rig
	t      testing.TB
	dir    string
	domain *identity.Domain
	log    *lockedBuffer
	ids    sync.Map // remote address at the instance to who has shown up there
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newMutualRig(t testing.TB) *mutualRig {
	t.Helper()
	m := &mutualRig{t: t, dir: t.TempDir(), log: &lockedBuffer{}}
	m.rig = newRig(t, Config{Log: slog.New(slog.NewTextHandler(m.log, nil))})
	m.proxy.known.lookAgain = 100 * time.Millisecond // before the first connection
	m.open("authority", time.Now().Add(-48*time.Hour))
	for _, who := range []string{identity.GatewayPath, "/service/web", "/service/api", "/service/app"} {
		m.issue(who, who, time.Now())
	}
	return m
}

// open makes another authority the one that issues.
func (m *mutualRig) open(name string, now time.Time) {
	m.t.Helper()
	var err error
	if m.domain, err = identity.OpenDomain(filepath.Join(m.dir, name), "test", now); err != nil {
		m.t.Fatal(err)
	}
}

// issue gives who the certificate of a path, as of a time.
func (m *mutualRig) issue(who, path string, now time.Time) {
	m.t.Helper()
	f, err := m.domain.Issue(path, nil, now)
	if err == nil {
		err = f.Write(m.folder(who))
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *mutualRig) folder(who string) string {
	return filepath.Join(m.dir, "issued", filepath.FromSlash(who))
}

// config is what the program of an instance makes of its files, read for every handshake.
func (m *mutualRig) config(who string) *tls.Config {
	return &tls.Config{NextProtos: []string{"h2", "http/1.1"}, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		f, err := identity.ReadFiles(m.folder(who))
		if err != nil {
			return nil, err
		}
		s, err := identity.ParseSVID(f, time.Now())
		if err != nil {
			return nil, err
		}
		return s.Server(time.Now, nil), nil
	}}
}

// echoLines answers each line of a request as soon as it is there.
func echoLines(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	rc.EnableFullDuplex()
	rc.Flush()
	for in := bufio.NewReader(r.Body); ; {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		io.WriteString(w, line)
		rc.Flush()
	}
}

// program starts an instance of app that answers with who has called it, and echoes streams.
func (m *mutualRig) program(conf *tls.Config) Instance {
	m.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	srv := &http.Server{ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0), TLSConfig: conf, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.TLS.PeerCertificates[0].URIs[0].String()
		if was, known := m.ids.LoadOrStore(r.RemoteAddr, id); known && was != id {
			m.t.Errorf("a connection of %v carried a request of %s", was, id)
		}
		switch {
		case r.URL.Path == "/echo":
			echoLines(w, r)
		default:
			fmt.Fprint(w, id, " ", r.Proto, " ", r.TLS.PeerCertificates[0].SerialNumber)
		}
	})}
	go srv.ServeTLS(ln, "", "")
	m.t.Cleanup(func() { srv.Close() })
	return instanceAt("app-"+ln.Addr().String(), ln.Addr().String())
}

func (m *mutualRig) mutual() *Mutual {
	return &Mutual{ID: identity.ServiceID("test", "app"), Identities: filepath.Join(m.dir, "issued")}
}

// shownAt returns the status and body that a door answers with, or the kind of its failure.
func shownAt(t testing.TB, c *http.Client, addr string) (int, string) {
	t.Helper()
	res, err := c.Get("http://" + addr + "/")
	text := body(t, res, err)
	if res.StatusCode != 200 {
		text = res.Header.Get(ErrorHeader)
	}
	return res.StatusCode, text
}

func TestMutualTLS(t *testing.T) {
	m := newMutualRig(t)
	inst := m.program(m.config("/service/app"))
	m.snap.Services = []Service{{Name: "app", Instances: []Instance{inst}, Mutual: m.mutual(), HTTP2: []int{81}}}
	m.snap.Services[0].Instances[0].PortMap[81] = inst.PortMap[80]
	m.snap.Routes = []Route{{Service: "app", Port: 80, Decision: Decision{Auth: "none"}}}
	gateway := m.listen(Listener{Name: "gateway", Protocol: HTTP1})
	doors := map[string]string{
		gateway: "spiffe://test/gateway HTTP/1.1",
		m.listen(Listener{Name: "web", Protocol: Detect, Service: "app", Port: 80, Caller: "web"}): "spiffe://test/service/web HTTP/1.1",
		m.listen(Listener{Name: "api", Protocol: Detect, Service: "app", Port: 80, Caller: "api"}): "spiffe://test/service/api HTTP/1.1",
		m.listen(Listener{Name: "two", Protocol: Detect, Service: "app", Port: 81, Caller: "web"}): "spiffe://test/service/web HTTP/2.0",
		m.listen(Listener{Name: "out", Protocol: HTTP1, Service: "app", Port: 80}):                 "spiffe://test/gateway HTTP/1.1",
	}
	m.push()
	c := client(t)
	for range 3 { // over connections that were used before too
		for addr, want := range doors {
			if status, text := shownAt(t, c, addr); status != 200 || !strings.HasPrefix(text, want+" ") {
				t.Errorf("%d %q, want %q", status, text, want)
			}
		}
	}
}

// TestMutualFailsClosed: whatever does not prove who it is gets no request and gives no answer: 503, and the reason is in
// the log.
func TestMutualFailsClosed(t *testing.T) {
	t.Parallel()
	long := time.Now().Add(-11 * 365 * 24 * time.Hour)
	plain := serveFunc(t, func(http.ResponseWriter, *http.Request) {})
	for _, c := range []struct {
		name, reason string
		broken       func(m *mutualRig)
		program      string
	}{
		{"another service", "not spiffe://test/service/app", func(m *mutualRig) { m.issue("/service/app", "/service/web", time.Now()) }, ""},
		{"its certificate has expired", "expired", nil, "expired"},
		{"its clock is ahead", "not yet valid", nil, "ahead"},
		{"another authority", "unknown authority", nil, "foreign"},
		{"no TLS", "does not speak TLS", nil, "plain"},
		{"ours has expired", "has expired or is not yet valid", func(m *mutualRig) { m.issue("/gateway", "/gateway", time.Now().Add(-25*time.Hour)) }, ""},
		{"ours is not there", "not found", func(m *mutualRig) { m.snap.Services[0].Mutual.Identities += "/nowhere" }, ""},
		{"the root has expired", "expired", func(m *mutualRig) {
			m.open("old", long)
			m.issue("/gateway", "/gateway", long)
		}, ""},
		{"it does not believe us", "refused the handshake", nil, "wary"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMutualRig(t)
			who := "/service/app"
			switch c.program {
			case "foreign", "expired", "ahead", "wary":
				who = "/" + c.program
			}
			now := time.Now()
			switch c.program {
			case "expired":
				now = now.Add(-25 * time.Hour)
			case "ahead":
				now = now.Add(time.Hour)
			case "foreign":
				was := m.domain
				m.open("foreign", now)
				defer func() { m.domain = was }()
			}
			f, err := m.domain.Issue("/service/app", nil, now)
			if err != nil {
				t.Fatal(err)
			}
			pair, err := tls.X509KeyPair(f.Chain, f.Key)
			if err != nil {
				t.Fatal(err)
			}
			conf := &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}
			switch who {
			case "/service/app":
				conf = m.config(who)
			case "/wary":
				conf.VerifyConnection = func(tls.ConnectionState) error { return identity.ErrRefused }
			}
			inst := m.program(conf)
			if c.program == "plain" {
				inst = instanceAt("app-1", plain.addr)
			}
			m.snap.Services = []Service{{Name: "app", Instances: []Instance{inst}, Mutual: m.mutual()}}
			m.snap.Routes = []Route{{Service: "app", Port: 80, Decision: Decision{Auth: "none"}}}
			if c.broken != nil {
				c.broken(m)
			}
			addr := m.listen(Listener{Name: "gateway", Protocol: HTTP1})
			m.push()
			if status, kind := shownAt(t, client(t), addr); status != 503 || kind != kindIdentity {
				t.Errorf("answered %d %s", status, kind)
			}
			if log := m.log.String(); !strings.Contains(log, c.reason) {
				if c.program != "wary" || !strings.Contains(log, "remote error") {
					t.Errorf("the log says: %s", log)
				}
			}
		})
	}
}

// TestMutualNextInstance: of two instances the one that proves who it is gets everything.
func TestMutualNextInstance(t *testing.T) {
	m := newMutualRig(t)
	m.issue("/bad", "/service/web", time.Now())
	m.snap.Services = []Service{{Name: "app", Instances: []Instance{m.program(m.config("/service/app")), m.program(m.config("/bad"))}, Mutual: m.mutual()}}
	m.snap.Routes = []Route{{Service: "app", Port: 80, Decision: Decision{Auth: "none"}}}
	addr := m.listen(Listener{Name: "gateway", Protocol: HTTP1})
	m.push()
	for range 20 {
		if status, text := shownAt(t, client(t), addr); status != 200 {
			t.Fatalf("%d %s", status, text)
		}
	}
}

// TestMutualPassThrough: what is no HTTP reaches the program over mutual TLS, as its caller; who speaks TLS itself is
// passed through and shows its own certificate.
func TestMutualPassThrough(t *testing.T) {
	m := newMutualRig(t)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", m.config("/service/app"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				line, err := bufio.NewReader(conn).ReadString('\n')
				if err == nil {
					fmt.Fprint(conn, conn.(*tls.Conn).ConnectionState().PeerCertificates[0].URIs[0], " ", line)
				}
			})
		}
	}()
	m.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", ln.Addr().String())}, Mutual: m.mutual()}}
	doors := []string{
		m.listen(Listener{Name: "detect", Protocol: Detect, Service: "app", Port: 80, Caller: "web"}),
		m.listen(Listener{Name: "tcp", Protocol: TCP, Service: "app", Port: 80, Caller: "web"}),
	}
	http := m.listen(Listener{Name: "http", Protocol: HTTP1, Service: "app", Port: 80, Caller: "web"})
	m.push()
	say := func(conn net.Conn, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(conn, "hello\n")
		b, err := io.ReadAll(conn)
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	for _, door := range doors {
		conn, err := net.Dial("tcp", door)
		if got := say(conn, err); got != "spiffe://test/service/web hello\n" {
			t.Errorf("plain: %q", got)
		}
		conn, err = net.Dial("tcp", door)
		time.Sleep(50 * time.Millisecond) // the program might have been the one to speak first
		if got := say(conn, err); got != "spiffe://test/service/web hello\n" {
			t.Errorf("plain, and late: %q", got)
		}
	}
	f, err := identity.ReadFiles(m.folder("/service/api"))
	if err != nil {
		t.Fatal(err)
	}
	api, err := identity.ParseSVID(f, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, door := range append(doors, http) {
		for _, pause := range []time.Duration{0, 50 * time.Millisecond} {
			raw, err := net.Dial("tcp", door)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(pause)
			if got := say(tls.Client(raw, api.Client(identity.ServiceID("test", "app"), time.Now)), nil); got != "spiffe://test/service/api hello\n" {
				t.Errorf("end to end after %s: %q", pause, got)
			}
		}
	}
}

// echoing is one stream that says lines and hears them again.
type echoing struct {
	in  *io.PipeWriter
	out *bufio.Reader
	res *http.Response
}

func (e *echoing) say(line string) error {
	if _, err := io.WriteString(e.in, line+"\n"); err != nil {
		return err
	}
	got, err := e.out.ReadString('\n')
	if err == nil && got != line+"\n" {
		err = fmt.Errorf("heard %q", got)
	}
	return err
}

// TestRotationUnderStreams: 1,000 open streams go on while every certificate, and then the root, is replaced again and
// again; what is new shows the newest.
func TestRotationUnderStreams(t *testing.T) {
	t.Parallel()
	m := newMutualRig(t)
	m.snap.Services = []Service{{Name: "app", Instances: []Instance{m.program(m.config("/service/app"))}, Mutual: m.mutual(), HTTP2: []int{80}}}
	addr := m.listen(Listener{Name: "web", Protocol: Detect, Service: "app", Port: 80, Caller: "web"})
	m.push()
	m.rotateUnderStreams(addr, func(c *http.Client) string {
		res, err := c.Get("http://" + addr + "/")
		text := body(t, res, err)
		if res.StatusCode != 200 { // one of the two has not looked yet
			return ""
		}
		return text[strings.LastIndexByte(text, ' '):]
	})
}

// rotateUnderStreams opens 1,000 streams to the instance behind addr, which echoes them, and replaces certificates and root
// under them. newest returns which certificate something new is shown; "": nothing new can be done yet.
func (m *mutualRig) rotateUnderStreams(addr string, newest func(*http.Client) string) {
	const streams, rotations = 1000, 5
	t := m.t
	c := h2client(t)
	all := make([]*echoing, streams)
	var failed atomic.Int64
	together := func(what string, f func(i int) error) {
		var wg sync.WaitGroup
		for w := range 50 {
			wg.Go(func() {
				for i := w; i < streams; i += 50 {
					if err := f(i); err != nil && failed.Add(1) < 5 {
						t.Errorf("%s, stream %d: %v", what, i, err)
					}
				}
			})
		}
		wg.Wait()
	}
	together("open", func(i int) error {
		r, w := io.Pipe()
		req, err := http.NewRequest("POST", "http://"+addr+"/echo", r)
		if err != nil {
			return err
		}
		res, err := c.Do(req)
		if err != nil {
			return err
		}
		all[i] = &echoing{in: w, out: bufio.NewReader(res.Body), res: res}
		return all[i].say("first")
	})
	if t.Failed() {
		t.FailNow()
	}
	serial := ""
	for n := range rotations {
		now := time.Now()
		if n == rotations-1 { // with a new root, of which both sides are told at once
			if err := identity.Rotate(filepath.Join(m.dir, "authority"), "test", now, true); err != nil {
				t.Fatal(err)
			}
			m.open("authority", now)
		}
		for _, who := range []string{"/service/app", "/service/web"} {
			m.issue(who, who, now)
		}
		together("rotated", func(i int) error { return all[i].say(fmt.Sprint("again ", n)) })
		last := serial
		eventually(t, "the new certificate is shown", func() bool {
			serial = newest(c)
			return serial != "" && serial != last
		})
	}
	together("close", func(i int) error {
		all[i].in.Close()
		rest, err := io.ReadAll(all[i].out)
		all[i].res.Body.Close()
		if err == nil && len(rest) > 0 {
			err = fmt.Errorf("more: %q", rest)
		}
		return err
	})
	if n := failed.Load(); n > 0 {
		t.Errorf("%d failures", n)
	}
}
