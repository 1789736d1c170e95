package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
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
	out   *bufio.Writer // a flood costs whom it is for, not who sends it
	enc   *hpack.Encoder
	block bytes.Buffer
}

func newRaw2(addr string, settings ...http2.Setting) (*raw2, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	c := &raw2{Conn: conn, out: bufio.NewWriterSize(conn, 8<<10)}
	c.Framer = http2.NewFramer(c.out, nil)
	c.AllowIllegalWrites = true
	c.enc = hpack.NewEncoder(&c.block)
	c.out.WriteString(http2.ClientPreface)
	c.WriteSettings(settings...)
	go io.Copy(io.Discard, conn) // what comes is taken
	return c, nil
}

// open begins a request.
func (c *raw2) open(stream uint32, method string, end, endHead bool, more ...string) error {
	c.block.Reset()
	all := append([]string{":method", method, ":scheme", "http", ":authority", "a", ":path", "/flood"}, more...)
	for i := 0; i < len(all); i += 2 {
		c.enc.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]})
	}
	return c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.block.Bytes(), EndHeaders: endHead, EndStream: end})
}

// flood is a kind of frame, or of request, that leads to nothing.
type flood struct {
	name  string
	begin func(c *raw2) error // nil: nothing before the first
	one   func(c *raw2, i int) error
}

var floods = []flood{
	{"PING", nil, func(c *raw2, i int) error { return c.WritePing(false, [8]byte{}) }},
	{"PING answers", nil, func(c *raw2, i int) error { return c.WritePing(true, [8]byte{}) }},
	{"SETTINGS", nil, func(c *raw2, i int) error {
		return c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 65535})
	}},
	{"PRIORITY", nil, func(c *raw2, i int) error { return c.WritePriority(uint32(2*i+1), http2.PriorityParam{}) }},
	{"unknown", nil, func(c *raw2, i int) error { return c.WriteRawFrame(0xb, 0, 0, nil) }},
	{"WINDOW_UPDATE", nil, func(c *raw2, i int) error { return c.WriteWindowUpdate(0, 1) }},
	{"empty DATA", func(c *raw2) error { return c.open(1, "POST", false, true) }, func(c *raw2, i int) error { return c.WriteData(1, false, nil) }},
	{"CONTINUATION", func(c *raw2) error { return c.open(1, "GET", true, false) }, func(c *raw2, i int) error {
		return c.WriteContinuation(1, false, nil)
	}},
	{"CONTINUATION with fields", func(c *raw2) error { return c.open(1, "GET", true, false) }, func(c *raw2, i int) error {
		return c.WriteContinuation(1, false, bytes.Repeat([]byte("\x00\x01a\x01b"), 3000))
	}},
	{"rapid reset", nil, func(c *raw2, i int) error {
		if err := c.open(uint32(2*i+1), "GET", true, true); err != nil {
			return err
		}
		return c.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel)
	}},
	{"rapid reset, each on its way already", nil, func(c *raw2, i int) error {
		if err := c.open(uint32(2*i+1), "GET", true, true); err != nil {
			return err
		}
		if err := c.out.Flush(); err != nil {
			return err
		}
		return c.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel)
	}},
	{"streams that are to be reset", nil, func(c *raw2, i int) error { // MadeYouReset
		if err := c.open(uint32(2*i+1), "POST", false, true); err != nil {
			return err
		}
		return c.WriteWindowUpdate(uint32(2*i+1), 0)
	}},
	{"malformed requests", nil, func(c *raw2, i int) error { return c.open(uint32(2*i+1), "GET", true, true, "connection", "x") }},
	{"too many streams", nil, func(c *raw2, i int) error { return c.open(uint32(2*i+1), "POST", false, true) }},
	{"bodies of closed streams", func(c *raw2) error {
		if err := c.open(1, "GET", true, true); err != nil {
			return err
		}
		return c.WriteRSTStream(1, http2.ErrCodeCancel)
	}, func(c *raw2, i int) error { return c.WriteData(1, false, []byte("x")) }},
	{"HPACK bomb", nil, func(c *raw2, i int) error {
		c.enc.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("y", 3000)})
		first := bytes.Clone(c.block.Bytes())
		c.block.Reset()
		block := append(first, bytes.Repeat([]byte{0x80 | 62}, 16000-len(first))...) // 62 is the newest of the dynamic table
		return c.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: block, EndHeaders: true, EndStream: true})
	}},
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
	for _, flood := range floods {
		t.Run(flood.name, func(t *testing.T) {
			flooded.Store(0)
			c, err := newRaw2(addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if flood.begin != nil {
				if err := flood.begin(c); err != nil {
					t.Fatal(err)
				}
			}
			n := 0
			for ; n < most; n++ {
				if n%100 == 0 {
					c.out.Flush()
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
			c.Close()
			eventually(t, "nothing is left", func() bool { return r.proxy.handlers.Load() == 0 && r.proxy.Status().InUse["app-1"] == 0 })
			if seen := flooded.Load(); seen > 500+maxStreams {
				t.Errorf("the instance has seen %d requests", seen)
			}
		})
	}
}

// TestFloodsHurtNobody: clients that flood, each again as soon as it was cut off, and some that are slow over HTTP/2 with
// their heads, their bodies and in taking what they asked for, beside good ones over HTTP/1.1 and HTTP/2. The good ones are
// measured without and with them, in turn.
func TestFloodsHurtNobody(t *testing.T) {
	large := make([]byte, 1<<20)
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/flood" {
			w.Write(large)
		}
	})
	r := newRig(t, Config{})
	r.proxy.front.head, r.proxy.front.stall = time.Second, time.Second
	addr := r.gateway(instanceAt("app-1", b.addr))
	one := client(t)
	two := client(t)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	two.Transport.(*http.Transport).Protocols = protocols
	turns, each := 1, 20
	if long() {
		turns, each = 5, 2000
	}
	var quiet, loud latencies
	total := 0
	for range turns {
		quiet.ask(t, one, "http://"+addr+"/", each)
		quiet.ask(t, two, "http://"+addr+"/", each)
		a := newAttackers(t, "floods", addr)
		loud.ask(t, one, "http://"+addr+"/", each)
		loud.ask(t, two, "http://"+addr+"/", each)
		eventually(t, "each flood was cut off", func() bool {
			for kind := range floods {
				if a.times(strconv.Itoa(kind)) == 0 {
					return false
				}
			}
			return true
		})
		a.stop()
		for kind := range floods {
			total += a.times(strconv.Itoa(kind))
		}
	}
	t.Logf("p99 of good clients %v, beside %d floods %v", quiet.p99(), total, loud.p99())
	t.Logf("verdict: %d tried, %d held, %d requests, 0 lost, seed 0", total, total, len(quiet)+len(loud))
	// Two milliseconds are what a machine does by itself.
	if long() && loud.p99() > 2*quiet.p99()+2*time.Millisecond {
		t.Errorf("p99 of good clients: %v beside floods, %v without", loud.p99(), quiet.p99())
	}
	eventually(t, "nothing is left", func() bool { return r.proxy.handlers.Load() == 0 && r.proxy.Status().InUse["app-1"] == 0 })
}
