package console_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"trellis/console"
)

const key = "QWERTYUIOPASDFGHJKLZXCVBNM234567QWERTY"

// recorded is an API that notes what arrives.
type recorded struct {
	paths []string
	body  string
}

func (a *recorded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	a.paths, a.body = append(a.paths, r.Method+" "+r.URL.Path), string(b)
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"ok":true}`)
}

func newConsole(t *testing.T, api http.Handler) http.Handler {
	t.Helper()
	h, err := console.New(console.Config{API: api, Key: key, Project: "shop", Actor: "kim@desk", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// browser is one that is signed in; fields that a test changes are what an attacker cannot have.
type browser struct {
	handler      http.Handler
	host, origin string
	cookie, page string
	header       http.Header
}

func signedIn(t *testing.T, api http.Handler) browser {
	t.Helper()
	b := browser{handler: newConsole(t, api), host: "127.0.0.1:4000", origin: "http://127.0.0.1:4000", header: http.Header{}}
	resp := b.send(t, "POST", "/session", `{"key":"`+key+`"}`)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("sign in: %s", resp.Status)
	}
	var answer struct {
		Page string `json:"page"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	cookies := resp.Cookies()
	if len(cookies) != 1 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteStrictMode || cookies[0].Name != "trellis-4000" {
		t.Fatalf("cookies %v: want one, HttpOnly, SameSite=Strict, named by the port", cookies)
	}
	b.cookie, b.page = cookies[0].Value, answer.Page
	return b
}

func (b browser) request(method, path, body string) *http.Request {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = b.host
	r.Header = b.header.Clone()
	if b.origin != "" {
		r.Header.Set("Origin", b.origin)
	}
	if b.cookie != "" {
		r.AddCookie(&http.Cookie{Name: "trellis-4000", Value: b.cookie})
	}
	if b.page != "" {
		r.Header.Set("X-Trellis-Page", b.page)
	}
	if method == "POST" && r.Header.Get("Content-Type") == "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

func (b browser) send(t *testing.T, method, path, body string) *http.Response {
	t.Helper()
	w := httptest.NewRecorder()
	b.handler.ServeHTTP(w, b.request(method, path, body))
	return w.Result()
}

func TestWhoMayAsk(t *testing.T) {
	api := &recorded{}
	good := signedIn(t, api)
	expired := "1700000000." + strings.SplitN(good.page, ".", 2)[1]
	for _, c := range []struct {
		name   string
		change func(*browser)
		status int
	}{
		{"its own page", func(*browser) {}, 200},
		{"no Origin, as browsers send a GET", func(b *browser) { b.origin = "" }, 200},
		{"localhost", func(b *browser) { b.host, b.origin = "localhost:4000", "http://localhost:4000" }, 200},
		{"a name below localhost", func(b *browser) { b.host, b.origin = "shop.localhost:4000", "http://shop.localhost:4000" }, 200},
		{"IPv6", func(b *browser) { b.host, b.origin = "[::1]:4000", "http://[::1]:4000" }, 200},
		{"a name that was made to lead here", func(b *browser) { b.host, b.origin = "evil.example:4000", "http://evil.example:4000" }, 421},
		{"a name that ends like ours", func(b *browser) { b.host, b.origin = "evillocalhost:4000", "http://evillocalhost:4000" }, 421},
		{"no Host", func(b *browser) { b.host = "" }, 421},
		{"a page of another site", func(b *browser) { b.origin = "http://evil.example" }, 403},
		{"a page of another port", func(b *browser) { b.origin = "http://127.0.0.1:8080" }, 403},
		{"https of the same name", func(b *browser) { b.origin = "https://127.0.0.1:4000" }, 403},
		{"a page without an origin", func(b *browser) { b.origin = "null" }, 403},
		{"embedded by another site", func(b *browser) { b.origin = ""; b.header.Set("Sec-Fetch-Site", "cross-site") }, 403},
		{"embedded by another port", func(b *browser) { b.origin = ""; b.header.Set("Sec-Fetch-Site", "same-site") }, 403},
		{"no cookie", func(b *browser) { b.cookie = "" }, 401},
		{"no page proof", func(b *browser) { b.page = "" }, 401},
		{"the cookie as page proof", func(b *browser) { b.page = b.cookie }, 401},
		{"the page proof as cookie", func(b *browser) { b.cookie = b.page }, 401},
		{"the key itself", func(b *browser) { b.page = key }, 401},
		{"another expiry under the same proof", func(b *browser) { b.page = "9999999999" + b.page[strings.IndexByte(b.page, '.'):] }, 401},
		{"an expired proof", func(b *browser) { b.page = expired }, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := good
			b.header = http.Header{}
			c.change(&b)
			api.paths = nil
			resp := b.send(t, "GET", "/v1/status", "")
			if resp.StatusCode != c.status {
				t.Errorf("answered %d, want %d", resp.StatusCode, c.status)
			}
			if (len(api.paths) == 1) != (c.status == 200) {
				t.Errorf("the API was asked %v", api.paths)
			}
		})
	}
}

func TestWhatChangesSomething(t *testing.T) {
	api := &recorded{}
	good := signedIn(t, api)
	for _, c := range []struct {
		name         string
		method, path string
		change       func(*browser)
		status       int
	}{
		{"an instruction", "POST", "/v1/override", func(*browser) {}, 200},
		{"by GET", "GET", "/v1/override", func(*browser) {}, 404},
		{"an end to a silence", "DELETE", "/v1/silences/1", func(*browser) {}, 200},
		{"an end to a silence, without an Origin", "DELETE", "/v1/silences/1", func(b *browser) { b.origin = "" }, 403},
		{"a PromQL expression by POST", "POST", "/v1/metrics", func(*browser) {}, 405},
		{"without an Origin", "POST", "/v1/override", func(b *browser) { b.origin = "" }, 403},
		{"as a form", "POST", "/v1/override", func(b *browser) { b.header.Set("Content-Type", "text/plain") }, 415},
		{"not signed in", "POST", "/v1/override", func(b *browser) { b.cookie = "" }, 401},
		{"what the console never asks for: apply", "POST", "/v1/apply", func(*browser) {}, 405},
		{"down", "POST", "/v1/down", func(*browser) {}, 405},
		{"exec", "POST", "/v1/exec", func(*browser) {}, 405},
		{"shutdown", "POST", "/v1/shutdown", func(*browser) {}, 405},
		{"the key", "GET", "/v1/door", func(*browser) {}, 404},
		{"the revisions with their environment", "GET", "/v1/history", func(*browser) {}, 404},
		{"a path that leads elsewhere", "POST", "/v1/override/../down", func(*browser) {}, 307},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := good
			b.header = http.Header{}
			c.change(&b)
			api.paths = nil
			resp := b.send(t, c.method, c.path, `{"service":"web","replicas":3,"actor":"mallory"}`)
			if resp.StatusCode != c.status {
				t.Errorf("answered %d, want %d", resp.StatusCode, c.status)
			}
			if (len(api.paths) > 0) != (c.status == 200) {
				t.Errorf("the API was asked %v", api.paths)
			}
			if c.status == 200 && c.method == "POST" && api.body != `{"actor":"kim@desk","replicas":3,"service":"web"}` {
				t.Errorf("passed on as %s", api.body)
			}
		})
	}
}

func TestWhatIsNoInstruction(t *testing.T) {
	api := &recorded{}
	b := signedIn(t, api)
	for _, body := range []string{"", "null", "7", `"web"`, `[{"service":"web"}]`, `{"service":`, `{"service":"` + strings.Repeat("x", 64<<10) + `"}`} {
		if resp := b.send(t, "POST", "/v1/override", body); resp.StatusCode != 400 {
			t.Errorf("%.40q: answered %s, want 400", body, resp.Status)
		}
	}
	if len(api.paths) > 0 {
		t.Errorf("the API was asked %v", api.paths)
	}
}

func TestWrongKeysLetNobodyIn(t *testing.T) {
	for _, body := range []string{`{"key":""}`, `{"key":"x"}`, `{"key":"` + key[:37] + `"}`, `{"key":"` + key + `A"}`, `[]`, ``, `{`, strings.Repeat(`{"key":`, 20000)} {
		b := signedIn(t, &recorded{})
		b.cookie, b.page = "", ""
		resp := b.send(t, "POST", "/session", body)
		if resp.StatusCode != 401 || len(resp.Cookies()) > 0 {
			t.Errorf("%.40q: %s, cookies %v", body, resp.Status, resp.Cookies())
		}
	}
}

func TestTicketInPlaceOfTheKey(t *testing.T) {
	b := signedIn(t, &recorded{})
	b.cookie, b.page = "", ""
	body := `{"key":"` + console.Ticket(key) + `"}`
	if resp := b.send(t, "POST", "/session", body); resp.StatusCode != 200 || len(resp.Cookies()) != 1 {
		t.Errorf("%s, cookies %v", resp.Status, resp.Cookies())
	}
	if resp := b.send(t, "POST", "/session", body); resp.StatusCode != 401 || len(resp.Cookies()) > 0 {
		t.Errorf("a second time: %s, cookies %v", resp.Status, resp.Cookies())
	}
}

func TestSigningOutEndsTheCookie(t *testing.T) {
	resp := signedIn(t, &recorded{}).send(t, "DELETE", "/session", "")
	if c := resp.Cookies(); resp.StatusCode != 204 || len(c) != 1 || c[0].MaxAge >= 0 {
		t.Errorf("%s, %v", resp.Status, c)
	}
}

func TestEveryAnswerSaysWhatBrowsersMayDo(t *testing.T) {
	b := signedIn(t, &recorded{})
	for _, path := range []string{"/", "/assets/index.js", "/nothing", "/v1/status", "/session"} {
		h := b.send(t, "GET", path, "").Header
		policy := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("%s: policy %q lacks %q", path, policy, want)
			}
		}
		if strings.Contains(policy, "unsafe") {
			t.Errorf("%s: policy %q", path, policy)
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" || h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %v", path, h)
		}
	}
	if h := b.send(t, "GET", "/v1/status", "").Header; h.Get("Cache-Control") != "no-store" {
		t.Errorf("the API's answers may be kept: %q", h.Get("Cache-Control"))
	}
}

func TestStreamsBecomeEvents(t *testing.T) {
	api := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/logs" && r.URL.Query().Get("q") == "bad" {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"kind":"invalid","message":"read the request"}`+"\n")
			return
		}
		_, _ = io.WriteString(w, `{"path":"`+r.URL.Path+`"}`+"\n{\"cut")
		_, _ = io.WriteString(w, "\":1}\n")
		if r.URL.Path == "/v1/logs" {
			_, _ = io.WriteString(w, `{"last":"without an end"}`)
			return
		}
		<-r.Context().Done()
	})
	b := signedIn(t, api)
	server := httptest.NewServer(b.handler)
	defer server.Close()
	b.host, b.origin = strings.TrimPrefix(server.URL, "http://"), ""
	cookie := "trellis-" + b.host[strings.LastIndexByte(b.host, ':')+1:]
	read := func(path string, until int) []string {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "GET", server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.AddCookie(&http.Cookie{Name: cookie, Value: b.cookie})
		req.Header.Set("X-Trellis-Page", b.page)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if kind := resp.Header.Get("Content-Type"); kind != "text/event-stream" {
			t.Fatalf("%s is %q", path, kind)
		}
		var events []string
		name := ""
		for s := bufio.NewScanner(resp.Body); len(events) < until && s.Scan(); {
			if n, ok := strings.CutPrefix(s.Text(), "event: "); ok {
				name = n
			} else if data, ok := strings.CutPrefix(s.Text(), "data: "); ok {
				events = append(events, name+" "+data)
			}
		}
		return events
	}
	seen := map[string]int{}
	for _, e := range read("/live", 6) {
		seen[e]++
	}
	for _, want := range []string{`status {"path":"/v1/watch"}`, `event {"path":"/v1/events"}`, `traffic {"path":"/v1/traffic"}`, `status {"cut":1}`} {
		if seen[want] != 1 {
			t.Errorf("%q came %d times: %v", want, seen[want], seen)
		}
	}
	if got := read("/live/logs?q=good", 100); len(got) != 3 || got[2] != `log {"last":"without an end"}` {
		t.Errorf("logs: %q", got)
	}
	if got := read("/live/logs?q=bad", 100); len(got) != 1 || got[0] != `error {"kind":"invalid","message":"read the request"}` {
		t.Errorf("an error: %q", got)
	}
}

// TestAStreamThatIsCutOff: the API ends an answer that is not whole by a panic, as every handler may. It ends the answer here too, which
// is not whole either, and not the process: the control plane is in it.
func TestAStreamThatIsCutOff(t *testing.T) {
	api := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"text":"output ends early"}`+"\n")
		panic(http.ErrAbortHandler)
	})
	b := signedIn(t, api)
	server := httptest.NewServer(b.handler)
	defer server.Close()
	b.host = strings.TrimPrefix(server.URL, "http://")
	req, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/live/logs", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.AddCookie(&http.Cookie{Name: "trellis-" + b.host[strings.LastIndexByte(b.host, ':')+1:], Value: b.cookie})
	req.Header.Set("X-Trellis-Page", b.page)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if !strings.Contains(string(text), "output ends early") || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read %q, %v: want what there was, and an end that is none", text, err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, cfg := range []console.Config{
		{}, {API: &recorded{}, Log: slog.Default()}, {API: &recorded{}, Key: "short", Log: slog.Default()}, {Key: key, Log: slog.Default()},
	} {
		if _, err := console.New(cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

// FuzzProof: nobody gets in with a proof that was not given, whatever it looks like, and nothing panics.
func FuzzProof(f *testing.F) {
	for _, seed := range []string{"", ".", "9999999999.", "-1.x", "9999999999.AAAA", "99999999999999999999.AAAA", "1.2.3"} {
		f.Add(seed)
	}
	api := &recorded{}
	h, err := console.New(console.Config{API: api, Key: key, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, proof string) {
		r := httptest.NewRequest("GET", "/v1/status", nil)
		r.Host = "127.0.0.1:4000"
		r.Header.Set("Cookie", "trellis-4000="+proof)
		r.Header["X-Trellis-Page"] = []string{proof}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 401 || len(api.paths) > 0 {
			t.Errorf("%q: %d", proof, w.Code)
		}
	})
}
