package rest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var quiet = slog.New(slog.DiscardHandler)

func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(Serve(h, 5*time.Second, quiet))
	t.Cleanup(s.Close)
	return &Client{Base: s.URL, HTTP: s.Client().Transport}
}

func TestAProblemIsTheSameOnBothSides(t *testing.T) {
	sent := &Problem{Status: 409, Code: "full", Title: "Full.", Field: "course", RetryAfter: 1500 * time.Millisecond}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { WriteError(w, sent) })
	err := c.Do(t.Context(), Call{Method: "GET", Path: "/"}, nil)
	var got *Problem
	if !errors.As(err, &got) || !errors.Is(err, sent) {
		t.Fatalf("got %v", err)
	}
	if got.Title != sent.Title || got.Field != sent.Field || got.RetryAfter != 2*time.Second {
		t.Errorf("got %+v", got)
	}
}

func TestOnlyWhatMayBeRepeatedIsTriedAgain(t *testing.T) {
	for _, test := range []struct {
		name string
		call Call
		want int64
	}{
		{"GET", Call{Method: "GET"}, 3},
		{"POST", Call{Method: "POST"}, 1},
		{"POST with a key", Call{Method: "POST", Key: "k-1234567"}, 3},
		{"repeatable POST", Call{Method: "POST", Repeatable: true}, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			var n atomic.Int64
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				n.Add(1)
				if r.Header.Get(KeyHeader) != test.call.Key {
					t.Errorf("key %q", r.Header.Get(KeyHeader))
				}
				WriteError(w, ErrUnavailable)
			})
			test.call.Path = "/"
			if err := c.Do(t.Context(), test.call, nil); !errors.Is(err, ErrUnavailable) {
				t.Errorf("got %v", err)
			}
			if n.Load() != test.want {
				t.Errorf("%d attempts, want %d", n.Load(), test.want)
			}
		})
	}
}

func TestAnAnswerAfterAFailureIsAnAnswer(t *testing.T) {
	var n atomic.Int64
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) < 3 {
			panic(http.ErrAbortHandler)
		}
		Write(w, 200, "yes")
	})
	var got string
	if err := c.Do(t.Context(), Call{Method: "GET", Path: "/"}, &got); err != nil || got != "yes" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestTheBudgetTravels(t *testing.T) {
	told := make(chan int, 3)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		ms, _ := strconv.Atoi(r.Header.Get(BudgetHeader))
		told <- ms
		deadline, ok := r.Context().Deadline()
		if left := time.Until(deadline); !ok || left > time.Second {
			t.Errorf("the callee has %s", left)
		}
		<-r.Context().Done()
		WriteError(w, ErrUnavailable) // the callee's clock may be the first to say that time is up
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	started := time.Now()
	err := c.Do(ctx, Call{Method: "GET", Path: "/"}, nil)
	if !errors.Is(err, ErrUnavailable) || time.Since(started) > 4*time.Second {
		t.Errorf("got %v after %s", err, time.Since(started))
	}
	if ms := <-told; ms < 1 || ms > 1000 {
		t.Errorf("told %d ms", ms)
	}
}

func TestHeadersOfAVisitAreHandedOn(t *testing.T) {
	inner := serve(t, func(w http.ResponseWriter, r *http.Request) {
		Write(w, 200, []string{r.Header.Get("X-Request-Id"), r.Header.Get("Traceparent")})
	})
	outer := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var got []string
		if err := inner.Do(r.Context(), Call{Method: "GET", Path: "/"}, &got); err != nil {
			WriteError(w, err)
			return
		}
		Write(w, 200, got)
	})
	req, _ := http.NewRequestWithContext(t.Context(), "GET", outer.Base, nil)
	req.Header.Set("X-Request-Id", "visit-1")
	req.Header.Set("Traceparent", "00-a-b-01")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if string(body) != `["visit-1","00-a-b-01"]`+"\n" {
		t.Errorf("got %s", body)
	}
}

func TestARecordNamesTheTraceOfItsRequest(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(LogHandler(slog.NewJSONHandler(&out, nil)))
	handler := Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.InfoContext(r.Context(), "inside")
		w.WriteHeader(http.StatusForbidden)
	}), time.Second, log)
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	handler.ServeHTTP(httptest.NewRecorder(), r)
	if n := strings.Count(out.String(), `"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7"`); n != 2 {
		t.Errorf("%d of 2 records name it: %s", n, &out)
	}
	out.Reset()
	handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	if strings.Contains(out.String(), "trace_id") {
		t.Errorf("a trace that there is not: %s", &out)
	}
}

func TestAPanicEndsOneRequest(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panic" {
			panic("no")
		}
		Write(w, 200, "yes")
	})
	var p *Problem
	if err := c.Do(t.Context(), Call{Method: "GET", Path: "/panic"}, nil); !errors.As(err, &p) || p.Status != 500 || p.Detail != "" {
		t.Errorf("got %v", err)
	}
	if err := c.Do(t.Context(), Call{Method: "GET", Path: "/"}, nil); err != nil {
		t.Error(err)
	}
}

func TestAnErrorOfOursTellsNothing(t *testing.T) {
	w := httptest.NewRecorder()
	WriteError(w, errors.New("password of the database"))
	if w.Code != 500 || strings.Contains(w.Body.String(), "password") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestRead(t *testing.T) {
	for body, good := range map[string]bool{
		`{"a":1}`: true, ` {"a":1} `: true, ``: false, `{`: false, `{"b":1}`: false, `{"a":1}{"a":2}`: false,
		`{"a":"` + strings.Repeat("x", maxBody) + `"}`: false,
	} {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		var v struct{ A any }
		err := Read(httptest.NewRecorder(), r, &v)
		if (err == nil) != good {
			t.Errorf("%.20q: %v", body, err)
		}
	}
}

func TestAnUnreachableServiceIsUnavailable(t *testing.T) {
	c := &Client{Base: "http://127.0.0.1:1"}
	err := c.Do(t.Context(), Call{Method: "GET", Path: "/"}, nil)
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestWhatLeavesARecord(t *testing.T) {
	for status, want := range map[int]bool{200: false, 303: false, 401: true, 403: true, 404: false, 409: false, 429: true, 500: true, 503: true} {
		var out bytes.Buffer
		handler := Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) }), time.Minute,
			slog.New(slog.NewJSONHandler(&out, nil)))
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		if got := out.Len() > 0; got != want {
			t.Errorf("%d leaves a record: %t", status, got)
		}
	}
}
