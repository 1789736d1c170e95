package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"evergreen/catalog"
	"evergreen/database/databasetest"
	"evergreen/identity"
	"evergreen/rest"
	"evergreen/service"
)

// BenchmarkVisit is the visit of load/visit.yaml without a network: what the pages, the rules and the database cost.
func BenchmarkVisit(b *testing.B) {
	env := map[string]string{"DATABASE_URL": databasetest.Location(b), "DEMO_ACCOUNTS": "20000", "CARDNET_LATENCY": "1us",
		"RECOMMENDATIONS_URL": "http://127.0.0.1:1", "CERTIFICATES_URL": "http://127.0.0.1:1"}
	config, err := service.Load("evergreen", func(name string) string { return env[name] })
	if err != nil {
		b.Fatal(err)
	}
	e := service.NewEnv(config, slog.New(slog.DiscardHandler))
	defer e.Close()
	app, err := build(b.Context(), e)
	if err != nil {
		b.Fatal(err)
	}
	all := catalog.Seed()
	var visits atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := int(visits.Add(1))
			v := visit{b: b, handler: rest.Serve(app.Handler, config.Budget, e.Log)}
			v.learn(n%20000, "/courses/"+all[n%len(all)].Slug)
		}
	})
}

type visit struct {
	b       *testing.B
	handler http.Handler
	cookies []*http.Cookie
}

var key = regexp.MustCompile(`name="key" value="([^"]+)"`)

func (v *visit) do(path string, form ...string) (body string) {
	r := httptest.NewRequest("GET", path, nil)
	if len(form) > 0 {
		values := url.Values{}
		for i := 0; i+1 < len(form); i += 2 {
			values.Set(form[i], form[i+1])
		}
		r = httptest.NewRequest("POST", path, strings.NewReader(values.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, c := range v.cookies {
		r.AddCookie(c)
	}
	w := httptest.NewRecorder()
	v.handler.ServeHTTP(w, r)
	if w.Code >= 400 && w.Code != http.StatusConflict {
		v.b.Errorf("%s: %d %s", path, w.Code, w.Body)
	}
	v.cookies = append(v.cookies, w.Result().Cookies()...)
	return w.Body.String()
}

func (v *visit) key(page string) string {
	if m := key.FindStringSubmatch(page); m != nil {
		return m[1]
	}
	return "nothing to do"
}

func (v *visit) learn(account int, course string) {
	v.do("/")
	v.do("/courses?topic=music")
	v.do(course)
	v.do("/sign-in", "email", fmt.Sprintf("learner-%d@demo.example", account), "password", identity.DemoPassword, "next", course)
	v.do(course+"/enrol", "key", v.key(v.do(course)))
	v.do(course+"/pay", "key", v.key(v.do(course+"/pay")), "number", "4242 4242 4242 4242", "expiry", "12/99", "code", "123")
	v.do("/my-courses")
	v.do(course + "/lessons/1")
	v.do(course+"/lessons/1", "done", "1")
}
