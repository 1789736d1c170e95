// Command monolith serves the pages and all domains behind them: one process, one database. DATA_DIR, DATABASE_URL and the
// variables of the domains hold as they do for a domain alone.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"

	"evergreen/catalog"
	"evergreen/content"
	"evergreen/enrollment"
	"evergreen/identity"
	"evergreen/notifications"
	"evergreen/payments"
	"evergreen/progress"
	"evergreen/service"
	"evergreen/web"
)

func main() { os.Exit(service.Main("evergreen", build)) }

// domains are in the order in which they are built: each calls only those before it. Their addresses do not meet.
var domains = [...]struct {
	name  string
	build service.Build
	paths []string
}{
	{"identity", identity.App, []string{"/api/accounts", "/api/accounts/", "/api/sessions", "/api/sessions/", "/.well-known/jwks.json"}},
	{"catalog", catalog.App, []string{"/api/courses", "/api/courses/", "/api/topics"}},
	{"notifications", notifications.App, []string{"/api/events", "/api/notices", "/api/notices/"}},
	{"enrollment", enrollment.App, []string{"/api/enrollments", "/api/enrollments/", "/api/seats"}},
	{"content", content.App, []string{"/api/lessons/"}},
	{"payments", payments.App, []string{"/api/payments", "/api/ledger", "/api/charges"}},
	{"progress", progress.App, []string{"/api/progress", "/api/progress/"}},
	{"web", web.App, []string{"/"}},
}

func build(ctx context.Context, env *service.Env) (service.App, error) {
	env.Share("evergreen")
	if env.Secret == "" {
		env.Secret = rand.Text() // nobody outside is a service of this platform
	}
	mux := http.NewServeMux()
	all := service.App{Handler: mux}
	var ready []func(context.Context) error
	for _, d := range domains {
		app, err := d.build(ctx, env)
		if err != nil {
			return service.App{}, fmt.Errorf("%s: %w", d.name, err)
		}
		env.Inside(d.name, app.Handler)
		for _, path := range d.paths {
			mux.Handle(path, app.Handler)
		}
		if app.Ready != nil {
			ready = append(ready, app.Ready)
		}
		all.Loops = append(all.Loops, app.Loops...)
	}
	all.Ready = func(ctx context.Context) error {
		var err error
		for _, r := range ready {
			err = errors.Join(err, r(ctx))
		}
		return err
	}
	return all, nil
}
