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
			if seen := flooded.Load(); seen > 500+maxStreams {
				t.Errorf("the instance has seen %d requests", seen)
			}
		})
	}
}
