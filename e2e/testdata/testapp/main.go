// Command testapp is the service of the end-to-end tests: it answers who it is, keeps a ledger of the requests that it
// took, and misbehaves when told to.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) == 4 && os.Args[1] == "note" { // testapp note FILE WORD, for hooks
		if err := note(os.Args[2], os.Args[3]); err != nil {
			log.Fatal(err)
		}
		return
	}
	diary("begins")
	if file := os.Getenv("DEAF"); file != "" { // heeds no SIGTERM, nor does its child
		deaf(file)
	}
	if code := os.Getenv("EXIT"); code != "" { // crash, after DELAY
		delay, _ := time.ParseDuration(os.Getenv("DELAY"))
		log.Printf("about to exit with %s", code)
		time.Sleep(delay)
		n, _ := strconv.Atoi(code)
		diary("ends")
		os.Exit(n)
	}
	for os.Getenv("LEAK") != "" { // files, until it gets no more
		if _, err := os.Open(os.DevNull); err != nil {
			log.Printf("leaked until: %v", err)
			break
		}
	}
	if after, err := time.ParseDuration(os.Getenv("CRASH_AFTER")); err == nil {
		time.AfterFunc(after, func() { log.Print("about to crash"); os.Exit(7) })
	}
	app := &app{version: os.Getenv("VERSION"), ledger: os.Getenv("LEDGER")}
	port := os.Getenv("PORT")
	if port == "" {
		port = "80"
	}
	delay, _ := time.ParseDuration(os.Getenv("START_DELAY"))
	time.Sleep(delay)
	server := &http.Server{Addr: ":" + port, Handler: misbehaving(app.routes()), Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true) // gRPC needs it
	ctx := context.Background()
	if os.Getenv("DEAF") == "" {
		var stop func()
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGTERM)
		defer stop()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 8*time.Second)
		defer cancel()
		_ = server.Shutdown(grace)
	}()
	if port := os.Getenv("MUTUAL"); port != "" {
		go serveMutual(port)
	}
	if port := os.Getenv("POSTGRES"); port != "" {
		go servePostgres(port)
	}
	diary("listens")
	log.Printf("testapp %s listens on %s", app.version, port)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	<-done
	if file := os.Getenv("NOTE"); file != "" {
		_ = note(file, "SIGTERM")
	}
	log.Print("testapp ended")
}

// diary appends "VERSION WORD" to the file DIARY, of which instances that share it tell in which order they did what.
func diary(word string) {
	if file := os.Getenv("DIARY"); file != "" {
		if err := note(file, os.Getenv("VERSION")+" "+word); err != nil {
			log.Print(err)
		}
	}
}

// note appends a word to a file.
func note(file, word string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(word + "\n")
	return err
}

// deaf ignores SIGTERM and has a child that does too. The child lives until it is killed.
func deaf(file string) {
	signal.Ignore(syscall.SIGTERM)
	if os.Getenv("CHILD") != "" {
		select {}
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "CHILD=1")
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	_ = note(file, strconv.Itoa(cmd.Process.Pid))
}

// misbehaving fails FAIL_PERCENT of the requests with 500, as a program does whose code is wrong, cuts RESET_PERCENT of
// them off, and takes SLOW longer for each; its health stays what it is. POST /misbehave with the same names, in lower
// case, changes them.
func misbehaving(next http.Handler) http.Handler {
	var mu sync.Mutex
	var fail, reset float64
	var slow time.Duration
	set := func(get func(string) string) {
		mu.Lock()
		defer mu.Unlock()
		fail, _ = strconv.ParseFloat(get("FAIL_PERCENT"), 64)
		reset, _ = strconv.ParseFloat(get("RESET_PERCENT"), 64)
		slow, _ = time.ParseDuration(get("SLOW"))
	}
	set(os.Getenv)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/healthz":
			next.ServeHTTP(w, r)
			return
		case "/misbehave":
			set(func(name string) string { return r.URL.Query().Get(strings.ToLower(name)) })
			return
		}
		mu.Lock()
		pause, fails, resets := slow, rand.Float64()*100 < fail, rand.Float64()*100 < reset
		mu.Unlock()
		time.Sleep(pause)
		if resets {
			panic(http.ErrAbortHandler) // the connection ends without an answer
		}
		if fails {
			http.Error(w, "told to fail", http.StatusInternalServerError)
			return
		}
		next.ServeHTTP(w, r)
	})
}

type app struct {
	version string
	ledger  string // file that each POST is appended to

	mu    sync.Mutex
	sound time.Time // when it is healthy again
}

// unready says no to health checks for some time, and who says so.
func (a *app) unready(w http.ResponseWriter, r *http.Request) {
	d, _ := time.ParseDuration(r.URL.Query().Get("for"))
	a.mu.Lock()
	a.sound = time.Now().Add(d)
	a.mu.Unlock()
	a.hello(w, r)
}

func (a *app) unhealthy() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return os.Getenv("UNHEALTHY") != "" || time.Now().Before(a.sound)
}

func (a *app) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if a.unhealthy() {
			http.Error(w, "told to be unhealthy", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /slow", a.slow)
	mux.HandleFunc("POST /slow", a.slow)
	mux.HandleFunc("POST /ledger", a.record)
	mux.HandleFunc("POST /unready", a.unready)
	mux.HandleFunc("POST /eat", eat)
	mux.HandleFunc("GET /fetch", a.fetch)
	mux.HandleFunc("GET /grpc", askGRPC)
	mux.HandleFunc("GET /postgres", askPostgres)
	mux.HandleFunc("GET /env", func(w http.ResponseWriter, r *http.Request) { _ = json.NewEncoder(w).Encode(os.Environ()) })
	mux.HandleFunc("GET /file", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, r.URL.Query().Get("path"))
	})
	mux.HandleFunc("GET /ws", echo)
	mux.HandleFunc("POST /grpc.health.v1.Health/Check", serving)
	mux.HandleFunc("GET /", a.hello)
	return mux
}

// eat takes memory until somebody ends it.
func eat(http.ResponseWriter, *http.Request) {
	var all [][]byte
	for {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
	}
}

func (a *app) slow(w http.ResponseWriter, r *http.Request) {
	d, _ := time.ParseDuration(r.URL.Query().Get("for"))
	time.Sleep(d)
	a.hello(w, r)
}

func (a *app) hello(w http.ResponseWriter, _ *http.Request) {
	host, _ := os.Hostname()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"version": a.version, "pid": os.Getpid(), "host": host})
}

// record appends the request's sequence number to the ledger before it answers: what was answered stands there.
func (a *app) record(w http.ResponseWriter, r *http.Request) {
	seq := r.Header.Get("X-Load-Seq")
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	f, err := os.OpenFile(a.ledger, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err == nil {
		_, err = f.WriteString(seq + "\n") // one write: instances append to the same file
		_ = f.Close()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

// echo sends back every message of a WebSocket.
func echo(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		kind, message, err := c.Read(context.Background())
		if err != nil || c.Write(context.Background(), kind, message) != nil {
			return
		}
	}
}

// serving answers gRPC's health check, which is a unary call like any other.
func serving(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	_, _ = w.Write([]byte{0, 0, 0, 0, 2, 8, 1}) // a frame of two bytes: status SERVING
	w.Header().Set("Grpc-Status", "0")
}

// fetch asks another service by its name, and passes on which trace that belongs to.
func (a *app) fetch(w http.ResponseWriter, r *http.Request) {
	client := http.Client{Timeout: 5 * time.Second, Transport: ownIdentity()}
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, r.URL.Query().Get("url"), nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if parent := r.Header.Get("Traceparent"); parent != "" {
		req.Header.Set("Traceparent", parent)
	}
	resp, err := client.Do(req)
	if err != nil {
		http.Error(w, strings.TrimSpace(err.Error()), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}
