package identity

import (
	"context"
	"net/http"

	"evergreen/rest"
)

type signUp struct {
	Email    string `json:"email"`
	Name     string `json:"name"`
	Password string `json:"password"`
}

type signIn struct {
	Email    string `json:"email"`
	Password string `json:"password"`
}

type secret struct {
	Secret string `json:"secret"`
}

// Handler serves identity.
//
//	POST /api/accounts              makes an Account and signs it in: a Session; the address makes it safe to repeat
//	GET  /api/accounts/me           the caller's Account
//	POST /api/sessions              signs in: a Session
//	POST /api/sessions/refresh      a Session with a new token
//	POST /api/sessions/end          signs out
//	GET  /.well-known/jwks.json     the keys of tokens (RFC 7517)
func Handler(s *Store) http.Handler {
	mux := http.NewServeMux()
	verifier := NewVerifier(s.issuer, func(ctx context.Context) (JWKS, error) { return s.JWKS(ctx, s.now()) })
	verifier.now = s.now
	mux.HandleFunc("POST /api/accounts", func(w http.ResponseWriter, r *http.Request) {
		var in signUp
		if err := rest.Read(w, r, &in); err != nil {
			rest.WriteError(w, err)
			return
		}
		session, err := s.SignUp(r.Context(), in.Email, in.Name, in.Password)
		answer(w, http.StatusCreated, session, err)
	})
	mux.HandleFunc("GET /api/accounts/me", func(w http.ResponseWriter, r *http.Request) {
		c, err := verifier.Caller(r)
		if err != nil {
			rest.WriteError(w, err)
			return
		}
		a, err := s.Account(r.Context(), c.Subject)
		answer(w, http.StatusOK, a, err)
	})
	mux.HandleFunc("POST /api/sessions", func(w http.ResponseWriter, r *http.Request) {
		var in signIn
		if err := rest.Read(w, r, &in); err != nil {
			rest.WriteError(w, err)
			return
		}
		session, err := s.SignIn(r.Context(), in.Email, in.Password)
		answer(w, http.StatusCreated, session, err)
	})
	mux.HandleFunc("POST /api/sessions/refresh", func(w http.ResponseWriter, r *http.Request) {
		var in secret
		if err := rest.Read(w, r, &in); err != nil {
			rest.WriteError(w, err)
			return
		}
		session, err := s.Refresh(r.Context(), in.Secret)
		answer(w, http.StatusOK, session, err)
	})
	mux.HandleFunc("POST /api/sessions/end", func(w http.ResponseWriter, r *http.Request) {
		var in secret
		if err := rest.Read(w, r, &in); err != nil {
			rest.WriteError(w, err)
			return
		}
		answer(w, http.StatusOK, struct{}{}, s.SignOut(r.Context(), in.Secret))
	})
	mux.HandleFunc("GET /.well-known/jwks.json", func(w http.ResponseWriter, r *http.Request) {
		set, err := s.JWKS(r.Context(), s.now())
		if err == nil {
			w.Header().Set("Cache-Control", "public, max-age=60")
		}
		answer(w, http.StatusOK, set, err)
	})
	return mux
}

func answer(w http.ResponseWriter, status int, v any, err error) {
	if err != nil {
		rest.WriteError(w, err)
		return
	}
	if w.Header().Get("Cache-Control") == "" {
		w.Header().Set("Cache-Control", "no-store")
	}
	rest.Write(w, status, v)
}

// Client asks identity over the network.
type Client struct{ REST *rest.Client }

// SignUp makes an account and opens a session. ErrTaken may mean that an earlier attempt, whose answer was lost, has made
// the account.
func (c *Client) SignUp(ctx context.Context, email, name, password string) (Session, error) {
	var s Session
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodPost, Path: "/api/accounts", Repeatable: true,
		Body: signUp{Email: email, Name: name, Password: password}}, &s)
	return s, err
}

// SignIn opens a session. It is tried again when identity was away: a session too many does no harm and expires.
func (c *Client) SignIn(ctx context.Context, email, password string) (Session, error) {
	var s Session
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodPost, Path: "/api/sessions", Repeatable: true,
		Body: signIn{Email: email, Password: password}}, &s)
	return s, err
}

// Refresh gives a session a new token.
func (c *Client) Refresh(ctx context.Context, sessionSecret string) (Session, error) {
	var s Session
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodPost, Path: "/api/sessions/refresh", Repeatable: true,
		Body: secret{sessionSecret}}, &s)
	return s, err
}

// SignOut ends a session.
func (c *Client) SignOut(ctx context.Context, sessionSecret string) error {
	return c.REST.Do(ctx, rest.Call{Method: http.MethodPost, Path: "/api/sessions/end", Repeatable: true,
		Body: secret{sessionSecret}}, nil)
}

// JWKS returns the keys of tokens.
func (c *Client) JWKS(ctx context.Context) (JWKS, error) {
	var set JWKS
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodGet, Path: "/.well-known/jwks.json"}, &set)
	return set, err
}
