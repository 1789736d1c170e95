package load

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReadAnswer(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, c := range []struct {
		name, method, text string
		want               answer
		err                error
	}{
		{"length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", answer{status: 200, bytes: 5}, nil},
		{"no reason", "GET", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", answer{status: 200}, nil},
		{"bare line feeds", "GET", "HTTP/1.1 200 OK\ncontent-length:5 \n\nhello", answer{status: 200, bytes: 5}, nil},
		{"same length twice", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", answer{status: 200, bytes: 1}, nil},
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\nA \r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n", answer{status: 200, bytes: 15}, nil},
		{"chunked over length", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\nContent-Length: 3\r\n\r\n1\r\nx\r\n0\r\n\r\n", answer{status: 200, bytes: 1}, nil},
		{"to the end", "GET", "HTTP/1.1 200 OK\r\n\r\nhello", answer{status: 200, bytes: 5, closes: true}, nil},
		{"other coding goes to the end", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 1\r\n\r\nhello", answer{status: 200, bytes: 5, closes: true}, nil},
		{"head", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", answer{status: 200}, nil},
		{"no content", "GET", "HTTP/1.1 204 No Content\r\n\r\n", answer{status: 204}, nil},
		{"not modified", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", answer{status: 304}, nil},
		{"interim answers", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", answer{status: 200, bytes: 1}, nil},
		{"close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", answer{status: 200, closes: true}, nil},
		{"1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", answer{status: 200, closes: true}, nil},
		{"1.0 kept", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive\r\n\r\n", answer{status: 200}, nil},
		{"too much", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxy", answer{status: 200, bytes: 1, closes: true}, nil},
		{"marker", "GET", "HTTP/1.1 503 X\r\nX-TRELLIS-error: overload\r\nContent-Length: 0\r\n\r\n", answer{status: 503, marked: true, queue: true}, nil},
		{"long header", "GET", "HTTP/1.1 200 OK\r\nA: " + long[:30000] + "\r\nContent-Length: 0\r\n\r\n", answer{status: 200}, nil},

		{"nothing", "GET", "", answer{}, io.EOF},
		{"cut status", "GET", "HTTP/1.1 20", answer{}, io.ErrUnexpectedEOF},
		{"cut head", "GET", "HTTP/1.1 200 OK\r\n", answer{}, io.ErrUnexpectedEOF},
		{"cut body", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", answer{}, io.ErrUnexpectedEOF},
		{"cut chunk", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhell", answer{}, io.ErrUnexpectedEOF},
		{"cut trailers", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", answer{}, io.ErrUnexpectedEOF},

		{"other version", "GET", "HTTP/2.0 200 OK\r\n\r\n", answer{}, errMalformed},
		{"short status", "GET", "HTTP/1.1 20 OK\r\n\r\n", answer{}, errMalformed},
		{"long status", "GET", "HTTP/1.1 2000 OK\r\n\r\n", answer{}, errMalformed},
		{"status below 100", "GET", "HTTP/1.1 099 X\r\n\r\n", answer{}, errMalformed},
		{"switch", "GET", "HTTP/1.1 101 X\r\n\r\n", answer{}, errMalformed},
		{"coded in 1.0", "GET", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", answer{}, errMalformed},
		{"no colon", "GET", "HTTP/1.1 200 OK\r\nhello\r\n\r\n", answer{}, errMalformed},
		{"space before colon", "GET", "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello", answer{}, errMalformed},
		{"folded", "GET", "HTTP/1.1 200 OK\r\nA: b\r\n c: d\r\n\r\n", answer{}, errMalformed},
		{"negative length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", answer{}, errMalformed},
		{"two lengths", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", answer{}, errMalformed},
		{"endless length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999\r\n\r\n", answer{}, errMalformed},
		{"chunk size", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n", answer{}, errMalformed},
		{"chunk size overflow", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", answer{}, errMalformed},
		{"chunk end", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n", answer{}, errMalformed},
		{"long line", "GET", "HTTP/1.1 200 OK\r\nA: " + long + "\r\n\r\n", answer{}, errMalformed},
		{"long head", "GET", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: "+long[:1000]+"\r\n", 300), answer{}, errMalformed},
	} {
		for kind, source := range map[string]io.Reader{"whole": strings.NewReader(c.text), "byte by byte": iotest.OneByteReader(strings.NewReader(c.text))} {
			t.Run(c.name+"/"+kind, func(t *testing.T) {
				var r reader
				r.reset(source)
				got, err := r.read(c.method)
				if !errors.Is(err, c.err) {
					t.Fatalf("error %v, want %v", err, c.err)
				}
				want := c.want
				if c.name == "too much" && kind == "byte by byte" {
					want.closes = false // what has not come yet cannot be seen
				}
				got.instance = nil
				if err == nil && !same(got, want) {
					t.Errorf("got %+v, want %+v", got, want)
				}
				if broken := c.text != ""; err != nil && c.err != errMalformed && r.broken() != broken {
					t.Errorf("broken %v, want %v", r.broken(), broken)
				}
			})
		}
	}
}

func same(a, b answer) bool {
	return a.status == b.status && a.bytes == b.bytes && a.closes == b.closes && a.marked == b.marked && a.queue == b.queue
}

// What this reader and net/http's both take for an answer, they must see the same way; and what this one sees must not
// depend on how the bytes arrive.
func FuzzReadAnswer(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.0 404 \r\n\r\nhello", "HTTP/1.1 304 X\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5;x\r\nhello\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Trellis-Error: overload\r\nX-Trellis-Instance: a\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
	} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, text string, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		var whole, slow reader
		whole.reset(strings.NewReader(text))
		got, err := whole.read(method)
		slow.reset(iotest.OneByteReader(strings.NewReader(text)))
		got2, err2 := slow.read(method)
		if (err == nil) != (err2 == nil) || errors.Is(err, errMalformed) != errors.Is(err2, errMalformed) {
			t.Fatalf("at once: %v; byte by byte: %v", err, err2)
		}
		if err != nil {
			return
		}
		got2.closes = got.closes
		if !same(got, got2) {
			t.Fatalf("at once: %+v; byte by byte: %+v", got, got2)
		}
		if got.status < 200 || got.status > 999 || got.bytes < 0 || got.bytes > int64(len(text)) {
			t.Fatalf("impossible: %+v", got)
		}
		status, size, ok := standard(text, method)
		if ok && (status != got.status || size != got.bytes) {
			t.Fatalf("got %d with %d bytes, net/http %d with %d", got.status, got.bytes, status, size)
		}
	})
}

// standard reads text as net/http does.
func standard(text, method string) (status int, size int64, ok bool) {
	r := bufio.NewReader(strings.NewReader(text))
	for {
		a, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return 0, 0, false
		}
		n, err := io.Copy(io.Discard, a.Body)
		if err != nil {
			return 0, 0, false
		}
		if a.StatusCode >= 200 {
			return a.StatusCode, n, true
		}
	}
}

func BenchmarkReadAnswer(b *testing.B) {
	const text = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Mon, 23 Nov 2026 16:00:00 GMT\r\n" +
		"Content-Type: text/plain\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello"
	source := strings.NewReader(text)
	var r reader
	r.reset(source)
	b.ReportAllocs()
	for b.Loop() {
		source.Reset(text)
		if _, err := r.read("GET"); err != nil {
			b.Fatal(err)
		}
	}
}
