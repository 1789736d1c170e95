package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// get sends one GET and returns status, body and the data plane's error marker.
func get(t testing.TB, c *http.Client, url string) (int, string, string) {
	t.Helper()
	res, err := c.Get(url)
	text := body(t, res, err)
	return res.StatusCode, text, res.Header.Get(ErrorHeader)
}

func TestErrorsAreProblems(t *testing.T) {
	r := newRig(t, Config{})
	r.snap.Services = []Service{{Name: "app", Hold: -1}}
	r.snap.Routes = []Route{{Path: "/a/*", Methods: []string{"POST", "PUT"}, Service: "app", Port: 80, Decision: Decision{Auth: "none"}}}
	addr := r.listen(Listener{Name: "gateway", Protocol: HTTP1})
	r.push()
	for _, c := range []struct {
		method, path string
		status       int
		kind         string
		header       string
		value        string
	}{
		{"GET", "/nowhere", 404, kindNoRoute, "", ""},
		{"GET", "/a/b", 405, kindMethod, "Allow", "POST, PUT"},
		{"POST", "/a/b", 503, kindNoInstance, "Retry-After", "1"},
		{"POST", "/a/%2e%2e/b", 400, kindBadRequest, "", ""},
		{"POST", "/a//b", 400, kindBadRequest, "", ""},
		{"POST", "/a/" + strings.Repeat("x", 8<<10), 414, kindBadRequest, "", ""},
	} {
		req, _ := http.NewRequest(c.method, "http://"+addr+c.path, nil)
		req.Header.Set("X-Request-Id", "request-id-1234")
		res, err := client(t).Do(req)
		text := body(t, res, err)
		var p problem
		if err := json.Unmarshal([]byte(text), &p); err != nil || p.Status != c.status || p.RequestID != "request-id-1234" && c.status != 414 || p.Title == "" {
			t.Errorf("%s %.20s: body %q", c.method, c.path, text)
		}
		if res.StatusCode != c.status || res.Header.Get(ErrorHeader) != c.kind || res.Header.Get("Content-Type") != "application/problem+json" ||
			c.header != "" && res.Header.Get(c.header) != c.value {
			t.Errorf("%s %.20s: %d %v", c.method, c.path, res.StatusCode, res.Header)
		}
	}
}

// TestFaultsStayInTheirRequest: a request that runs into a fault of ours is answered with 500, and counted; the others and
// those that follow are served.
func TestFaultsStayInTheirRequest(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "whole") })
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	h2 := &http.Client{Transport: &http.Transport{Protocols: protocols}, Timeout: 10 * time.Second}
	defer h2.CloseIdleConnections()
	for _, c := range []*http.Client{client(t), h2} {
		r := newRig(t, Config{}) // of its own: nobody else is to read what is broken
		addr := r.gateway(instanceAt("app-1", b.addr))
		s := r.proxy.table.Load().services["app"]
		sound := s.conf.Swap(nil) // whoever reads it panics
		res, err := c.Get("http://" + addr + "/")
		s.conf.Store(sound)
		if text := body(t, res, err); res.StatusCode != 500 || res.Header.Get(ErrorHeader) != kindFault {
			t.Errorf("%s: %d %v %s", res.Proto, res.StatusCode, res.Header, text)
		}
		res, err = c.Get("http://" + addr + "/")
		if text := body(t, res, err); res.StatusCode != 200 || text != "whole" {
			t.Errorf("afterwards over %s: %d %s", res.Proto, res.StatusCode, text)
		}
		if n := r.proxy.Calls().Faults; n != 1 {
			t.Errorf("%d faults counted over %s, want 1", n, res.Proto)
		}
	}
}

// TestUnknownAuthIsRefused: a route whose scheme nobody here can carry out lets nobody in, and takes nothing from others.
func TestUnknownAuthIsRefused(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "in") })
	r := newRig(t, Config{})
	r.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}}}
	r.snap.Routes = []Route{
		{Path: "/*", Service: "app", Port: 80, Decision: Decision{Auth: "none"}},
		{Path: "/private/*", Service: "app", Port: 80, Decision: Decision{Auth: "learner"}},
		{Path: "/mixed", Methods: []string{"POST"}, Service: "app", Port: 80, Decision: Decision{Auth: "learner"}},
	}
	url := "http://" + r.listen(Listener{Name: "gateway", Protocol: HTTP1})
	r.push()
	for path, want := range map[string]int{"/": 200, "/private": 503, "/private/x?y": 503, "/privateer": 200, "/mixed": 200} {
		status, text, kind := get(t, client(t), url+path)
		if status != want || want == 503 && (kind != kindAuth || !strings.Contains(text, "closed")) {
			t.Errorf("GET %s: %d %s %q", path, status, kind, text)
		}
	}
	for _, header := range []string{"Authorization", "Upgrade"} {
		req, _ := http.NewRequest("POST", url+"/mixed", strings.NewReader("x"))
		req.Header.Set(header, "websocket")
		res, err := client(t).Do(req)
		if text := body(t, res, err); res.StatusCode != 503 || res.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("POST with %s: %d %q", header, res.StatusCode, text)
		}
	}
}

func TestRequestID(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("X-Request-Id")) })
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	for in, keep := range map[string]bool{"abcd-1234": true, "short": false, "with space here": false, strings.Repeat("x", 129): false} {
		req, _ := http.NewRequest("GET", "http://"+addr+"/", nil)
		req.Header.Set("X-Request-Id", in)
		res, err := client(t).Do(req)
		if got := body(t, res, err); (got == in) != keep || len(got) < 8 {
			t.Errorf("%q became %q", in, got)
		}
	}
}

// TestInsideCallersKeepTheirForwarding: between services a name is transparent.
func TestInsideCallersKeepTheirForwarding(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RequestURI, r.Header["X-Forwarded-For"]) })
	r := newRig(t, Config{})
	r.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}}}
	inside := r.listen(Listener{Name: "in", Protocol: HTTP1, Service: "app", Port: 80, Caller: "web"})
	outside := r.listen(Listener{Name: "out", Protocol: HTTP1, Service: "app", Port: 80})
	r.push()
	for addr, want := range map[string]string{inside: "/q/%2F//x[1.2.3.4]", outside: "/q/%2F//x[127.0.0.1]"} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "GET /q/%2F//x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if got := body(t, res, err); got != want {
			t.Errorf("upstream saw %q, want %q", got, want)
		}
	}
}

func TestTruncatedResponsesStayTruncated(t *testing.T) {
	for name, raw := range map[string]string{
		"length":  "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nshort",
		"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
		"chunk":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nshort",
	} {
		up := rawServer(t, func(c net.Conn) { readHead(c); io.WriteString(c, raw); time.Sleep(20 * time.Millisecond) })
		r := newRig(t, Config{})
		addr := r.gateway(instanceAt("app-1", up))
		for _, c := range []*http.Client{client(t), h2client(t)} {
			res, err := c.Get("http://" + addr + "/")
			if err != nil {
				continue // broken off before the head was forwarded: as visible
			}
			data, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err == nil {
				t.Errorf("%s over %s: read %q without an error", name, res.Proto, data)
			}
		}
		eventually(t, "counted as failed", func() bool { return r.proxy.Status().Counters["app"].Failed == 2 })
		r.stop()
	}
}

// TestShortAnswersComeWhole: an instance ends within its answer. Of what may be repeated the client sees nothing of that.
func TestShortAnswersComeWhole(t *testing.T) {
	t.Parallel()
	for _, size := range []int{2, 5_000, 40_000, gatherSize} {
		var asked atomic.Int64
		up := rawServer(t, func(c net.Conn) {
			if head, _ := readHead(c); head == "" {
				return // a look whether somebody listens
			}
			n := size
			if asked.Add(1)%2 == 1 {
				n /= 2
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", size)
			io.WriteString(c, strings.Repeat("x", n))
			time.Sleep(10 * time.Millisecond) // what was written is read before the connection ends
		})
		r := newRig(t, Config{})
		addr := r.gateway(instanceAt("app-1", up), instanceAt("app-2", up))
		for _, c := range []*http.Client{client(t), h2client(t)} {
			before := asked.Load()
			res, err := c.Get("http://" + addr + "/")
			if text := body(t, res, err); res.StatusCode != 200 || len(text) != size {
				t.Errorf("%d bytes over %s: %d with %d", size, res.Proto, res.StatusCode, len(text))
			}
			if n := asked.Load() - before; n != 2 {
				t.Errorf("%d bytes over %s: asked %d times", size, res.Proto, n)
			}
			res, err = c.Post("http://"+addr+"/", "", nil)
			if err == nil {
				_, err = io.ReadAll(res.Body)
				res.Body.Close()
			}
			if n := asked.Load() - before; err == nil || n != 3 {
				t.Errorf("POST, %d bytes: asked %d times, %v", size, n-2, err)
			}
			asked.Add(1) // the next one breaks off again
		}
		r.stop()
	}
}

// TestSlowAnswersAreNotHeld: a short answer that takes its time is passed on as it comes.
func TestSlowAnswersAreNotHeld(t *testing.T) {
	t.Parallel()
	more := make(chan struct{})
	up := rawServer(t, func(c net.Conn) {
		readHead(c)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
		<-more
		io.WriteString(c, "later")
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", up))
	for _, c := range []*http.Client{client(t), h2client(t)} {
		res, err := c.Get("http://" + addr + "/")
		if err != nil {
			t.Fatal(err)
		}
		first := make([]byte, 5)
		if _, err := io.ReadFull(res.Body, first); err != nil || string(first) != "first" {
			t.Errorf("%q, %v", first, err)
		}
		more <- struct{}{}
		if rest := body(t, res, nil); rest != "later" {
			t.Errorf("then %q", rest)
		}
	}
}

func TestUpstreamFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		serve  func(net.Conn)
		status int
		kind   string

		timeout time.Duration
	}{
		{"garbage", func(c net.Conn) { readHead(c); io.WriteString(c, "NOT HTTP AT ALL\r\n\r\n") }, 502, kindProtocol, 0},
		{"closes", func(c net.Conn) { readHead(c) }, 502, kindReset, 0},
		{"half a head", func(c net.Conn) { readHead(c); io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-") }, 502, kindReset, 0},
		{"huge head", func(c net.Conn) {
			readHead(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for range 400 {
				io.WriteString(c, "X-A: "+strings.Repeat("a", 1000)+"\r\n")
			}
			io.WriteString(c, "\r\n")
		}, 502, kindProtocol, 0},
		{"1xx flood", func(c net.Conn) {
			readHead(c)
			for range 1000 {
				if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n"); err != nil {
					return
				}
			}
		}, 502, kindProtocol, 0},
		{"unasked upgrade", func(c net.Conn) { readHead(c); io.WriteString(c, "HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n") }, 502, kindProtocol, 0},
		{"stalls", func(c net.Conn) { readHead(c); io.Copy(io.Discard, c) }, 504, kindTimeout, 300 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			up := rawServer(t, c.serve)
			r := newRig(t, Config{})
			r.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", up)}}}
			r.snap.Routes = []Route{{Service: "app", Port: 80, Timeout: c.timeout}}
			addr := r.listen(Listener{Name: "gateway", Protocol: HTTP1})
			r.push()
			res, err := client(t).Post("http://"+addr+"/", "", strings.NewReader("x"))
			body(t, res, err)
			if res.StatusCode != c.status || res.Header.Get(ErrorHeader) != c.kind {
				t.Errorf("got %d %s, want %d %s", res.StatusCode, res.Header.Get(ErrorHeader), c.status, c.kind)
			}
		})
	}
}

// TestBrokenBeforeHead: a GET whose connection breaks before the response is repeated, a POST only if it may be.
func TestBrokenBeforeHead(t *testing.T) {
	var n atomic.Int32
	up := rawServer(t, func(c net.Conn) {
		if head, _ := readHead(c); head == "" {
			return // somebody looked whether it is there
		}
		if n.Add(1)%2 == 0 {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
		}
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", up))
	if status, text, _ := get(t, client(t), "http://"+addr+"/"); status != 200 || text != "ok" || n.Load() != 2 {
		t.Errorf("GET: %d %q after %d attempts", status, text, n.Load())
	}
	n.Store(0)
	res, err := client(t).Post("http://"+addr+"/", "", strings.NewReader("x"))
	body(t, res, err)
	if res.StatusCode != 502 || n.Load() != 1 {
		t.Errorf("POST: %d after %d attempts", res.StatusCode, n.Load())
	}
	n.Store(0)
	req, _ := http.NewRequest("POST", "http://"+addr+"/", strings.NewReader("x"))
	req.Header.Set("Idempotency-Key", "k")
	res, err = client(t).Do(req)
	if body(t, res, err); res.StatusCode != 200 || n.Load() != 2 {
		t.Errorf("keyed POST: %d after %d attempts", res.StatusCode, n.Load())
	}
	n.Store(0)
	r.snap.Routes[0].Idempotent = true
	r.push()
	res, err = client(t).Post("http://"+addr+"/", "", strings.NewReader("x"))
	if body(t, res, err); res.StatusCode != 200 || n.Load() != 2 {
		t.Errorf("POST on a route that is idempotent: %d after %d attempts", res.StatusCode, n.Load())
	}
	if got := r.proxy.Status().Counters["app"].Retries; got != 3 {
		t.Errorf("%d retries counted, want 3", got)
	}
}

// TestStaleConnection: an instance closes its idle connections; the next POST over one arrives exactly once.
func TestStaleConnection(t *testing.T) {
	var posts atomic.Int32
	closed := make(chan bool, 1)
	up := rawServer(t, func(c net.Conn) {
		readHead(c)
		posts.Add(1)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		c.Close()
		closed <- true
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", up))
	c := client(t)
	for i := range 300 {
		res, err := c.Post("http://"+addr+"/", "", strings.NewReader("x"))
		body(t, res, err)
		<-closed
		if res.StatusCode != 200 || posts.Load() != int32(i+1) {
			t.Fatalf("POST %d: %d, instance saw %d", i, res.StatusCode, posts.Load())
		}
	}
}

func TestNeverArrived(t *testing.T) {
	for _, c := range []struct {
		name  string
		serve func(net.Conn)
		want  bool
	}{
		{"closed before", func(c net.Conn) { c.Close() }, true},
		{"half-closed, reads on", func(c net.Conn) { c.(*net.TCPConn).CloseWrite() }, false},
	} {
		began, told := make(chan bool), make(chan bool)
		up := rawServer(t, func(conn net.Conn) {
			io.ReadFull(conn, make([]byte, 5))
			c.serve(conn)
			close(began)
			<-told // rawServer closes it
		})
		conn, err := net.Dial("tcp", up)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "hello")
		<-began
		io.WriteString(conn, "request")
		conn.Read(make([]byte, 1))
		if got := neverArrived(conn.(*net.TCPConn), 5); got != c.want {
			t.Errorf("%s: neverArrived says %v", c.name, got)
		}
		close(told)
	}
	// One that closed with a part of the request unread: a reset, not the end of file that neverArrived is asked after.
	done := make(chan bool)
	up := rawServer(t, func(c net.Conn) { io.ReadFull(c, make([]byte, 8)); c.Close(); close(done) })
	conn, err := net.Dial("tcp", up)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "hello, request")
	<-done
	if _, err := conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("closed with a part unread: %v", err)
	}
	// One that read the request and closed without an answer.
	up = rawServer(t, func(c net.Conn) { io.ReadFull(c, make([]byte, 12)) })
	conn, err = net.Dial("tcp", up)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "hello")
	io.WriteString(conn, "request")
	conn.Read(make([]byte, 1))
	if neverArrived(conn.(*net.TCPConn), 5) {
		t.Error("read whole: neverArrived says true")
	}
}

func TestTrailers(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "data "+r.Trailer.Get("X-In"))
		w.Header().Set("X-Sum", "7")
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	for name, c := range map[string]*http.Client{"h1": client(t), "h2": h2client(t)} {
		req, _ := http.NewRequest("POST", "http://"+addr+"/", struct{ io.Reader }{strings.NewReader("abc")})
		req.Trailer = http.Header{"X-In": {"3"}}
		res, err := c.Do(req)
		if text := body(t, res, err); text != "data 3" || res.Trailer.Get("X-Sum") != "7" {
			t.Errorf("%s: %q, trailer %v", name, text, res.Trailer)
		}
	}
}

func TestServerSentEventsAreFlushed(t *testing.T) {
	next, drained := make(chan bool), make(chan bool)
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for {
			select {
			case <-next:
				io.WriteString(w, "data: x\n\n")
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				close(drained)
				return
			}
		}
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	go func() { next <- true }()
	res, err := client(t).Get("http://" + addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	br := bufio.NewReader(res.Body)
	for i := range 3 {
		if line, err := br.ReadString('\n'); line != "data: x\n" || err != nil {
			t.Fatalf("event %d: %q %v", i, line, err)
		}
		br.ReadString('\n')
		if i < 2 {
			next <- true
		}
	}
	if n := r.proxy.Status().InUse["app-1"]; n != 1 {
		t.Errorf("in use %d, want 1", n)
	}
	inst := &r.snap.Services[0].Instances[0]
	inst.Draining, inst.DrainBy = true, time.Now().Add(50*time.Millisecond)
	r.push()
	if rest, err := io.ReadAll(br); err != nil || len(rest) > 0 {
		t.Errorf("at the end of the drain: %q %v", rest, err)
	}
	<-drained
	eventually(t, "released", func() bool { return r.proxy.Status().InUse["app-1"] == 0 })
}

func TestContinue(t *testing.T) {
	t.Parallel()
	var mode atomic.Value
	up := rawServer(t, func(c net.Conn) {
		head, br := readHead(c)
		if !strings.Contains(strings.ToLower(head), "expect: 100-continue") {
			io.WriteString(c, "HTTP/1.1 400 No Expect\r\nContent-Length: 0\r\n\r\n")
			return
		}
		switch mode.Load() {
		case "refuse":
			io.WriteString(c, "HTTP/1.1 403 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			n, _ := br.Read(make([]byte, 10))
			if n > 0 {
				t.Error("the body came though it was refused")
			}
			return
		case "accept":
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
		}
		n, _ := io.CopyN(io.Discard, br, 100_000)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%d", len(fmt.Sprint(n)), n)
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", up))
	for want, status := range map[string]int{"refuse": 403, "accept": 200, "silent": 200} {
		mode.Store(want)
		continued := false
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{Got100Continue: func() { continued = true }})
		req, _ := http.NewRequestWithContext(ctx, "POST", "http://"+addr+"/", bytes.NewReader(make([]byte, 100_000)))
		req.Header.Set("Expect", "100-continue")
		c := client(t)
		c.Transport.(*http.Transport).ExpectContinueTimeout = 5 * time.Second
		res, err := c.Do(req)
		text := body(t, res, err)
		if res.StatusCode != status || continued != (status == 200) || status == 200 && text != "100000" {
			t.Errorf("%s: %d %q, 100 seen: %v", want, res.StatusCode, text, continued)
		}
	}
}

// TestBothDirectionsAtOnce: the response begins while the request's body is still being sent.
func TestBothDirectionsAtOnce(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		br := bufio.NewReader(r.Body)
		for {
			line, err := br.ReadString('\n')
			if err != nil {
				return
			}
			io.WriteString(w, "echo "+line)
			w.(http.Flusher).Flush()
		}
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	for name, c := range map[string]*http.Client{"h1": client(t), "h2": h2client(t)} {
		pr, pw := io.Pipe()
		req, _ := http.NewRequest("POST", "http://"+addr+"/", pr)
		go io.WriteString(pw, "1\n")
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(name, err)
		}
		br := bufio.NewReader(res.Body)
		for i := 1; i <= 3; i++ {
			if line, err := br.ReadString('\n'); line != fmt.Sprintf("echo %d\n", i) {
				t.Fatalf("%s: %q %v", name, line, err)
			}
			if i < 3 {
				fmt.Fprintf(pw, "%d\n", i+1)
			}
		}
		pw.Close()
		if rest, err := io.ReadAll(br); err != nil || len(rest) > 0 {
			t.Errorf("%s: %q %v", name, rest, err)
		}
		res.Body.Close()
	}
}

// TestEarlyAnswer: an instance answers without reading the body, and the client gets that answer.
func TestEarlyAnswer(t *testing.T) {
	up := rawServer(t, func(c net.Conn) {
		readHead(c)
		io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
		time.Sleep(100 * time.Millisecond)
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", up))
	for name, c := range map[string]*http.Client{"h1": client(t), "h2": h2client(t)} {
		pr, pw := io.Pipe()
		defer pw.Close()
		req, _ := http.NewRequest("POST", "http://"+addr+"/", pr)
		go pw.Write(make([]byte, 10))
		res, err := c.Do(req)
		if text := body(t, res, err); res.StatusCode != 413 || text != "big" {
			t.Errorf("%s: %d %q", name, res.StatusCode, text)
		}
	}
	eventually(t, "released", func() bool { return r.proxy.Status().InUse["app-1"] == 0 })
}

func TestLargeBodies(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		io.Copy(w, r.Body)
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	for name, c := range map[string]*http.Client{"h1": client(t), "h2": h2client(t)} {
		http1 := c
		for _, known := range []bool{true, false} {
			var src io.Reader = bytes.NewReader(data)
			if !known {
				src = struct{ io.Reader }{src}
			}
			res, err := http1.Post("http://"+addr+"/", "", src)
			if got := body(t, res, err); got != string(data) {
				t.Errorf("%s, length known %v: %d bytes of %d, or others", name, known, len(got), len(data))
			}
		}
	}
}

func TestBounds(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	send := func(raw string) string {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		go io.WriteString(conn, raw)
		line, _ := textproto.NewReader(bufio.NewReader(conn)).ReadLine()
		return line
	}
	for name, c := range map[string]struct{ raw, want string }{
		"too many fields":   {"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 200) + "\r\n", "HTTP/1.1 431 "},
		"too many bytes":    {"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("y", 64<<10) + "\r\n\r\n", "HTTP/1.1 431 "},
		"connect":           {"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", "HTTP/1.1 501 "},
		"bad host":          {"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", "HTTP/1.1 400 "},
		"two lengths":       {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", "HTTP/1.1 400 "},
		"absolute":          {"GET http://a/x?y HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 "},
		"options asterisk":  {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 404 "},
		"asterisk":          {"GET * HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400 "},
		"nul":               {"GET /a%00 HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400 "},
		"fragment":          {"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400 "},
		"http/1.0, no host": {"GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 200 "},
	} {
		if got := send(c.raw); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestSlowHeaders: a client that is slow with its head is cut off, and others don't notice.
func TestSlowHeaders(t *testing.T) {
	t.Parallel()
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {})
	r := newRig(t, Config{})
	r.proxy.front.head = time.Second // before its first connection
	addr := r.gateway(instanceAt("app-1", b.addr))
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n")
	if status, _, _ := get(t, client(t), "http://"+addr+"/"); status != 200 {
		t.Errorf("another client: %d", status)
	}
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadAll(conn); err != nil {
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			t.Error("still open after 5 s")
		}
	}
}

// TestConnectionLimit: beyond its limit a listener leaves connections in the kernel's queue and takes them later.
func TestConnectionLimit(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {})
	r := newRig(t, Config{MaxConns: 2})
	addr := r.gateway(instanceAt("app-1", b.addr))
	var idle []net.Conn
	for range 2 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, c)
	}
	eventually(t, "both accepted", func() bool { return r.proxy.pulse.len() == 2 })
	done := make(chan int)
	go func() {
		res, err := client(t).Get("http://" + addr + "/")
		if err != nil {
			done <- 0
			return
		}
		res.Body.Close()
		done <- res.StatusCode
	}()
	select {
	case <-done:
		t.Fatal("a third connection was served")
	case <-time.After(100 * time.Millisecond):
	}
	idle[0].Close()
	if status := <-done; status != 200 {
		t.Errorf("after one closed: %d", status)
	}
	idle[1].Close()
}

// TestRoomIsMade: where no more connections may be open, one that waits for its next request goes for a new one.
func TestRoomIsMade(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/long" {
			time.Sleep(300 * time.Millisecond)
		}
	})
	r := newRig(t, Config{MaxOpen: 3})
	addr := r.gateway(instanceAt("app-1", b.addr))
	long := make(chan int)
	go func() {
		status, _, _ := get(t, client(t), "http://"+addr+"/long")
		long <- status
	}()
	eventually(t, "it is under way", func() bool { return r.proxy.Status().InUse["app-1"] == 1 })
	for i := range 20 { // each on a connection of its own, which stays open
		if status, _, _ := get(t, client(t), "http://"+addr+"/"); status != 200 {
			t.Fatalf("client %d: %d", i+1, status)
		}
		if n := r.proxy.pulse.len(); n > 4 { // one may just have been accepted
			t.Fatalf("%d connections are open", n)
		}
	}
	if status := <-long; status != 200 {
		t.Errorf("a request that was under way: %d", status)
	}
}

// TestClientGoesAway: its request to the instance is cancelled.
func TestClientGoesAway(t *testing.T) {
	began, gone := make(chan bool, 10), make(chan bool, 10)
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		began <- true
		<-r.Context().Done()
		gone <- true
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	for name, c := range map[string]*http.Client{"h1": client(t), "h2": h2client(t)} {
		ctx, cancel := context.WithCancel(context.Background())
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+addr+"/", nil)
		go func() { <-began; cancel() }()
		if res, err := c.Do(req); err == nil {
			res.Body.Close()
			t.Errorf("%s: answered", name)
		}
		select {
		case <-gone:
		case <-time.After(5 * time.Second):
			t.Errorf("%s: the instance still works on it", name)
		}
	}
	eventually(t, "released", func() bool { return r.proxy.Status().InUse["app-1"] == 0 })
}

// TestStalledClients: a client that stops in the middle of a body it sends, or takes, is let go of.
func TestStalledClients(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Write(make([]byte, 64<<20))
	})
	for name, raw := range map[string]string{
		"small body": "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
		"large body": "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc",
		"response":   "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Config{})
			r.proxy.front.stall = time.Second
			addr := r.gateway(instanceAt("app-1", b.addr))
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, raw)
			eventually(t, "begun", func() bool { return r.proxy.handlers.Load() > 0 })
			eventually(t, "let go of", func() bool { return r.proxy.handlers.Load() == 0 && r.proxy.Status().InUse["app-1"] == 0 })
		})
	}
}
