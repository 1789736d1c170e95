// Package web is what learners see: pages rendered on the server, without scripts and without anything from elsewhere.
// It owns no data. When a service it asks is away, a page shows what it can and says what is missing.
package web

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"evergreen/catalog"
	"evergreen/enrollment"
	"evergreen/identity"
)

// How long a page waits: for what it needs, for what merely decorates it, and for a write. A write outlasts the restart
// of a service, because a learner would rather wait than do it again.
const (
	needed = 2500 * time.Millisecond
	extra  = 800 * time.Millisecond
	write  = 8 * time.Second
)

// Services are what the pages are made of.
type Services struct {
	Catalog    *catalog.Client
	Identity   *identity.Client
	Enrollment *enrollment.Client
	Verifier   *identity.Verifier
}

type site struct {
	Services
	log    *slog.Logger
	views  *views
	memory *memory
}

// New returns the handler of all pages.
func New(s Services, log *slog.Logger) (http.Handler, error) {
	v, err := newViews()
	if err != nil {
		return nil, err
	}
	w := &site{Services: s, log: log, views: v, memory: newMemory(1000)}
	mux := http.NewServeMux()
	for pattern, page := range map[string]func(http.ResponseWriter, *http.Request, *view) error{
		"GET /{$}":                   w.home,
		"GET /courses":               w.courses,
		"GET /courses/{slug}":        w.course,
		"POST /courses/{slug}/enrol": w.enrol,
		"POST /courses/{slug}/leave": w.leave,
		"GET /my-courses":            w.mine,
		"GET /sign-up":               w.signUpForm,
		"POST /sign-up":              w.signUp,
		"GET /sign-in":               w.signInForm,
		"POST /sign-in":              w.signIn,
		"POST /sign-out":             w.signOut,
		"/":                          w.nowhere,
	} {
		mux.Handle(pattern, w.page(page))
	}
	mux.Handle("GET /static/", v.static())
	mux.Handle("GET /favicon.ico", http.RedirectHandler("/static/icon.svg", http.StatusMovedPermanently))
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(w.page(w.foreign))
	return secure(guard.Handler(mux)), nil
}

// page makes a handler of a page: it finds out who asks, and turns an error into a page of its own.
func (s *site) page(do func(http.ResponseWriter, *http.Request, *view) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := &view{Path: r.URL.Path, User: s.visitor(w, r)}
		if err := do(w, r, v); err != nil {
			s.sorry(w, r, v, err)
		}
	})
}

// secure sets what browsers enforce: nothing from elsewhere, no frames, no scripts.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "+
			"base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}
