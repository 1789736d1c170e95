package main

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"evergreen/database/databasetest"
	"evergreen/rest"
	"evergreen/service"
)

func TestMain(m *testing.M) { os.Exit(databasetest.Main(m)) }

func TestALearnerVisitsTheMonolith(t *testing.T) {
	env := map[string]string{"DATABASE_URL": databasetest.Location(t), "ARGON2_MEMORY_KIB": "64", "ARGON2_PASSES": "1",
		"CARDNET_LATENCY": "1ms", "RECOMMENDATIONS_URL": "http://127.0.0.1:1", "CERTIFICATES_URL": "http://127.0.0.1:1"}
	config, err := service.Load("evergreen", func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	e := service.NewEnv(config, slog.New(slog.DiscardHandler))
	defer e.Close()
	app, err := build(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	if err := app.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(rest.Serve(app.Handler, config.Budget, e.Log))
	defer server.Close()
	jar, _ := cookiejar.New(nil)
	client := &http.Client{Jar: jar}
	ask := func(want string, path string, form ...string) string {
		t.Helper()
		resp, err := client.Get(server.URL + path)
		if len(form) > 0 {
			v := url.Values{}
			for i := 0; i+1 < len(form); i += 2 {
				v.Set(form[i], form[i+1])
			}
			resp, err = client.PostForm(server.URL+path, v)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 || !strings.Contains(string(body), want) {
			t.Fatalf("%s: %s, no %q (%v):\n%s", path, resp.Status, want, err, body)
		}
		return string(body)
	}
	const course = "/courses/watercolour-in-depth"
	ask("384 courses", "/")
	ask("Ada’s courses", "/sign-up", "name", "Ada Lovelace", "email", "ada@example.org", "password", "a short sentence")
	form := ask("Pay for your seat", course+"/enrol", "key", "key-00001")
	key := regexp.MustCompile(`name="key" value="([^"]+)"`).FindStringSubmatch(form)
	ask("Your payment has arrived", course+"/pay", "key", key[1], "number", "4242 4242 4242 4242", "expiry", "12/99", "code", "123")
	ask("Lesson 2 of", course+"/lessons/1", "done", "1")
	ask("1 of ", course)
	ask("Watercolour in Depth", "/my-courses")
	if resp, err := client.Get(server.URL + "/api/ledger"); err != nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("the ledger is open to everybody: %v, %v", resp, err)
	}
}
