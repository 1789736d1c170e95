package service

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"
)

var quiet = slog.New(slog.DiscardHandler)

type running struct {
	base string
	stop context.CancelFunc
	done chan error
}

func run(t *testing.T, c Config, app App) running {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := running{base: "http://" + l.Addr().String(), stop: cancel, done: make(chan error, 1)}
	go func() { r.done <- Run(ctx, c, quiet, l, app) }()
	t.Cleanup(cancel)
	return r
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestWhatIsInFlightIsFinished(t *testing.T) {
	entered, leave := make(chan bool), make(chan bool)
	var looped bool
	r := run(t, Config{Budget: time.Minute, Grace: 20 * time.Second}, App{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			entered <- true
			<-leave
			if looped {
				t.Error("a loop ended under a request")
			}
			io.WriteString(w, "done")
		}),
		Loops: []func(context.Context) error{func(ctx context.Context) error { <-ctx.Done(); looped = true; return nil }},
	})
	type answer struct {
		body string
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		resp, err := http.Get(r.base)
		if err != nil {
			answered <- answer{err: err}
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		answered <- answer{string(body), err}
	}()
	<-entered
	r.stop()
	for refused := false; !refused; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", r.base[len("http://"):])
		if refused = err != nil; !refused {
			c.Close()
		}
	}
	leave <- true
	if a := <-answered; a.err != nil || a.body != "done" {
		t.Errorf("got %+v", a)
	}
	if err := <-r.done; err != nil || !looped {
		t.Errorf("ended with %v, loops ended %v", err, looped)
	}
}

func TestReadinessSaysNoBeforeTheListenerCloses(t *testing.T) {
	r := run(t, Config{Budget: time.Minute, Grace: time.Second, Drain: 2 * time.Second}, App{Handler: http.NotFoundHandler()})
	if status, _ := get(t, r.base+"/readyz"); status != 200 {
		t.Fatalf("status %d", status)
	}
	r.stop()
	deadline := time.Now().Add(1500 * time.Millisecond)
	for {
		if status, _ := get(t, r.base+"/readyz"); status == 503 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("still ready")
		}
	}
	if status, _ := get(t, r.base+"/healthz"); status != 200 {
		t.Errorf("health is %d while draining", status)
	}
	if err := <-r.done; err != nil {
		t.Error(err)
	}
}

func TestReadinessSaysWhyNot(t *testing.T) {
	r := run(t, Config{Budget: time.Minute}, App{Handler: http.NotFoundHandler(),
		Ready: func(context.Context) error { return errors.New("no database") }})
	status, body := get(t, r.base+"/readyz")
	if status != 503 || body != `{"reason":"no database","status":"unready"}`+"\n" {
		t.Errorf("got %d %s", status, body)
	}
}

func TestALoopThatFailsEndsTheService(t *testing.T) {
	no := errors.New("no")
	r := run(t, Config{Budget: time.Minute}, App{Handler: http.NotFoundHandler(),
		Loops: []func(context.Context) error{func(context.Context) error { return no }}})
	if err := <-r.done; !errors.Is(err, no) {
		t.Errorf("got %v", err)
	}
}

func TestARequestHasNoMoreThanItsBudget(t *testing.T) {
	r := run(t, Config{Budget: 50 * time.Millisecond}, App{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		w.WriteHeader(http.StatusTeapot)
	})})
	if status, _ := get(t, r.base); status != http.StatusTeapot {
		t.Errorf("status %d", status)
	}
}

func TestConfig(t *testing.T) {
	env := map[string]string{"PORT": "0", "SHUTDOWN_GRACE": "1m", "CATALOG_URL": "http://127.0.0.1:9"}
	getenv := func(name string) string { return env[name] }
	c, err := Load("x", getenv)
	if err != nil || c.Addr != ":0" || c.Grace != time.Minute || c.DataDir != "data" {
		t.Errorf("got %+v, %v", c, err)
	}
	if got := c.URL("catalog"); got != "http://127.0.0.1:9" {
		t.Errorf("got %s", got)
	}
	if got := c.URL("identity"); got != "http://identity:8080" {
		t.Errorf("got %s", got)
	}
	for name, value := range map[string]string{"PORT": "http", "REQUEST_BUDGET": "10", "SHUTDOWN_DELAY": "-1s"} {
		old := env[name]
		env[name] = value
		if _, err := Load("x", getenv); err == nil {
			t.Errorf("%s=%s: no error", name, value)
		}
		env[name] = old
	}
}
