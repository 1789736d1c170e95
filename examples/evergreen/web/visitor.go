package web

import (
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"evergreen/identity"
	"evergreen/rest"
)

// The cookies of a signed-in browser. They are out of reach for scripts.
const (
	tokenCookie   = "evergreen_token"
	sessionCookie = "evergreen_session"
	newsCookie    = "evergreen_news" // how many notices are new
)

// signedInFor is how long a browser stays signed in.
const signedInFor = 30 * 24 * time.Hour

// visitor is who asks for a page.
type visitor struct {
	Name   string
	ID     string
	Unsure bool // signed in once, and identity cannot be asked whether still
	token  string
	secret string
}

// Initial is the first letter of the visitor's name.
func (v *visitor) Initial() string {
	r, _ := utf8.DecodeRuneInString(v.Name)
	return strings.ToUpper(string(r))
}

// First is the visitor's first name.
func (v *visitor) First() string {
	first, _, _ := strings.Cut(v.Name, " ")
	return first
}

// visitor returns who asks, nil for somebody who is not signed in. A token that is about to expire is replaced.
func (s *site) visitor(w http.ResponseWriter, r *http.Request) *visitor {
	token, secret := cookie(r, tokenCookie), cookie(r, sessionCookie)
	if token == "" && secret == "" {
		return nil
	}
	ctx, cancel := within(r.Context(), extra)
	defer cancel()
	claims, err := s.Verifier.Verify(ctx, token)
	if err == nil && time.Until(time.Unix(claims.Expires, 0)) > time.Minute {
		return &visitor{Name: claims.Name, ID: claims.Subject, token: token, secret: secret}
	}
	if token == "" || err == nil || errors.Is(err, rest.ErrUnauthorized) {
		return s.renew(w, r, secret)
	}
	return &visitor{Unsure: true, secret: secret}
}

func (s *site) renew(w http.ResponseWriter, r *http.Request, secret string) *visitor {
	if secret == "" {
		forget(w, r)
		return nil
	}
	ctx, cancel := within(r.Context(), needed)
	defer cancel()
	session, err := s.Identity.Refresh(ctx, secret)
	switch {
	case err == nil:
		setCookie(w, r, tokenCookie, session.Token, signedInFor)
		return &visitor{Name: session.Account.Name, ID: session.Account.ID, token: session.Token, secret: secret}
	case errors.Is(err, identity.ErrNoSession):
		forget(w, r)
		return nil
	}
	s.log.WarnContext(ctx, "session not renewed", "err", err)
	return &visitor{Unsure: true, secret: secret}
}

func cookie(r *http.Request, name string) string {
	c, err := r.Cookie(name)
	if err != nil {
		return ""
	}
	return c.Value
}

func remember(w http.ResponseWriter, r *http.Request, session identity.Session) {
	setCookie(w, r, tokenCookie, session.Token, signedInFor)
	setCookie(w, r, sessionCookie, session.Secret, signedInFor)
	if cookie(r, newsCookie) != "" { // of whoever was signed in before
		unsetCookie(w, r, newsCookie)
	}
}

func setCookie(w http.ResponseWriter, r *http.Request, name, value string, life time.Duration) {
	http.SetCookie(w, &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: int(life.Seconds()),
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: encrypted(r)})
}

func unsetCookie(w http.ResponseWriter, r *http.Request, name string) {
	setCookie(w, r, name, "", -time.Second)
}

func forget(w http.ResponseWriter, r *http.Request) {
	for _, name := range []string{tokenCookie, sessionCookie, newsCookie} {
		unsetCookie(w, r, name)
	}
}

func encrypted(r *http.Request) bool {
	return r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https"
}
