package http1

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

var limits = Limits{Head: 32 << 10, Fields: 100, Target: 8 << 10}

func TestRequest(t *testing.T) {
	for _, c := range []struct {
		raw  string
		want Request
	}{
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Request{Method: "GET", Target: "/", Minor: 1, Host: "a", Header: Header{{"Host", "a", Host}}}},
		{"GET / HTTP/1.0\r\n\r\n", Request{Method: "GET", Target: "/", Close: true}},
		{"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", Request{Method: "GET", Target: "/", KeepAlive: true,
			Header: Header{{"Connection", "Keep-Alive", Connection}}}},
		{"POST /a?b HTTP/1.1\r\nhost:a:80\r\ncontent-length: \t12 \r\nX: \xc3\xa4\r\nExpect: 100-Continue\r\n\r\n", Request{
			Method: "POST", Target: "/a?b", Minor: 1, Host: "a:80", Length: 12, Expect: true, Header: Header{
				{"host", "a:80", Host}, {"content-length", "12", ContentLength}, {"X", "\xc3\xa4", Other}, {"Expect", "100-Continue", Expect}}}},
		{"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nConnection: close, Upgrade,, x-b\r\nTE: gzip;q=0.5, trailers\r\n\r\n", Request{
			Method: "PUT", Target: "/", Minor: 1, Host: "a", Length: -1, Close: true, Upgrade: true, Named: true, Trailers: true, Header: Header{
				{"Host", "a", Host}, {"Transfer-Encoding", "Chunked", TransferEncoding}, {"Connection", "close, Upgrade,, x-b", Connection},
				{"TE", "gzip;q=0.5, trailers", TE}}}},
	} {
		for cut := range len(c.raw) { // every part is only a part, and says so
			var r Request
			if n, err := r.Parse([]byte(c.raw[:cut]), max(0, cut-1), limits); n != 0 || err != nil {
				t.Errorf("%q: %d %v", c.raw[:cut], n, err)
			}
		}
		var got Request
		n, err := got.Parse([]byte(c.raw+"rest"), 0, limits)
		if err != nil || n != len(c.raw) {
			t.Errorf("%q: %d %v", c.raw, n, err)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%q: %s", c.raw, d)
		}
	}
}

// TestRefusedHeads: the smallest part of each that can't become right any more is refused already.
func TestRefusedHeads(t *testing.T) {
	const host = "Host: a\r\n"
	for _, c := range []struct {
		raw    string
		status int
	}{
		{"\r\nGET / HTTP/1.1\r\n" + host + "\r\n", 400},
		{"\nGET / HTTP/1.1\r\n" + host + "\r\n", 400},
		{" GET / HTTP/1.1\r\n" + host + "\r\n", 400},
		{"GET /\r\n", 400},
		{"GET  / HTTP/1.1\r\n", 400},
		{"GET / HTTP/1.1 \r\n", 400},
		{"GET / a HTTP/1.1\r\n", 400},
		{"GET\t/ HTTP/1.1\r\n", 400},
		{"G@T / HTTP/1.1\r\n", 400},
		{"GET /\x00 HTTP/1.1\r\n", 400},
		{"GET /\x7f HTTP/1.1\r\n", 400},
		{"GET / http/1.1\r\n", 400},
		{"GET / HTTP/1.01\r\n", 400},
		{"GET / HTTP/1\r\n", 400},
		{"GET / HTTPS/1.1\r\n", 400},
		{"GET / HTTP/1.2\r\n", 505},
		{"GET / HTTP/2.0\r\n", 505},
		{"GET / HTTP/1.1\n", 400},
		{"GET / HTTP/1.1\rHost", 400},
		{"GET / HTTP/1.1\r\nHost: a\n", 400},
		{"GET / HTTP/1.1\r\nHost: a\rX", 400},
		{"GET / HTTP/1.1\r\nHost: a\r\n\n", 400},
		{"GET / HTTP/1.1\r\n Host: a\r\n", 400},
		{"GET / HTTP/1.1\r\n" + host + "X: y\r\n z\r\n", 400},
		{"GET / HTTP/1.1\r\n" + host + "X : y\r\n", 400},
		{"GET / HTTP/1.1\r\n" + host + ": y\r\n", 400},
		{"GET / HTTP/1.1\r\n" + host + "X\r\n", 400},
		{"GET / HTTP/1.1\r\n" + host + "X(: y\r\n", 400},
		{"GET / HTTP/1.1\r\n" + host + "X: y\x00\r\n", 400},
		{"GET / HTTP/1.1\r\n" + host + "X: y\x0b12345678\r\n", 400},
		{"GET / HTTP/1.1\r\n" + host + "X: 12345678\x7f\r\n", 400},
		{"GET / HTTP/1.1\r\n\r\n", 400},
		{"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400},
		{"GET / HTTP/1.0\r\nHost: \r\n\r\n", 400},
		{"GET / HTTP/1.1\r\n" + host + "host: a\r\n\r\n", 400},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: 1, 1\r\n\r\n", 400},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: +1\r\n\r\n", 400},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n", 400},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: 0x1\r\n\r\n", 400},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: 1 1\r\n\r\n", 400},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length:\r\n\r\n", 400},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: 99999999999999999999\r\n\r\n", 400},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		{"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		{"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n", 400},
		{"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: identity\r\n\r\n", 400},
		{"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked,\r\n\r\n", 400},
		{"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: \"chunked\"\r\n\r\n", 400},
		{"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding:\r\n\r\n", 400},
		{"POST / HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n", 400},
		{"POST / HTTP/1.1\r\n" + host + "Expect: 200-ok\r\n\r\n", 417},
		{"GET /" + strings.Repeat("a", 8<<10) + " HTTP/1.1\r\n", 414},
		{"GET /" + strings.Repeat("a", 9<<10), 414},
		{"GET / HTTP/1.1\r\nX: " + strings.Repeat("a", 33<<10), 431},
		{"GET / HTTP/1.1\r\nX: " + strings.Repeat("a", 33<<10) + "\r\n\r\n", 431},
		{"GET / HTTP/1.1\r\n" + host + strings.Repeat("X: y\r\n", 100), 431},
		{"\x16\x03\x01", 400},
	} {
		var r Request
		_, err := r.Parse([]byte(c.raw), 0, limits)
		var e *Error
		if !errors.As(err, &e) || e.Status != c.status {
			t.Errorf("%.60q: %v, want %d", c.raw, err, c.status)
		}
		refused := false // piece by piece it is refused too, at the latest with the last byte
		for i := 1; i <= len(c.raw) && !refused && len(c.raw) < 1000; i++ {
			_, err := r.Parse([]byte(c.raw[:i]), i-1, limits)
			refused = err != nil
		}
		if !refused && len(c.raw) < 1000 {
			t.Errorf("%.60q: not refused in single bytes", c.raw)
		}
	}
}

func TestResponse(t *testing.T) {
	for _, c := range []struct {
		method, raw string
		want        Response
	}{
		{"GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Response{Status: 200, Reason: "OK", Minor: 1, Length: 3,
			Header: Header{{"Content-Length", "3", ContentLength}}}},
		{"HEAD", "HTTP/1.1 200\r\nContent-Length: 3\r\n\r\n", Response{Status: 200, Minor: 1, Length: 3,
			Header: Header{{"Content-Length", "3", ContentLength}}}},
		{"GET", "HTTP/1.0 200 All is well\nX: y\n\n", Response{Status: 200, Reason: "All is well", Length: -1, Close: true, Header: Header{{"X", "y", Other}}}},
		{"GET", "HTTP/1.1 204 No Content\r\n\r\n", Response{Status: 204, Reason: "No Content", Minor: 1}},
		{"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: x\r\n\r\n", Response{Status: 200, Reason: "OK", Minor: 1, Length: -1, Chunked: true, Named: true,
			Header: Header{{"Transfer-Encoding", "chunked", TransferEncoding}, {"Connection", "x", Connection}}}},
		{"GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\ncontent-length: 3\r\nA: b\r\n\r\n", Response{Status: 200, Reason: "OK", Minor: 1, Length: 3,
			Header: Header{{"A", "b", Other}, {"Content-Length", "3", ContentLength}}}},
	} {
		var got Response
		for cut := range len(c.raw) {
			if n, err := got.Parse([]byte(c.raw[:cut]), max(0, cut-1), c.method, limits); n != 0 || err != nil {
				t.Errorf("%q: %d %v", c.raw[:cut], n, err)
			}
		}
		n, err := got.Parse([]byte(c.raw+"rest"), 0, c.method, limits)
		if d := cmp.Diff(c.want, got); d != "" || err != nil || n != len(c.raw) {
			t.Errorf("%q: %d %v %s", c.raw, n, err, d)
		}
	}
}

func TestRefusedResponses(t *testing.T) {
	for _, raw := range []string{
		"NOT HTTP", "HTTP/2 200 OK\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1  200 OK\r\n\r\n",
		"HTTP/1.1 099 OK\r\n\r\n", "HTTP/1.1 200 O\x00K\r\n\r\n", "HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n", "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
		"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 40<<10),
		"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
	} {
		var r Response
		if _, err := r.Parse([]byte(raw), 0, "GET", limits); err == nil {
			t.Errorf("%.60q: taken", raw)
		}
	}
}

// bodyOf reads a body from pieces of raw; rest is what is left of raw.
func bodyOf(raw string, length int64, chunked bool, pieces func(io.Reader) io.Reader) (body string, trailer Header, rest string, err error) {
	var r Reader
	r.Init(pieces(strings.NewReader(raw)), SmallBuffer)
	var b Body
	b.Init(&r, length, chunked, limits)
	data, err := io.ReadAll(&b)
	left := string(r.Buffered())
	more, _ := io.ReadAll(r.src)
	return string(data), b.Trailer(), left + string(more), err
}

func TestBodies(t *testing.T) {
	whole := func(r io.Reader) io.Reader { return r }
	for _, c := range []struct {
		raw     string
		length  int64
		chunked bool
		want    string
		trailer Header
		rest    string
	}{
		{"", 0, false, "", nil, ""},
		{"abcnext", 3, false, "abc", nil, "next"},
		{"abc", -1, false, "abc", nil, ""},
		{"3\r\nabc\r\n0\r\n\r\nnext", -1, true, "abc", nil, "next"},
		{"03;a;b=c;d=\"e \\\" f\"\r\nabc\r\nA\r\n0123456789\r\n00\r\nX-Sum: 7\r\nY:\r\n\r\nGET", -1, true, "abc0123456789", Header{{"X-Sum", "7", Other}, {"Y", "", Other}}, "GET"},
		{strings.Repeat("5\r\nhello\r\n", 3000) + "0\r\n\r\n", -1, true, strings.Repeat("hello", 3000), nil, ""},
	} {
		for name, pieces := range map[string]func(io.Reader) io.Reader{"whole": whole, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader, "with its end": iotest.DataErrReader} {
			body, trailer, rest, err := bodyOf(c.raw, c.length, c.chunked, pieces)
			if body != c.want || rest != c.rest || err != nil || len(trailer) != len(c.trailer) || len(trailer) > 0 && !cmp.Equal(trailer, c.trailer) {
				t.Errorf("%.40q, %s: %.40q, trailer %v, rest %q, %v", c.raw, name, body, trailer, rest, err)
			}
		}
	}
	for _, raw := range []string{
		"3\nabc\r\n0\r\n\r\n", "3\r\nabc\n0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n", "3\r\nab\r\n0\r\n\r\n", "0x3\r\nabc\r\n0\r\n\r\n", "+3\r\nabc\r\n0\r\n\r\n",
		"-3\r\n", " 3\r\nabc\r\n0\r\n\r\n", "3 \r\nabc\r\n0\r\n\r\n", "3;\r\nabc\r\n0\r\n\r\n", "3; a\r\nabc\r\n0\r\n\r\n", "3;a=\r\nabc\r\n0\r\n\r\n",
		"3;a=\"\r\nabc\r\n0\r\n\r\n", "3;a@\r\nabc\r\n0\r\n\r\n", "3;a=b\x00\r\nabc\r\n0\r\n\r\n", "\r\nabc\r\n0\r\n\r\n", "g\r\n", "fffffffffffffffff\r\n",
		"1;" + strings.Repeat("a", 300) + "\r\na\r\n0\r\n\r\n", "0\r\n X: y\r\n\r\n", "0\r\nX: y\n\r\n", "0\r\nContent-Length: 3\r\n\r\n", "0\r\nHost: b\r\n\r\n",
		"0\r\nX y\r\n\r\n", "0\r\n\n", "3\rabc", "0\r\n" + strings.Repeat("X: y\r\n", 101) + "\r\n", "0\r\nAuthorization: x\r\n\r\n",
	} {
		for name, pieces := range map[string]func(io.Reader) io.Reader{"whole": whole, "bytes": iotest.OneByteReader} {
			if body, _, _, err := bodyOf(raw, -1, true, pieces); err == nil || err == io.ErrUnexpectedEOF {
				t.Errorf("%.40q, %s: %q %v", raw, name, body, err)
			}
		}
	}
	for _, raw := range []string{"", "3", "3\r\n", "3\r\nab", "3\r\nabc\r\n", "3\r\nabc\r\n0\r\n", "0\r\nX: y\r\n"} {
		if _, _, _, err := bodyOf(raw, -1, true, whole); err != io.ErrUnexpectedEOF {
			t.Errorf("%q, cut off: %v", raw, err)
		}
	}
	if _, _, _, err := bodyOf("ab", 3, false, whole); err != io.ErrUnexpectedEOF {
		t.Errorf("cut off: %v", err)
	}
}

// TestTrailersAreBounded: what comes after a body is no larger than a head, however many lines it is in.
func TestTrailersAreBounded(t *testing.T) {
	line := func(n int) string { return "X: " + strings.Repeat("y", n-len("X: ")) + "\r\n" }
	for name, c := range map[string]struct {
		trailer string
		status  int // 0: it is taken
	}{
		"one":       {line(limits.Head), 0},
		"two":       {line(limits.Head/2) + line(limits.Head/2), 0},
		"large":     {line(limits.Head + 1), 431},
		"two large": {line(20<<10) + line(20<<10), 431},
		"many":      {strings.Repeat(line(1<<10), limits.Fields), 431},
		"endless":   {line(limits.Head/2) + strings.TrimSuffix(line(limits.Head/2+2), "\r\n"), 431},
	} {
		raw := "3\r\nabc\r\n0\r\n" + c.trailer
		if name != "endless" {
			raw += "\r\n"
		}
		for way, pieces := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "halves": iotest.HalfReader} {
			_, _, _, err := bodyOf(raw, -1, true, pieces)
			if e, _ := Malformed(err); e == nil && (c.status != 0 || err != nil) || e != nil && e.Status != c.status {
				t.Errorf("%s, %s: %v, want %d", name, way, err, c.status)
			}
		}
	}
}

// TestReaderKeepsWhatIsPinned: a head stays as it is however much is read behind it.
func TestReaderKeepsWhatIsPinned(t *testing.T) {
	head := "GET /" + strings.Repeat("x", 3000) + " HTTP/1.1\r\nHost: a\r\n\r\n"
	var r Reader
	r.Init(iotest.HalfReader(strings.NewReader(strings.Repeat(head, 50))), SmallBuffer)
	for range 50 {
		var q Request
		for seen := 0; ; {
			n, err := q.Parse(r.Buffered(), seen, limits)
			if err != nil {
				t.Fatal(err)
			}
			if n > 0 {
				r.Use(n, true)
				break
			}
			seen = len(r.Buffered())
			if err := r.Fill(); err != nil {
				t.Fatal(err)
			}
		}
		before := strings.Clone(q.Target)
		for range 3 {
			r.Fill()
		}
		if q.Target != before || q.Host != "a" {
			t.Fatalf("the head has changed: %.20q", q.Target)
		}
		r.Release()
	}
	if r.Close(); r.own != nil || len(r.pinned) != 0 {
		t.Error("a buffer is left")
	}
}

func TestHeader(t *testing.T) {
	var h Header
	h.Add("X-A", "1")
	h.Add("x-a", "2")
	h.Add("Connection", "a , Upgrade")
	h.Add("X-B", "3")
	if h.Get("X-a") != "1" || !cmp.Equal(h.Values("x-A"), []string{"1", "2"}) || !h.Has("CONNECTION") || h.Has("X-C") {
		t.Error(h)
	}
	if _, ok := h.Only("X-A"); ok {
		t.Error("two are not one")
	}
	if v, ok := h.Only("x-b"); !ok || v != "3" {
		t.Error(v, ok)
	}
	if !h.HasToken("Connection", "upgrade") || h.HasToken("Connection", "up") {
		t.Error("tokens")
	}
	if h.Set("x-a", "4"); len(h) != 3 || h.Get("X-A") != "4" {
		t.Error(h)
	}
}

func TestChunks(t *testing.T) {
	for _, n := range []int{1, 15, 16, 255, 4096, 1 << 20} {
		data := bytes.Repeat([]byte("x"), n)
		want := AppendChunk(nil, data)
		buf := make([]byte, ChunkRoom, ChunkRoom+n+2)
		buf = append(append(buf, data...), "\r\n"...)
		if got := buf[PutChunkHead(buf[:ChunkRoom], n):]; !bytes.Equal(got, want) {
			t.Errorf("%d: %.20q, want %.20q", n, got, want)
		}
	}
}

func TestNothingIsAllocated(t *testing.T) {
	raw := []byte("GET /api/courses/12 HTTP/1.1\r\nHost: evergreen.localhost\r\nUser-Agent: bench\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n")
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\nabc")
	var q Request
	var p Response
	out := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() {
		q.Parse(raw, 0, limits)
		p.Parse(answer, 0, "GET", limits)
		out = AppendStatusLine(out[:0], 1, p.Status, p.Reason)
		for _, f := range p.Header {
			out = AppendField(out, f.Name, f.Value)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRequest(b *testing.B) {
	raw := []byte("GET /api/courses/12 HTTP/1.1\r\nHost: evergreen.localhost\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\n\r\n")
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	var q Request
	for b.Loop() {
		if n, err := q.Parse(raw, 0, limits); n != len(raw) || err != nil {
			b.Fatal(n, err)
		}
	}
}

// TestReady: what is said to be there can be read without another read of the source, whatever is there.
func TestReady(t *testing.T) {
	const raw = "3;a\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nX: y\r\n\r\n"
	for cut := range len(raw) + 1 {
		src := &countingReader{Reader: strings.NewReader(raw[:cut])}
		var r Reader
		r.Init(src, SmallBuffer)
		var b Body
		b.Init(&r, -1, true, limits)
		if cut > 0 {
			r.Fill()
		}
		got, reads := "", src.n
		for !b.Ended() && b.Ready() {
			p := make([]byte, 5)
			n, err := b.Read(p)
			if got += string(p[:n]); err != nil && err != io.EOF || src.n != reads {
				t.Fatalf("%q: %v after %d reads too many", raw[:cut], err, src.n-reads)
			}
		}
		if whole := "abc0123456789abcdef"; !strings.HasPrefix(whole, got) || cut == len(raw) && (got != whole || !b.Ended()) {
			t.Errorf("%q: %q", raw[:cut], got)
		}
	}
}

type countingReader struct {
	io.Reader
	n int
}

func (r *countingReader) Read(p []byte) (int, error) {
	r.n++
	return r.Reader.Read(p)
}
