package load_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"trellis/errdefs"
	"trellis/load"
)

// http2Server serves HTTP/2 only, in the clear or by TLS, and counts its connections.
func http2Server(t testing.TB, secure bool, handler http.Handler) (url string, opened *atomic.Int64, server *httptest.Server) {
	t.Helper()
	opened = &atomic.Int64{}
	server = httptest.NewUnstartedServer(handler)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	server.Config.Protocols = new(http.Protocols)
	if secure {
		server.EnableHTTP2 = true
		server.Config.Protocols.SetHTTP2(true)
		server.StartTLS()
	} else {
		server.Config.Protocols.SetUnencryptedHTTP2(true)
		server.Start()
	}
	t.Cleanup(server.Close)
	return server.URL, opened, server
}

func TestHTTP2(t *testing.T) {
	for name, secure := range map[string]bool{"in the clear": false, "by TLS": true} {
		t.Run(name, func(t *testing.T) {
			var ledger load.Ledger
			var inFlight, most atomic.Int64
			url, opened, _ := http2Server(t, secure, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for n := inFlight.Add(1); n > most.Load(); {
					most.Store(n)
				}
				defer inFlight.Add(-1)
				body, _ := io.ReadAll(r.Body)
				if r.ProtoMajor != 2 || string(body) != "hello" || r.Header.Get("X-A") != "b" || r.RequestURI != "/a%20b?c=d" {
					t.Errorf("%s %s with %q, header %v", r.Proto, r.RequestURI, body, r.Header)
				}
				time.Sleep(10 * time.Millisecond)
				w.Header().Set(load.InstanceHeader, "web-1")
				ledger.ServeHTTP(w, r)
			}))
			report := run(t, load.Config{
				URL: url + "/a b?c=d", HTTP2: true, Connections: 2, Streams: 4, Rate: 500, Duration: 300 * time.Millisecond, Insecure: true,
				Body: []byte("hello"), Header: http.Header{"x-a": {"b"}}, IdempotencyKey: true,
			})
			if report.Status[204] != 150 || report.Lost() != 0 || report.Instances["web-1"] != 150 || ledger.Account().Distinct != 150 {
				t.Errorf("report: %+v, ledger %+v", report, ledger.Account())
			}
			if opened.Load() != 2 || most.Load() > 8 || most.Load() < 3 {
				t.Errorf("%d connections, %d requests at once", opened.Load(), most.Load())
			}
		})
	}
}

func TestFailuresOverHTTP2(t *testing.T) {
	for _, c := range []struct {
		name    string
		handler http.HandlerFunc
		kind    load.Kind
		status  int
		lost    int
	}{
		{"stream reset", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, load.Reset, 0, 10},
		{"reset in the body", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, load.Truncated, 0, 10},
		{"silent", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, load.Timeout, 0, 10},
		{"its own 500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, load.Server5xx, 500, 0},
		{"the data plane's 503", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(load.MarkerHeader, "no-instance")
			w.WriteHeader(503)
		}, load.Proxy5xx, 503, 10},
		{"the queue's 503", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(load.MarkerHeader, "overload")
			w.WriteHeader(503)
		}, load.Queue503, 503, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			url, _, _ := http2Server(t, false, c.handler)
			cfg := load.Config{URL: url, HTTP2: true, Rate: 1000, Duration: 10 * time.Millisecond}
			if c.kind == load.Timeout {
				cfg.Timeout = patience
			}
			report := run(t, cfg)
			if diff := cmp.Diff(map[load.Kind]int{c.kind: 10}, report.Errors); diff != "" || report.Lost() != c.lost || report.Status[c.status] != 10 && c.status != 0 {
				t.Errorf("report: %+v\n%s", report, diff)
			}
		})
	}
	t.Run("another protocol", func(t *testing.T) {
		s := serve(t, answering(ok("hello")))
		report := run(t, load.Config{URL: s.url, HTTP2: true, Rate: 100, Duration: 30 * time.Millisecond, Timeout: time.Second})
		if report.Lost() != 3 || report.Completed != 0 {
			t.Errorf("report: %+v", report)
		}
	})
	t.Run("a status of no protocol", func(t *testing.T) {
		s := serve(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
			_, _ = r.Discard(len(http2.ClientPreface))
			framer := http2.NewFramer(c, r)
			_ = framer.WriteSettings()
			for {
				f, err := framer.ReadFrame()
				if err != nil {
					return
				}
				if f, ok := f.(*http2.HeadersFrame); ok {
					status := []string{"1000", "-1", "20"}[int(f.StreamID)/2%3]
					block := append([]byte{0x08, byte(len(status))}, status...) // :status with a literal value, RFC 7541, 6.2.2
					_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: f.StreamID, BlockFragment: block, EndHeaders: true, EndStream: true})
				}
			}
		})
		report := run(t, load.Config{URL: s.url, HTTP2: true, Rate: 100, Duration: 60 * time.Millisecond, Connections: 1})
		if report.Errors[load.BadResponse] != 6 || report.Completed != 0 {
			t.Errorf("report: %+v", report)
		}
	})
	t.Run("refused", func(t *testing.T) {
		report := run(t, load.Config{URL: "http://127.0.0.1:1", HTTP2: true, Rate: 100, Duration: 30 * time.Millisecond})
		if report.Errors[load.Connect] != 3 {
			t.Errorf("report: %+v", report)
		}
	})
}

// After a GOAWAY a new connection is opened. Only a request that crossed it on its way is refused, and not sent again.
func TestGoAwayEndsAConnection(t *testing.T) {
	var received atomic.Int64
	url, opened, _ := http2Server(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if received.Add(1)%10 == 0 {
			w.Header().Set("Connection", "close") // net/http's server makes a GOAWAY of it
		}
	}))
	for _, streams := range []int{1, 8} {
		received.Store(0)
		opened.Store(0)
		report := run(t, load.Config{URL: url, HTTP2: true, Connections: 1, Streams: streams, Rate: 200, Duration: 500 * time.Millisecond})
		refused := report.Errors[load.Refused]
		if report.Status[200]+refused != 100 || report.Lost() != refused || int(received.Load()) != report.Status[200] {
			t.Errorf("%d received, report: %+v", received.Load(), report)
		}
		if opened.Load() < 5 {
			t.Errorf("%d connections, want a new one after each GOAWAY", opened.Load())
		}
	}
}

func TestStartsWithoutAFreeStreamAreMissed(t *testing.T) {
	url, _, _ := http2Server(t, false, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	report := run(t, load.Config{
		URL: url, HTTP2: true, Connections: 1, Streams: 3, Rate: 1000, Duration: 100 * time.Millisecond, Timeout: 500 * time.Millisecond, Drain: 300 * time.Millisecond,
	})
	if report.Sent != 3 || report.Missed != 97 || report.Errors[load.Timeout] != 3 || report.Lost() != 100 {
		t.Errorf("report: %+v", report)
	}
}

func TestAVisitOverHTTP2(t *testing.T) {
	s := &school{sessions: map[string]string{}, paid: map[string]int{}}
	url, _, _ := http2Server(t, true, s.handler())
	report := visits(t, load.Config{
		URL: url, HTTP2: true, Insecure: true, Rate: 100, Duration: 100 * time.Millisecond,
		Scenario: scenario(t, strings.Replace(lesson, "variables:", "variables:\n  topic: go & sql", 1)),
	})
	if report.Visits.Completed != 10 || report.Status[402] != 10 || len(s.problems) > 0 {
		t.Errorf("visits: %+v, problems: %v, steps %+v", report.Visits, s.problems, report.Steps)
	}
}

// greeter is a gRPC server: the health service, which fails for the services "absent", "unavailable" and "plane".
func greeter(t testing.TB, reflected bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, q any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		switch q.(*healthpb.HealthCheckRequest).Service {
		case "unavailable":
			return nil, status.Error(codes.Unavailable, "later")
		case "plane":
			_ = grpc.SetHeader(ctx, metadata.Pairs(load.MarkerHeader, "upstream-reset"))
			return nil, status.Error(codes.Unavailable, "later")
		case "shed":
			_ = grpc.SetHeader(ctx, metadata.Pairs(load.MarkerHeader, "overload"))
			return nil, status.Error(codes.Unavailable, "too many")
		}
		return next(ctx, q)
	}))
	healthpb.RegisterHealthServer(server, health.NewServer())
	if reflected {
		reflection.Register(server)
	}
	var all sync.WaitGroup
	all.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() { server.Stop(); all.Wait() })
	return "http://" + l.Addr().String()
}

const check = "grpc.health.v1.Health/Check"

func TestGRPC(t *testing.T) {
	url := greeter(t, true)
	for service, want := range map[string]load.Kind{"": "", "absent": "grpc-not-found", "unavailable": "grpc-unavailable", "plane": load.Proxy5xx, "shed": load.Queue503} {
		message, err := load.EncodeGRPC(t.Context(), url, check, fmt.Appendf(nil, `{"service": %q}`, service), false)
		if err != nil {
			t.Fatal(err)
		}
		report := run(t, load.Config{URL: url, GRPC: &load.GRPCCall{Method: check, Message: message}, Rate: 1000, Duration: 50 * time.Millisecond})
		wantErrors := map[load.Kind]int{}
		if want != "" {
			wantErrors[want] = 50
		}
		if diff := cmp.Diff(wantErrors, report.Errors); diff != "" || report.Status[200] != 50 {
			t.Errorf("%q: %+v\n%s", service, report, diff)
		}
		if lost := report.Lost(); lost != 0 && want != load.Proxy5xx || lost != 50 && want == load.Proxy5xx {
			t.Errorf("%q: %d lost", service, lost)
		}
	}
}

func TestGRPCThatIsNone(t *testing.T) {
	url, _, _ := http2Server(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/a.B/Absent":
			w.WriteHeader(404)
		case "/a.B/Odd":
			w.Header().Set("Grpc-Status", "odd")
		}
	}))
	for method, want := range map[string]struct {
		kind   load.Kind
		status int
	}{"a.B/C": {load.Truncated, 0}, "a.B/Odd": {load.BadResponse, 0}, "a.B/Absent": {load.UnexpectedStatus, 404}} {
		report := run(t, load.Config{URL: url, GRPC: &load.GRPCCall{Method: method}, Rate: 100, Duration: 20 * time.Millisecond})
		if report.Errors[want.kind] != 2 || report.Failed != 2 || want.status != 0 && report.Status[want.status] != 2 {
			t.Errorf("%s: want %s, report: %+v", method, want.kind, report)
		}
	}
}

func TestMessagesThatCannotBeEncoded(t *testing.T) {
	reflected, plain := greeter(t, true), greeter(t, false)
	for _, c := range []struct {
		url, method, message string
		kind                 error
		want                 string
	}{
		{reflected, "nonsense", "{}", errdefs.ErrInvalid, "want package.Service/Method"},
		{reflected, "a.B/C", "{}", errdefs.ErrInvalid, "a.B"},
		{reflected, "grpc.health.v1.Health/Chek", "{}", errdefs.ErrInvalid, "has no method Chek: it has Check, "},
		{reflected, "grpc.health.v1.Health/Watch", "{}", errdefs.ErrUnsupported, "it is a stream"},
		{reflected, check, `{"servise": "x"}`, errdefs.ErrInvalid, `unknown field "servise"`},
		{reflected, check, `{`, errdefs.ErrInvalid, "unexpected"},
		{plain, check, "{}", errdefs.ErrUnsupported, "the server has no reflection"},
		{"http://127.0.0.1:1", check, "{}", errdefs.ErrUnavailable, "connection refused"},
	} {
		_, err := load.EncodeGRPC(t.Context(), c.url, c.method, []byte(c.message), false)
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: error %v, want %q", c.method, c.message, err, c.want)
		}
	}
}

// after says what happens after so many messages of a connection, to which raw writes as it is.
type after func(n int, c *websocket.Conn, raw net.Conn) (goOn bool)

// Frames of a server: a message, and the end with 1001.
const (
	bye  = "\x81\x03bye"
	away = "\x88\x02\x03\xe9"
)

type rawKey struct{}

// echo serves WebSockets that send every message back.
func echo(t testing.TB, secure bool, after after) (url string, opened *atomic.Int64) {
	t.Helper()
	opened = &atomic.Int64{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		opened.Add(1)
		converse(w, r, after)
	}))
	server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, rawKey{}, c) }
	if secure {
		server.TLS = &tls.Config{}
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	return "ws" + strings.TrimPrefix(server.URL, "http"), opened
}

func chat(w http.ResponseWriter, r *http.Request) { converse(w, r, nil) }

func converse(w http.ResponseWriter, r *http.Request, after after) {
	raw, _ := r.Context().Value(rawKey{}).(net.Conn)
	w.Header().Set(load.InstanceHeader, "chat-1")
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = c.CloseNow() }()
	for n := 1; ; n++ {
		kind, message, err := c.Read(r.Context())
		if err != nil || after != nil && !after(n, c, raw) {
			return
		}
		if err := c.Write(r.Context(), kind, message); err != nil {
			return
		}
	}
}

func TestWebSocket(t *testing.T) {
	for name, secure := range map[string]bool{"in the clear": false, "by TLS": true} {
		t.Run(name, func(t *testing.T) {
			url, opened := echo(t, secure, nil)
			report := run(t, load.Config{URL: url, Connections: 5, Rate: 500, Duration: 200 * time.Millisecond, Body: []byte("hello"), Insecure: true,
				OnResult: func(r *load.Result) {
					if r.Bytes != 5 {
						t.Errorf("an answer of %d bytes", r.Bytes)
					}
				}})
			if report.Status[101] != 100 || report.Lost() != 0 || report.Instances["chat-1"] != 100 || opened.Load() != 5 {
				t.Errorf("%d connections, report: %+v", opened.Load(), report)
			}
		})
	}
}

func TestWebSocketsThatEnd(t *testing.T) {
	for _, c := range []struct {
		name  string
		after after
		kind  load.Kind
		sent  int
		lost  int
	}{
		{"announced, with nothing under way", func(n int, c *websocket.Conn, raw net.Conn) bool {
			if n == 2 {
				_, _ = io.WriteString(raw, bye+away)
				_, _, _ = c.Read(context.Background()) // until the other side has said the same
			}
			return n < 2
		}, "", 9, 0},
		{"cut, with nothing under way", func(n int, c *websocket.Conn, _ net.Conn) bool {
			if n == 2 {
				_ = c.Write(context.Background(), websocket.MessageText, []byte("bye"))
				_ = c.CloseNow()
			}
			return n < 2
		}, load.Reset, 9, 3},
		{"announced, with a message under way", func(n int, c *websocket.Conn, _ net.Conn) bool {
			if n == 3 {
				_ = c.Close(websocket.StatusGoingAway, "draining")
			}
			return n < 3
		}, load.Reset, 9, 3},
		{"silent", func(n int, c *websocket.Conn, _ net.Conn) bool {
			if n == 3 {
				_, _, _ = c.Read(context.Background()) // until the other side closes
			}
			return n < 3
		}, load.Timeout, 3, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			url, _ := echo(t, false, c.after)
			cfg := load.Config{URL: url, Connections: 1, Rate: 20, Duration: time.Duration(c.sent) * 50 * time.Millisecond, Body: []byte("hello")}
			if c.kind == load.Timeout {
				cfg.Timeout = patience
			}
			report := run(t, cfg)
			if report.Lost() != c.lost || report.Errors[c.kind] != c.lost || report.Sent != c.sent {
				t.Errorf("report: %+v", report)
			}
		})
	}
}

// TestAnnouncedEndsLoseOnlyWhatCrossedThem: a busy run sends the next message at once, when the end is there or on its way.
func TestAnnouncedEndsLoseOnlyWhatCrossedThem(t *testing.T) {
	for _, c := range []struct {
		name   string
		secure bool
		writes []string
	}{
		{"with the answer", false, []string{bye + away}},
		{"with the answer, by TLS", true, []string{bye + away}},
		{"right after the answer", false, []string{bye, away}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var crossed atomic.Int64
			var ending sync.WaitGroup
			url, opened := echo(t, c.secure, func(_ int, ws *websocket.Conn, raw net.Conn) bool {
				ending.Add(1)
				defer ending.Done()
				for _, frames := range c.writes {
					_, _ = io.WriteString(raw, frames)
				}
				for {
					if _, _, err := ws.Read(context.Background()); err != nil {
						return false
					}
					crossed.Add(1)
				}
			})
			report := run(t, load.Config{URL: url, Rate: 1e6, Duration: 100 * time.Microsecond, Connections: 1, Insecure: true, Body: []byte("hello")})
			ending.Wait()
			lost := int(crossed.Load())
			if report.Lost() != lost || report.Errors[load.Reset] != lost || report.Status[101] != 100-lost || int(opened.Load()) != 100-lost {
				t.Errorf("%d crossed the end of %d connections, report: %+v", lost, opened.Load(), report)
			}
			if lost > 0 && len(c.writes) == 1 {
				t.Errorf("%d were sent after the end had come with the answer", lost)
			}
		})
	}
}

func TestWebSocketsThatAreRefused(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/503" {
			w.Header().Set(load.MarkerHeader, "no-instance")
			w.WriteHeader(503)
		}
	}))
	defer server.Close()
	url := "ws" + strings.TrimPrefix(server.URL, "http")
	for path, want := range map[string]load.Kind{"/503": load.Proxy5xx, "/200": load.UnexpectedStatus} {
		report := run(t, load.Config{URL: url + path, Rate: 100, Duration: 20 * time.Millisecond})
		if report.Errors[want] != 2 {
			t.Errorf("%s: %+v", path, report)
		}
	}
	if report := run(t, load.Config{URL: "ws://127.0.0.1:1", Rate: 100, Duration: 20 * time.Millisecond}); report.Errors[load.Connect] != 2 {
		t.Errorf("refused: %+v", report)
	}
}

func TestProtocolsThatDoNotGoTogether(t *testing.T) {
	s := scenario(t, "steps: [{path: /}]")
	call := &load.GRPCCall{Method: "a.B/C"}
	for i, cfg := range []load.Config{
		{URL: "ws://h/", HTTP2: true}, {URL: "ws://h/", GRPC: call}, {URL: "wss://h/", Scenario: s}, {URL: "http://h/", GRPC: call, Scenario: s},
		{URL: "http://h/", GRPC: &load.GRPCCall{Method: "C"}}, {URL: "http://h/", GRPC: &load.GRPCCall{Method: "a b/C"}}, {URL: "http://h/", HTTP2: true, Streams: -1},
	} {
		cfg.Rate, cfg.Duration = 1, time.Second
		if _, err := load.Run(t.Context(), cfg); !errors.Is(err, errdefs.ErrInvalid) {
			t.Errorf("%d: error %v", i, err)
		}
	}
}
