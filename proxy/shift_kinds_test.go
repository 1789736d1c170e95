package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// otherOverTLS is another gateway that speaks TLS, and a gateway of r's that shifts everything to it.
func otherOverTLS(t *testing.T, r *rig, h http.HandlerFunc) (gateway string) {
	t.Helper()
	host, port, ca := serveTLS(t, h)
	gateway = r.gateway()
	r.snap.Services = append(r.snap.Services, Service{
		Name: "https://there", TLS: &UpstreamTLS{ServerName: "example.com", CA: ca}, Instances: []Instance{{ID: "there", Host: host, Ready: true}},
	})
	r.snap.Shift = &Shift{Service: "https://there", Port: port, Share: 1}
	r.push()
	t.Cleanup(r.stop) // before the other gateway, which waits for its connections
	return gateway
}

// TestShiftGRPC: a stream of gRPC goes over HTTP/2 with TLS, both ways at once, with its trailers.
func TestShiftGRPC(t *testing.T) {
	r := newRig(t, Config{})
	gateway := otherOverTLS(t, r, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.Header().Set("Came", fmt.Sprint(r.Proto, " ", r.TLS.NegotiatedProtocol, " ", r.Host, " ", r.RequestURI, " ", r.Header.Get(shiftedHeader), " ", r.Header.Get("Te")))
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			w.(http.Flusher).Flush()
			if err != nil {
				break
			}
		}
		w.Header().Set("Grpc-Status", "5")
	})
	from, to := io.Pipe()
	req, err := http.NewRequest("POST", "http://"+gateway+"/pkg.Service/Method", from)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	res, err := h2client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if came, want := res.Header.Get("Came"), "HTTP/2.0 h2 "+gateway+" /pkg.Service/Method 1 trailers"; came != want {
		t.Errorf("it came as %q, want %q", came, want)
	}
	for _, message := range []string{"one", "two", "three"} {
		io.WriteString(to, message)
		got := make([]byte, len(message))
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != message {
			t.Fatalf("%q: %q %v", message, got, err)
		}
	}
	to.Close()
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 || res.Trailer.Get("Grpc-Status") != "5" {
		t.Errorf("at its end: %q %v, trailers %v", rest, err, res.Trailer)
	}
}

// TestShiftWebSocket: a WebSocket is led over TLS as well, and stays where it is when the share becomes nothing.
func TestShiftWebSocket(t *testing.T) {
	r := newRig(t, Config{})
	gateway := otherOverTLS(t, r, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || r.TLS.NegotiatedProtocol == "h2" {
			t.Errorf("it came with %v over %q", r.Header, r.TLS.NegotiatedProtocol)
		}
		conn, both, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n")
		for {
			op, payload, err := readFrame(both.Reader)
			if err != nil {
				return
			}
			conn.Write(append([]byte{0x80 | op, byte(len(payload))}, payload...))
		}
	})
	conn, br := dialWebSocket(t, gateway) // with a first frame
	r.snap.Shift = &Shift{Service: r.snap.Shift.Service, Port: r.snap.Shift.Port}
	r.push()
	io.WriteString(conn, "\x82\x83\x00\x00\x00\x00you")
	if op, payload, err := readFrame(br); err != nil || op != 2 || string(payload) != "you" {
		t.Errorf("back came %d %q %v", op, payload, err)
	}
}

// TestShiftExpect: the body of a client that waits for 100 Continue is sent when the other gateway wants it, and else not at all.
func TestShiftExpect(t *testing.T) {
	r := newRig(t, Config{})
	gateway := otherOverTLS(t, r, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(403)
			return
		}
		content, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s", content)
	})
	for path, status := range map[string]int{"/yes": 100, "/no": 403} {
		conn, err := net.Dial("tcp", gateway)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n", path)
		br := bufio.NewReader(conn)
		res, err := http.ReadResponse(br, nil)
		if err != nil || res.StatusCode != status {
			t.Fatalf("%s: %v %v", path, res, err)
		}
		if status != 100 {
			continue
		}
		io.WriteString(conn, strings.Repeat("x", 100000))
		res, err = http.ReadResponse(br, nil)
		if got := body(t, res, err); len(got) != 100000 {
			t.Errorf("%d bytes came back", len(got))
		}
	}
}

// TestShiftToNobody: while nobody is at the other gateway's address, what is led there waits as for any service, and then is told
// to come again; where it comes back in that time, nothing has failed. What is not led there does not wait.
func TestShiftToNobody(t *testing.T) {
	addr := reserve(t)
	host, port := hostPort(t, addr)
	here := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "here") })
	r := newRig(t, Config{})
	gateway := "http://" + r.gateway(instanceAt("app-1", here.addr))
	r.snap.Services = append(r.snap.Services, Service{Name: "http://there", Hold: 300 * time.Millisecond, Instances: []Instance{{ID: "there", Host: host, Ready: true}}})
	r.snap.Shift = &Shift{Service: "http://there", Port: port, Share: 1}
	r.push()
	for range 2 {
		began := time.Now()
		res, _ := ask(t, "GET", gateway+"/a", "")
		if took := time.Since(began); res.StatusCode != 503 || res.Header.Get("Retry-After") != "1" || took < 300*time.Millisecond || took >= defaultHold {
			t.Errorf("%d after %s, Retry-After %q", res.StatusCode, took, res.Header.Get("Retry-After"))
		}
	}
	if _, text := ask(t, "GET", gateway+"/a", "", shiftedHeader, "1"); text != "here" {
		t.Errorf("what is served here: %q", text)
	}
	r.snap.Services[1].Hold = 10 * time.Second
	r.push()
	done := make(chan string)
	go func() {
		_, text := ask(t, "POST", gateway+"/a", "content")
		done <- text
	}()
	time.Sleep(50 * time.Millisecond)
	serve(t, addr, http.HandlerFunc(other))
	if text := <-done; !strings.HasPrefix(text, "there ") {
		t.Errorf("what waited when the other gateway came back: %q", text)
	}
}
