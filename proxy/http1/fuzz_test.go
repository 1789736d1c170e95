package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// FuzzRequest: what net/http refuses we refuse; what we take it reads in the same way; and pieces change nothing.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /a?b=c HTTP/1.1\r\nHost: a:8080\r\nContent-Length: 3\r\nX-Y:  z \r\n\r\nabcGET / HTTP/1.1\r\n",
		"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n",
		"GET http://a/b HTTP/1.0\r\nHost: a\r\nConnection: keep-alive, x\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nExpect: 100-continue\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
		"PUT / HTTP/1.1\nHost: a\nContent-Length: 1, 1\n\nx",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var ours Request
		n, err := ours.Parse(raw, 0, limits)
		var pieces Request
		for i := 1; i <= len(raw) && len(raw) < 2000; i++ {
			pn, perr := pieces.Parse(raw[:i], i-1, limits)
			if perr != nil && err == nil && (n == 0 || i <= n) || pn > 0 && pn != n {
				t.Fatalf("whole: %d %v, after %d bytes: %d %v", n, err, i, pn, perr)
			}
			if perr != nil || pn > 0 {
				break
			}
		}
		if n == 0 {
			return
		}
		br := bufio.NewReaderSize(bytes.NewReader(raw), len(raw)+16)
		theirs, terr := http.ReadRequest(br)
		if terr != nil {
			if ours.Method == "CONNECT" || !strings.HasPrefix(ours.Target, "/") || strings.Contains(ours.Target, "%") {
				return // they look into targets already, we leave that to the view
			}
			t.Fatalf("taken, but net/http says: %v", terr)
		}
		if used := len(raw) - br.Buffered(); used != n {
			t.Fatalf("head of %d bytes, net/http has %d", n, used)
		}
		if theirs.Method != ours.Method || theirs.RequestURI != ours.Target || theirs.ProtoMinor != ours.Minor {
			t.Fatalf("request line: %+v, net/http has %s %s 1.%d", ours, theirs.Method, theirs.RequestURI, theirs.ProtoMinor)
		}
		if length := max(theirs.ContentLength, -1); length != ours.Length && !(ours.Length == 0 && theirs.Body == http.NoBody) {
			t.Fatalf("length %d, net/http has %d", ours.Length, theirs.ContentLength)
		}
		if theirs.Close != ours.Close && ours.Minor == 1 {
			t.Fatalf("close %v, net/http has %v", ours.Close, theirs.Close)
		}
		for _, f := range ours.Header {
			if f.Kind == Other && !contains(theirs.Header[http.CanonicalHeaderKey(f.Name)], f.Value) {
				t.Fatalf("field %q: %q, net/http has %q", f.Name, f.Value, theirs.Header[http.CanonicalHeaderKey(f.Name)])
			}
		}
		compareBodies(t, raw[n:], ours.Length, theirs.Body)
	})
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// compareBodies reads a body in three ways: whole, in single bytes, and as net/http does.
func compareBodies(t *testing.T, raw []byte, length int64, theirs io.Reader) {
	read := func(src io.Reader) (string, Header, error) {
		var r Reader
		r.Init(src, SmallBuffer)
		var b Body
		b.Init(&r, length, length < 0, limits)
		data, err := io.ReadAll(&b)
		return string(data), b.Trailer(), err
	}
	data, trailer, err := read(bytes.NewReader(raw))
	single, strailer, serr := read(iotest.OneByteReader(bytes.NewReader(raw)))
	if (err == nil) != (serr == nil) || err == nil && (data != single || !cmp.Equal(trailer, strailer)) {
		t.Fatalf("body %q %v, in single bytes %q %v", data, err, single, serr)
	}
	if err != nil {
		return
	}
	other, terr := io.ReadAll(theirs)
	if terr != nil || string(other) != data {
		if len(trailer) > 0 && terr != nil { // its buffer of trailers is smaller
			return
		}
		t.Fatalf("body %q, net/http has %q %v", data, other, terr)
	}
}

// FuzzResponse: a response that we take net/http reads in the same way.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
		"HTTP/1.0 404 Not Found\nX: y\n\nuntil the end",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var ours Response
		n, err := ours.Parse(raw, 0, "GET", limits)
		if err != nil || n == 0 {
			return
		}
		br := bufio.NewReaderSize(bytes.NewReader(raw), len(raw)+16)
		theirs, terr := http.ReadResponse(br, &http.Request{Method: "GET"})
		if terr != nil {
			t.Fatalf("taken, but net/http says: %v", terr)
		}
		if theirs.StatusCode != ours.Status || theirs.ProtoMinor != ours.Minor {
			t.Fatalf("%+v, net/http has %s", ours, theirs.Status)
		}
		if !ours.HasBody("GET") || ours.Status < 200 {
			return
		}
		var r Reader
		r.Init(bytes.NewReader(raw[n:]), SmallBuffer)
		var b Body
		b.Init(&r, ours.Length, ours.Chunked, limits)
		data, err := io.ReadAll(&b)
		if err != nil {
			return
		}
		other, terr := io.ReadAll(theirs.Body)
		if terr != nil || !bytes.Equal(data, other) {
			t.Fatalf("body %q, net/http has %q %v", data, other, terr)
		}
	})
}
