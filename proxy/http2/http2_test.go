package http2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"

	"trellis/proxy/http1"
)

// TestHeadsOfAnswersAreHPACK: what is written is what a decoder reads, names in small letters, in frames of 16 KiB.
func TestHeadsOfAnswersAreHPACK(t *testing.T) {
	for _, size := range []int{0, 1, 126, 127, 128, 300, 20_000, 70_000} {
		var h http1.Header
		h.Add("Content-Type", "text/plain")
		h.Add("Set-Cookie", strings.Repeat("c", size))
		h.Add("X-"+strings.Repeat("Long-", min(size, 100)), "é")
		for _, status := range []int{200, 404, 418, 103} {
			b := appendFrame([]byte("before"), 0, frameHeaders, flagEndHeaders, 7)
			b = appendStatus(b, status)
			for i := range h {
				b = appendField(b, &h[i])
			}
			b = fit(b, len("before"), 7)[len("before"):]
			var block []byte
			for whole := false; len(b) > 0; {
				f := parseFrame(b)
				if whole || f.length > maxFrame || f.stream != 7 {
					t.Fatalf("%d: frame %+v", size, f)
				}
				whole = f.has(flagEndHeaders)
				block = append(block, b[headLen:headLen+f.length]...)
				b = b[headLen+f.length:]
			}
			fields, err := hpack.NewDecoder(4096, nil).DecodeFull(block)
			if err != nil || len(fields) != 4 || fields[0].Name != ":status" {
				t.Fatalf("%d: %v %v", size, fields, err)
			}
			for i, f := range fields[1:] {
				if f.Name != strings.ToLower(h[i].Name) || f.Value != h[i].Value || f.Sensitive != (f.Name == "set-cookie") {
					t.Errorf("%d: %v, want %v", size, f, h[i])
				}
			}
		}
	}
}

// TestStaticTable: every index that answers are written with is that of the name.
func TestStaticTable(t *testing.T) {
	for name, i := range nameIndex {
		fields, err := hpack.NewDecoder(4096, nil).DecodeFull([]byte{0x80 | i})
		if err != nil || fields[0].Name != name {
			t.Errorf("%d is %v, not %s", i, fields, name)
		}
	}
}

// fields are those of a request, in pairs.
func understood(pairs ...string) bool {
	b := block{most: 32 << 10}
	b.begin(1, true)
	for i := 0; i < len(pairs); i += 2 {
		b.add(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	s := &Stream{Header: b.fields}
	return s.understand(&b)
}

func TestRequests(t *testing.T) {
	good := []string{":method", "GET", ":scheme", "https", ":authority", "a.example", ":path", "/"}
	with := func(pairs ...string) []string { return append(append([]string(nil), good...), pairs...) }
	for _, one := range [][]string{
		good, with("te", "trailers"), with("host", "A.example"), with("cookie", "a=1", "cookie", "b=2"), with("content-length", "0"),
		with("x", ""), with("x", "a b\tc"), with("x", "é"), {":method", "GET", ":scheme", "http", ":path", "/", "host", "a"},
		{":method", "CONNECT", ":authority", "a:443"},
	} {
		if !understood(one...) {
			t.Errorf("refused: %q", one)
		}
	}
	for _, one := range [][]string{
		{}, good[2:], good[:6], with(":path", "/"), with(":status", "200"), with(":x", "y"), with("x", "y", ":protocol", "websocket"),
		{":method", "GET", ":scheme", "http", "x", "y", ":path", "/"}, {":method", "GET", ":scheme", "http", "cookie", "y", ":path", "/"},
		with("connection", "close"), with("connection", ""), with("keep-alive", "5"), with("proxy-connection", "x"), with("transfer-encoding", "chunked"),
		with("upgrade", "h2c"), with("te", "gzip"), with("te", "trailers, gzip"), with("te", ""), with("X", "y"), with("x y", "z"), with("", "z"), with("x:", "z"),
		with("x", "a\nb"), with("x", "a\rb"), with("x", "a\x00b"), with("x", " a"), with("x", "a\t"), with("x", "\x7f"),
		with("host", "b.example"), with("host", ""), with("host", "a.example", "host", "a.example"),
		with("content-length", "1"), with("content-length", "-1"), with("content-length", "+0"), with("content-length", ""), with("content-length", "0", "content-length", "0"),
		{":method", "G T", ":scheme", "http", ":authority", "a", ":path", "/"}, {":method", "GET", ":scheme", "http", ":authority", "a", ":path", ""},
		{":method", "CONNECT", ":authority", "a", ":path", "/"}, {":method", "CONNECT", ":scheme", "http"},
	} {
		if understood(one...) {
			t.Errorf("taken: %q", one)
		}
	}
}

// wire is a client's connection that says what it is given, and keeps the answers.
type wire struct {
	io.Reader
	mu  sync.Mutex
	out bytes.Buffer
	cut bool
}

func (w *wire) Read(b []byte) (int, error) {
	w.mu.Lock()
	cut := w.cut
	w.mu.Unlock()
	if cut {
		return 0, io.ErrClosedPipe
	}
	return w.Reader.Read(b)
}

func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(b)
}

func (w *wire) Await(Wait)  {}
func (w *wire) Came() bool  { return true }
func (w *wire) Quiet() bool { return false }
func (w *wire) Cut()        { w.mu.Lock(); w.cut = true; w.mu.Unlock() }

// serve has a connection read b, and returns what it wrote and why it ended. Each request is answered with its body.
func serve(b []byte) ([]byte, error) {
	w := &wire{Reader: bytes.NewReader(b)}
	var in http1.Reader
	in.Init(w, http1.SmallBuffer)
	err := New(&Config{Streams: 10, Head: 4 << 10, Relief: NewRelief(), Serve: func(s *Stream) {
		s.Stall = time.Second
		if s.Head(200, nil, false) != nil {
			return
		}
		buf := make([]byte, 100)
		for {
			n, err := s.Read(buf)
			if s.Write(buf[:n], false) != nil {
				return
			}
			if err == io.EOF {
				s.Finish(s.Trailer())
				return
			}
			if err != nil {
				return
			}
		}
	}}, w, &in).Serve()
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Clone(w.out.Bytes()), err
}

// FuzzServe: whatever a client sends, the connection ends, with frames that are whole and in bounds.
func FuzzServe(f *testing.F) {
	settings := string(appendFrame(nil, 0, frameSettings, 0, 0))
	var head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/"}} {
		enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	begin := settings + string(appendFrame(nil, head.Len(), frameHeaders, flagEndHeaders, 1)) + head.String()
	for _, s := range []string{
		"", settings, begin, begin + string(appendFrame(nil, 3, frameData, flagEndStream, 1)) + "abc",
		begin + string(appendFrame(nil, 4, frameData, flagPadded|flagEndStream, 1)) + "\x01abc", begin + string(appendReset(nil, 1, Cancel)),
		begin + string(appendUpdate(nil, 1, maxWindow)), settings + string(appendFrame(nil, 6, frameSettings, 0, 0)) + string(appendSetting(nil, settingWindow, 0)),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := serve(append([]byte(Preface), b...))
		if err == nil {
			t.Fatal("it ended for no reason")
		}
		var code Code
		for len(out) > 0 {
			if len(out) < headLen {
				t.Fatalf("half a frame: %x", out)
			}
			f := parseFrame(out)
			if f.length > maxFrame || len(out) < headLen+f.length {
				t.Fatalf("frame %+v with %d bytes", f, len(out)-headLen)
			}
			if f.kind == frameGoAway {
				code = Code(binary.BigEndian.Uint32(out[headLen+4:]))
			}
			out = out[headLen+f.length:]
		}
		if e := (*Error)(nil); errors.As(err, &e) && code != e.Code {
			t.Errorf("ended with %v, and said %d", err, code)
		}
	})
}
