package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
	"github.com/mattn/go-shellwords"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"trellis/api"
	"trellis/engine"
)

// bookshop is the target of docs/guides/load.md.
func bookshop(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /courses", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `<a href="/courses/go-1">Go</a><a href="/courses/sql">SQL</a>`)
	})
	mux.HandleFunc("GET /courses/{slug}", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "Week by week") })
	mux.HandleFunc("POST /sign-in", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusSeeOther)
		_, _ = io.WriteString(w, `{"order": 7}`)
	})
	mux.HandleFunc("/chat", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = c.CloseNow() }()
		for {
			kind, message, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, message) != nil {
				return
			}
		}
	})
	s := httptest.NewUnstartedServer(mux)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// healthServer is its gRPC server.
func healthServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health.NewServer())
	reflection.Register(s)
	var all sync.WaitGroup
	all.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); all.Wait() })
	return l.Addr().String()
}

// TestLoadGuide writes the files of docs/guides/load.md and runs its commands, in order, with shorter times.
func TestLoadGuide(t *testing.T) {
	guide, err := os.ReadFile("../../docs/guides/load.md")
	if err != nil {
		t.Fatal(err)
	}
	dir, target := t.TempDir(), bookshop(t)
	gateway := "http://" + target
	b, err := json.Marshal(world{Running: true, Status: api.Status{State: engine.State{Project: "shop"}, Gateway: api.Gateway{HTTP: &gateway}}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "world.json"), b)
	shorter := strings.NewReplacer("localhost:8080", target, "localhost:9000", healthServer(t),
		"--for 30s", "--for 100ms", "--ramp 5s", "--ramp 50ms", "for: 1m", "for: 100ms", "for: 2m", "for: 100ms", "ramp: 10s", "ramp: 50ms")
	commands := 0
	for i, block := range strings.Split(shorter.Replace(string(guide)), "```") {
		if i%2 == 0 {
			continue // the text around
		}
		if file, ok := strings.CutPrefix(block, "yaml\n# "); ok {
			name, content, _ := strings.Cut(file, "\n")
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, name), []byte(content))
			continue
		}
		for line := range strings.Lines(block) {
			if command, ok := strings.CutPrefix(line, "trellis "); ok {
				commands++
				guided(t, dir, command)
			}
		}
	}
	if commands < 10 {
		t.Errorf("%d commands were found: the guide was not understood", commands)
	}
}

// guided runs a command of a guide, which has to succeed and, if it is load, to fail at nothing.
func guided(t *testing.T, dir, command string) {
	t.Helper()
	args, err := shellwords.Parse(command)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), childEnv+"=1", "WORK="+dir, "USER=kim")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Errorf("trellis %s: %v\n%s", strings.TrimSpace(command), err, out.String())
	}
	if args[0] == "load" && !strings.Contains(out.String(), " completed, 0 failed, 0 missed, 0 lost") {
		t.Errorf("trellis %s:\n%s", strings.TrimSpace(command), out.String())
	}
}
