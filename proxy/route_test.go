package proxy

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"trellis/errdefs"
)

func TestRoutePrecedence(t *testing.T) {
	// Each route's service is the name that the cases expect; the order in the file is the wrong way round on purpose.
	r, err := newRouter([]Route{
		{Service: "any"},
		{Service: "any-get", Methods: []string{"GET"}, Path: "/only-get"},
		{Service: "a", Path: "/a/*"},
		{Service: "a-param", Path: "/a/{id}"},
		{Service: "a-param-sub", Path: "/a/{id}/sub"},
		{Service: "a-param-any", Path: "/a/{id}/{x}"},
		{Service: "a-param-tail", Path: "/a/{id}/*"},
		{Service: "a-exact", Path: "/a/b"},
		{Service: "a-exact-get", Path: "/a/b", Methods: []string{"GET"}},
		{Service: "a-exact-head", Path: "/a/b", Headers: map[string]string{"x-v": "2"}},
		{Service: "deep", Path: "/a/b/c/*"},
		{Service: "wild", Host: "*.example.org"},
		{Service: "wilder", Host: "*.b.example.org"},
		{Service: "host", Host: "Example.org.", Path: "/h/*"},
		{Service: "param-first", Path: "/{x}/z"},
		{Service: "slash", Path: "/s/"},
		{Service: "escaped", Path: "/caf%c3%a9"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ host, path, method, header, want string }{
		{"x", "/", "GET", "", "any"},
		{"x", "/a", "GET", "", "a"},
		{"x", "/a/", "GET", "", "a"},
		{"x", "/ab", "GET", "", "any"},
		{"x", "/a/c", "GET", "", "a-param"},
		{"x", "/a/c/sub", "GET", "", "a-param-sub"},
		{"x", "/a/c/other", "GET", "", "a-param-any"},
		{"x", "/a/c/other/more", "GET", "", "a-param-tail"},
		{"x", "/a/b", "POST", "", "a-exact"},
		{"x", "/a/b", "GET", "", "a-exact-get"},
		{"x", "/a/b", "HEAD", "", "a-exact-get"},
		{"x", "/a/b", "GET", "2", "a-exact-head"},
		{"x", "/a/b/c", "GET", "", "deep"},
		{"x", "/a/b/c/d", "GET", "", "deep"},
		{"x", "/q/z", "GET", "", "param-first"},
		{"x", "/s/", "GET", "", "slash"},
		{"x", "/s", "GET", "", "any"},
		{"x", "/caf%C3%A9", "GET", "", "escaped"},
		{"x", "/only-get", "POST", "", "any"},
		{"example.org", "/h/x", "GET", "", "host"},
		{"example.org", "/a", "GET", "", "a"},
		{"a.example.org", "/a", "GET", "", "wild"},
		{"a.b.example.org", "/", "GET", "", "wilder"},
		{"b.example.org", "/", "GET", "", "wild"},
		{"notexample.org", "/", "GET", "", "any"},
	} {
		h := header{}
		if c.header != "" {
			h.Add("X-V", c.header)
		}
		got, _ := r.match(c.host, c.path, c.method, h)
		if got == nil || got.service != c.want {
			t.Errorf("%s %s%s %s: %+v, want %s", c.method, c.host, c.path, c.header, got, c.want)
		}
	}
}

func TestRouteHeaderTwice(t *testing.T) {
	r, err := newRouter([]Route{{Service: "a", Headers: map[string]string{"X-V": "1"}}})
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := r.match("x", "/", "GET", header{{Name: "X-V", Value: "1"}, {Name: "X-V", Value: "2"}}); got != nil {
		t.Error("a header that is there twice matched: the upstream may see the other one")
	}
}

func TestMethodMismatch(t *testing.T) {
	r, err := newRouter([]Route{{Service: "a", Path: "/x", Methods: []string{"POST"}}, {Service: "b", Path: "/{y}", Methods: []string{"GET"}}})
	if err != nil {
		t.Fatal(err)
	}
	if got, allow := r.match("h", "/x", "PUT", nil); got != nil || strings.Join(allow, " ") != "GET HEAD POST" {
		t.Errorf("%v, allow %v", got, allow)
	}
	if got, allow := r.match("h", "/x/y", "PUT", nil); got != nil || allow != nil {
		t.Errorf("%v, allow %v", got, allow)
	}
}

func TestInvalidRoutes(t *testing.T) {
	for _, c := range []Route{
		{Path: "a"}, {Path: "/a//b"}, {Path: "/a/*/b"}, {Path: "/a*"}, {Path: "/{a}b"}, {Path: "/../x"}, {Path: "/{}"}, {Path: "/a?b"},
		{Path: "/a/%2f"}, {Host: "a b"}, {Host: "*" + ".*"}, {Host: "a:b"}, {Methods: []string{"G ET"}}, {Path: "//*"},
	} {
		if _, err := newRouter([]Route{c}); !errors.Is(err, errdefs.ErrInvalid) && !errors.Is(err, errdefs.ErrUnsupported) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	r := manyRoutes(t, 500)
	h := header{{Name: "Accept", Value: "*/*"}}
	if n := testing.AllocsPerRun(100, func() { r.match("host7.example.org", "/api/r250/x/items", "GET", h) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { normalPath("/api/v1/courses/12/lessons"); normalHost("catalog.example.org:8080") }); n > 0 {
		t.Errorf("%v allocations to normalise", n)
	}
}

func manyRoutes(t testing.TB, n int) *router {
	var routes []Route
	for i := range n {
		routes = append(routes, Route{Service: "s", Path: fmt.Sprintf("/api/r%d/{id}/*", i)}, Route{Service: "s", Host: fmt.Sprintf("host%d.example.org", i), Path: "/x"})
	}
	r, err := newRouter(routes)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{10, 1000} {
		r := manyRoutes(b, n)
		path := fmt.Sprintf("/api/r%d/x/items", n/2)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if got, _ := r.match("host1.example.org", path, "GET", nil); got == nil {
					b.Fatal("no match")
				}
			}
		})
	}
}

func TestNormalPath(t *testing.T) {
	for in, want := range map[string]string{
		"/":                     "/",
		"/a/b":                  "/a/b",
		"/a/":                   "/a/",
		"/%61":                  "/a",
		"/%7Eme":                "/~me",
		"/caf%c3%a9":            "/caf%C3%A9",
		"/a%20b":                "/a%20b",
		"/a.b/..c/.well":        "/a.b/..c/.well",
		"/a:b@c;d=e,f":          "/a:b@c;d=e,f",
		"/100%25":               "/100%25",
		"/a|b[0]":               "/a|b[0]",
		"":                      "!",
		"a":                     "!",
		"//":                    "!",
		"/a//b":                 "!",
		"/.":                    "!",
		"/..":                   "!",
		"/a/../b":               "!",
		"/a/./b":                "!",
		"/a/..;x/b":             "!",
		"/a/%2e%2e/b":           "!",
		"/a/.%2E":               "!",
		"/a%2fb":                "!",
		"/a%2Fb":                "!",
		"/a%5cb":                "!",
		"/a\\b":                 "!",
		"/a%00b":                "!",
		"/a\x00b":               "!",
		"/a%0d%0ab":             "!",
		"/a%252fb":              "!",
		"/a%25%32%66b":          "!",
		"/a%252%66b":            "!",
		"/%25%32%65%25%32%65/b": "!",
		"/a%25%34%31":           "/a%2541",
		"/a%252e%252e":          "!",
		"/a%c0%afb":             "!",
		"/a%e0%80%afb":          "!",
		"/a%F0%80%80%AF":        "!",
		"/a%f8%80%80%80%af":     "!",
		"/%fc%80%80%80%80%ae/b": "!",
		"/a%e0%a4%85":           "/a%E0%A4%85",
		"/a%f0%9f%98%80":        "/a%F0%9F%98%80",
		"/%e0/%f8%f8%e0":        "/%E0/%F8%F8%E0",
		"/a%":                   "!",
		"/a%2":                  "!",
		"/a%zz":                 "!",
		"/a b":                  "!",
		"/a#b":                  "!",
		"/a?b":                  "!",
		"/\xc3\xa9":             "!",
		"/%2e":                  "!",
		"/a%2500":               "!",
		"/admin%2e%2e%2fx":      "!",
	} {
		got, ok := normalPath(in)
		if !ok {
			got = "!"
		}
		if got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestNormalHost(t *testing.T) {
	for in, want := range map[string]string{
		"a": "a", "A.Example.ORG:80": "a.example.org", "a.": "a", "[::1]:80": "[::1]", "127.0.0.1": "127.0.0.1", "a_b": "a_b",
		"": "!", "a:": "a", "a:x": "!", "a@b": "!", "a/b": "!", "[::1": "!", "[]": "!", "a b": "!", "a:123456": "!", "[x]": "!", "é": "!",
	} {
		got, ok := normalHost(in)
		if !ok {
			got = "!"
		}
		if got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// FuzzNormalPath: what comes out is normal, and means what went in.
func FuzzNormalPath(f *testing.F) {
	for _, s := range []string{"/", "/a/%2e%2e/b", "/%61%2f", "/a%252f", "/a%25%32%66", "/caf%c3%a9/..;/x", "/a//b", "/%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		out, ok := normalPath(in)
		if !ok {
			return
		}
		if again, ok := normalPath(out); !ok || again != out {
			t.Errorf("%q became %q, that %q", in, out, again)
		}
		once, twice := unescape(out), unescape(unescape(out))
		if unescape(in) != once {
			t.Errorf("%q became %q: another path", in, out)
		}
		for _, p := range []string{once, twice} {
			if strings.ContainsAny(p, "\x00\\\r\n") || strings.Contains(p, "//") || strings.Contains(p+"/", "/../") || strings.Contains(p+"/", "/./") {
				t.Errorf("%q became %q, which reads as %q", in, out, p)
			}
			if strings.Count(p, "/") != strings.Count(out, "/") {
				t.Errorf("%q became %q, which reads as %q with other segments", in, out, p)
			}
		}
	})
}

// unescape decodes what is an escape and leaves the rest.
func unescape(s string) string {
	var b []byte
	for i := 0; i < len(s); i++ {
		if v, ok := escape(s, i); s[i] == '%' && ok {
			b = append(b, v)
			i += 2
		} else {
			b = append(b, s[i])
		}
	}
	return string(b)
}

// FuzzRouter: any route compiles or is refused, and matching agrees with a plain reading of the pattern.
func FuzzRouter(f *testing.F) {
	f.Add("/a/{id}/*", "*.example.org", "/a/b/c", "x.example.org")
	f.Add("/", "", "/", "h")
	f.Add("/a/*", "a", "/a", "a")
	f.Fuzz(func(t *testing.T, pattern, host, path, reqHost string) {
		r, err := newRouter([]Route{{Path: pattern, Host: host, Service: "s"}})
		if err != nil {
			return
		}
		path, ok := normalPath(path)
		if !ok {
			return
		}
		reqHost, ok = normalHost(reqHost)
		if !ok {
			return
		}
		got, _ := r.match(reqHost, path, "GET", nil)
		want := plainHost(host, reqHost) && plainPath(pattern, path)
		if (got != nil) != want {
			t.Errorf("%q %q against %q %q: %v, want %v", host, pattern, reqHost, path, got != nil, want)
		}
	})
}

func plainHost(pattern, host string) bool {
	if pattern == "" || pattern == "*" {
		return true
	}
	if suffix, ok := strings.CutPrefix(pattern, "*"); ok {
		n, _ := normalHost(suffix[1:])
		return strings.HasSuffix(host, "."+n) && len(host) > len(n)+1
	}
	n, _ := normalHost(pattern)
	return n == host
}

func plainPath(pattern, path string) bool {
	if pattern == "" || pattern == "*" || pattern == "/*" {
		return true
	}
	p, tail := strings.CutSuffix(pattern, "/*")
	want, have := strings.Split(p, "/"), strings.Split(path, "/")
	if len(have) < len(want) || !tail && len(have) > len(want) {
		return false
	}
	for i, w := range want {
		if len(w) > 2 && w[0] == '{' {
			if have[i] == "" {
				return false
			}
			continue
		}
		if n, _ := normalPath("/" + w); n != "/"+have[i] {
			return false
		}
	}
	return true
}

func TestSniff(t *testing.T) {
	for in, want := range map[string]kind{
		"": undecided, "G": undecided, "GET": undecided, "GET ": undecided, "GET /": undecided, "GET / HTTP/1.1": undecided,
		"GET / HTTP/1.1\r\n": plainHTTP, "POST http://a/ HTTP/1.0\n": plainHTTP, "OPTIONS * HTTP/1.1\r\n": plainHTTP, "M-SEARCH * HTTP/1.1\r\n": plainHTTP,
		"GET /key\r\n": opaque, "GET key\r\n": opaque, "*1\r\n$4\r\nPING\r\n": opaque, "\x16\x03\x01": opaque, "\x00\x00\x00\x08": opaque,
		"PING\r\n": opaque, "EHLO a\r\n": opaque, "get / HTTP/1.1\r\n": opaque, "PRI": undecided, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": http2Preface,
		"PRI * HTTP/2.0\r\n\r\nXX": opaque, "SSH-2.0-x\r\n": opaque, " GET": opaque, strings.Repeat("A", 30): opaque,
		"GET /" + strings.Repeat("a", 9000): plainHTTP, preface + "more": http2Preface,
	} {
		if got := sniff([]byte(in)); got != want {
			t.Errorf("%.30q: %d, want %d", in, got, want)
		}
	}
}

// FuzzSniff: a verdict once given stays, however the bytes are cut.
func FuzzSniff(f *testing.F) {
	for _, s := range []string{"GET / HTTP/1.1\r\n", preface, "GET /key\r\n", "\x16\x03\x01"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		last := undecided
		for i := range len(b) + 1 {
			k := sniff(b[:i])
			if last != undecided && k != last {
				t.Fatalf("%q: %d after %d bytes, %d before", b, k, i, last)
			}
			last = k
		}
	})
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{0x81, 2, 'a', 'b', 0x82, 126, 0, 3, 1, 2, 3}, 4)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		if cut < 0 || cut > len(b) {
			return
		}
		var whole, parts frames
		w := whole.advance(b)
		p1 := parts.advance(b[:cut])
		p2 := parts.advance(b[cut:])
		if p2 >= 0 {
			p1 = p2 + cut
		}
		if whole.left != parts.left || whole.have != parts.have || w != p1 {
			t.Errorf("cut at %d: %d, whole %d", cut, p1, w)
		}
	})
}
