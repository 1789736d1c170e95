package load_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/load"
)

func scenario(t testing.TB, content string) *load.Scenario {
	t.Helper()
	s, err := load.ParseScenario("scenario.yaml", []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// visits carries a scenario out and checks what holds for every one.
func visits(t testing.TB, cfg load.Config) load.Report {
	t.Helper()
	report := run(t, cfg)
	v := report.Visits
	if v.Started != v.Completed+v.Failed+v.Abandoned {
		t.Errorf("the visits do not add up: %+v", v)
	}
	sent, missed := 0, 0
	for _, s := range report.Steps {
		sent, missed = sent+s.Sent, missed+s.Missed
	}
	if sent != report.Sent || missed != report.Missed {
		t.Errorf("the steps do not add up: %d sent and %d missed of %d and %d", sent, missed, report.Sent, report.Missed)
	}
	return report
}

// school is a site that only serves visitors who come the right way.
type school struct {
	mu       sync.Mutex
	sessions map[string]string // cookie to e-mail
	paid     map[string]int    // e-mail to times
	problems []string
}

func (s *school) problem(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems = append(s.problems, fmt.Sprintf(format, args...))
}

func (s *school) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /courses", func(w http.ResponseWriter, r *http.Request) {
		if topic := r.URL.Query().Get("topic"); topic != "go & sql" {
			s.problem("topic %q", topic)
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, `<a href="/courses/a?x=1&amp;y=2">A</a> <a href="/courses/b?x=1&amp;y=2">B</a>`)
	})
	mux.HandleFunc("GET /courses/{slug}", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("y") != "2" {
			s.problem("link %q", r.RequestURI)
		}
	})
	mux.HandleFunc("POST /signin", func(w http.ResponseWriter, r *http.Request) {
		email := r.FormValue("email")
		s.mu.Lock()
		session := fmt.Sprint("s", len(s.sessions))
		s.sessions[session] = email
		s.mu.Unlock()
		http.SetCookie(w, &http.Cookie{Name: "session", Value: session, Path: "/"})
		http.SetCookie(w, &http.Cookie{Name: "elsewhere", Value: "1", Path: "/elsewhere"})
		w.Header().Set("Location", "/me")
		w.WriteHeader(http.StatusSeeOther)
	})
	mux.HandleFunc("GET /me", func(w http.ResponseWriter, r *http.Request) {
		c, err := r.Cookie("session")
		if _, other := r.Cookie("elsewhere"); err != nil || other == nil {
			s.problem("cookies %v", r.Cookies())
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		_ = json.NewEncoder(w).Encode(map[string]any{"email": s.sessions[c.Value], "seats": []map[string]any{{"id": 7}, {"id": 12345678901234567}}})
	})
	mux.HandleFunc("POST /pay", func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Email, Seat, Literal string }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.Header.Get("Content-Type") != "application/json" || body.Seat != "12345678901234567" || body.Literal != "{email}" {
			s.problem("payment %+v: %v", body, err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.paid[body.Email]++
		w.WriteHeader(http.StatusPaymentRequired)
	})
	return mux
}

const lesson = `
variables:
  email: learner-{visit}-{random}@example.org
headers: {X-Visit: "{visit}"}
steps:
  - path: "/courses?topic={topic}"
    save: {link: {regexp: 'href="([^"]+)"', pick: last}}
  - path: "{link}"
  - name: sign in
    think: 5ms-10ms
    path: /signin
    form: {email: "{email}", "items[]": "1"}
    expect: 303
    save: {home: {header: location}, session: {cookie: session}}
  - path: "{home}"
    contains: "{email}"
    save: {seat: {json: /seats/*/id, pick: last}}
  - path: /pay
    json: {email: "{email}", seat: "{seat}", literal: "{{email}}"}
    expect: [2xx, 402]
`

func TestAVisitGoesAllItsWay(t *testing.T) {
	s := &school{sessions: map[string]string{}, paid: map[string]int{}}
	server := httptest.NewServer(s.handler())
	defer server.Close()
	report := visits(t, load.Config{
		URL: server.URL, Rate: 200, Duration: 250 * time.Millisecond, Connections: 8,
		Scenario: scenario(t, strings.Replace(lesson, "variables:", "variables:\n  topic: go & sql", 1)),
	})
	if report.Visits.Completed != 50 || report.Sent != 250 || report.Lost() != 0 || report.Failed != 0 || report.Status[402] != 50 {
		t.Errorf("report: %+v, visits %+v", report, report.Visits)
		for _, step := range report.Steps {
			t.Logf("%+v", step)
		}
	}
	if len(s.problems) > 0 {
		t.Errorf("problems: %v", s.problems)
	}
	for email, n := range s.paid {
		if n != 1 {
			t.Errorf("%s paid %d times", email, n)
		}
	}
	if len(s.paid) != 50 {
		t.Errorf("%d visitors paid", len(s.paid))
	}
	// Pauses belong to the visit and not to the answer.
	if d := report.Visits.Duration.P50; d == nil || *d < 5 {
		t.Errorf("a visit took %v ms, with a pause of 5 ms in it", *d)
	}
}

func TestUnexpectedAnswersEndAVisit(t *testing.T) {
	for _, c := range []struct {
		name, step string
		kind       load.Kind
		why        string
		lost       int
	}{
		{"status", "{path: /404}", load.UnexpectedStatus, "GET /404 answered 404", 0},
		{"other status than expected", "{path: /200, expect: 201}", load.UnexpectedStatus, "GET /200 answered 200", 0},
		{"its own 5xx", "{path: /500}", load.Server5xx, "GET /500 answered 500", 0},
		{"limited", "{path: /429}", load.Limited, "GET /429 answered 429", 0},
		{"body", `{path: /200, contains: "name {visit}."}`, load.UnexpectedBody, `GET /200: the answer does not contain "name `, 0},
		{"header", "{path: /200, save: {next: {header: Location}}}", load.MissingValue, "GET /200: next is not in the answer", 0},
		{"json", "{path: /200, save: {next: {json: /a}}}", load.MissingValue, "GET /200: next is not in the answer", 0},
		{"link to elsewhere", `{path: "{away}"}`, load.Unsendable, `path "http://elsewhere.example/": leads away from`, 0},
		{"header's value", `{path: /200, headers: {X-A: "{bad}"}}`, load.Unsendable, `header X-A: "a\nb" is not a header's value`, 0},
		{"lost", `{path: /hangup}`, load.Reset, "", 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			var after atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				status := 200
				_, _ = fmt.Sscanf(r.URL.Path, "/%d", &status)
				switch r.URL.Path {
				case "/after":
					after.Add(1)
				case "/hangup":
					panic(http.ErrAbortHandler)
				}
				w.WriteHeader(status)
			}))
			defer server.Close()
			report := visits(t, load.Config{
				URL: server.URL, Rate: 1000, Duration: 10 * time.Millisecond, Connections: 4,
				Scenario: scenario(t, "variables: {away: 'http://elsewhere.example/', bad: \"a\\nb\"}\nsteps: ["+c.step+", {path: /after}]"),
			})
			if report.Visits.Failed != 10 || report.Failed != 10 || after.Load() != 0 || report.Steps[1].Sent != 0 || report.Lost() != c.lost {
				t.Errorf("report: %+v, visits: %+v", report, report.Visits)
			}
			if diff := cmp.Diff(map[load.Kind]int{c.kind: 10}, report.Steps[0].Errors); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
			if got := report.Steps[0].FirstFailure; !strings.HasPrefix(got, c.why) {
				t.Errorf("first failure %q, want %q", got, c.why)
			}
		})
	}
}

func TestChancesChoicesAndRepetitions(t *testing.T) {
	s := serve(t, answering(ok("hello")))
	report := visits(t, load.Config{
		URL: s.url, Rate: 4000, Duration: 500 * time.Millisecond, Seed: 7,
		Scenario: scenario(t, `
steps:
  - {path: /always}
  - chance: 25%
    steps: [{path: /seldom}, {path: /seldom-too}]
  - choose: [{path: /often, weight: 3}, {steps: [{path: /rarely}]}]
  - {path: /again, repeat: 2-4}
  - {path: /never, chance: 0%}
`),
	})
	got := map[string]int{}
	for _, step := range report.Steps {
		got[step.Name] = step.Sent
	}
	within := func(name string, least, most int) {
		if got[name] < least || got[name] > most {
			t.Errorf("%s was sent %d times, want %d to %d", name, got[name], least, most)
		}
	}
	within("GET /always", 2000, 2000)
	within("GET /seldom", 400, 600)
	within("GET /seldom-too", got["GET /seldom"], got["GET /seldom"])
	within("GET /often", 1400, 1600)
	within("GET /rarely", 2000-got["GET /often"], 2000-got["GET /often"])
	within("GET /again", 5800, 6200)
	within("GET /never", 0, 0)
	if report.Visits.Completed != 2000 || report.Lost() != 0 {
		t.Errorf("visits: %+v", report.Visits)
	}
}

func TestStepsForVisitsWithAValue(t *testing.T) {
	var n atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" && n.Add(1)%2 == 0 {
			_, _ = io.WriteString(w, "key=7")
		}
	}))
	defer server.Close()
	report := visits(t, load.Config{
		URL: server.URL, Rate: 1000, Duration: 20 * time.Millisecond, Connections: 2,
		Scenario: scenario(t, `
variables: {none: ""}
steps:
  - {path: /never-first, when: none}
  - {path: /, save: {key: {regexp: "key=(.)", default: ""}}}
  - when: key
    steps:
      - {path: "/{key}"}
      - {path: /never, when: none}
`),
	})
	sent := []int{}
	for _, step := range report.Steps {
		sent = append(sent, step.Sent)
	}
	if diff := cmp.Diff([]int{0, 20, 10, 0}, sent); diff != "" || report.Visits.Completed != 20 {
		t.Errorf("visits: %+v\n%s", report.Visits, diff)
	}
}

// A step's latency counts from when it was due: a stall in the first step is not counted again in the second.
func TestStepsCountFromWhenTheyAreDue(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			time.Sleep(100 * time.Millisecond)
		}
	}))
	defer server.Close()
	results := map[int]time.Duration{}
	report := visits(t, load.Config{
		URL: server.URL, Rate: 20, Duration: 200 * time.Millisecond, Connections: 1,
		Scenario: scenario(t, "steps: [{path: /slow}, {path: /quick, think: 30ms}]"),
		OnResult: func(r *load.Result) { results[r.Request] = max(results[r.Request], r.Latency()) },
	})
	if report.Visits.Completed != 4 {
		t.Fatalf("visits: %+v", report.Visits)
	}
	// The four starts are 50 ms apart and the one connection takes 100 ms: the last of them waited.
	if results[0] < 200*time.Millisecond {
		t.Errorf("the slow step took at most %v", results[0])
	}
}

func TestTooManyVisitsAtOnceAreMissed(t *testing.T) {
	s := serve(t, answering(ok("hello")))
	report := visits(t, load.Config{
		URL: s.url, Rate: 1000, Duration: 50 * time.Millisecond, Visits: 5,
		Scenario: scenario(t, "steps: [{path: /}, {path: /, think: 200ms}]"),
	})
	if report.Visits.Started != 5 || report.Visits.Completed != 5 || report.Visits.Missed != 45 || report.Missed != 45 || report.Lost() != 45 {
		t.Errorf("report: %+v, visits: %+v", report, report.Visits)
	}
}

// A visit that is missed is missed at its own first step, and one without any is none of too many.
func TestMissedVisitsCountAtTheirFirstStep(t *testing.T) {
	s := serve(t, answering(ok("hello")))
	report := visits(t, load.Config{
		URL: s.url, Rate: 1000, Duration: 50 * time.Millisecond, Visits: 5,
		Scenario: scenario(t, `{variables: {lucky: ["", "yes"]}, steps: [{path: /never, when: lucky, chance: 0%}, {path: /, when: lucky}, {path: /, when: lucky, think: 200ms}]}`),
	})
	if report.Steps[0].Missed != 0 || report.Steps[1].Missed != report.Missed || report.Missed == 0 || report.Visits.Missed != report.Missed {
		t.Errorf("steps: %+v, visits: %+v", report.Steps, report.Visits)
	}
}

func TestCancelGivesVisitsUp(t *testing.T) {
	s := serve(t, answering(ok("hello")))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	report, err := load.Run(ctx, load.Config{
		URL: s.url, Rate: 200, Duration: time.Hour,
		Scenario: scenario(t, "steps: [{path: /}, {path: /, think: 1h}]"),
		OnResult: func(*load.Result) {
			if n++; n == 20 {
				cancel()
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if v := report.Visits; !report.Partial || v.Abandoned < 20 || v.Abandoned != v.Started || report.Failed != 0 {
		t.Errorf("report: %+v, visits: %+v", report, v)
	}
	var text bytes.Buffer
	if err := report.WriteText(&text); err != nil || !strings.Contains(text.String(), "given up") {
		t.Errorf("text %q, error %v", text.String(), err)
	}
}

// TestVisitsThatThinkHoldNoBodies: what a visit costs while it waits are its values, and not the pages that it has looked at.
func TestVisitsThatThinkHoldNoBodies(t *testing.T) {
	const count, size = 300, 256 << 10
	page := append(bytes.Repeat([]byte("x"), size), " id=7;"...)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(page) }))
	defer server.Close()
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC() // twice: what was put by for the next is kept over the first
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var answered atomic.Int64
	before, held := heap(), int64(0)
	cfg := load.Config{
		URL: server.URL, Rate: 1000, Duration: count * time.Millisecond, Connections: 4, Scenario: scenario(t, `
steps:
  - {path: /, contains: id=7, save: {id: {regexp: "id=(.);"}}}
  - {path: "/{id}", think: 1h}
`),
		OnResult: func(*load.Result) { answered.Add(1) },
		OnProgress: func(p load.Progress) {
			if answered.Load() == count {
				held = heap() - before
				cancel()
			}
		},
	}
	report, err := load.Run(ctx, cfg)
	if err != nil || report.Completed != count || report.Visits.Abandoned != count {
		t.Fatalf("%v, %d answers, %+v", err, report.Completed, report.Visits)
	}
	if held > count*size/4 {
		t.Errorf("%d visits that wait hold %d KiB each", count, held/count>>10)
	}
}

func TestSeedMakesVisitsAgain(t *testing.T) {
	drawn := func(seed uint64) []string {
		var mu sync.Mutex
		var got []string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, r.RequestURI)
		}))
		defer server.Close()
		visits(t, load.Config{
			URL: server.URL, Rate: 100, Duration: 50 * time.Millisecond, Connections: 1, Seed: seed,
			Scenario: scenario(t, "steps: [{path: '/{visit}/{random}/{uuid}'}]"),
		})
		return got
	}
	one, two, other := drawn(1), drawn(1), drawn(2)
	if diff := cmp.Diff(one, two); diff != "" || len(one) != 5 || one[0] == other[0] {
		t.Errorf("visits of one seed differ, or of two do not: %v %v\n%s", one, other, diff)
	}
	if u, err := url.Parse(one[0]); err != nil || len(strings.Split(u.Path, "/")[3]) != 36 {
		t.Errorf("uuid in %s", one[0])
	}
}
