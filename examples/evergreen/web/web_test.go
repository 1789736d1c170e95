package web

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"evergreen/cardnet"
	"evergreen/catalog"
	"evergreen/content"
	"evergreen/database"
	"evergreen/enrollment"
	"evergreen/identity"
	"evergreen/notifications"
	"evergreen/payments"
	"evergreen/progress"
	"evergreen/rest"
)

const issuer = "https://id.test"

var quiet = slog.New(slog.DiscardHandler)

// near calls a handler of this process as if it were another one, and fails while that one is away.
type near struct {
	handler http.Handler
	away    atomic.Bool
	calls   atomic.Int64
}

func (n *near) RoundTrip(r *http.Request) (*http.Response, error) {
	n.calls.Add(1)
	if n.away.Load() {
		return nil, errors.New("connection refused")
	}
	w := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	rest.Serve(n.handler, 5*time.Second, quiet).ServeHTTP(w, r)
	return w.Result(), nil
}

// shared are the stores of all tests that nobody writes to: making them takes a second.
var shared struct {
	courses *catalog.Store
	lessons *content.Store
}

func TestMain(m *testing.M) { os.Exit(withCourses(m)) }

func withCourses(m *testing.M) int {
	dir, err := os.MkdirTemp("", "evergreen")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	db, err := database.Open(context.Background(), "", dir, "shared")
	if err != nil {
		panic(err)
	}
	defer db.Close()
	if shared.courses, err = catalog.NewStore(context.Background(), db); err != nil {
		panic(err)
	}
	if shared.lessons, err = content.NewStore(context.Background(), db); err != nil {
		panic(err)
	}
	return m.Run()
}

// world is the whole platform in one process.
type world struct {
	url                                                                       string
	catalog, identity, enrollment, content, payments, progress, notifications *near
	recommendations, certificates                                             *near
}

const secret = "between services"

func newWorld(t *testing.T) *world { return newWorldFresh(t, 0) }

func newWorldFresh(t *testing.T, fresh time.Duration) *world {
	t.Helper()
	db, err := database.Open(context.Background(), "", t.TempDir(), "world")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &world{}
	client := func(n **near, name string) *rest.Client {
		*n = &near{}
		return &rest.Client{Base: "http://" + name, HTTP: *n, Secret: secret}
	}
	s := Services{
		Catalog:         &catalog.Client{REST: client(&w.catalog, "catalog")},
		Identity:        &identity.Client{REST: client(&w.identity, "identity")},
		Enrollment:      &enrollment.Client{REST: client(&w.enrollment, "enrollment")},
		Content:         &content.Client{REST: client(&w.content, "content")},
		Payments:        &payments.Client{REST: client(&w.payments, "payments")},
		Progress:        &progress.Client{REST: client(&w.progress, "progress")},
		Notifications:   &notifications.Client{REST: client(&w.notifications, "notifications")},
		Recommendations: client(&w.recommendations, "recommendations"),
		Certificates:    client(&w.certificates, "certificates"),
	}
	trust := func() *identity.Verifier { return identity.NewVerifier(issuer, s.Identity.JWKS) }
	s.Verifier = trust()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	outbox := func(domain string) *notifications.Outbox {
		o, err := notifications.NewOutbox(t.Context(), db, domain, s.Notifications.Tell, quiet)
		must(err)
		running := make(chan struct{})
		ctx, stop := context.WithCancel(context.Background())
		go func() { defer close(running); _ = o.Run(ctx) }()
		t.Cleanup(func() { stop(); <-running })
		return o
	}
	i, err := identity.NewStore(t.Context(), db, identity.Config{Issuer: issuer, Cost: identity.Cost{Memory: 64, Passes: 1}}, quiet)
	must(err)
	e, err := enrollment.NewStore(t.Context(), db, enrollment.Config{Course: s.Catalog.Course, Outbox: outbox("enrollment")})
	must(err)
	cards, err := cardnet.New(t.Context(), db, cardnet.Config{})
	must(err)
	p, err := payments.NewStore(t.Context(), db, cards, s.Enrollment, outbox("payments"), quiet)
	must(err)
	g, err := progress.NewStore(t.Context(), db, progress.Config{Lessons: s.Content.Lessons, Outbox: outbox("progress")})
	must(err)
	n, err := notifications.NewStore(t.Context(), db)
	must(err)
	w.catalog.handler, w.identity.handler = catalog.Handler(shared.courses), identity.Handler(i)
	w.enrollment.handler = enrollment.Handler(e, trust(), secret)
	w.content.handler = content.Handler(shared.lessons, trust(), enrollment.NewDoor(s.Enrollment.Seat).Admit)
	w.payments.handler = payments.Handler(p, trust(), secret)
	w.progress.handler = progress.Handler(g, trust(), enrollment.NewDoor(s.Enrollment.Seat).Admit)
	w.notifications.handler = notifications.Handler(n, trust(), secret)
	w.recommendations.handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rest.Write(rw, 200, map[string][]string{"courses": {"everyday-go", "no-such-course"}})
	})
	w.certificates.handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		io.WriteString(rw, "<svg>"+r.URL.Query().Get("name")+"</svg>")
	})
	pages, err := New(s, fresh, quiet)
	must(err)
	server := httptest.NewServer(rest.Serve(pages, 10*time.Second, quiet))
	t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

// browser is a visitor of the site.
type browser struct {
	t    *testing.T
	base string
	http *http.Client
}

func (w *world) browser(t *testing.T) *browser {
	jar, _ := cookiejar.New(nil)
	return &browser{t: t, base: w.url, http: &http.Client{Jar: jar}}
}

type answer struct {
	status int
	path   string // after redirects
	body   string
	header http.Header
}

func (b *browser) do(method, path string, form url.Values, header ...string) answer {
	b.t.Helper()
	req, err := http.NewRequest(method, b.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := b.http.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Request.URL.RequestURI(), string(body), resp.Header}
}

func (b *browser) get(path string) answer { b.t.Helper(); return b.do("GET", path, nil) }

func (b *browser) post(path string, pairs ...string) answer {
	b.t.Helper()
	form := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	return b.do("POST", path, form)
}

func (b *browser) join() answer {
	b.t.Helper()
	return b.post("/sign-up", "name", "Ada Lovelace", "email", "ada@example.org", "password", "a short sentence")
}

func (a answer) want(t *testing.T, status int, texts ...string) {
	t.Helper()
	if a.status != status {
		t.Errorf("%s: status %d, want %d", a.path, a.status, status)
	}
	for _, text := range texts {
		if !strings.Contains(a.body, text) {
			t.Errorf("%s: %q is missing in\n%s", a.path, text, a.body)
		}
	}
}

var keyField = regexp.MustCompile(`name="key" value="([^"]+)"`)

func (a answer) key(t *testing.T) string {
	t.Helper()
	m := keyField.FindStringSubmatch(a.body)
	if m == nil {
		t.Fatalf("%s has no form to enrol", a.path)
	}
	return m[1]
}

func TestAVisit(t *testing.T) {
	w := newWorld(t)
	b := w.browser(t)
	b.get("/").want(t, 200, "Learn something that stays", "384 courses", "Browse by topic", "Sign in")
	b.get("/courses?q=watercolour").want(t, 200, "4 courses", "Watercolour")
	course := b.get("/courses/working-with-watercolour")
	course.want(t, 200, "Take a seat", "seats left", "Week by week", "You may also like")
	key := course.key(t)

	away := b.post("/courses/working-with-watercolour/enrol", "key", key)
	away.want(t, 200, "Welcome back")
	if away.path != "/sign-in?next=%2Fcourses%2Fworking-with-watercolour" {
		t.Errorf("sent to %s", away.path)
	}
	b.post("/sign-up", "name", "Ada Lovelace", "email", "ada@example.org", "password", "short").
		want(t, 422, "at least 8 characters", `value="Ada Lovelace"`, `value="ada@example.org"`)
	joined := b.post("/sign-up", "name", "Ada Lovelace", "email", "ada@example.org", "password", "a short sentence", "next",
		"/courses/working-with-watercolour")
	joined.want(t, 200, "Take a seat", "Sign out")
	for range 2 {
		b.post("/courses/working-with-watercolour/enrol", "key", key).want(t, 200, "You have a seat. Welcome!", "Leave this course")
	}
	b.get("/my-courses").want(t, 200, "Ada’s courses", "Working with Watercolour")
	b.post("/courses/working-with-watercolour/leave").want(t, 200, "You have left this course", "Take a seat")
	b.get("/my-courses").want(t, 200, "No courses yet")
	b.post("/sign-out").want(t, 200, "Sign in")
	b.get("/my-courses").want(t, 200, "Welcome back")
	b.post("/sign-in", "email", "ada@example.org", "password", "wrong").want(t, 401, "do not match", `value="ada@example.org"`)
	b.post("/sign-in", "email", "ada@example.org", "password", "a short sentence").want(t, 200, "No courses yet")
}

func TestASignUpWhoseAnswerWasLostMaySimplyBeRepeated(t *testing.T) {
	w := newWorld(t)
	w.browser(t).join().want(t, 200, "Ada’s courses")
	w.browser(t).join().want(t, 200, "Ada’s courses")
	w.browser(t).post("/sign-up", "name", "Eve", "email", "ada@example.org", "password", "another sentence").
		want(t, 409, "There is an account with this address already")
}

func TestPagesOfAList(t *testing.T) {
	b := newWorld(t).browser(t)
	b.get("/courses").want(t, 200, "All courses", "Page 1 of 32", `href="/courses?page=2"`)
	b.get("/courses?topic=music&level=advanced").want(t, 200, "<h1>Music</h1>", "8 courses, advanced level")
	b.get("/courses?page=32&q=").want(t, 200, "Page 32 of 32", `href="/courses?page=31"`)
	b.get("/courses?page=99").want(t, 200, "no such page", `href="/courses?page=32"`)
	b.get("/courses?page=-1&topic=nothing").want(t, 200, "No course found")
	b.get("/courses?q=%22%3Cscript%3E%22").want(t, 200, "&lt;script&gt;")
}

func TestMissingPages(t *testing.T) {
	b := newWorld(t).browser(t)
	b.get("/nowhere").want(t, 404, "There is nothing here", "All courses")
	b.get("/courses/no-such-course").want(t, 404, "There is no such course")
	b.do("PUT", "/courses", nil).want(t, 404)
}

// TestAwayCatalog and the two after it take one service away and look at what is left.
func TestAwayCatalog(t *testing.T) {
	w := newWorld(t)
	b := w.browser(t)
	b.join()
	b.get("/courses/working-with-watercolour")
	b.post("/courses/working-with-watercolour/enrol").want(t, 200, "You have a seat")
	w.catalog.away.Store(true)
	b.get("/").want(t, 200, "short break", "Sign out")
	b.get("/courses").want(t, 503, "One moment, please", "Try again")
	b.get("/courses/practical-go").want(t, 503, "One moment, please")
	b.get("/courses/working-with-watercolour").want(t, 200, "what it said last", "You have a seat")
	b.get("/my-courses").want(t, 200, "Working with Watercolour")
	if got := b.get("/courses").header.Get("Retry-After"); got == "" {
		t.Error("no Retry-After")
	}
	w.catalog.away.Store(false)
	b.get("/courses").want(t, 200, "All courses")
	w.catalog.away.Store(true)
	b.get("/courses").want(t, 200, "All courses", "what it said last")
}

func TestAwayEnrollment(t *testing.T) {
	w := newWorld(t)
	b := w.browser(t)
	b.join()
	w.enrollment.away.Store(true)
	b.get("/courses").want(t, 200, "All courses")
	course := b.get("/courses/working-with-watercolour")
	course.want(t, 200, "Seats cannot be shown right now", "Week by week")
	b.get("/my-courses").want(t, 503, "Nothing is lost")
	b.post("/courses/working-with-watercolour/enrol", "key", course.key(t)).want(t, 503, "Nothing is lost")
	w.enrollment.away.Store(false)
	b.post("/courses/working-with-watercolour/enrol", "key", course.key(t)).want(t, 200, "You have a seat")
}

func TestAwayIdentity(t *testing.T) {
	w := newWorld(t)
	b := w.browser(t)
	b.join()
	w.identity.away.Store(true)
	b.get("/my-courses").want(t, 200, "Ada’s courses")
	stranger := w.browser(t)
	stranger.get("/courses").want(t, 200, "All courses")
	stranger.post("/sign-in", "email", "ada@example.org", "password", "a short sentence").want(t, 503, "One moment, please")

	// A browser whose token has run out keeps its session and is told to wait, not to sign in.
	base, _ := url.Parse(w.url)
	session := ""
	for _, c := range b.http.Jar.Cookies(base) {
		if c.Name == sessionCookie {
			session = c.Value
		}
	}
	late := w.browser(t)
	late.http.Jar.SetCookies(base, []*http.Cookie{{Name: sessionCookie, Value: session, Path: "/"}})
	late.get("/courses").want(t, 200, "My courses", "Sign out")
	late.get("/my-courses").want(t, 503, "One moment, please")
	w.identity.away.Store(false)
	late.get("/my-courses").want(t, 200, "Ada’s courses")
}

func TestAnEndedSessionIsForgotten(t *testing.T) {
	w := newWorld(t)
	b := w.browser(t)
	base, _ := url.Parse(w.url)
	b.http.Jar.SetCookies(base, []*http.Cookie{{Name: sessionCookie, Value: "of-yesterday", Path: "/"}, {Name: tokenCookie, Value: "a.b.c", Path: "/"}})
	b.get("/").want(t, 200, "Sign in")
	if left := b.http.Jar.Cookies(base); len(left) != 0 {
		t.Errorf("cookies left: %v", left)
	}
}

func TestVisitorsWithoutCookiesCostIdentityNothing(t *testing.T) {
	w := newWorld(t)
	w.browser(t).get("/")
	if n := w.identity.calls.Load(); n != 0 {
		t.Errorf("%d calls", n)
	}
}

func TestAFullCourse(t *testing.T) {
	w := newWorld(t)
	const course = "/courses/the-calculus-studio" // nine seats
	for n := range 9 {
		b := w.browser(t)
		b.post("/sign-up", "name", "Learner", "email", string(rune('a'+n))+"@example.org", "password", "a short sentence")
		b.post(course+"/enrol").want(t, 200, "Pay for your seat", "€72")
	}
	b := w.browser(t)
	b.join()
	b.get(course).want(t, 200, "Every seat is taken")
	b.post(course+"/enrol").want(t, 409, "This course is full")
}

func TestFormsOfOtherSitesAreRefused(t *testing.T) {
	w := newWorld(t)
	b := w.browser(t)
	b.join()
	b.do("POST", "/sign-out", url.Values{}, "Sec-Fetch-Site", "cross-site").want(t, 403, "somewhere else")
	b.do("POST", "/sign-out", url.Values{}, "Origin", "https://elsewhere.example").want(t, 403)
	b.get("/my-courses").want(t, 200, "Ada’s courses")
}

func TestASignInLeadsToThisSiteOnly(t *testing.T) {
	for _, bad := range []string{"https://elsewhere.example", "//elsewhere.example", `/\elsewhere.example`, "javascript:alert(1)", "", "/a\r\nb"} {
		r := httptest.NewRequest("GET", "/sign-in?next="+url.QueryEscape(bad), nil)
		if got := next(r); got != "/my-courses" {
			t.Errorf("%q leads to %q", bad, got)
		}
	}
	if got := next(httptest.NewRequest("GET", "/sign-in?next=/courses/x%3Fa%3Db", nil)); got != "/courses/x?a=b" {
		t.Errorf("got %q", got)
	}
}

func TestHeaders(t *testing.T) {
	w := newWorld(t)
	b := w.browser(t)
	page := b.get("/")
	if csp := page.header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("policy %q", csp)
	}
	if strings.Contains(page.body, "<script") || strings.Contains(page.body, "style=") || strings.Contains(page.body, "ZgotmplZ") {
		t.Error("the page has something that the policy forbids, or that the template refused")
	}
	b.join()
	resp, err := b.http.PostForm(w.url+"/sign-in", url.Values{"email": {"ada@example.org"}, "password": {"a short sentence"}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	b.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	signed := b.do("POST", "/sign-in", url.Values{"email": {"ada@example.org"}, "password": {"a short sentence"}}, "X-Forwarded-Proto", "https")
	for _, c := range signed.header["Set-Cookie"] {
		for _, flag := range []string{"HttpOnly", "Secure", "SameSite=Lax"} {
			if !strings.Contains(c, flag) {
				t.Errorf("%s is missing in %s", flag, c)
			}
		}
	}
	if len(signed.header["Set-Cookie"]) != 3 { // and the number of notices of before is forgotten
		t.Errorf("%d cookies", len(signed.header["Set-Cookie"]))
	}
}

func TestTheStyleSheetHasALongLifeAndItsNameALongerOne(t *testing.T) {
	b := newWorld(t).browser(t)
	m := regexp.MustCompile(`href="(/static/style\.[0-9a-f]+\.css)"`).FindStringSubmatch(b.get("/").body)
	if m == nil {
		t.Fatal("no style sheet")
	}
	if a := b.get(m[1]); a.status != 200 || !strings.Contains(a.header.Get("Cache-Control"), "immutable") {
		t.Errorf("%d %s", a.status, a.header.Get("Cache-Control"))
	}
	old := b.get("/static/style.0123456789ab.css")
	if old.status != 200 || strings.Contains(old.header.Get("Cache-Control"), "immutable") {
		t.Errorf("the sheet of another release: %d %s", old.status, old.header.Get("Cache-Control"))
	}
	b.get("/static/icon.svg").want(t, 200, "<svg")
	b.get("/static/..%2fweb.go").want(t, 404)
}

func TestMemoryIsBounded(t *testing.T) {
	m := newMemory(10, 0)
	for n := range 100 {
		m.put(string(rune('a'+n)), n)
	}
	if len(m.last) != 10 {
		t.Errorf("%d answers", len(m.last))
	}
	if _, _, err := recall(m, "x", func() (int, error) { return 0, catalog.ErrNoCourse }); !errors.Is(err, catalog.ErrNoCourse) {
		t.Errorf("got %v", err)
	}
}
