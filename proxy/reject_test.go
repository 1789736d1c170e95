package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"trellis/proxy/http1"
)

// refused are requests that two programs could read in two ways, or that are none. Each one ends where a reader that
// takes it in any way would have read it whole, so that what follows shows whether somebody did.
func refused() []string {
	var all []string
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	const get, host, end = "GET /x HTTP/1.1\r\n", "Host: a\r\n", "\r\n"
	controls := []string{}
	for c := range 0x20 {
		if c != '\t' && c != '\r' && c != '\n' {
			controls = append(controls, string([]byte{byte(c)}))
		}
	}
	controls = append(controls, "\x7f")

	// Request lines.
	for _, c := range append(slices.Clone(controls), "\t", " ", "\"", "(", ")", ",", "/", ":", ";", "<", "=", ">", "?", "@", "[", "\\", "]", "{", "}", "\x80", "\xff") {
		add("G%sT /x HTTP/1.1\r\n%s\r\n", c, host)
	}
	for _, c := range append(slices.Clone(controls), "\t", " ", "\r", "#", "#f") {
		add("GET /x%sy HTTP/1.1\r\n%s\r\n", c, host)
	}
	for _, v := range []string{"HTTP/1.1 ", " HTTP/1.1", "\tHTTP/1.1", "HTTP/1.1\t", "http/1.1", "HTTP/1.10", "HTTP/01.1", "HTTP/1.", "HTTP/.1", "HTTP/1", "HTTP/", "HTTP",
		"HTTP/1,1", "HTTP/a.b", "HTTP /1.1", "HTTP/ 1.1", "HTTP/-1.1", "HTTP/+1.1", "HTTP/1.1x", "xHTTP/1.1", "FTP/1.1", "HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9", "HTTP/1.1 HTTP/1.1"} {
		add("GET /x %s\r\n%s\r\n", v, host)
	}
	for _, line := range []string{"GET /x", "GET", "", " ", "/x HTTP/1.1", " GET /x HTTP/1.1", "\tGET /x HTTP/1.1", "GET  /x HTTP/1.1", "GET /x  HTTP/1.1", "GET HTTP/1.1",
		"GET x HTTP/1.1", "GET * HTTP/1.1", "POST * HTTP/1.1", "GET ** HTTP/1.1", "GET ?x HTTP/1.1", "GET //x HTTP/1.1", "GET a:80 HTTP/1.1", "GET ftp://a/x HTTP/1.1", "GET https://a/x HTTP/1.1",
		"GET http:/x HTTP/1.1", "GET http:// HTTP/1.1", "GET http:///x HTTP/1.1", "GET http://b/x HTTP/1.1", "GET http://a@b/x HTTP/1.1", "GET http://b:80/x HTTP/1.1", "GET http://a:81/x HTTP/1.1",
		"GET http://a/x#f HTTP/1.1", "GET http://a#f HTTP/1.1", "CONNECT a:80 HTTP/1.1", "CONNECT /x HTTP/1.1", "\x00GET /x HTTP/1.1", "\xef\xbb\xbfGET /x HTTP/1.1"} {
		add("%s\r\n%s\r\n", line, host)
	}
	for _, path := range []string{"/a/../x", "/../x", "/..", "/.", "/a/./x", "/a//x", "/%2e%2e/x", "/%2E/x", "/.%2e/x", "/a%2fx", "/a%2Fx", "/a%5cx", "/a\\x", "/a%00x", "/%0a", "/%0d%0a", "/a%",
		"/a%2", "/a%zz", "/a%252fx", "/a%255cx", "/a%252e%252e/x", "/a%2500", "/%c0%ae/x", "/%c1%9c", "/..;/x", "/a/..;b/x", "/a<x", "/a>x", "/a\"x", "/a`x", "/%7f", "/\xff", "/\xc3\xa4",
		"/x?a=\x80"} {
		add("GET %s HTTP/1.1\r\n%s\r\n", path, host)
	}
	// Field names.
	for _, c := range append(slices.Clone(controls), "\t", " ", "\"", "(", ")", ",", "/", ";", "<", "=", ">", "?", "@", "[", "\\", "]", "{", "}", "\x80", "\xe4", "\xff") {
		add("%s%sX%sY: z\r\n\r\n", get, host, c)
		add("%sX%s: z\r\n%s\r\n", get, c, host)
	}
	for _, line := range []string{": z", "X", " X: z", "\tX: z", "X : z", "X\t: z", "X: y\r\n z", "X: y\r\n\tz", "X: y\r\n \r\nY: z", "X:\r\n y", "X y: z", "X\x00: y", "Content-Length : 5", "Transfer-Encoding : chunked", "Host : a"} {
		add("%s%s%s\r\n\r\n", get, host, line)
	}
	// Field values.
	for _, c := range append(slices.Clone(controls), "\r", "\r ") {
		add("%s%sX: a%sb\r\n\r\n", get, host, c)
		add("%s%sX: 0123456789%s\r\n\r\n", get, host, c)
	}
	// Line ends.
	whole := []string{"GET /x HTTP/1.1", "Host: a", "X: y", ""}
	for i := range whole {
		for _, e := range []string{"\n", "\r", "\n\r", "\r\r\n", "\v\n", "\f\n", "\r\x00\n"} {
			raw := ""
			for j, l := range whole {
				raw += l
				if i == j {
					raw += e
				} else {
					raw += "\r\n"
				}
			}
			all = append(all, raw+"\r\n\r\n")
		}
	}
	// Host.
	for _, h := range []string{"", "Host:\r\n", "Host: \r\n", "Host: a\r\nHost: a\r\n", "Host: a\r\nHost: b\r\n", "Host: a\r\nhost: b\r\n", "HOST: a\r\nX: y\r\nHost: b\r\n", "Host: a b\r\n", "Host: a,b\r\n", "Host: a, a\r\n",
		"Host: a/b\r\n", "Host: a?b\r\n", "Host: a#b\r\n", "Host: a@b\r\n", "Host: http://a\r\n", "Host: a:b\r\n", "Host: a:80:80\r\n", "Host: a:-1\r\n", "Host: a:123456\r\n", "Host: [::1\r\n", "Host: ::1\r\n",
		"Host: [g::1]\r\n", "Host: [::1]x\r\n", "Host: [::1]:x\r\n", "Host: []\r\n", "Host: .\r\n", "Host: a\\b\r\n", "Host: a%00\r\n", "Host: a;b\r\n", "Host: <a>\r\n", "Host: \"a\"\r\n", "Host: :80\r\n", "Host: a\tb\r\n"} {
		add("%s%s\r\n", get, h)
	}
	// Content-Length.
	const post = "POST /x HTTP/1.1\r\nHost: a\r\n"
	for _, v := range []string{"", "+5", "-5", "--5", "5 5", "5,5", "5, 5", "5,", ",5", "5;", "5.0", "5e0", "0x5", "0b101", "five", "5a", "a5", "\"5\"", "'5'", "5\x00", "5\v", "5\x7f", "\x005", "٥", "(5)", "5#", "5%", "5 \x00",
		"9999999999999999999", "18446744073709551621", "99999999999999999999999999999999", "0xffffffffffffffff", "-0", "+0", "1_0", "5L", "null", "NaN", "*", "5\r 5"} {
		add("%sContent-Length: %s\r\n\r\nhello", post, v)
	}
	for _, two := range []string{"Content-Length: 5\r\nContent-Length: 5", "Content-Length: 5\r\nContent-Length: 6", "Content-Length: 0\r\nContent-Length: 5", "content-length: 5\r\nX: y\r\nCONTENT-LENGTH: 0", "Content-Length: 5\r\nContent-Length:", "Content-Length: \r\nContent-Length: 5"} {
		add("%s%s\r\n\r\nhello", post, two)
	}
	// Transfer-Encoding.
	for _, v := range []string{"", "identity", "chunked, identity", "identity, chunked", "chunked, chunked", "gzip", "gzip, chunked", "chunked, gzip", "deflate", "compress", "xchunked", "chunkedx", "x-chunked", "chunke", "chunked;", "chunked;a=b",
		"chunked,", ",chunked", "\"chunked\"", "'chunked'", "chunked\x00", "\x00chunked", "chunked\v", "\vchunked", "\fchunked", "chunked\f", "chunked\x7f", "ch\x00unked", "chun ked", "chunked foo", "foo chunked", "[chunked]", "{chunked}", "(chunked)", "chunked()",
		"chunked\x80", "\xc2\xa0chunked", "chunked\xc2\xa0", "chunKed\u0130", "chun\u212aed", "none", "null", "*", "chunked/1", "chunked=1", "chunked\r chunked", "trailers", "chunked, trailers", "identity;q=1"} {
		add("%sTransfer-Encoding: %s\r\n\r\n5\r\nhello\r\n0\r\n\r\n", post, v)
	}
	for _, two := range []string{"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", "Transfer-Encoding:\r\nTransfer-Encoding: chunked",
		"Transfer-Encoding: chunked\r\nContent-Length: 15", "Content-Length: 15\r\nTransfer-Encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 0", "Content-Length: 5\r\nTransfer-Encoding: identity", "Content-Length: 5\r\nTransfer-Encoding:",
		"Transfer-Encoding\t: chunked", "Transfer-Encoding : chunked", " Transfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\nContent-Length: 6", "Transfer-Encoding:\r\n chunked"} {
		add("%s%s\r\n\r\n5\r\nhello\r\n0\r\n\r\n", post, two)
	}
	all = append(all, "POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"POST /x HTTP/1.0\r\nContent-Length: 15\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
	for _, v := range []string{"200-ok", "100-continue, 100-continue", "100", "continue", "\"100-continue\"", "100-continue;q=1"} {
		add("%sContent-Length: 5\r\nExpect: %s\r\n\r\nhello", post, v)
	}
	// Chunks.
	const chunked = post + "Transfer-Encoding: chunked\r\n\r\n"
	for _, size := range []string{"", " 5", "5 ", "\t5", "5\t", "+5", "-5", "0x5", "5x", "x5", "5h", "g", "5,", "5.", "5_", "5;", "5; a", "5 ;a", "5;a ", "5;a =b", "5;a= b", "5;=b", "5;a=", "5;a=\"", "5;a=\"b", "5;a=\"\x00\"", "5;a\x00", "5;a=b\x7f", "5;(a)", "5;a=@", "5;;a", "5;a;",
		"5;a=b;", "5\r", "5\x00", "\x005", "5\v", "5#", "5\"", "ffffffffffffffff", "10000000000000005", "fffffffffffffffff5", "5;" + strings.Repeat("a", 400), "5;a=\"\r", "５", "5h;a", "5/5", "5:5"} {
		add("%s%s\r\nhello\r\n0\r\n\r\n", chunked, size)
	}
	for _, body := range []string{"5\nhello\r\n0\r\n\r\n", "5\r\nhello\n0\r\n\r\n", "5\r\nhello\r0\r\n\r\n", "5\r\nhello0\r\n\r\n", "5\r\nhelloX\r\n0\r\n\r\n", "5\r\nhello\r\n\r\n0\r\n\r\n", "5\r\nhell\r\n0\r\n\r\n", "4\r\nhello\r\n0\r\n\r\n", "5\rhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\n\r\n",
		"5\r\nhello\r\n0\r\n\n", "5\r\nhello\r\n0\r\nX: y\n\r\n", "5\r\nhello\r\n0\r\nX: y\r\n\n", "5\r\nhello\r\n0\r\n X: y\r\n\r\n", "5\r\nhello\r\n0\r\nX : y\r\n\r\n", "5\r\nhello\r\n0\r\nX y\r\n\r\n", "5\r\nhello\r\n0\r\n: y\r\n\r\n", "5\r\nhello\r\n0\r\nX: y\x00\r\n\r\n",
		"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n", "5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n", "5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\n0\r\nHost: b\r\n\r\n", "5\r\nhello\r\n0\r\nConnection: close\r\n\r\n", "5\r\nhello\r\n0\r\nAuthorization: x\r\n\r\n",
		"5\r\nhello\r\n0\r\nTrailer: X\r\n\r\n", "5\r\nhello\r\n0\r\nUpgrade: x\r\n\r\n", "5\r\nhello\r\n0x0\r\n\r\n", "5\r\nhello\r\n-0\r\n\r\n", "5\r\nhello\r\n0 \r\n\r\n", "5\r\nhello\r\n0;\r\n\r\n", "5\r\nhello\r\n\x000\r\n\r\n", "5\r\r\nhello\r\n0\r\n\r\n", "\r\n5\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\r\n0\r\n\r\n", "\n5\r\nhello\r\n0\r\n\r\n"} {
		all = append(all, chunked+body)
	}
	// Sizes.
	add("GET /%s HTTP/1.1\r\n%s\r\n", strings.Repeat("x", maxURI), host)
	add("%s%sX: %s\r\n\r\n", get, host, strings.Repeat("x", maxHeaderBytes))
	add("%s%s%s\r\n", get, host, strings.Repeat("X: y\r\n", maxHeaderCount))
	add("%s GET /x HTTP/1.1\r\n%s\r\n", strings.Repeat("G", 100), host)
	all = append(all, end+get+host+end, "\r\n\r\n"+get+host+end, "\n"+get+host+end)
	return all
}

// TestRefusedInAnyPieces: the parser alone comes to the same verdict wherever a request is cut.
func TestRefusedInAnyPieces(t *testing.T) {
	all := refused()
	if t.Logf("%d requests", len(all)); len(all) < 500 {
		t.Error("too few")
	}
	for _, raw := range all {
		if len(raw) > 2000 {
			continue
		}
		var whole http1.Request
		n, err := whole.Parse([]byte(raw), 0, requestLimits)
		for cut := 1; cut < len(raw); cut++ {
			var q http1.Request
			first, ferr := q.Parse([]byte(raw[:cut]), 0, requestLimits)
			if ferr != nil && err == nil && cut <= n {
				t.Errorf("%q: refused after %d bytes, but not whole", raw, cut)
			}
			if ferr != nil || first > 0 {
				continue
			}
			if second, serr := q.Parse([]byte(raw), cut, requestLimits); second != n || (serr == nil) != (err == nil) {
				t.Errorf("%q cut at %d: %d %v, whole: %d %v", raw, cut, second, serr, n, err)
			}
		}
	}
}

// oracle is an instance that writes down every request that reached it whole.
type oracle struct {
	mu   sync.Mutex
	seen map[string]int
}

func (o *oracle) serve(c net.Conn) {
	br := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		o.mu.Lock()
		o.seen[r.URL.Path]++
		o.mu.Unlock()
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	}
}

// TestRefused sends each of them whole, byte by byte, and between two good ones: the answer is a refusal, the connection
// ends, and the instance has seen the good one before it and nothing else.
func TestRefused(t *testing.T) {
	o := &oracle{seen: map[string]int{}}
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", rawServer(t, o.serve)))
	const before, after = "GET /before HTTP/1.1\r\nHost: a\r\n\r\n", "GET /after HTTP/1.1\r\nHost: a\r\n\r\n"
	cases := make(chan string)
	var wg sync.WaitGroup
	var good atomic.Int64
	for range 8 {
		wg.Go(func() {
			for raw := range cases {
				for name, pieces := range map[string][]string{"whole": {raw + after}, "bytes": strings.Split(raw, ""), "pipelined": {before + raw + after}} {
					if name == "bytes" {
						if len(raw) > 2000 {
							continue
						}
						pieces = nil
						for i := range len(raw) {
							pieces = append(pieces, raw[i:i+1])
						}
					}
					if name == "pipelined" {
						good.Add(1)
					}
					if why := refusal(addr, pieces, name == "pipelined"); why != "" {
						t.Errorf("%.200q, %s: %s", raw, name, why)
					}
				}
			}
		})
	}
	for _, raw := range refused() {
		cases <- raw
	}
	close(cases)
	wg.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.seen) != 1 || int64(o.seen["/before"]) != good.Load() {
		t.Errorf("%d good requests, the instance has seen %v", good.Load(), o.seen)
	}
	eventually(t, "nothing is left", func() bool { return r.proxy.handlers.Load() == 0 && r.proxy.Status().InUse["app-1"] == 0 })
}

// refusal sends the pieces and says what is wrong with the answer, "" when it is a refusal.
func refusal(addr string, pieces []string, second bool) string {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	go func() {
		for _, p := range pieces {
			if _, err := io.WriteString(conn, p); err != nil {
				return
			}
		}
	}()
	br := bufio.NewReader(conn)
	if second {
		res, err := http.ReadResponse(br, nil)
		if err != nil || res.StatusCode != 200 {
			return fmt.Sprintf("the good one before it: %v %v", res, err)
		}
		io.Copy(io.Discard, res.Body)
	}
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		return err.Error()
	}
	switch res.StatusCode {
	case 400, 414, 417, 431, 501, 505:
	default:
		return res.Status
	}
	if !res.Close {
		return "the answer does not say that the connection ends"
	}
	io.Copy(io.Discard, res.Body)
	if n, err := io.Copy(io.Discard, br); n > 0 || err != nil {
		return fmt.Sprintf("%d more bytes, %v", n, err)
	}
	return ""
}
