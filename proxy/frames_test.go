package proxy

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// raw2 is a client that speaks HTTP/2 frame by frame.
type raw2 struct {
	net.Conn
	*http2.Framer
	enc   *hpack.Encoder
	block bytes.Buffer
}

func newRaw2(t *testing.T, addr string) *raw2 {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	c := &raw2{Conn: conn, Framer: http2.NewFramer(conn, nil)}
	c.AllowIllegalWrites = true
	c.enc = hpack.NewEncoder(&c.block)
	io.WriteString(conn, http2.ClientPreface)
	c.WriteSettings()
	go io.Copy(io.Discard, conn) // what comes is taken
	return c
}

// open begins a request.
func (c *raw2) open(stream uint32, method string, end, endHead bool) error {
	c.block.Reset()
	for _, f := range [][2]string{{":method", method}, {":scheme", "http"}, {":authority", "a"}, {":path", "/flood"}} {
		c.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	return c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.block.Bytes(), EndHeaders: endHead, EndStream: end})
}

// TestFloodsOfFrames: a connection that sends more of any kind of frame than anybody needs is ended, after a bounded
// number, and good clients get every answer meanwhile.
func TestFloodsOfFrames(t *testing.T) {
	var flooded atomic.Int64
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/flood" {
			flooded.Add(1)
		}
		io.Copy(io.Discard, r.Body)
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	good := client(t)
	const most = 200_000 // frames; each kind has to be ended long before
	for name, flood := range map[string]struct {
		begin func(c *raw2) error
		one   func(c *raw2, i int) error
	}{
		"PING":         {nil, func(c *raw2, i int) error { return c.WritePing(false, [8]byte{}) }},
		"PING answers": {nil, func(c *raw2, i int) error { return c.WritePing(true, [8]byte{}) }},
		"SETTINGS": {nil, func(c *raw2, i int) error {
			return c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 65535})
		}},
		"PRIORITY": {nil, func(c *raw2, i int) error { return c.WritePriority(uint32(2*i+1), http2.PriorityParam{}) }},
		"unknown":  {nil, func(c *raw2, i int) error { return c.WriteRawFrame(0xb, 0, 0, nil) }},
		"WINDOW_UPDATE": {nil, func(c *raw2, i int) error {
			return c.WriteWindowUpdate(0, 1)
		}},
		"empty DATA": {func(c *raw2) error { return c.open(1, "POST", false, true) }, func(c *raw2, i int) error { return c.WriteData(1, false, nil) }},
		"CONTINUATION": {func(c *raw2) error { return c.open(1, "GET", true, false) }, func(c *raw2, i int) error {
			return c.WriteContinuation(1, false, nil)
		}},
		"rapid reset": {nil, func(c *raw2, i int) error {
			if err := c.open(uint32(2*i+1), "GET", true, true); err != nil {
				return err
			}
			return c.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			flooded.Store(0)
			c := newRaw2(t, addr)
			if flood.begin != nil {
				if err := flood.begin(c); err != nil {
					t.Fatal(err)
				}
			}
			n := 0
			for ; n < most; n++ {
				if n%100 == 0 {
					if status, _, _ := get(t, good, "http://"+addr+"/"); status != 200 {
						t.Errorf("a good client got %d", status)
					}
				}
				if flood.one(c, n) != nil {
					break
				}
			}
			if n == most {
				t.Errorf("%d frames were taken", n)
			}
			eventually(t, "nothing is left", func() bool { return r.proxy.handlers.Load() == 0 && r.proxy.Status().InUse["app-1"] == 0 })
			if seen := flooded.Load(); seen > freeResets+maxStreams {
				t.Errorf("the instance has seen %d requests", seen)
			}
		})
	}
}

// TestFramesOfGoodClients: what real clients send at their most is let through.
func TestFramesOfGoodClients(t *testing.T) {
	now := time.Unix(1, 0)
	header := func(kind, flags byte, length int) []byte {
		return append([]byte{byte(length >> 16), byte(length >> 8), byte(length), kind, flags, 0, 0, 0, 1}, make([]byte, length)...)
	}
	for name, c := range map[string]struct {
		n    int
		step func(g *frameGuard, i int) []byte
	}{
		"uploads":    {100_000, func(*frameGuard, int) []byte { return header(frameData, 0, 1) }},
		"a download": {100_000, func(g *frameGuard, i int) []byte { g.sent.Add(512); return header(frameWindowUpdate, 0, 4) }},
		"a ping in 20 ms": {10_000, func(g *frameGuard, i int) []byte {
			now = now.Add(20 * time.Millisecond)
			return header(framePing, 0, 8)
		}},
		"requests":        {100_000, func(*frameGuard, int) []byte { return header(frameHeaders, flagEndStream, 40) }},
		"bodies that end": {100_000, func(*frameGuard, int) []byte { return header(frameData, flagEndStream, 0) }},
		"a third given up": {30_000, func(g *frameGuard, i int) []byte {
			return header([]byte{frameHeaders, frameHeaders, frameHeaders, frameReset}[i%4], 0, 4)
		}},
		"heads in two parts": {1000, func(g *frameGuard, i int) []byte { return header([]byte{frameHeaders, frameContinuation}[i%2], 0, 100) }},
	} {
		g := newFrameGuard(nil)
		g.now = func() time.Time { return now }
		g.look([]byte(preface))
		for i := range c.n {
			b := c.step(g, i)
			cut := i % (len(b) + 1)
			if !g.look(b[:cut]) || !g.look(b[cut:]) {
				t.Errorf("%s: ended at frame %d", name, i)
				break
			}
		}
	}
}
