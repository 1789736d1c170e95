// Package service is the life of one Evergreen process: configuration from the environment, health and readiness,
// serving, and an end that finishes what it began.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"evergreen/rest"
)

// Config is what the environment says. Its zero value, with defaults, runs on a developer's machine.
type Config struct {
	Name     string
	Addr     string        // ":" + PORT; ":8080"
	DataDir  string        // DATA_DIR; "data"
	Database string        // DATABASE_URL; "" is a SQLite file in DataDir
	Secret   string        // SERVICE_SECRET: what services know each other by; "" they do not
	Budget   time.Duration // REQUEST_BUDGET: the longest that one request may take; 10 s
	Drain    time.Duration // SHUTDOWN_DELAY: how long readiness says no before the listener closes; 300 ms
	Grace    time.Duration // SHUTDOWN_GRACE: how long requests in flight may take after that; 8 s
	Getenv   func(string) string
}

// Load reads the configuration of a service. getenv is os.Getenv outside of tests.
func Load(name string, getenv func(string) string) (Config, error) {
	c := Config{Name: name, Getenv: getenv, DataDir: or(getenv("DATA_DIR"), "data"), Database: getenv("DATABASE_URL"),
		Secret: getenv("SERVICE_SECRET")}
	port := or(getenv("PORT"), "8080")
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return c, fmt.Errorf("PORT=%q: a number from 0 to 65535 is needed", port)
	}
	c.Addr = ":" + port
	var err error
	c.Budget, err = c.Duration("REQUEST_BUDGET", 10*time.Second)
	if err == nil {
		c.Drain, err = c.Duration("SHUTDOWN_DELAY", 300*time.Millisecond)
	}
	if err == nil {
		c.Grace, err = c.Duration("SHUTDOWN_GRACE", 8*time.Second)
	}
	return c, err
}

// URL returns where a service that this one calls is found: <SERVICE>_URL, or http://<service>:8080.
func (c Config) URL(service string) string {
	return or(c.Getenv(strings.ToUpper(service)+"_URL"), "http://"+service+":8080")
}

// Issuer returns who signs the tokens of this platform: ISSUER, or https://id.evergreen.example.
func (c Config) Issuer() string { return or(c.Getenv("ISSUER"), "https://id.evergreen.example") }

// Number reads a whole number from least to most from the environment.
func (c Config) Number(variable string, fallback, least, most int) (int, error) {
	v := c.Getenv(variable)
	if v == "" {
		return fallback, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%s=%q: a number from %d to %d is needed", variable, v, least, most)
	}
	return n, nil
}

// Duration reads a length of time such as "250ms" from the environment.
func (c Config) Duration(variable string, fallback time.Duration) (time.Duration, error) {
	v := c.Getenv(variable)
	if v == "" {
		return fallback, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%s=%q: a length of time such as 250ms is needed", variable, v)
	}
	return d, nil
}

func or(value, fallback string) string {
	if value != "" {
		return value
	}
	return fallback
}

// App is what a service consists of.
type App struct {
	Handler http.Handler
	Ready   func(context.Context) error   // nil: ready as soon as it serves
	Loops   []func(context.Context) error // run beside the handler until the context ends
}

// Build makes the App of a domain from what a process has to offer.
type Build func(context.Context, *Env) (App, error)

// Main runs a service until SIGTERM or SIGINT and returns its exit code. With the argument -health it asks the service
// that runs beside it whether it is ready instead: an image FROM scratch has no other program to do so.
func Main(name string, build Build) int {
	level := slog.LevelInfo
	if os.Getenv("LOG_LEVEL") == "debug" {
		level = slog.LevelDebug
	}
	log := slog.New(rest.LogHandler(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{Level: level}))).With("service", name)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	config, err := Load(name, os.Getenv)
	if err == nil && len(os.Args) == 2 && os.Args[1] == "-health" {
		return check(ctx, config)
	}
	if err == nil {
		env := NewEnv(config, log)
		err = errors.Join(start(ctx, env, build), env.Close())
	}
	if err != nil {
		log.Error("failed", "err", err)
		return 1
	}
	return 0
}

func check(ctx context.Context, c Config) int {
	client := &rest.Client{Base: "http://127.0.0.1" + c.Addr}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := client.Do(ctx, rest.Call{Method: http.MethodGet, Path: "/readyz"}, nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func start(ctx context.Context, env *Env, build Build) error {
	app, err := build(ctx, env)
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", env.Addr)
	if err != nil {
		return err
	}
	return Run(ctx, env.Config, env.Log, l, app)
}

// Run serves app on l until ctx ends. Then readiness says no and connections are asked to close, new requests are still
// answered for c.Drain, the listener closes, and what is in flight gets c.Grace. It returns when all has ended.
func Run(ctx context.Context, c Config, log *slog.Logger, l net.Listener, app App) error {
	var draining atomic.Bool
	server := &http.Server{
		Handler:           rest.Serve(health(app, &draining), c.Budget, log),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      c.Budget + 5*time.Second,
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	loopCtx, stopLoops := context.WithCancel(context.WithoutCancel(ctx))
	failed := make(chan error, len(app.Loops)+1)
	var running sync.WaitGroup
	for _, loop := range app.Loops {
		running.Go(func() {
			if err := loop(loopCtx); err != nil && loopCtx.Err() == nil {
				failed <- err
			}
		})
	}
	running.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	})
	log.Info("serving", "addr", l.Addr().String())
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
		draining.Store(true)
		time.Sleep(c.Drain)
	}
	graceCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Grace)
	defer cancel()
	err = errors.Join(err, server.Shutdown(graceCtx))
	server.Close()
	stopLoops()
	running.Wait()
	log.Info("stopped")
	return err
}

// health answers /healthz (the process lives) and /readyz (it can do its work now) before the service's own addresses.
func health(app App, draining *atomic.Bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", app.Handler)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		rest.Write(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		err := readiness(r.Context(), app, draining)
		if err != nil {
			rest.Write(w, http.StatusServiceUnavailable, map[string]string{"status": "unready", "reason": err.Error()})
			return
		}
		rest.Write(w, http.StatusOK, map[string]string{"status": "ready"})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if draining.Load() {
			w.Header().Set("Connection", "close")
		}
		mux.ServeHTTP(w, r)
	})
}

func readiness(ctx context.Context, app App, draining *atomic.Bool) error {
	if draining.Load() {
		return errors.New("shutting down")
	}
	if app.Ready == nil {
		return nil
	}
	return app.Ready(ctx)
}
