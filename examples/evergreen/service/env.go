package service

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"evergreen/database"
	"evergreen/rest"
)

// Env is what a process offers to the domains in it: a database, and the way to the other domains. A domain is built the
// same way whether it has a process to itself or shares one with all others.
type Env struct {
	Config
	Log    *slog.Logger
	one    string                  // the name of the file that all share; "" each its own
	open   map[string]*database.DB // by name
	inside map[string]http.RoundTripper
}

// NewEnv returns an Env in which the other domains are reached over the network.
func NewEnv(c Config, log *slog.Logger) *Env {
	return &Env{Config: c, Log: log, open: map[string]*database.DB{}, inside: map[string]http.RoundTripper{}}
}

// Share has all domains use one SQLite file from now on, and with it one writer. In PostgreSQL they share what DATABASE_URL
// names anyway, and write side by side.
func (e *Env) Share(name string) { e.one = name }

// Inside has calls to a domain answered by a handler of this process from now on.
func (e *Env) Inside(domain string, h http.Handler) {
	e.inside[domain] = rest.Local(h, e.Budget, e.Log)
}

// DB returns the database of a domain, opened once. It stays open until Close.
func (e *Env) DB(ctx context.Context, domain string) (*database.DB, error) {
	dialect, err := database.DialectOf(e.Database)
	if err != nil {
		return nil, err
	}
	if e.one != "" && dialect == database.SQLite {
		domain = e.one
	}
	if db := e.open[domain]; db != nil {
		return db, nil
	}
	db, err := database.Open(ctx, e.Database, e.DataDir, domain)
	if err == nil {
		e.open[domain] = db
	}
	return db, err
}

// Client returns the way to a domain.
func (e *Env) Client(domain string) *rest.Client {
	return &rest.Client{Base: e.URL(domain), HTTP: e.inside[domain], Secret: e.Secret}
}

// Close closes the databases.
func (e *Env) Close() error {
	var err error
	for _, db := range e.open {
		err = errors.Join(err, db.Close())
	}
	return err
}
