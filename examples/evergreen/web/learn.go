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
	"evergreen/progress"
	"evergreen/rest"
)

// toSignIn sends a visitor who is not signed in to do so, and then back to where.
func toSignIn(w http.ResponseWriter, r *http.Request, where string) error {
	http.Redirect(w, r, "/sign-in?next="+url.QueryEscape(where), http.StatusSeeOther)
	return nil
}

// address returns where a course is.
func address(slug string) string { return "/courses/" + url.PathEscape(slug) }

// signedIn makes a page of do for visitors who are signed in; others are sent to do so and then to where. do gets what is
// left of at most limit of time.
func (s *site) signedIn(w http.ResponseWriter, r *http.Request, v *view, where string, limit func(context.Context) (context.Context, context.CancelFunc),
	do func(ctx context.Context, token string) error) error {
	if v.User == nil {
		return toSignIn(w, r, where)
	}
	if v.User.Unsure {
		return rest.ErrUnavailable
	}
	ctx, cancel := limit(r.Context())
	defer cancel()
	err := do(ctx, v.User.token)
	if errors.Is(err, rest.ErrUnauthorized) {
		return toSignIn(w, r, where)
	}
	return err
}

func reading(ctx context.Context) (context.Context, context.CancelFunc) { return within(ctx, needed) }
func writing(ctx context.Context) (context.Context, context.CancelFunc) { return within(ctx, write) }

// formKey returns the idempotency key of a form, or a new one.
func formKey(w http.ResponseWriter, r *http.Request) string {
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	if key := r.PostFormValue("key"); len(key) >= 8 && len(key) <= 128 {
		return key
	}
	return rand.Text()
}

func (s *site) enrol(w http.ResponseWriter, r *http.Request, v *view) error {
	slug := r.PathValue("slug")
	where := address(slug)
	return s.signedIn(w, r, v, where, writing, func(ctx context.Context, token string) error {
		e, err := s.Enrollment.Enroll(ctx, token, slug, formKey(w, r))
		if err != nil {
			return err
		}
		to := where + "?done=enrolled"
		if e.Held() {
			to = where + "/pay"
		}
		http.Redirect(w, r, to, http.StatusSeeOther)
		return nil
	})
}

func (s *site) leave(w http.ResponseWriter, r *http.Request, v *view) error {
	slug := r.PathValue("slug")
	where := address(slug)
	return s.signedIn(w, r, v, where, writing, func(ctx context.Context, token string) error {
		if err := s.Enrollment.Leave(ctx, token, slug); err != nil {
			return err
		}
		http.Redirect(w, r, where+"?done=left", http.StatusSeeOther)
		return nil
	})
}

// learning is one of the visitor's courses. Its Course has no more than a slug while the catalogue is away.
type learning struct {
	enrollment.Enrollment
	Course  catalog.Course
	Lessons int
	Done    *progress.Progress
}

// Minutes is for how long the seat is kept.
func (l learning) Minutes() int { return minutes(&l.Enrollment) }

type minePage struct {
	Courses []learning
	Next    []card // what else might be worth learning
}

func (s *site) mine(w http.ResponseWriter, r *http.Request, v *view) error {
	return s.signedIn(w, r, v, "/my-courses", reading, func(ctx context.Context, token string) error {
		mine, err := s.Enrollment.Mine(ctx, token)
		if err != nil {
			return err
		}
		data := minePage{}
		var missing bool
		var done map[string]progress.Progress
		var known bool
		var asking sync.WaitGroup
		asking.Go(func() { data.Courses, missing = s.describeAll(ctx, mine) })
		asking.Go(func() { data.Next = s.recommended(ctx, mine) })
		asking.Go(func() { done, known = s.progressOf(ctx, v.User) })
		asking.Wait()
		for i := range data.Courses {
			if p, ok := done[data.Courses[i].Course.Slug]; ok {
				data.Courses[i].Done = &p
			}
		}
		switch {
		case missing:
			v.Notice = "The catalogue is resting for a moment, so some titles are missing. Your seats are safe."
		case !known:
			v.Notice = "Your progress cannot be shown right now. None of it is lost."
		}
		v.Title, v.Data = "My courses", data
		return s.views.render(w, http.StatusOK, "mine", v)
	})
}

// describeAll finds the courses of enrollments, a few at a time.
func (s *site) describeAll(ctx context.Context, mine []enrollment.Enrollment) (all []learning, missing bool) {
	all = make([]learning, len(mine))
	var asking sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i, e := range mine {
		slots <- struct{}{}
		asking.Go(func() {
			defer func() { <-slots }()
			c, _, err := s.describe(ctx, e.Course)
			if err != nil {
				c = catalog.Course{Slug: e.Course, Title: e.Title}
			}
			all[i] = learning{Enrollment: e, Course: c}
			for _, u := range c.Outline {
				all[i].Lessons += len(u.Lessons)
			}
		})
	}
	asking.Wait()
	for _, l := range all {
		missing = missing || l.Course.Title == ""
	}
	return all, missing
}
