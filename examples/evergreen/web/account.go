package web

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"evergreen/identity"
	"evergreen/rest"
)

type accountPage struct {
	Next    string
	Email   string
	Name    string
	Problem string
	Field   string // that Problem is about
}

// next returns where to go after a sign-in: an address of this site, or the learner's courses.
func next(r *http.Request) string {
	n := r.FormValue("next")
	if !strings.HasPrefix(n, "/") || strings.HasPrefix(n, "//") || strings.ContainsAny(n, "\\\r\n\t") {
		return "/my-courses"
	}
	return n
}

func (s *site) signInForm(w http.ResponseWriter, r *http.Request, v *view) error {
	return s.accountForm(w, http.StatusOK, "sign-in", v, accountPage{Next: next(r)})
}

func (s *site) signUpForm(w http.ResponseWriter, r *http.Request, v *view) error {
	return s.accountForm(w, http.StatusOK, "sign-up", v, accountPage{Next: next(r)})
}

func (s *site) accountForm(w http.ResponseWriter, status int, name string, v *view, data accountPage) error {
	v.Title, v.Data = map[string]string{"sign-in": "Sign in", "sign-up": "Create an account"}[name], data
	w.Header().Set("Cache-Control", "no-store")
	return s.views.render(w, status, name, v)
}

func (s *site) signIn(w http.ResponseWriter, r *http.Request, v *view) error {
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	data := accountPage{Next: next(r), Email: strings.TrimSpace(r.PostFormValue("email"))}
	ctx, cancel := within(r.Context(), write)
	defer cancel()
	session, err := s.Identity.SignIn(ctx, data.Email, r.PostFormValue("password"))
	if err != nil {
		return s.refused(w, "sign-in", v, data, err)
	}
	remember(w, r, session)
	http.Redirect(w, r, data.Next, http.StatusSeeOther)
	return nil
}

func (s *site) signUp(w http.ResponseWriter, r *http.Request, v *view) error {
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	data := accountPage{Next: next(r), Email: strings.TrimSpace(r.PostFormValue("email")), Name: r.PostFormValue("name")}
	ctx, cancel := within(r.Context(), write)
	defer cancel()
	session, err := s.join(ctx, data, r.PostFormValue("password"))
	if err != nil {
		return s.refused(w, "sign-up", v, data, err)
	}
	remember(w, r, session)
	http.Redirect(w, r, data.Next, http.StatusSeeOther)
	return nil
}

// join makes an account, which signs in. Where the account is there already and the password is right, an earlier attempt
// has made it and its answer was lost.
func (s *site) join(ctx context.Context, data accountPage, password string) (identity.Session, error) {
	session, err := s.Identity.SignUp(ctx, data.Email, data.Name, password)
	if !errors.Is(err, identity.ErrTaken) {
		return session, err
	}
	if session, again := s.Identity.SignIn(ctx, data.Email, password); again == nil {
		return session, nil
	}
	return session, err
}

// refused shows the form again with what is wrong with it; what is not the visitor's doing gets a page of its own.
func (s *site) refused(w http.ResponseWriter, form string, v *view, data accountPage, err error) error {
	p := identity.ErrBusy
	if !errors.Is(err, p) && (errors.Is(err, rest.ErrUnavailable) || !errors.As(err, &p) || p.Status >= 500) {
		return err
	}
	data.Problem, data.Field = p.Title, p.Field
	if errors.Is(err, identity.ErrTaken) {
		data.Problem = "There is an account with this address already. Do you want to sign in?"
	}
	return s.accountForm(w, p.Status, form, v, data)
}

func (s *site) signOut(w http.ResponseWriter, r *http.Request, v *view) error {
	if v.User != nil && v.User.secret != "" {
		ctx, cancel := within(r.Context(), needed)
		defer cancel()
		if err := s.Identity.SignOut(ctx, v.User.secret); err != nil {
			s.log.WarnContext(ctx, "session not ended", "err", err)
		}
	}
	forget(w, r)
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}
