package web

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"sync"

	"evergreen/catalog"
	"evergreen/enrollment"
	"evergreen/rest"
)

// toSignIn sends a visitor who is not signed in to do so, and then back to where.
func toSignIn(w http.ResponseWriter, r *http.Request, where string) error {
	http.Redirect(w, r, "/sign-in?next="+url.QueryEscape(where), http.StatusSeeOther)
	return nil
}

func (s *site) enrol(w http.ResponseWriter, r *http.Request, v *view) error {
	slug := r.PathValue("slug")
	where := "/courses/" + url.PathEscape(slug)
	if v.User == nil {
		return toSignIn(w, r, where)
	}
	if v.User.Unsure {
		return rest.ErrUnavailable
	}
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	key := r.PostFormValue("key")
	if len(key) < 8 || len(key) > 128 {
		key = rand.Text()
	}
	ctx, cancel := within(r.Context(), write)
	defer cancel()
	_, err := s.Enrollment.Enroll(ctx, v.User.token, slug, key)
	if errors.Is(err, rest.ErrUnauthorized) {
		return toSignIn(w, r, where)
	}
	if err != nil {
		return err
	}
	http.Redirect(w, r, where+"?done=enrolled", http.StatusSeeOther)
	return nil
}

func (s *site) leave(w http.ResponseWriter, r *http.Request, v *view) error {
	slug := r.PathValue("slug")
	where := "/courses/" + url.PathEscape(slug)
	if v.User == nil {
		return toSignIn(w, r, where)
	}
	if v.User.Unsure {
		return rest.ErrUnavailable
	}
	ctx, cancel := within(r.Context(), write)
	defer cancel()
	err := s.Enrollment.Leave(ctx, v.User.token, slug)
	if errors.Is(err, rest.ErrUnauthorized) {
		return toSignIn(w, r, where)
	}
	if err != nil {
		return err
	}
	http.Redirect(w, r, where+"?done=left", http.StatusSeeOther)
	return nil
}

// learning is one of the visitor's courses. Its Course has no more than a slug while the catalogue is away.
type learning struct {
	enrollment.Enrollment
	Course catalog.Course
}

type minePage struct{ Courses []learning }

func (s *site) mine(w http.ResponseWriter, r *http.Request, v *view) error {
	if v.User == nil {
		return toSignIn(w, r, "/my-courses")
	}
	if v.User.Unsure {
		return rest.ErrUnavailable
	}
	ctx, cancel := within(r.Context(), needed)
	defer cancel()
	mine, err := s.Enrollment.Mine(ctx, v.User.token)
	if errors.Is(err, rest.ErrUnauthorized) {
		return toSignIn(w, r, "/my-courses")
	}
	if err != nil {
		return err
	}
	all, missing := s.describe(ctx, mine)
	if missing {
		v.Notice = "The catalogue is resting for a moment, so some titles are missing. Your seats are safe."
	}
	v.Title, v.Data = "My courses", minePage{Courses: all}
	return s.views.render(w, http.StatusOK, "mine", v)
}

// describe finds the courses of enrollments, a few at a time.
func (s *site) describe(ctx context.Context, mine []enrollment.Enrollment) (all []learning, missing bool) {
	all = make([]learning, len(mine))
	var asking sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i, e := range mine {
		slots <- struct{}{}
		asking.Go(func() {
			defer func() { <-slots }()
			c, _, err := recall(s.memory, "course "+e.Course, func() (catalog.Course, error) {
				return s.Catalog.Course(ctx, e.Course)
			})
			if err != nil {
				c = catalog.Course{Slug: e.Course}
			}
			all[i] = learning{e, c}
		})
	}
	asking.Wait()
	for _, l := range all {
		missing = missing || l.Course.Title == ""
	}
	return all, missing
}
