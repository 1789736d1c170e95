package proxy

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"

	"trellis/identity"
	"trellis/identity/identitytest"
)

// policed opens a gateway with one service "app" and the given routes to its port 80.
func (r *rig) policed(b *backend, auth map[string]Auth, routes ...Route) string {
	r.t.Helper()
	r.snap.Services = append(r.snap.Services, Service{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}})
	for _, route := range routes {
		route.Service, route.Port = "app", 80
		r.snap.Routes = append(r.snap.Routes, route)
	}
	r.snap.Auth = auth
	addr := r.listen(Listener{Name: "gateway", Protocol: HTTP1})
	r.push()
	return "http://" + addr
}

// ask sends one request with header fields, given as pairs.
func ask(t testing.TB, method, url, content string, pairs ...string) (*http.Response, string) {
	t.Helper()
	var in io.Reader
	if content != "" {
		in = strings.NewReader(content)
	}
	req, err := http.NewRequest(method, url, in)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(pairs); i += 2 {
		req.Header[pairs[i]] = append(req.Header[pairs[i]], pairs[i+1])
	}
	c := client(t)
	defer c.CloseIdleConnections()
	res, err := c.Do(req)
	return res, body(t, res, err)
}

// told answers with who it was told calls.
func told(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s as %s, role %s", r.Header["X-Trellis-Subject"], r.Header["X-Trellis-Auth"], r.Header["X-User-Role"])
	for k := range r.Header {
		if strings.Contains(k, "_") {
			fmt.Fprintf(w, " and %s", k)
		}
	}
}

func learner(jwks string) map[string]Auth {
	return map[string]Auth{"learner": {
		JWT:    &JWTAuth{Issuer: identitytest.Name, Audience: identitytest.Audience, JWKS: jwks},
		Claims: map[string]string{"X-Trellis-Subject": "sub", "X-User-Role": "role"},
	}}
}

// TestTokens: whoever has a token of the issuer is let in and introduced to the program; every token of the corpus is 401.
func TestTokens(t *testing.T) {
	t.Parallel()
	i := identitytest.New(t)
	ids := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { w.Write(i.KeySet()) })
	r := newRig(t, Config{})
	r.snap.Services = []Service{{Name: "identity", Instances: []Instance{instanceAt("identity-1", ids.addr)}}}
	url := r.policed(serveFunc(t, told), learner("http://identity/keys.json"),
		Route{Path: "/open", Decision: Decision{Auth: "none"}}, Route{Path: "/*", Decision: Decision{Auth: "learner"}},
		Route{Path: "/staff/*", Decision: Decision{Auth: "learner", Require: map[string][]string{"role": {"staff", "admin"}}}})
	good := i.Token("ES256", map[string]any{"role": "staff"})
	forged := []string{"X-Trellis-Subject", "root", "X_trellis_subject", "root", "X-User-Role", "admin", "x_user_role", "admin", "X-Trellis-Auth", "learner"}
	for _, c := range []struct {
		path, token string
		status      int
		says        string
	}{
		{"/", good, 200, "[ada] as [learner], role [staff]"}, {"/staff/x", good, 200, "[ada] as [learner], role [staff]"},
		{"/staff", i.Token("EdDSA", map[string]any{"role": []string{"author", "admin"}}), 200, "[ada] as [learner], role [author,admin]"},
		{"/staff", i.Token("RS256", map[string]any{"role": "visitor"}), 403, ""}, {"/staff", i.Token("RS256", nil), 403, ""},
		{"/", i.Token("PS256", nil), 200, "[ada] as [learner], role []"}, {"/", "", 401, ""}, {"/staff", "", 401, ""}, {"/open", "", 200, "[] as [], role []"},
		{"/open", good, 200, "[] as [], role []"},
	} {
		fields := slices.Clone(forged)
		if c.token != "" {
			fields = append(fields, "Authorization", "Bearer "+c.token)
		}
		res, text := ask(t, "GET", url+c.path, "", append(fields, "Connection", "X-User-Role, X-Trellis-Subject")...)
		if res.StatusCode != c.status || c.says != "" && text != c.says {
			t.Errorf("%s with %.20s: %d %q", c.path, c.token, res.StatusCode, text)
		}
		if res.StatusCode == 401 && !strings.HasPrefix(res.Header.Get("Www-Authenticate"), `Bearer realm="learner"`) {
			t.Errorf("%s: %v", c.path, res.Header)
		}
	}
	corpus, c := i.Corpus(), client(t)
	refused := 0
	for _, bad := range corpus {
		if strings.ContainsAny(bad.Token, "\r\n\x00") { // not even a header field
			refused++
			continue
		}
		req, _ := http.NewRequest("GET", url+"/", nil)
		req.Header.Set("Authorization", "Bearer "+bad.Token)
		res, err := c.Do(req)
		if text := body(t, res, err); res.StatusCode != 401 {
			t.Errorf("%s: %d %s", bad.Name, res.StatusCode, text)
		} else {
			refused++
		}
	}
	if refused != len(corpus) || refused < 300 {
		t.Errorf("%d of %d refused", refused, len(corpus))
	}
	for _, fields := range [][]string{
		{"Authorization", "Bearer " + good, "Authorization", "Bearer " + good}, {"Authorization", "Basic " + good}, {"Authorization", good}, {"X-Api-Key", good}, {"Cookie", "token=" + good},
	} {
		if res, _ := ask(t, "GET", url+"/?access_token="+good, "", fields...); res.StatusCode != 401 {
			t.Errorf("%.40q: %d", fields, res.StatusCode)
		}
	}
}

// TestKeysThatCannotBeHad close the route until they can.
func TestKeysThatCannotBeHad(t *testing.T) {
	i := identitytest.New(t)
	var answer atomic.Value
	answer.Store([]byte("no"))
	ids := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { w.Write(answer.Load().([]byte)) })
	r := newRig(t, Config{})
	url := r.policed(serveFunc(t, told), learner("http://"+ids.addr+"/keys"), Route{Decision: Decision{Auth: "learner"}})
	token := i.Token("ES256", nil)
	for _, bad := range [][]byte{[]byte("no"), make([]byte, 10<<20)} {
		answer.Store(bad)
		if res, _ := ask(t, "GET", url+"/", "", "Authorization", "Bearer "+token); res.StatusCode != 503 || res.Header.Get(ErrorHeader) != kindAuth {
			t.Errorf("%d bytes that are no keys: %d", len(bad), res.StatusCode)
		}
	}
	if res, _ := ask(t, "GET", url+"/", ""); res.StatusCode != 401 {
		t.Errorf("without a token: %d", res.StatusCode)
	}
}

func TestAPIKeysAtTheGateway(t *testing.T) {
	key, text, err := identity.NewAPIKey("acme", []string{"orders:read"}, time.Now(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, Config{})
	url := r.policed(serveFunc(t, told), map[string]Auth{
		"partner": {APIKeys: &APIKeyAuth{List: key.Line()}}, "broken": {APIKeys: &APIKeyAuth{List: text}}, "missing": {Problem: "secret keys can't be read"},
	},
		Route{Path: "/*", Decision: Decision{Auth: "partner"}}, Route{Path: "/write", Decision: Decision{Auth: "partner", Require: map[string][]string{"scope": {"orders:write"}}}},
		Route{Path: "/broken", Decision: Decision{Auth: "broken"}}, Route{Path: "/missing", Decision: Decision{Auth: "missing"}},
		Route{Path: "/nobody", Decision: Decision{Auth: "none", Require: map[string][]string{"role": {"staff"}}}})
	for _, c := range []struct {
		path   string
		fields []string
		status int
	}{
		{"/", []string{"X-Api-Key", text}, 200}, {"/", []string{"Authorization", "Bearer " + text}, 200}, {"/", nil, 401}, {"/", []string{"X-Api-Key", text + "x"}, 401},
		{"/", []string{"X-Api-Key", text, "Authorization", "Bearer x"}, 401}, {"/write", []string{"X-Api-Key", text}, 403},
		{"/broken", []string{"X-Api-Key", text}, 503}, {"/missing", []string{"X-Api-Key", text}, 503}, {"/nobody", []string{"X-Api-Key", text}, 503},
	} {
		if res, said := ask(t, "GET", url+c.path, "", c.fields...); res.StatusCode != c.status || c.status == 200 && said != "[acme] as [partner], role []" {
			t.Errorf("%s %.30q: %d %s", c.path, c.fields, res.StatusCode, said)
		}
	}
}

// TestForwardAuth: a service decides; what it says beside 2xx is for the client.
func TestForwardAuth(t *testing.T) {
	sso := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Cookie") {
		case "session=good":
			w.Header().Set("X-User-Role", "staff")
			fmt.Fprint(w, "ok")
		case "session=down":
			w.WriteHeader(500)
		default:
			w.Header().Set("Location", "https://login.example.org/?to="+r.Header.Get("X-Original-Uri")+r.Header.Get("X-Original-Method")+r.Header.Get("X-Forwarded-For"))
			w.WriteHeader(302)
		}
	})
	r := newRig(t, Config{})
	r.snap.Services = []Service{{Name: "sso", Instances: []Instance{instanceAt("sso-1", sso.addr)}}}
	url := r.policed(serveFunc(t, told), map[string]Auth{
		"sso": {Forward: &ForwardAuth{Service: "sso", Port: 80, Path: "/check", Headers: []string{"X-User-Role"}}}, "gone": {Forward: &ForwardAuth{Service: "gone", Port: 80, Path: "/check"}},
	}, Route{Decision: Decision{Auth: "sso"}}, Route{Path: "/gone", Decision: Decision{Auth: "gone"}})
	if res, text := ask(t, "POST", url+"/a?b", "x", "Cookie", "session=good", "X-User-Role", "admin"); res.StatusCode != 200 || !strings.HasSuffix(text, "as [sso], role [staff]") {
		t.Errorf("%d %q", res.StatusCode, text)
	}
	if res, _ := ask(t, "GET", url+"/a?b", "", "X-Original-Method", "PUT", "X-Forwarded-For", "6.6.6.6"); res.StatusCode != 302 || res.Header.Get("Location") != "https://login.example.org/?to=/a?bGET127.0.0.1" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
	for path, cookie := range map[string]string{"/": "session=down", "/gone": "session=good"} {
		if res, _ := ask(t, "GET", url+path, "", "Cookie", cookie); res.StatusCode != 503 {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
}

// TestForgedWithoutSchemes: where nobody is asked who calls, no client says it either.
func TestForgedWithoutSchemes(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header["X-Trellis-Subject"], r.Header["X_trellis_auth"], r.Header["X-Other"])
	})
	r := newRig(t, Config{})
	url := r.policed(b, nil, Route{Path: "/*"})
	if _, text := ask(t, "GET", url+"/", "", "X-Trellis-Subject", "root", "X_trellis_auth", "key", "X-Other", "kept"); text != "[] [] [kept]" {
		t.Errorf("it gets %s", text)
	}
}

// TestForgedTrailers: what no client may say in the head it does not say behind the body either, over both protocols.
func TestForgedTrailers(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, r.Proto, " ", r.Trailer)
	})
	key, _, err := identity.NewAPIKey("ci", nil, time.Now(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, Config{})
	r.policed(b, map[string]Auth{"key": {APIKeys: &APIKeyAuth{List: key.Line()}, Claims: map[string]string{"X-User": "sub"}}}, Route{Path: "/*"})
	for _, two := range []bool{false, true} {
		want := "HTTP/1.1 map[X-Sum:[7]]"
		if two {
			r.snap.Services[0].HTTP2, want = []int{80}, "HTTP/2.0 map[X-Sum:[7]]"
			r.push()
		}
		conn, err := net.Dial("tcp", r.sockets["gateway"].Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-User, x_user, X-Trellis-Subject, X-Forwarded-For\r\n\r\n"+
			"1\r\nx\r\n0\r\nX-Sum: 7\r\nX-User: root\r\nx_user: root\r\nX-Trellis-Subject: root\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n")
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if text := body(t, res, err); text != want {
			t.Errorf("%s, want %s", text, want)
		}
	}
}

// TestForwardedByARoute: fields of the family that clients may not send arrive where the gateway itself is told to set them, over
// both protocols and at the mirror; what a client sends under the same name never does.
func TestForwardedByARoute(t *testing.T) {
	t.Parallel()
	seen := make(chan string, 16)
	all := func(w http.ResponseWriter, r *http.Request) {
		var lines []string
		for k, v := range r.Header {
			if strings.HasPrefix(strings.ReplaceAll(k, "_", "-"), "X-Forwarded-") {
				lines = append(lines, fmt.Sprintf("%s=%s", strings.TrimPrefix(k, "X-Forwarded-"), strings.Join(v, "|")))
			}
		}
		slices.Sort(lines)
		text := fmt.Sprint(r.Proto, " ", lines)
		if r.Header.Get("X-Trellis-Mirrored") != "" {
			seen <- text
		}
		io.WriteString(w, text)
	}
	sso := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Forwarded-User", "ada") })
	key, text, err := identity.NewAPIKey("ci", nil, time.Now(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	b := serveFunc(t, all)
	for _, two := range []bool{false, true} {
		r := newRig(t, Config{})
		r.snap.Services = []Service{{Name: "sso", Instances: []Instance{instanceAt("sso-1", sso.addr)}}, {Name: "copy", Instances: []Instance{instanceAt("copy-1", b.addr)}}}
		url := r.policed(b, map[string]Auth{
			"sso": {Forward: &ForwardAuth{Service: "sso", Port: 80, Path: "/", Headers: []string{"X-Forwarded-User"}}},
			"key": {APIKeys: &APIKeyAuth{List: key.Line()}, Claims: map[string]string{"X-Forwarded-User": "sub"}},
		},
			Route{Path: "/sso", Decision: Decision{Auth: "sso", Mirror: &Mirror{Service: "copy", Port: 80, Share: 1}}}, Route{Path: "/key", Decision: Decision{Auth: "key"}},
			Route{Path: "/set/*", Decision: Decision{RequestHeaders: &HeaderEdit{Set: map[string]string{"X-Forwarded-Prefix": "/set", "X-Forwarded-Proto": "https"}}}},
			Route{Path: "/plain"})
		proto := "HTTP/1.1"
		if two {
			r.snap.Services[2].HTTP2, proto = []int{80}, "HTTP/2.0"
			r.push()
		}
		host := strings.TrimPrefix(url, "http://")
		for path, want := range map[string]string{
			"/sso": "[For=127.0.0.1 Host=" + host + " Proto=http User=ada]", "/key": "[For=127.0.0.1 Host=" + host + " Proto=http User=ci]",
			"/set/a": "[For=127.0.0.1 Host=" + host + " Prefix=/set Proto=https]", "/plain": "[For=127.0.0.1 Host=" + host + " Proto=http]",
		} {
			res, got := ask(t, "GET", url+path, "", "X-Api-Key", text, "X-Forwarded-User", "root", "X_forwarded_user", "root", "X-Forwarded-Prefix", "/evil",
				"X-Forwarded-For", "6.6.6.6", "X-Forwarded-Port", "1", "Connection", "X-Forwarded-User, X-Forwarded-Prefix")
			if res.StatusCode != 200 || got != proto+" "+want {
				t.Errorf("%s: %d %s, want %s %s", path, res.StatusCode, got, proto, want)
			}
		}
		if got, want := <-seen, "HTTP/1.1 [For=127.0.0.1 Host="+host+" Proto=http User=ada]"; got != want {
			t.Errorf("mirrored: %s, want %s", got, want)
		}
	}
}

func TestRateLimits(t *testing.T) {
	key, text, _ := identity.NewAPIKey("acme", nil, time.Now(), time.Time{})
	other, otherText, _ := identity.NewAPIKey("other", nil, time.Now(), time.Time{})
	r := newRig(t, Config{})
	limit := func(per string) *RateLimit { return &RateLimit{Per: per, Rate: 0.01, Burst: 3} }
	url := r.policed(serveFunc(t, told), map[string]Auth{"partner": {APIKeys: &APIKeyAuth{List: key.Line() + "\n" + other.Line()}}},
		Route{Path: "/client", Decision: Decision{RateLimit: limit("client")}}, Route{Path: "/key", Decision: Decision{Auth: "partner", RateLimit: limit("key")}},
		Route{Path: "/open-key", Decision: Decision{RateLimit: limit("key")}})
	for n := range 6 {
		want := 200
		if n >= 3 {
			want = 429
		}
		res, _ := ask(t, "GET", url+"/client", "")
		after, _ := strconv.Atoi(res.Header.Get("Retry-After")) // 100 s from the first one on
		if res.StatusCode != want || want == 429 && (after < 90 || after > 100 || res.Header.Get(ErrorHeader) != kindLimit) {
			t.Errorf("request %d: %d %v", n, res.StatusCode, res.Header)
		}
		for _, one := range []string{text, otherText} {
			if res, _ := ask(t, "GET", url+"/key", "", "X-Api-Key", one); res.StatusCode != want {
				t.Errorf("request %d with a key: %d", n, res.StatusCode)
			}
		}
		if n == 4 {
			r.push() // what was counted lives on
		}
	}
	if res, _ := ask(t, "GET", url+"/open-key", ""); res.StatusCode != 503 {
		t.Errorf("a limit per caller where nobody is asked: %d", res.StatusCode)
	}
}

// TestLimiterKeepsItsRate over hours, also where it has to forget.
func TestLimiterKeepsItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(RateLimit{Per: "client", Rate: 50, Burst: 100}, time.Now())
		passed := 0
		for range 1000 { // 1,000 a second for 100 seconds
			for range 100 {
				if l.take(limitKey{name: "a"}, time.Now()) == 0 {
					passed++
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		if passed < 5090 || passed > 5110 { // 100 + 50 * 100
			t.Errorf("%d passed", passed)
		}
		for i := range 300_000 {
			l.take(limitKey{name: fmt.Sprint(i)}, time.Now())
		}
		held := 0
		for i := range l.shards {
			held += len(l.shards[i].when)
		}
		if held > limitShards*limitEntries {
			t.Errorf("%d keys held", held)
		}
	})
	a := parseAddrs(t, "2001:db8::1", "2001:db8::ffff:2")
	if clientKey(a[0]) != clientKey(a[1]) {
		t.Error("two addresses of one /64 are two clients")
	}
}

func TestBodiesAndConcurrency(t *testing.T) {
	var got, inside atomic.Int64
	hold := make(chan struct{})
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		got.Store(n)
		if r.URL.Path == "/few" {
			inside.Add(1)
			<-hold
		}
	})
	r := newRig(t, Config{})
	url := r.policed(b, nil, Route{Path: "/*", Decision: Decision{MaxBody: 1000}}, Route{Path: "/few", Decision: Decision{Concurrency: 2}})
	for _, size := range []int{1, 1000, 1001, 200_000} {
		want := 200
		if size > 1000 {
			want = 413
		}
		if res, _ := ask(t, "POST", url+"/", strings.Repeat("x", size)); res.StatusCode != want {
			t.Errorf("%d bytes: %d", size, res.StatusCode)
		}
		req, _ := http.NewRequest("POST", url+"/", io.MultiReader(strings.NewReader(strings.Repeat("x", size)))) // chunked
		res, err := client(t).Do(req)
		if body(t, res, err); res.StatusCode != want {
			t.Errorf("%d bytes, chunked: %d", size, res.StatusCode)
		}
		if want == 413 && got.Load() > 1000 {
			t.Errorf("the program got %d bytes", got.Load())
		}
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { ask(t, "GET", url+"/few", "") })
	}
	eventually(t, "two are under way", func() bool { return inside.Load() == 2 })
	if res, _ := ask(t, "GET", url+"/few", ""); res.StatusCode != 503 || res.Header.Get("Retry-After") != "1" {
		t.Errorf("a third: %d %v", res.StatusCode, res.Header)
	}
	close(hold)
	wg.Wait()
	eventually(t, "places are given back", func() bool { res, _ := ask(t, "GET", url+"/few", ""); return res.StatusCode == 200 })
}

func TestCORS(t *testing.T) {
	var calls atomic.Int64
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		w.Header().Set("Access-Control-Allow-Origin", "*")
	})
	r := newRig(t, Config{})
	url := r.policed(b, nil, Route{Path: "/api", Methods: []string{"PUT"}, Decision: Decision{CORS: &CORS{
		Origins: []string{"https://a.example.org"}, Methods: []string{"PUT"}, Headers: []string{"Content-Type"}, Credentials: true, MaxAge: 600, Expose: []string{"X-Total"},
	}}})
	res, _ := ask(t, "OPTIONS", url+"/api", "", "Origin", "https://a.example.org", "Access-Control-Request-Method", "PUT")
	h := res.Header
	if res.StatusCode != 200 || h.Get("Access-Control-Allow-Origin") != "https://a.example.org" || h.Get("Access-Control-Allow-Methods") != "PUT" ||
		h.Get("Access-Control-Allow-Headers") != "Content-Type" || h.Get("Access-Control-Allow-Credentials") != "true" || h.Get("Access-Control-Max-Age") != "600" || calls.Load() != 0 {
		t.Errorf("preflight: %d %v, %d calls", res.StatusCode, h, calls.Load())
	}
	if res, _ := ask(t, "PUT", url+"/api", "", "Origin", "https://a.example.org"); res.Header.Get("Access-Control-Allow-Origin") != "https://a.example.org" || res.Header.Get("Vary") != "Origin" || res.Header.Get("Access-Control-Expose-Headers") != "X-Total" {
		t.Errorf("%v", res.Header)
	}
	for _, origin := range []string{"https://b.example.org", "https://a.example.org.evil.org", "null", "http://a.example.org"} {
		if res, _ := ask(t, "PUT", url+"/api", "", "Origin", origin); res.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s may read: %v", origin, res.Header)
		}
		if res, _ := ask(t, "OPTIONS", url+"/api", "", "Origin", origin, "Access-Control-Request-Method", "PUT"); res.Header.Get("Access-Control-Allow-Origin") != "" || res.Header.Get("Access-Control-Allow-Methods") != "" {
			t.Errorf("%s may ask: %v", origin, res.Header)
		}
	}
	if res, _ := ask(t, "OPTIONS", url+"/api", "", "Origin", "https://a.example.org", "Access-Control-Request-Method", "DELETE"); res.StatusCode != 405 {
		t.Errorf("a method that has no route: %d", res.StatusCode)
	}
}

// TestCORSAndCaches: a cache that tells answers apart as it is told gives nobody one that forbids what is allowed.
func TestCORSAndCaches(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {})
	r := newRig(t, Config{})
	const a, other = "https://a.example.org", "https://b.example.org"
	url := r.policed(b, nil,
		Route{Path: "/any", Decision: Decision{CORS: &CORS{Origins: []string{"*"}}}}, Route{Path: "/both", Decision: Decision{CORS: &CORS{Origins: []string{a, "*"}}}},
		Route{Path: "/one", Decision: Decision{CORS: &CORS{Origins: []string{a}, Credentials: true}}})
	for _, c := range []struct{ path, from, may, vary string }{
		{"/any", "", "*", ""}, {"/any", a, "*", ""}, {"/both", "", "*", ""}, {"/both", a, "*", ""}, {"/both", other, "*", ""},
		{"/one", "", "", "Origin"}, {"/one", a, a, "Origin"}, {"/one", other, "", "Origin"},
	} {
		var fields []string
		if c.from != "" {
			fields = []string{"Origin", c.from}
		}
		res, _ := ask(t, "GET", url+c.path, "", fields...)
		if may, vary := res.Header.Get("Access-Control-Allow-Origin"), res.Header.Get("Vary"); may != c.may || vary != c.vary {
			t.Errorf("%s from %q: %q may, told apart by %q", c.path, c.from, may, vary)
		}
	}
}

// TestPreflightBesideACatchAll: a browser's question is about the request that follows: another route that takes every method, as the
// one of a site's pages does, neither gets it nor speaks for that request.
func TestPreflightBesideACatchAll(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "the program") })
	r := newRig(t, Config{})
	pages := func(origin string) Decision { return Decision{CORS: &CORS{Origins: []string{origin}}} }
	url := r.policed(b, nil,
		Route{Path: "/api/*", Methods: []string{"GET", "PUT"}, Decision: pages("https://a.example.org")},
		Route{Path: "/open/*", Methods: []string{"PUT"}, Decision: pages("https://b.example.org")},
		Route{Path: "/open/*", Decision: pages("https://a.example.org")}, Route{Path: "/*"})
	for _, c := range []struct{ path, method, origin, says string }{
		{"/api/x", "PUT", "https://a.example.org", ""}, {"/open/x", "PUT", "https://b.example.org", ""}, {"/open/x", "POST", "https://a.example.org", ""},
		{"/api/x", "DELETE", "", "the program"}, {"/x", "PUT", "", "the program"},
	} {
		for _, origin := range []string{"https://a.example.org", "https://b.example.org"} {
			res, text := ask(t, "OPTIONS", url+c.path, "", "Origin", origin, "Access-Control-Request-Method", c.method)
			want := ""
			if origin == c.origin {
				want = origin
			}
			if got := res.Header.Get("Access-Control-Allow-Origin"); res.StatusCode != 200 || got != want || text != c.says {
				t.Errorf("%s %s from %s: %d, %q may, %q", c.method, c.path, origin, res.StatusCode, got, text)
			}
		}
	}
}

func TestCompression(t *testing.T) {
	text := strings.Repeat("the same again. ", 4000)
	next := make(chan struct{})
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("Etag", `"1"`)
		switch r.URL.Path {
		case "/image":
			h.Set("Content-Type", "image/png")
		case "/packed":
			h.Set("Content-Encoding", "br")
		case "/private":
			h.Set("Cache-Control", "private, no-transform")
		case "/small":
			io.WriteString(w, "small")
			return
		case "/pieces":
			io.WriteString(w, "one ")
			w.(http.Flusher).Flush()
			<-next
			io.WriteString(w, "two")
			return
		case "/broken":
			h.Set("Content-Length", fmt.Sprint(2*len(text)))
			io.WriteString(w, text)
			panic(http.ErrAbortHandler)
		}
		h.Set("Content-Length", fmt.Sprint(len(text)))
		io.WriteString(w, text)
	})
	r := newRig(t, Config{})
	url := r.policed(b, nil, Route{Decision: Decision{Compress: true}})
	for _, c := range []struct{ path, accept, coding string }{
		{"/", "gzip, deflate, br, zstd", "zstd"}, {"/", "gzip", "gzip"}, {"/", "gzip;q=1, zstd;q=0.5", "gzip"}, {"/", "zstd;q=0, *", "gzip"}, {"/", "br", ""}, {"/", "", ""},
		{"/", "identity", ""}, {"/", "gzip;q=x", ""}, {"/image", "gzip", ""}, {"/packed", "gzip", "br"}, {"/private", "gzip", ""}, {"/small", "gzip", ""},
	} {
		res, got := ask(t, "GET", url+c.path, "", "Accept-Encoding", c.accept)
		if res.Header.Get("Content-Encoding") != c.coding {
			t.Errorf("%s with %q: %v", c.path, c.accept, res.Header)
			continue
		}
		if c.coding == "gzip" || c.coding == "zstd" {
			if got = unpack(t, c.coding, got); got != text || res.Header.Get("Etag") != `W/"1"` || res.Header.Get("Content-Length") != "" {
				t.Errorf("%s with %q: %d bytes, %v", c.path, c.accept, len(got), res.Header)
			}
		}
		if c.path == "/" && res.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%s with %q: %v", c.path, c.accept, res.Header)
		}
	}
	for _, coding := range []string{"gzip", "zstd"} {
		req, _ := http.NewRequest("GET", url+"/pieces", nil)
		req.Header.Set("Accept-Encoding", coding)
		res, err := client(t).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4)
		in := unpacker(t, coding, res.Body)
		if _, err := io.ReadFull(in, buf); err != nil || string(buf) != "one " { // before the program goes on
			t.Errorf("%s: %q %v", coding, buf, err)
		}
		next <- struct{}{}
		rest, err := io.ReadAll(in)
		if string(rest) != "two" || err != nil {
			t.Errorf("%s: %q %v", coding, rest, err)
		}
		res.Body.Close()
		req, _ = http.NewRequest("GET", url+"/broken", nil)
		req.Header.Set("Accept-Encoding", coding)
		if res, err = client(t).Do(req); err == nil {
			if _, err = io.ReadAll(res.Body); err == nil {
				t.Errorf("%s: a truncated answer looks whole", coding)
			}
			res.Body.Close()
		}
	}
}

func unpacker(t testing.TB, coding string, r io.Reader) io.Reader {
	t.Helper()
	if coding == "gzip" {
		z, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(z.Close)
	return z
}

func unpack(t testing.TB, coding, text string) string {
	t.Helper()
	b, err := io.ReadAll(unpacker(t, coding, bytes.NewReader([]byte(text))))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRewritesAndHeaders(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "secret/1.0")
		w.Header().Set("X-Frame-Options", "DENY")
		fmt.Fprintf(w, "%s%s%s", r.RequestURI, r.Header["X-Tenant"], r.Header["X-Debug"])
	})
	r := newRig(t, Config{})
	url := r.policed(b, nil,
		Route{Path: "/old/*", Decision: Decision{Redirect: &Redirect{To: "https://{host}/new{path}{query}", Status: 308}}},
		Route{Path: "/v1/*", Decision: Decision{Rewrite: &Rewrite{From: "/v1", To: "/"}, RequestHeaders: &HeaderEdit{Set: map[string]string{"x-tenant": "a"}, Remove: []string{"x-debug"}},
			ResponseHeaders: &HeaderEdit{Set: map[string]string{"X-Served-By": "trellis"}, Remove: []string{"server"}}, SecurityHeaders: true, HSTS: "max-age=1"}},
		Route{Path: "/bad", Decision: Decision{}})
	if res, _ := ask(t, "GET", url+"/old/a?b=c", ""); res.StatusCode != 308 || res.Header.Get("Location") != "https://127.0.0.1/new/old/a?b=c" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
	for path, want := range map[string]string{"/v1/a/b?c": "/a/b?c[a][]", "/v1": "/[a][]", "/v1/": "/[a][]", "/v1?x": "/?x[a][]"} {
		res, text := ask(t, "GET", url+path, "", "X-Tenant", "evil", "X_Tenant", "evil", "X-Debug", "1")
		h := res.Header
		if text != want || h.Get("X-Served-By") != "trellis" || h.Get("Server") != "" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("X-Frame-Options") != "DENY" || h.Get("Strict-Transport-Security") != "" {
			t.Errorf("%s: %q %v", path, text, h)
		}
	}
	r.snap.Routes[2].Decision = Decision{RequestHeaders: &HeaderEdit{Set: map[string]string{"Content-Length": "0"}}}
	r.snap.Version++
	bad := r.snap
	r.feed.ch <- Update{Snapshot: &bad}
	r.feed.ch <- Update{}
	if r.proxy.table.Load().version == bad.Version {
		t.Error("a route that sets Content-Length was taken")
	}
}

func TestSplitsAndMirrors(t *testing.T) {
	var mirrored sync.Map
	shadow := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		mirrored.Store(r.Method+" "+r.RequestURI+" "+string(b)+" "+r.Header.Get("X-Trellis-Mirrored"), true)
	})
	beta := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "beta") })
	r := newRig(t, Config{})
	r.snap.Services = []Service{{Name: "beta", Instances: []Instance{instanceAt("beta-1", beta.addr)}}, {Name: "shadow", Instances: []Instance{instanceAt("shadow-1", shadow.addr)}}}
	url := r.policed(serveFunc(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "stable") }), nil,
		Route{Path: "/named", Decision: Decision{Split: []Split{{Service: "beta", Port: 80, Header: "x-beta", Value: "1"}, {Service: "beta", Port: 80, Cookie: "beta", Value: "yes"}}}},
		Route{Path: "/share", Decision: Decision{Split: []Split{{Service: "beta", Port: 80, Share: 0.25}}}},
		Route{Path: "/copy", Decision: Decision{Mirror: &Mirror{Service: "shadow", Port: 80, Share: 1}}})
	for _, c := range []struct{ field, value, want string }{
		{"X-Beta", "1", "beta"}, {"X-Beta", "2", "stable"}, {"Cookie", "a=b; beta=yes", "beta"}, {"Cookie", "xbeta=yes", "stable"}, {"Cookie", "beta=yesyes", "stable"}, {"A", "b", "stable"},
	} {
		if _, text := ask(t, "GET", url+"/named", "", c.field, c.value); text != c.want {
			t.Errorf("%s: %s: %s", c.field, c.value, text)
		}
	}
	n := 0
	for range 400 {
		if _, text := ask(t, "GET", url+"/share", ""); text == "beta" {
			n++
		}
	}
	if n < 60 || n > 140 { // 100 expected, 4.6 standard deviations
		t.Errorf("%d of 400 went to a share of 25 %%", n)
	}
	if _, text := ask(t, "POST", url+"/copy?a", "content"); text != "stable" {
		t.Error(text)
	}
	eventually(t, "the mirror has its copy", func() bool { _, ok := mirrored.Load("POST /copy?a content 1"); return ok })
	shadow.srv.Close()
	began := time.Now()
	if _, text := ask(t, "POST", url+"/copy", "content"); text != "stable" || time.Since(began) >= defaultHold {
		t.Errorf("with the mirror down: %q after %s", text, time.Since(began))
	}
}

// TestNoPolicyNoCost: a route that only sends on has no policy.
func TestNoPolicyNoCost(t *testing.T) {
	p := New(Config{})
	s := Snapshot{Epoch: 1, Version: 1, Services: []Service{{Name: "app"}}, Routes: []Route{{Service: "app", Port: 80, Decision: Decision{Auth: "none"}}}}
	tab, err := p.compile(&s, emptyTable(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	p.table.Store(tab)
	q := &request{method: "GET", path: "/", outside: true}
	l := &Listener{}
	if n := testing.AllocsPerRun(100, func() {
		to, f := p.route(l, q)
		if f != nil || to.policy != nil {
			t.Fatal(f, to.policy)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
