// Package web is what learners see: pages rendered on the server, without scripts and without anything from elsewhere.
// It owns no data. When a service it asks is away, a page shows what it can and says what is missing.
package web

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"evergreen/catalog"
	"evergreen/content"
	"evergreen/enrollment"
	"evergreen/identity"
	"evergreen/notifications"
	"evergreen/payments"
	"evergreen/progress"
	"evergreen/rest"
	"evergreen/service"
)

// How long a page waits: for what it needs, for what merely decorates it, and for a write. A write outlasts the restart
// of a service, because a learner would rather wait than do it again.
const (
	needed = 2500 * time.Millisecond
	extra  = 800 * time.Millisecond
	write  = 8 * time.Second
)

// seatsFresh is how long the seats of courses are shown without asking again.
const seatsFresh = time.Second

// Services are what the pages are made of. Those behind the line are decoration: pages do without them.
type Services struct {
	Catalog    *catalog.Client
	Identity   *identity.Client
	Enrollment *enrollment.Client
	Content    *content.Client
	Payments   *payments.Client
	Verifier   *identity.Verifier

	Progress        *progress.Client
	Notifications   *notifications.Client
	Recommendations *rest.Client // GET /recommendations?course=: {"courses": [slugs]}
	Certificates    *rest.Client // GET /certificate.svg?name=&title=&teacher=&date=
}

// App is the pages as a part of a process. It reads CATALOG_FRESH: how long what the catalogue said is shown without
// asking again.
func App(_ context.Context, env *service.Env) (service.App, error) {
	fresh, err := env.Duration("CATALOG_FRESH", 30*time.Second)
	if err != nil {
		return service.App{}, err
	}
	handler, err := New(Services{
		Catalog:         &catalog.Client{REST: env.Client("catalog")},
		Identity:        &identity.Client{REST: env.Client("identity")},
		Enrollment:      &enrollment.Client{REST: env.Client("enrollment")},
		Content:         &content.Client{REST: env.Client("content")},
		Payments:        &payments.Client{REST: env.Client("payments")},
		Progress:        &progress.Client{REST: env.Client("progress")},
		Notifications:   &notifications.Client{REST: env.Client("notifications")},
		Recommendations: env.Client("recommendations"),
		Certificates:    env.Client("certificates"),
		Verifier:        identity.Trust(env),
	}, fresh, env.Log)
	return service.App{Handler: handler}, err
}

type site struct {
	Services
	log    *slog.Logger
	views  *views
	memory *memory
	shelf  *memory // of what hardly ever changes: lessons, and which courses are alike
	seats  *board
	away   *pauses
}

// settled is how many times as long what hardly ever changes is shown without asking again.
const settled = 10

// New returns the handler of all pages. What the catalogue said is shown for fresh without asking again; lessons, and which
// courses are alike, for settled times as long.
func New(s Services, fresh time.Duration, log *slog.Logger) (http.Handler, error) {
	v, err := newViews()
	if err != nil {
		return nil, err
	}
	w := &site{Services: s, log: log, views: v, memory: newMemory(3000, fresh), shelf: newMemory(3000, settled*fresh), away: newPauses()}
	w.seats = &board{fresh: min(fresh, seatsFresh), ask: func(ctx context.Context) (map[string]enrollment.Seats, error) {
		return s.Enrollment.Taken(ctx)
	}}
	mux := http.NewServeMux()
	for pattern, page := range map[string]func(http.ResponseWriter, *http.Request, *view) error{
		"GET /{$}":                            w.home,
		"GET /courses":                        w.courses,
		"GET /courses/{slug}":                 w.course,
		"POST /courses/{slug}/enrol":          w.enrol,
		"POST /courses/{slug}/leave":          w.leave,
		"GET /courses/{slug}/pay":             w.payForm,
		"POST /courses/{slug}/pay":            w.pay,
		"GET /courses/{slug}/learn":           w.learn,
		"GET /courses/{slug}/lessons/{n}":     w.lesson,
		"POST /courses/{slug}/lessons/{n}":    w.finish,
		"GET /courses/{slug}/certificate.svg": w.certificate,
		"GET /my-courses":                     w.mine,
		"GET /inbox":                          w.inbox,
		"GET /sign-up":                        w.signUpForm,
		"POST /sign-up":                       w.signUp,
		"GET /sign-in":                        w.signInForm,
		"POST /sign-in":                       w.signIn,
		"POST /sign-out":                      w.signOut,
		"/":                                   w.nowhere,
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
		if v.User != nil && !v.User.Unsure && r.Method == http.MethodGet {
			v.News = s.unread(w, r, v.User)
		}
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
