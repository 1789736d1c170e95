package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestUntrackedIsNotEnded: the end of a drain that was on its way to a stream does not reach what comes after it.
func TestUntrackedIsNotEnded(t *testing.T) {
	inst := newInstance(newService("app", time.Now()), &Instance{ID: "app-1", Ready: true})
	st := inst.track(func() { t.Error("ended after untrack") }, false)
	inst.untrack(st)
	st.finish()

	ending, end := make(chan bool), make(chan bool)
	ended := false
	st = inst.track(func() { close(ending); <-end; ended = true }, false)
	inst.endStreams()
	<-ending
	time.AfterFunc(20*time.Millisecond, func() { close(end) })
	if inst.untrack(st); !ended {
		t.Error("untrack has not waited for an end that had begun")
	}
}

// lastEvent is an answer of one event, which ends by itself in the moment in which its instance's drain time is over.
type lastEvent struct {
	inst    *instance
	sent    bool
	aborted chan struct{}
}

func (e *lastEvent) Read(p []byte) (int, error) {
	if !e.sent {
		e.sent = true
		return copy(p, "data: x\n\n"), nil
	}
	e.inst.endStreams()
	<-e.aborted
	return 0, io.EOF
}

func (e *lastEvent) trailer() header { return nil }
func (e *lastEvent) waiting() bool   { return true }
func (e *lastEvent) abort()          { close(e.aborted) }
func (e *lastEvent) close(bool)      {}

// tcpPair returns both ends of a connection.
func tcpPair(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// TestEndsOnce: an answer that ends by itself as the drain's time is over has one end.
func TestEndsOnce(t *testing.T) {
	client, conn := tcpPair(t)
	inst := newInstance(newService("app", time.Now()), &Instance{ID: "app-1", Ready: true})
	e := &lastEvent{inst: inst, aborted: make(chan struct{})}
	turn := &turn{f: New(Config{}).front, c: newClientConn(conn, nil)}
	turn.head.Minor = 1
	whole := turn.forward(&turn.q, &response{status: 200, header: fields("Content-Type", "text/event-stream"), length: -1, body: e, source: e}, inst)
	conn.Close()
	got, err := io.ReadAll(client)
	if ends := strings.Count(string(got), "0\r\n\r\n"); !whole || err != nil || ends != 1 {
		t.Errorf("whole %t, %d ends, %v: %q", whole, ends, err, got)
	}
}

// TestEventsOfKnownLength: an answer whose length was said goes on to its end when the drain's time is over.
func TestEventsOfKnownLength(t *testing.T) {
	t.Parallel()
	over := make(chan bool)
	defer close(over)
	up := rawServer(t, func(c net.Conn) {
		if head, _ := readHead(c); head == "" {
			return // opened, and never used
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 18\r\n\r\ndata: x\n\n")
		<-over
		io.WriteString(c, "data: y\n\n")
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", up))
	for name, c := range map[string]*http.Client{"h1": client(t), "h2": h2client(t)} {
		res, err := c.Get("http://" + addr + "/")
		if err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(res.Body)
		if line, err := br.ReadString('\n'); line != "data: x\n" || err != nil {
			t.Fatalf("%s: %q %v", name, line, err)
		}
		r.proxy.table.Load().services["app"].instances["app-1"].endStreams()
		time.Sleep(50 * time.Millisecond)
		over <- true
		if rest, err := io.ReadAll(br); string(rest) != "\ndata: y\n\n" || err != nil {
			t.Errorf("%s: %q %v", name, rest, err)
		}
		res.Body.Close()
	}
}

// TestConversationOutlivesLinger: a conversation that the server began has the data plane's grace time, and so has a client
// whose first words nobody has read yet.
func TestConversationOutlivesLinger(t *testing.T) {
	t.Parallel()
	up := rawServer(t, func(c net.Conn) { io.WriteString(c, "banner"); io.Copy(c, c) })
	r := newRig(t, Config{Linger: 50 * time.Millisecond, Grace: 10 * time.Second})
	r.snap.Services = []Service{{Name: "db", Instances: []Instance{instanceAt("db-1", up)}}}
	addr := r.listen(Listener{Name: "db", Protocol: Detect, Service: "db", Port: 80})
	r.push()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(conn, make([]byte, len("banner"))); err != nil {
		t.Fatal(err)
	}
	fresh, raw := tcpPair(t)
	fresh.SetDeadline(time.Now().Add(10 * time.Second))
	c := newClientConn(raw, nil)
	c.to, c.closed = &Listener{Protocol: HTTP1}, func() { r.proxy.pulse.remove(c) }
	r.proxy.pulse.add(c)
	io.WriteString(fresh, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	stopped := make(chan bool)
	go func() { r.stop(); close(stopped) }()
	eventually(t, "draining", r.proxy.draining.Load)
	time.Sleep(300 * time.Millisecond)
	io.WriteString(conn, "x")
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Errorf("after the time of those that wait: %v", err)
	}
	conn.Close()
	r.proxy.serveHTTP(c) // it comes to run as late as that
	res, err := http.ReadResponse(bufio.NewReader(fresh), nil)
	if body(t, res, err); !res.Close {
		t.Error("it is not said that the connection ends")
	}
	<-stopped
}

// TestRequestOutlivesLinger: a connection whose request was in flight when those that wait were closed holds up nothing once that is
// answered; where the answer's head says so, it is closed by the client.
func TestRequestOutlivesLinger(t *testing.T) {
	for name, begun := range map[string]bool{"not answered yet": false, "in the middle of its answer": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked, goOn := make(chan bool, 1), make(chan bool)
			b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
				if begun {
					io.WriteString(w, "so ")
					w.(http.Flusher).Flush()
				}
				asked <- true
				<-goOn
				io.WriteString(w, "long")
			})
			r := newRig(t, Config{Linger: 50 * time.Millisecond, Grace: 15 * time.Second})
			conn, err := net.Dial("tcp", r.gateway(instanceAt("app-1", b.addr)))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			<-asked
			br := bufio.NewReader(conn)
			if begun {
				if _, err := br.Peek(1); err != nil {
					t.Fatal(err)
				}
			}
			stopped := make(chan bool)
			go func() { r.stop(); close(stopped) }()
			eventually(t, "draining", r.proxy.draining.Load)
			time.Sleep(300 * time.Millisecond)
			close(goOn)
			res, err := http.ReadResponse(br, nil)
			if text := body(t, res, err); !strings.HasSuffix(text, "long") || res.Close == begun {
				t.Errorf("%q, and close %t", text, res.Close)
			}
			if n, err := br.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the connection stays: %d %v", n, err)
			}
			<-stopped
		})
	}
}
