package probe_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"trellis/probe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// raw serves every connection with serve and returns the port.
func raw(t testing.TB, serve func(net.Conn)) (string, int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	return hostPort(t, l.Addr().String())
}

func hostPort(t testing.TB, address string) (string, int) {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return host, n
}

// says reads the request and answers with text.
func says(text string) func(net.Conn) {
	return func(c net.Conn) {
		readRequest(c)
		_, _ = io.WriteString(c, text)
	}
}

func readRequest(c net.Conn) string {
	var all []byte
	one := make([]byte, 1)
	for !strings.HasSuffix(string(all), "\r\n\r\n") {
		if _, err := c.Read(one); err != nil {
			break
		}
		all = append(all, one[0])
	}
	return string(all)
}

func TestHTTP(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		ready        bool
		message      string // with PORT for the port
	}{
		{"ok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true, "GET /healthz: 200 OK"},
		{"no content", "HTTP/1.1 204 No Content\r\n\r\n", true, "GET /healthz: 204 No Content"},
		{"redirect is not followed", "HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", true, "GET /healthz: 302 Found"},
		{"warming up", "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 11\r\n\r\nwarming up\n", false, "GET /healthz: 503 Service Unavailable: warming up"},
		{"no reason", "HTTP/1.1 503\r\nContent-Length: 0\r\n\r\n", false, "GET /healthz: 503 Service Unavailable"},
		{"own code", "HTTP/1.1 799\r\nContent-Length: 0\r\n\r\n", false, "GET /healthz: 799 (no reason given)"},
		{"chunked", "HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbad\r\n0\r\n\r\n", false, "GET /healthz: 500 Oh: bad"},
		{"until close", "HTTP/1.0 404 Not Found\r\n\r\nno such page", false, "GET /healthz: 404 Not Found: no such page"},
		{"early hints first", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true, "GET /healthz: 200 OK"},
		{"switching protocols", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", false, "GET /healthz: 101 Switching Protocols"},
		{"terminal escapes", "HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\n\x1b[2J\r\n\ta\xff", false, "GET /healthz: 500 No: \ufffd[2J"},
		{"truncated body", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome", true, "GET /healthz: 200 OK"},
		{"closed", "", false, "GET /healthz: the connection was closed before the answer was whole"},
		{"closed in the headers", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", false, "GET /healthz: the connection was closed before the answer was whole"},
		{"another protocol", "SSH-2.0-OpenSSH_9.2\r\n", false, `GET /healthz: malformed HTTP response "SSH-2.0-OpenSSH_9.2"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			host, port := raw(t, says(c.answer))
			got := probe.Do(t.Context(), probe.Spec{Kind: probe.HTTP, Path: "/healthz", Timeout: 20 * time.Second}, host, port, nil)
			if got.Ready != c.ready || got.Message != c.message {
				t.Errorf("got %v %q, want %v %q", got.Ready, got.Message, c.ready, c.message)
			}
			if got.Time.IsZero() || got.Took <= 0 {
				t.Errorf("time %v, took %v", got.Time, got.Took)
			}
		})
	}
}

func TestHTTPRequest(t *testing.T) {
	requests := make(chan string, 1)
	host, port := raw(t, func(c net.Conn) {
		requests <- readRequest(c)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	for path, want := range map[string]string{
		"":                       "GET / HTTP/1.1\r\n",
		"ready":                  "GET /ready HTTP/1.1\r\n",
		"/a b?c d&e=%20#part":    "GET /a%20b?c%20d&e=%20 HTTP/1.1\r\n",
		"//host/x":               "GET //host/x HTTP/1.1\r\n",
		"/p?next=http://x/?y=1?": "GET /p?next=http://x/?y=1? HTTP/1.1\r\n",
	} {
		got := probe.Do(t.Context(), probe.Spec{Kind: probe.HTTP, Path: path, Timeout: 20 * time.Second}, host, port, nil)
		if !got.Ready {
			t.Fatalf("%q: %s", path, got.Message)
		}
		request := <-requests
		if !strings.HasPrefix(request, want) || !strings.Contains(request, "\r\nHost: "+net.JoinHostPort(host, strconv.Itoa(port))+"\r\n") {
			t.Errorf("%q: sent %q", path, request)
		}
	}
	got := probe.Do(t.Context(), probe.Spec{Kind: probe.HTTP, Path: "/x\r\nEvil: 1"}, host, port, nil)
	if got.Ready || got.Message != "GET /x Evil: 1: not a path" {
		t.Errorf("a line break in the path: %v %q", got.Ready, got.Message)
	}
}

func TestHTTPOverTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "fine") }))
	defer s.Close()
	host, port := hostPort(t, s.Listener.Addr().String())
	got := probe.Do(t.Context(), probe.Spec{Kind: probe.HTTP, TLS: true, Timeout: 20 * time.Second}, host, port, nil)
	if !got.Ready || got.Message != "GET /: 200 OK" {
		t.Errorf("got %v %q", got.Ready, got.Message)
	}
	got = probe.Do(t.Context(), probe.Spec{Kind: probe.HTTP, Timeout: 20 * time.Second}, host, port, nil)
	if got.Ready || !strings.HasPrefix(got.Message, "GET /: 400 Bad Request: Client sent an HTTP request to an HTTPS server") {
		t.Errorf("without TLS: got %v %q", got.Ready, got.Message)
	}
}

func TestLongBodyIsCut(t *testing.T) {
	body := strings.Repeat("ü", 5000)
	host, port := raw(t, says("HTTP/1.1 500 No\r\nContent-Length: 10000\r\n\r\n"+body))
	got := probe.Do(t.Context(), probe.Spec{Kind: probe.HTTP, Timeout: 20 * time.Second}, host, port, nil)
	if want := "GET /: 500 No: " + strings.Repeat("ü", 200) + "…"; got.Message != want || !utf8.ValidString(got.Message) {
		t.Errorf("message of %d bytes: %q", len(got.Message), got.Message)
	}
}

// A server that keeps talking, or says nothing, holds a probe no longer than its timeout.
func TestSlowServersAreBounded(t *testing.T) {
	drip := func(start, each string) func(net.Conn) {
		return func(c net.Conn) {
			readRequest(c)
			_, err := io.WriteString(c, start)
			for err == nil {
				time.Sleep(5 * time.Millisecond)
				_, err = io.WriteString(c, each)
			}
		}
	}
	flood := func(c net.Conn) {
		_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		for err == nil {
			_, err = io.WriteString(c, "X-A: "+strings.Repeat("a", 1000)+"\r\n")
		}
	}
	silent := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	cases := []struct {
		name    string
		kind    string
		tls     bool
		serve   func(net.Conn)
		timeout time.Duration
		ready   bool
		message string
	}{
		{"silent", probe.HTTP, false, silent, 2 * time.Second, false, "GET /: no answer within 2s"},
		{"silent in TLS", probe.HTTP, true, silent, 2 * time.Second, false, "no answer within 2s"},
		{"silent in gRPC", probe.GRPC, false, silent, 2 * time.Second, false, "gRPC health of the server: no answer within 2s"},
		{"silent in gRPC over TLS", probe.GRPC, true, silent, 2 * time.Second, false, "no answer within 2s"},
		{"headers drip", probe.HTTP, false, drip("HTTP/1.1 200 OK\r\n", "A: b\r\n"), 2 * time.Second, false, "GET /: no answer within 2s"},
		{"informational answers drip", probe.HTTP, false, drip("", "HTTP/1.1 102 Processing\r\n\r\n"), 2 * time.Second, false, "GET /: no answer within 2s"},
		{"headers flood", probe.HTTP, false, flood, 20 * time.Second, false, "GET /: the connection was closed before the answer was whole"},
		{"body drips", probe.HTTP, false, drip("HTTP/1.1 200 OK\r\n\r\n", "."), 20 * time.Second, true, "GET /: 200 OK"},
	}
	results := make([]probe.Result, len(cases))
	var asking sync.WaitGroup
	for i, c := range cases {
		host, port := raw(t, c.serve)
		asking.Go(func() {
			results[i] = probe.Do(t.Context(), probe.Spec{Kind: c.kind, TLS: c.tls, Timeout: c.timeout}, host, port, nil)
		})
	}
	asking.Wait()
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := results[i]
			if got.Ready != c.ready || !strings.Contains(got.Message, c.message) {
				t.Errorf("got %v %q, want %v %q", got.Ready, got.Message, c.ready, c.message)
			}
			if got.Took > 10*time.Second {
				t.Errorf("took %v", got.Took)
			}
		})
	}
}

func TestTCP(t *testing.T) {
	host, port := raw(t, func(net.Conn) {})
	address := net.JoinHostPort(host, strconv.Itoa(port))
	got := probe.Do(t.Context(), probe.Spec{Kind: probe.TCP, Timeout: 20 * time.Second}, host, port, nil)
	if !got.Ready || got.Message != "connect "+address+": accepted" {
		t.Errorf("got %v %q", got.Ready, got.Message)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host, port = hostPort(t, l.Addr().String())
	l.Close()
	address = net.JoinHostPort(host, strconv.Itoa(port))
	for _, kind := range []string{probe.TCP, probe.HTTP, probe.GRPC} {
		got = probe.Do(t.Context(), probe.Spec{Kind: kind, Timeout: 20 * time.Second}, host, port, nil)
		if got.Ready || got.Message != "connect "+address+": connection refused" {
			t.Errorf("%s: got %v %q", kind, got.Ready, got.Message)
		}
	}
}

func TestGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	answers := health.NewServer()
	answers.SetServingStatus("shop.Cart", healthpb.HealthCheckResponse_NOT_SERVING)
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, answers)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.Serve(l) }()
	defer func() { s.Stop(); <-ended }()
	host, port := hostPort(t, l.Addr().String())
	for _, c := range []struct {
		path    string
		ready   bool
		message string
	}{
		{"", true, "gRPC health of the server: SERVING"},
		{"-", true, "gRPC health of the server: SERVING"},
		{"shop.Cart", false, "gRPC health of shop.Cart: NOT_SERVING"},
		{"shop.Till", false, "gRPC health of shop.Till: NOT_FOUND: unknown service"},
	} {
		got := probe.Do(t.Context(), probe.Spec{Kind: probe.GRPC, Path: c.path, Timeout: 20 * time.Second}, host, port, nil)
		if got.Ready != c.ready || got.Message != c.message {
			t.Errorf("%q: got %v %q, want %v %q", c.path, got.Ready, got.Message, c.ready, c.message)
		}
	}
}

func TestGRPCOddAnswers(t *testing.T) {
	for _, c := range []struct {
		name    string
		answer  http.HandlerFunc
		message string
	}{
		{"a web page", func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "<html>") },
			"gRPC health of the server: not a gRPC answer: no grpc-status"},
		{"not found", http.NotFound, "gRPC health of the server: HTTP status 404 instead of a gRPC answer"},
		{"no message", grpcAnswer(""), "gRPC health of the server: the answer is not a HealthCheckResponse"},
		{"wrong length", grpcAnswer("\x00\x00\x00\x00\x09\x08\x01"), "gRPC health of the server: the answer is not a HealthCheckResponse"},
		{"unknown", grpcAnswer("\x00\x00\x00\x00\x00"), "gRPC health of the server: UNKNOWN"},
		{"strange status", grpcAnswer("\x00\x00\x00\x00\x02\x08\x63"), "gRPC health of the server: unknown status 99"},
		{"endless", func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 512)); err != nil {
					return
				}
			}
		}, "gRPC health of the server: the answer is longer than a health check's"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := httptest.NewUnstartedServer(c.answer)
			s.EnableHTTP2 = true
			s.StartTLS()
			defer s.Close()
			host, port := hostPort(t, s.Listener.Addr().String())
			got := probe.Do(t.Context(), probe.Spec{Kind: probe.GRPC, TLS: true, Timeout: 20 * time.Second}, host, port, nil)
			if got.Ready || got.Message != c.message {
				t.Errorf("got %v %q, want %q", got.Ready, got.Message, c.message)
			}
		})
	}
	host, port := raw(t, says("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"))
	got := probe.Do(t.Context(), probe.Spec{Kind: probe.GRPC, Timeout: 20 * time.Second}, host, port, nil)
	if got.Ready || !strings.HasPrefix(got.Message, "gRPC health of the server: ") {
		t.Errorf("an HTTP/1.1 server: got %v %q", got.Ready, got.Message)
	}
}

func grpcAnswer(message string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status")
		w.Header().Set("Content-Type", "application/grpc")
		_, _ = io.WriteString(w, message)
		w.Header().Set("Grpc-Status", "0")
	}
}

func TestExec(t *testing.T) {
	command := []string{"pg_isready", "--password=secret"}
	for _, c := range []struct {
		name    string
		exec    probe.Executor
		ready   bool
		message string
	}{
		{"ready", func(context.Context, []string) (int, string, error) { return 0, "accepting connections\n", nil }, true, "exec pg_isready: exit code 0"},
		{"silent", func(context.Context, []string) (int, string, error) { return 0, "", nil }, true, "exec pg_isready: exit code 0"},
		{"not ready", func(context.Context, []string) (int, string, error) { return 2, "no\nresponse", nil }, false, "exec pg_isready: exit code 2: no"},
		{"error", func(context.Context, []string) (int, string, error) { return 0, "", errors.New("no such file") }, false, "exec pg_isready: no such file"},
		{"too slow", func(ctx context.Context, _ []string) (int, string, error) { <-ctx.Done(); return 0, "", ctx.Err() }, false, "exec pg_isready: no answer within 50ms"},
		{"no executor", nil, false, "exec probe: no command that can be run here"},
	} {
		spec := probe.Spec{Kind: probe.Exec, Command: command}
		if c.name == "too slow" {
			spec.Timeout = 50 * time.Millisecond
		}
		got := probe.Do(t.Context(), spec, "", 0, c.exec)
		if got.Ready != c.ready || got.Message != c.message {
			t.Errorf("%s: got %v %q, want %v %q", c.name, got.Ready, got.Message, c.ready, c.message)
		}
	}
}

func TestCancelled(t *testing.T) {
	var asked atomic.Bool
	host, port := raw(t, func(c net.Conn) { asked.Store(true); _, _ = io.Copy(io.Discard, c) })
	for _, kind := range []string{probe.HTTP, probe.GRPC} {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for !asked.Swap(false) {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		got := probe.Do(ctx, probe.Spec{Kind: kind, Timeout: time.Minute}, host, port, nil)
		if got.Ready || got.Message != "the probe was cancelled before there was an answer" {
			t.Errorf("%s: got %v %q", kind, got.Ready, got.Message)
		}
	}
}

func TestNoAddressAndUnknownKind(t *testing.T) {
	for _, c := range []struct {
		spec    probe.Spec
		ready   bool
		message string
	}{
		{probe.Spec{}, true, "no probe: ready while it runs"},
		{probe.Spec{Kind: probe.HTTP}, false, `http probe: no address to ask: host "", port 0`},
		{probe.Spec{Kind: "icmp"}, false, `unknown kind of probe "icmp"`},
	} {
		got := probe.Do(t.Context(), c.spec, "", 0, nil)
		if got.Ready != c.ready || got.Message != c.message {
			t.Errorf("%+v: got %v %q", c.spec, got.Ready, got.Message)
		}
	}
}

func FuzzHTTPAnswer(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 103 E\r\n\r\nHTTP/1.1 204 N\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", "HTTP/1.1 099 \r\n\r\n", "\r\n\r\n",
		"HTTP/1.1 500 \x1b[0m\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 200 OK\r\n continued\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		host, port := raw(t, says(string(answer)))
		got := probe.Do(t.Context(), probe.Spec{Kind: probe.HTTP, Timeout: 5 * time.Second}, host, port, nil)
		if got.Message == "" || len(got.Message) > 1024 || !utf8.ValidString(got.Message) || strings.ContainsAny(got.Message, "\r\n\x1b\x00") {
			t.Errorf("message %q", got.Message)
		}
	})
}

func BenchmarkHTTP(b *testing.B) {
	host, port := raw(b, says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	b.ReportAllocs()
	for b.Loop() {
		if got := probe.Do(b.Context(), probe.Spec{Kind: probe.HTTP}, host, port, nil); !got.Ready {
			b.Fatal(got.Message)
		}
	}
}
