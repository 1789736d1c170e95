package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// refuser speaks HTTP/2, frame by frame: it does something else with the first request, and answers those after it with what
// has come of their bodies.
func refuser(t *testing.T, refuse func(f *http2.Framer, stream uint32)) (addr string, asked *atomic.Int32) {
	asked = new(atomic.Int32)
	addr = rawServer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		if _, err := br.Discard(len(http2.ClientPreface)); err != nil {
			return
		}
		f := http2.NewFramer(c, br)
		f.WriteSettings()
		refused := uint32(0)
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			stream := frame.Header().StreamID
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					f.WriteSettingsAck()
				}
			case *http2.HeadersFrame:
				if asked.Add(1) == 1 {
					refused = stream
				}
			case *http2.DataFrame:
				if len(frame.Data()) == 0 {
					continue
				}
				if stream == refused {
					refuse(f, stream)
					continue
				}
				var block bytes.Buffer
				hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
				f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true})
				f.WriteData(stream, true, frame.Data())
			}
		}
	})
	return addr, asked
}

// TestRefusedRequestsAreSentAgain: an instance over HTTP/2 that says that it has not looked at a request gets it again, or
// another one does, whatever the request is. What it may have looked at it does not get twice.
func TestRefusedRequestsAreSentAgain(t *testing.T) {
	t.Parallel()
	reset := func(code http2.ErrCode) func(*http2.Framer, uint32) {
		return func(f *http2.Framer, stream uint32) { f.WriteRSTStream(stream, code) }
	}
	for name, tc := range map[string]struct {
		refuse func(*http2.Framer, uint32)
		status int
		asked  int32
	}{
		"refused":        {reset(http2.ErrCodeRefusedStream), 200, 2},
		"going away":     {func(f *http2.Framer, stream uint32) { f.WriteGoAway(stream-1, http2.ErrCodeNo, nil) }, 200, 2},
		"broken off":     {reset(http2.ErrCodeInternal), 502, 1},
		"not understood": {reset(http2.ErrCodeProtocol), 502, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up, asked := refuser(t, tc.refuse)
			r := newRig(t, Config{})
			r.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", up)}, HTTP2: []int{80}}}
			addr := r.listen(Listener{Name: "app", Protocol: HTTP1, Service: "app", Port: 80})
			r.push()
			res, err := client(t).Post("http://"+addr+"/", "text/plain", strings.NewReader("hello"))
			if got := body(t, res, err); res.StatusCode != tc.status || tc.status == 200 && got != "hello" || asked.Load() != tc.asked {
				t.Errorf("%d %q, asked %d times", res.StatusCode, got, asked.Load())
			}
		})
		t.Run(name+", to one who listens", func(t *testing.T) {
			t.Parallel()
			up, asked := refuser(t, tc.refuse)
			r := newRig(t, Config{})
			addr := r.gateway(instanceAt("app-1", up))
			c := converse(t, addr, "application/grpc")
			res := c.head()
			if got, err := c.rest(res); res.StatusCode != tc.status || tc.status == 200 && got != "hello" || err != nil || asked.Load() != tc.asked {
				t.Errorf("%d %q %v, asked %d times", res.StatusCode, got, err, asked.Load())
			}
		})
	}
}

// TestUnreadBodiesAreSentByTheTransport: a body that was closed before anything was read of it may be asked for once more.
func TestUnreadBodiesAreSentByTheTransport(t *testing.T) {
	kept := &replay{src: strings.NewReader("hello")}
	b := &watchedBody{r: *kept.reader(), req: &http.Request{}}
	b.r.until = &b.closing
	b.Close()
	if again, err := b.again(); again != b || err != nil {
		t.Fatal(again, err)
	}
	if got, err := io.ReadAll(b); string(got) != "hello" || err != nil {
		t.Errorf("%q %v", got, err)
	}
	if _, err := b.again(); err != errNotProcessed {
		t.Errorf("after it was read: %v", err)
	}
}
