package notifications

import (
	"context"
	"net/http"

	"evergreen/identity"
	"evergreen/rest"
	"evergreen/service"
)

// App is notifications as a part of a process.
func App(ctx context.Context, env *service.Env) (service.App, error) {
	db, err := env.DB(ctx, "notifications")
	if err != nil {
		return service.App{}, err
	}
	store, err := NewStore(ctx, db)
	if err != nil {
		return service.App{}, err
	}
	return service.App{Handler: Handler(store, identity.Trust(env), env.Secret), Ready: db.Ready}, nil
}

type unread struct {
	Unread int `json:"unread"`
}

type seen struct {
	IDs []string `json:"ids"`
}

// Handler serves notifications. Learners are known by their tokens, services by secret.
//
//	POST /api/events            Events, for services; safe to repeat
//	GET  /api/notices           the learner's Inbox
//	GET  /api/notices/unread    {"unread": 2}
//	POST /api/notices/seen      {"ids": [...]}: they have been shown
func Handler(s *Store, v *identity.Verifier, secret string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/events", rest.Services(secret, func(w http.ResponseWriter, r *http.Request) {
		var events []Event
		err := rest.Read(w, r, &events)
		if err == nil {
			err = s.Tell(r.Context(), events)
		}
		rest.Answer(w, http.StatusOK, struct{}{}, err)
	}))
	mux.HandleFunc("GET /api/notices", v.Learner(func(w http.ResponseWriter, r *http.Request, who identity.Claims) error {
		box, err := s.Inbox(r.Context(), who.Subject)
		rest.Answer(w, http.StatusOK, box, err)
		return nil
	}))
	mux.HandleFunc("GET /api/notices/unread", v.Learner(func(w http.ResponseWriter, r *http.Request, who identity.Claims) error {
		n, err := s.Unread(r.Context(), who.Subject)
		rest.Answer(w, http.StatusOK, unread{n}, err)
		return nil
	}))
	mux.HandleFunc("POST /api/notices/seen", v.Learner(func(w http.ResponseWriter, r *http.Request, who identity.Claims) error {
		var in seen
		if err := rest.Read(w, r, &in); err != nil {
			return err
		}
		rest.Answer(w, http.StatusOK, struct{}{}, s.Seen(r.Context(), who.Subject, in.IDs))
		return nil
	}))
	return mux
}

// Client speaks to notifications over the network. token is the learner's.
type Client struct{ REST *rest.Client }

// Tell hands events over.
func (c *Client) Tell(ctx context.Context, events []Event) error {
	return c.REST.Do(ctx, rest.Call{Method: http.MethodPost, Path: "/api/events", Body: events, Repeatable: true}, nil)
}

// Inbox returns what the learner has been told.
func (c *Client) Inbox(ctx context.Context, token string) (Inbox, error) {
	var box Inbox
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodGet, Path: "/api/notices", Token: token}, &box)
	return box, err
}

// Unread returns how many notices the learner has not been shown.
func (c *Client) Unread(ctx context.Context, token string) (int, error) {
	var n unread
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodGet, Path: "/api/notices/unread", Token: token}, &n)
	return n.Unread, err
}

// Seen says that the learner has been shown the notices with the given ids.
func (c *Client) Seen(ctx context.Context, token string, ids []string) error {
	return c.REST.Do(ctx, rest.Call{Method: http.MethodPost, Path: "/api/notices/seen", Body: seen{ids}, Token: token,
		Repeatable: true}, nil)
}
