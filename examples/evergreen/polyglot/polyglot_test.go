// Package polyglot tests the services that are not written in Go, from the outside.
package polyglot

import (
	"encoding/xml"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"evergreen/catalog"
	"evergreen/rest"
)

// start runs a program on a port of its own until the test ends, and returns the way to it once it is ready.
func start(t *testing.T, env []string, name string, args ...string) *rest.Client {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), append(env, "PORT="+port)...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%s ended with %v", name, err)
			}
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			t.Errorf("%s does not end", name)
		}
	})
	c := &rest.Client{Base: "http://" + address}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := c.Do(t.Context(), rest.Call{Method: "GET", Path: "/readyz"}, nil)
		if err == nil {
			return c
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestRecommendations(t *testing.T) {
	all := catalog.Seed()
	courses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("page") == "1" {
			rest.Write(w, 200, catalog.Page{Courses: all[:200], Pages: 2})
			return
		}
		rest.Write(w, 200, catalog.Page{Courses: all[200:], Pages: 2})
	}))
	defer courses.Close()
	c := start(t, []string{"CATALOG_URL=" + courses.URL}, "node", "recommendations/server.mjs")
	ask := func(query url.Values) []string {
		t.Helper()
		var got struct{ Courses []string }
		if err := c.Do(t.Context(), rest.Call{Method: "GET", Path: "/recommendations", Query: query}, &got); err != nil {
			t.Fatal(err)
		}
		return got.Courses
	}
	courses.Close() // what it knows it knows
	got := ask(url.Values{"course": {"a-first-course-in-go", "everyday-go"}, "size": {"2"}})
	if len(got) != 2 || got[0] != "go-the-hard-parts" && got[0] != "go-by-example" {
		t.Errorf("after two courses in Go: %v", got)
	}
	if got := ask(url.Values{"course": {"nothing", "everyday-go"}, "size": {"many"}}); len(got) != 3 {
		t.Errorf("got %v", got)
	}
	if got := ask(nil); len(got) != 0 {
		t.Errorf("without a course: %v", got)
	}
	if err := c.Do(t.Context(), rest.Call{Method: "GET", Path: "/elsewhere"}, nil); !errors.Is(err, rest.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestCertificates(t *testing.T) {
	c := start(t, nil, "python3", "certificates/server.py")
	name := `Ada <Lovelace> & "Söhne" ` + strings.Repeat("long ", 80)
	var image []byte
	err := c.Do(t.Context(), rest.Call{Method: "GET", Path: "/certificate.svg", Query: url.Values{
		"name": {name + "\x01"}, "title": {"Watercolour in Depth"}, "teacher": {"Júlia Farah"}, "date": {"1 May 2026"}, "hours": {"77"}}}, &image)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for d := xml.NewDecoder(strings.NewReader(string(image))); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in %s", err, image)
		}
		if words, ok := token.(xml.CharData); ok {
			text.Write(words)
		}
	}
	for _, want := range []string{"Ada <Lovelace> & \"Söhne\"", "Watercolour in Depth", "Júlia Farah", "1 May 2026", "77 hours"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing in %s", want, text.String())
		}
	}
	if strings.Contains(string(image), "style=") || strings.Contains(string(image), "<script") {
		t.Error("the pages allow no styles and no scripts")
	}
	var p *rest.Problem
	if err := c.Do(t.Context(), rest.Call{Method: "GET", Path: "/certificate.svg"}, nil); !errors.As(err, &p) || p.Status != 422 {
		t.Errorf("without a name: %v", err)
	}
}
