package proxy

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// echoFrames answers a WebSocket handshake and sends every frame's payload back, unmasked; on a close frame it answers
// and ends.
func echoFrames(t testing.TB, closed chan<- uint16) string {
	return rawServer(t, func(c net.Conn) {
		head, br := readHead(c)
		if !strings.Contains(head, "Upgrade: websocket\r\n") || !strings.Contains(head, "Connection: Upgrade\r\n") {
			t.Errorf("upstream saw %q", head)
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n")
		for {
			op, payload, err := readFrame(br)
			if err != nil {
				return
			}
			c.Write(append([]byte{0x80 | op, byte(len(payload))}, payload...))
			if op == 8 {
				closed <- binary.BigEndian.Uint16(payload)
				return
			}
		}
	})
}

func readFrame(br *bufio.Reader) (byte, []byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(br, head[:]); err != nil {
		return 0, nil, err
	}
	var mask [4]byte
	if head[1]&0x80 != 0 {
		io.ReadFull(br, mask[:])
	}
	payload := make([]byte, head[1]&0x7f)
	_, err := io.ReadFull(br, payload)
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return head[0] & 0x0f, payload, err
}

func dialWebSocket(t testing.TB, addr string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	// The first frame comes in one piece with the handshake, before it is answered.
	io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x82\x00\x00\x00\x00hi")
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != 101 || res.Header.Get("Sec-Websocket-Accept") != "x" {
		t.Fatalf("handshake: %v %v", res, err)
	}
	if op, payload, err := readFrame(br); op != 1 || string(payload) != "hi" {
		t.Fatalf("echo: %d %q %v", op, payload, err)
	}
	return conn, br
}

func TestWebSocketEndsWithTheDrain(t *testing.T) {
	t.Parallel()
	closed := make(chan uint16, 1)
	up := echoFrames(t, closed)
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", up))
	conn, br := dialWebSocket(t, addr)
	inst := &r.snap.Services[0].Instances[0]
	inst.Draining, inst.DrainBy = true, time.Now().Add(1500*time.Millisecond)
	r.push()
	io.WriteString(conn, "\x81\x82\x00\x00\x00\x00yo")
	if op, payload, err := readFrame(br); op != 1 || string(payload) != "yo" {
		t.Fatalf("while draining: %d %q %v", op, payload, err)
	}
	if n := r.proxy.Status().InUse["app-1"]; n != 1 {
		t.Errorf("in use %d, want 1", n)
	}
	op, payload, err := readFrame(br)
	if op != 8 || len(payload) != 2 || binary.BigEndian.Uint16(payload) != 1001 {
		t.Errorf("at the end of the drain: %d %q %v", op, payload, err)
	}
	io.WriteString(conn, "\x88\x82\x00\x00\x00\x00\x03\xe9")
	if code := <-closed; code != 1001 {
		t.Errorf("the instance was told %d", code)
	}
	conn.Close()
	eventually(t, "released", func() bool { return r.proxy.Status().InUse["app-1"] == 0 })
}

// TestWebSocketMessagesCrossTheClose: messages that a client sends while its WebSocket is closed at the end of a drain are
// answered, or else no instance has seen them.
func TestWebSocketMessagesCrossTheClose(t *testing.T) {
	var received atomic.Int64
	up := rawServer(t, func(c net.Conn) {
		_, br := readHead(c)
		io.WriteString(c, "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nSec-Websocket-Accept: x\r\n\r\n")
		for {
			op, payload, err := readFrame(br)
			if err != nil {
				return
			}
			if op == 8 {
				c.Write(append([]byte{0x88, byte(len(payload))}, payload...))
				io.Copy(io.Discard, br)
				return
			}
			received.Add(1)
			time.Sleep(2 * time.Millisecond) // work, while the close arrives
			c.Write(append([]byte{0x81, byte(len(payload))}, payload...))
		}
	})
	for range 5 {
		received.Store(0)
		r := newRig(t, Config{})
		addr := r.gateway(instanceAt("app-1", up))
		conn, br := dialWebSocket(t, addr)
		inst := &r.snap.Services[0].Instances[0]
		inst.Draining, inst.DrainBy = true, time.Now().Add(20*time.Millisecond)
		r.push()
		go func() {
			for {
				if _, err := io.WriteString(conn, "\x81\x82\x00\x00\x00\x00yo"); err != nil {
					return
				}
				time.Sleep(time.Millisecond)
			}
		}()
		answered := int64(1)
		for {
			op, payload, err := readFrame(br)
			if err != nil {
				t.Fatalf("after %d answers: %v", answered, err)
			}
			if op == 8 {
				if binary.BigEndian.Uint16(payload) != 1001 {
					t.Errorf("closed with %q", payload)
				}
				break
			}
			answered++
		}
		conn.Close()
		if n := received.Load(); n != answered {
			t.Errorf("%d messages were received, and %d of them answered", n, answered)
		}
	}
}

// TestWebSocketMidFrame: a frame that is under way at the end of the drain is finished before the close.
func TestWebSocketMidFrame(t *testing.T) {
	t.Parallel()
	next := make(chan string)
	up := rawServer(t, func(c net.Conn) {
		readHead(c)
		io.WriteString(c, "HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n\x81\x04ab")
		for s := range next {
			io.WriteString(c, s)
		}
		io.Copy(io.Discard, c)
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", up))
	conn, _ := net.Dial("tcp", addr)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	br := bufio.NewReader(conn)
	if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 101 {
		t.Fatal(res, err)
	}
	br.Peek(4)
	inst := &r.snap.Services[0].Instances[0]
	inst.Draining, inst.DrainBy = true, time.Now()
	r.push()
	time.Sleep(50 * time.Millisecond) // the end has come by now, in the middle of a frame
	next <- "cd\x81\x02xx"
	close(next)
	if op, payload, err := readFrame(br); op != 1 || string(payload) != "abcd" {
		t.Fatalf("the frame under way: %d %q %v", op, payload, err)
	}
	for {
		op, payload, err := readFrame(br)
		if err != nil {
			t.Fatal(err)
		}
		if op == 8 {
			break
		}
		if string(payload) != "xx" {
			t.Fatalf("then %d %q", op, payload)
		}
	}
}

func TestFrames(t *testing.T) {
	stream := []byte{0x81, 2, 'a', 'b', 0x82, 126, 0, 3, 1, 2, 3, 0x82, 127, 0, 0, 0, 0, 0, 0, 0, 1, 9, 0x89, 0x80, 1, 2, 3, 4}
	ends := map[int]bool{0: true, 4: true, 11: true, 22: true, 28: true}
	for cut := 0; cut <= len(stream); cut++ {
		var f frames
		f.advance(stream[:cut])
		if f.between() != ends[cut] {
			t.Errorf("after %d bytes: between frames %v", cut, f.between())
		}
		if f.advance(stream[cut:]); !f.between() {
			t.Errorf("cut at %d: not between frames at the end", cut)
		}
	}
	var f frames
	if got := f.advance(stream[:14]); got != 11 {
		t.Errorf("last end %d, want 11", got)
	}
}

// tcpRig opens a pass-through listener to one instance.
func tcpRig(t testing.TB, protocol, up string) (*rig, string) {
	r := newRig(t, Config{})
	r.snap.Services = []Service{{Name: "db", Instances: []Instance{instanceAt("db-1", up)}}}
	addr := r.listen(Listener{Name: "db", Protocol: protocol, Service: "db", Port: 80})
	r.push()
	return r, addr
}

func TestHalfCloseBothWays(t *testing.T) {
	up := rawServer(t, func(c net.Conn) {
		data, _ := io.ReadAll(c) // ends with the client's half-close
		fmt.Fprintf(c, "got %d", len(data))
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
	})
	for _, protocol := range []string{TCP, Detect} {
		r, addr := tcpRig(t, protocol, up)
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		conn.Write(make([]byte, 1<<20))
		conn.(*net.TCPConn).CloseWrite()
		if got, err := io.ReadAll(conn); string(got) != "got 1048576" || err != nil {
			t.Errorf("%s: %q %v", protocol, got, err)
		}
		conn.Close()
		eventually(t, "released", func() bool { return r.proxy.Status().InUse["db-1"] == 0 })
		if n := r.proxy.Status().Counters["db"].Connections; n != 1 {
			t.Errorf("%d connections counted", n)
		}
		r.stop()
	}
}

// TestBrokenPassThrough: a reset on one side is one on the other, never a clean end.
func TestBrokenPassThrough(t *testing.T) {
	up := rawServer(t, func(c net.Conn) {
		c.Read(make([]byte, 10))
		io.WriteString(c, "part")
		time.Sleep(20 * time.Millisecond)
		c.(*net.TCPConn).SetLinger(0)
	})
	_, addr := tcpRig(t, TCP, up)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, "x")
	if got, err := io.ReadAll(conn); err == nil {
		t.Errorf("read %q and a clean end", got)
	}
}

func TestTCPEndsWithTheDrain(t *testing.T) {
	t.Parallel()
	up := rawServer(t, func(c net.Conn) { io.Copy(c, c) })
	r, addr := tcpRig(t, TCP, up)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	echo := func() error {
		io.WriteString(conn, "x")
		_, err := io.ReadFull(conn, make([]byte, 1))
		return err
	}
	if err := echo(); err != nil {
		t.Fatal(err)
	}
	inst := &r.snap.Services[0].Instances[0]
	inst.Draining, inst.DrainBy = true, time.Now().Add(1500*time.Millisecond)
	r.push()
	if err := echo(); err != nil {
		t.Fatalf("while draining: %v", err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("at the end of the drain: %v", err)
	}
	eventually(t, "released", func() bool { return r.proxy.Status().InUse["db-1"] == 0 })
}

// TestDetect: one listener, whoever speaks first and whatever they speak.
func TestDetect(t *testing.T) {
	web := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) })
	mysql := rawServer(t, func(c net.Conn) { io.WriteString(c, "banner"); io.Copy(c, c) })
	redis := rawServer(t, func(c net.Conn) { io.Copy(c, c) })
	r := newRig(t, Config{})
	for _, s := range []struct{ name, addr string }{{"web", web.addr}, {"mysql", mysql}, {"redis", redis}} {
		r.snap.Services = append(r.snap.Services, Service{Name: s.name, Instances: []Instance{instanceAt(s.name, s.addr)}})
	}
	addrs := map[string]string{}
	for _, s := range []string{"web", "mysql", "redis"} {
		addrs[s] = r.listen(Listener{Name: s, Protocol: Detect, Service: s, Port: 80})
	}
	r.push()
	for round := range 3 { // without a hint, and with the right one
		if status, text, _ := get(t, client(t), "http://"+addrs["web"]+"/"); status != 200 || text != "HTTP/1.1" {
			t.Errorf("round %d: HTTP/1: %d %q", round, status, text)
		}
		if status, _, _ := get(t, h2client(t), "http://"+addrs["web"]+"/"); status != 200 {
			t.Errorf("round %d: HTTP/2: %d", round, status)
		}
		if got := talk(t, addrs["mysql"], "", "banner"); got != "banner" {
			t.Errorf("round %d: server first: %q", round, got)
		}
		if got := talk(t, addrs["redis"], "*1\r\n$4\r\nPING\r\n", "*1\r\n$4\r\nPING\r\n"); !strings.HasPrefix(got, "*1") {
			t.Errorf("round %d: client first: %q", round, got)
		}
		if got := talk(t, addrs["redis"], "GET /key\r\n", "GET /key\r\n"); got != "GET /key\r\n" {
			t.Errorf("round %d: looks like HTTP: %q", round, got)
		}
	}
	// A client that is slow to speak, and one whose first line comes in pieces.
	for _, pieces := range [][]string{{"", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"}, {"GE", "T / HT", "TP/1.1\r\nHost: a\r\n\r\n"}} {
		conn, err := net.Dial("tcp", addrs["web"])
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pieces {
			time.Sleep(30 * time.Millisecond)
			io.WriteString(conn, p)
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if text := body(t, res, err); text != "HTTP/1.1" || res.Header.Get("Date") == "" {
			t.Errorf("in pieces %q: %q", pieces, text)
		}
		conn.Close()
	}
}

// TestDetectChangesItsMind: a port that spoke HTTP now has a server that speaks first.
func TestDetectChangesItsMind(t *testing.T) {
	t.Parallel()
	mysql := rawServer(t, func(c net.Conn) { io.WriteString(c, "banner"); io.Copy(c, c) })
	r, addr := tcpRig(t, Detect, mysql)
	r.proxy.table.Load().services["db"].setHint(80, plainHTTP)
	if got := talk(t, addr, "", "banner"); got != "banner" {
		t.Errorf("got %q", got)
	}
	if got := r.proxy.table.Load().services["db"].hint(80); got != serverFirst {
		t.Errorf("hint %d", got)
	}
}

// TestSilentConnectionLeavesADrainingInstance: a client that has said nothing yet doesn't hold up a drain, and speaks
// to another instance later.
func TestSilentConnectionLeavesADrainingInstance(t *testing.T) {
	old := rawServer(t, func(c net.Conn) { io.Copy(c, c) })
	r, addr := tcpRig(t, Detect, old)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	eventually(t, "connected in advance", func() bool { return r.proxy.Status().InUse["db-1"] == 1 })
	next := rawServer(t, func(c net.Conn) { c.Read(make([]byte, 10)); io.WriteString(c, "next") })
	s := &r.snap.Services[0]
	s.Instances[0].Draining, s.Instances[0].DrainBy = true, time.Now().Add(time.Hour)
	s.Instances = append(s.Instances, instanceAt("db-2", next))
	r.push()
	eventually(t, "moved", func() bool { st := r.proxy.Status(); return st.InUse["db-1"] == 0 && st.InUse["db-2"] == 1 })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, "hello")
	got := make([]byte, 4)
	if io.ReadFull(conn, got); string(got) != "next" {
		t.Errorf("got %q", got)
	}
}

// talk sends something and reads as many bytes as want has.
func talk(t testing.TB, addr, send, want string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, send)
	got := make([]byte, len(want))
	n, _ := io.ReadFull(conn, got)
	return string(got[:n])
}

// TestGRPC: unary and streaming calls, metadata, errors and the end of a drain through the gateway, to a real server.
func TestGRPC(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hs := grpchealth.NewServer()
	var seen metadata.MD
	gs := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		seen, _ = metadata.FromIncomingContext(ctx)
		grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "t"))
		return h(ctx, req)
	}))
	healthpb.RegisterHealthServer(gs, hs)
	go gs.Serve(ln)
	defer gs.Stop()
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", ln.Addr().String()))
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "x-meta", "m"), 10*time.Second)
	defer cancel()
	hc := healthpb.NewHealthClient(conn)
	var trailer metadata.MD
	res, err := hc.Check(ctx, &healthpb.HealthCheckRequest{}, grpc.Trailer(&trailer))
	if err != nil || res.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("unary: %v %v", res, err)
	}
	if seen.Get("x-meta")[0] != "m" || seen.Get("x-forwarded-for")[0] != "127.0.0.1" || trailer.Get("x-trailer")[0] != "t" {
		t.Errorf("metadata %v, trailer %v", seen, trailer)
	}
	if _, err := hc.Check(ctx, &healthpb.HealthCheckRequest{Service: "unknown"}); status.Code(err) != codes.NotFound {
		t.Errorf("error: %v", err)
	}
	stream, err := hc.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{1, 2, 1} {
		if got, err := stream.Recv(); err != nil || got.Status != want {
			t.Fatalf("stream: %v %v, want %v", got, err, want)
		}
		if want == 1 {
			hs.SetServingStatus("", 2)
		} else {
			hs.SetServingStatus("", 1)
		}
	}
	inst := &r.snap.Services[0].Instances[0]
	inst.Draining, inst.DrainBy = true, time.Now()
	r.push()
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("at the end of the drain: %v", err)
	}
	eventually(t, "released", func() bool { return r.proxy.Status().InUse["app-1"] == 0 })
}

// TestHTTP2Upstream: a port said to speak HTTP/2 is spoken to so, whatever the client speaks.
func TestHTTP2Upstream(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s", r.Proto, r.Host, r.RequestURI, data)
	})
	r := newRig(t, Config{})
	r.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}, HTTP2: []int{80}}}
	addr := r.listen(Listener{Name: "app", Protocol: HTTP1, Service: "app", Port: 80})
	r.push()
	for name, c := range map[string]*http.Client{"h1": client(t), "h2": h2client(t)} {
		for _, src := range []io.Reader{strings.NewReader("body"), struct{ io.Reader }{strings.NewReader("body")}} {
			res, err := c.Post("http://"+addr+"/a%2Fb?c=%20", "", src)
			if got := body(t, res, err); got != "HTTP/2.0 "+addr+" /a%2Fb?c=%20 body" {
				t.Errorf("%s: %q", name, got)
			}
		}
	}
}

// TestHeadersOverHTTP2AreCopies: fields of answers over HTTP/1.1 go on over one HTTP/2 connection, whose compression
// remembers them. What it remembers never changes with the memory that they were read into.
func TestHeadersOverHTTP2AreCopies(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Echo", r.URL.Query().Get("v"))
		io.WriteString(w, strings.Repeat("x", 3000))
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	h1, h2 := client(t), h2client(t)
	for i := range 300 {
		want := fmt.Sprintf("value-%05d", i%7)
		res, err := h2.Get("http://" + addr + "/?v=" + want)
		if body(t, res, err); res.Header.Get("X-Echo") != want {
			t.Fatalf("request %d: %q, want %q", i, res.Header.Get("X-Echo"), want)
		}
		res, err = h1.Get("http://" + addr + fmt.Sprintf("/?v=other-%05d", i)) // uses the memory again
		body(t, res, err)
	}
}
