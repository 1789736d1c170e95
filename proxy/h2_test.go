package proxy

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestFieldsThatHTTP2Forbids: a request with one is broken off, and no instance hears of it: passed on over HTTP/1.1 they
// would say something about a connection that others share.
func TestFieldsThatHTTP2Forbids(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/good" {
			t.Errorf("the instance has seen %s with %v", r.URL, r.Header)
		}
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	for _, f := range [][2]string{{"connection", "close"}, {"connection", "x"}, {"keep-alive", "timeout=5"}, {"proxy-connection", "keep-alive"}, {"transfer-encoding", "chunked"},
		{"upgrade", "websocket"}, {"te", "gzip"}, {"te", "trailers, gzip"}, {"X-Upper", "x"}, {"x-split", "a\nb"}, {":late", "x"}, {"", ""}} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(conn, http2.ClientPreface)
		framer := http2.NewFramer(conn, conn)
		framer.WriteSettings()
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		path := "/bad"
		if f[0] == "" {
			path = "/good"
		}
		for _, h := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "a"}, {":path", path}, {"te", "trailers"}, f} {
			if h[0] != "" {
				enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
			}
		}
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
		status, want := "", "PROTOCOL_ERROR"
		if f[0] == "" {
			want = "200"
		}
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				break
			}
			if h, ok := frame.(*http2.HeadersFrame); ok {
				fields, err := hpack.NewDecoder(4096, nil).DecodeFull(h.HeaderBlockFragment())
				if err != nil {
					t.Fatal(err)
				}
				status = fields[0].Value
				break
			}
			if r, ok := frame.(*http2.RSTStreamFrame); ok {
				status = r.ErrCode.String()
				break
			}
			if s, ok := frame.(*http2.SettingsFrame); ok && !s.IsAck() {
				framer.WriteSettingsAck()
			}
		}
		if status != want {
			t.Errorf("%q: answered with %q, want %s", f, status, want)
		}
	}
}

// gathered is a connection on which what is written goes out together, from some time on.
type gathered struct {
	net.Conn
	held *bytes.Buffer // nil: it goes out at once
}

func (g *gathered) Write(p []byte) (int, error) {
	if g.held != nil {
		return g.held.Write(p)
	}
	return g.Conn.Write(p)
}

// TestRecordsThatCameTogether: a request whose record of TLS came together with that of another one does not wait for the
// other's answer, though the kernel knows of nothing more to read.
func TestRecordsThatCameTogether(t *testing.T) {
	free := make(chan struct{})
	s := newSecureRig(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-free
		}
	})
	s.issue(time.Now(), "shop.localhost")
	s.push()
	raw, err := net.Dial("tcp", s.secure)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(10 * time.Second))
	g := &gathered{Conn: raw}
	conn := tls.Client(g, &tls.Config{RootCAs: s.roots, ServerName: "shop.localhost", NextProtos: []string{"h2"}})
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, conn)
	framer.WriteSettings()
	framer.WriteSettingsAck()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	g.held = new(bytes.Buffer)
	for i, path := range []string{"/slow", "/"} {
		block.Reset()
		for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "shop.localhost"}, {":path", path}} {
			enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
	}
	raw.Write(g.held.Bytes())
	g.held = nil
	var answered []uint32
	for len(answered) < 2 {
		f, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if f.Header().Type != http2.FrameHeaders {
			continue
		}
		if answered = append(answered, f.Header().StreamID); len(answered) == 1 {
			close(free)
		}
	}
	if answered[0] != 3 {
		t.Errorf("streams were answered in the order %v", answered)
	}
}

// TestStopDuringALoneRequest: whoever reads a connection serves its only request, and an instance does not answer. The end of the
// data plane's grace time is the end of that, too.
func TestStopDuringALoneRequest(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	up := rawServer(t, func(c net.Conn) {
		if head, _ := readHead(c); head != "" {
			close(asked)
			io.Copy(io.Discard, c)
		}
	})
	r := newRig(t, Config{Grace: time.Millisecond})
	addr := r.gateway(instanceAt("app-1", up))
	c := h2client(t)
	failed := make(chan error, 1)
	go func() {
		res, err := c.Get("http://" + addr + "/")
		if err == nil {
			res.Body.Close()
		}
		failed <- err
	}()
	<-asked
	r.stop() // fails where it takes long
	if err := <-failed; err == nil {
		t.Error("answered")
	}
}
