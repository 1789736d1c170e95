package proxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// lines is a log's other end.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) read(t testing.TB) []map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []map[string]any
	for line := range strings.Lines(l.buf.String()) {
		var one map[string]any
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, one)
	}
	return all
}

func TestAccessLog(t *testing.T) {
	t.Parallel()
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(201)
		fmt.Fprint(w, strings.Repeat("x", 40_000))
	})
	var out lines
	r := newRig(t, Config{AccessLog: &out})
	r.snap.AccessLog = 1
	r.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}}}
	addr := r.listen(Listener{Name: "app", Protocol: HTTP1, Service: "app", Port: 80})
	gateway := r.listen(Listener{Name: "gateway", Protocol: HTTP1})
	r.push()
	for i, c := range []*http.Client{client(t), h2client(t)} {
		eventually(t, "the lines before", func() bool { return len(out.read(t)) == i })
		if status, text, _ := get(t, c, "http://"+addr+"/a?secret=1"); status != 201 || len(text) != 40_000 {
			t.Fatal(status, len(text))
		}
	}
	logged := func(n int) { // a line is written once its answer has been
		t.Helper()
		eventually(t, "another line", func() bool { return len(out.read(t)) == n })
	}
	logged(2)
	if status, _, _ := get(t, client(t), "http://"+gateway+"/nowhere"); status != 404 {
		t.Fatal(status)
	}
	logged(3)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /\"\\\xff\xc3\xa4 HTTP/1.1\r\nHost: a\r\nX-Request-Id: request-1\r\nConnection: close\r\n\r\n")
	io.ReadAll(conn)
	logged(4)
	seen := out.read(t)
	for i, want := range []map[string]any{
		{"client": "127.0.0.1", "method": "GET", "host": addr, "path": "/a", "status": 201.0, "bytes": 40_000.0, "service": "app", "instance": "app-1", "protocol": "HTTP/1.1"},
		{"path": "/a", "status": 201.0, "bytes": 40_000.0, "service": "app", "instance": "app-1", "protocol": "HTTP/2.0"},
		{"path": "/nowhere", "status": 404.0, "error": "no-route"},
		{"path": "/\"\\\ufffdä", "request_id": "request-1"},
	} {
		for k, v := range want {
			if seen[i][k] != v {
				t.Errorf("line %d: %s is %v, want %v", i, k, seen[i][k], v)
			}
		}
		if at, err := time.Parse(time.RFC3339Nano, seen[i]["time"].(string)); err != nil || time.Since(at) > time.Minute {
			t.Errorf("line %d: time %v", i, seen[i]["time"])
		}
		if ms, ok := seen[i]["ms"].(float64); !ok || ms <= 0 || ms > 60_000 {
			t.Errorf("line %d: %v ms", i, seen[i]["ms"])
		}
	}
}

// TestAccessLogHoldsNobodyUp: while nobody takes its lines they are dropped and counted.
func TestAccessLogHoldsNobodyUp(t *testing.T) {
	a := newAccessLog(io.Discard)
	q := &request{method: "GET", path: "/" + strings.Repeat("x", 1000), began: time.Now()}
	for range 5000 {
		a.add(q, time.Now())
	}
	if len(a.buf) > logMost+2000 || a.dropped < 3000 {
		t.Errorf("%d bytes wait, %d lines dropped", len(a.buf), a.dropped)
	}
	n := 0
	for range 10_000 {
		if chosen(0.1, 200) {
			n++
		}
	}
	if n < 800 || n > 1200 || !chosen(0.001, 503) || chosen(0, 503) {
		t.Errorf("a tenth of 10,000: %d", n)
	}
}
