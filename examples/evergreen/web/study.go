package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"evergreen/catalog"
	"evergreen/content"
	"evergreen/enrollment"
	"evergreen/progress"
	"evergreen/rest"
)

type lessonPage struct {
	Course  catalog.Course // no more than a slug and perhaps a title while the catalogue is away
	Lesson  content.Lesson
	Lessons []listed // nil: cannot be listed now
	Learner bool     // has a seat, so that a lesson can be done
	Next    int      // 0: this is the last one
}

// listed is a lesson in the list beside the one that is read.
type listed struct {
	N          int
	Title      string
	Done, Here bool
	Open       bool // whether the visitor may read it
}

func list(lessons []content.Lesson, here int, done *progress.Progress, learner bool) []listed {
	all := make([]listed, len(lessons))
	for i, l := range lessons {
		all[i] = listed{N: l.N, Title: l.Title, Here: l.N == here, Open: learner || l.N == content.Preview,
			Done: done != nil && done.Has(l.N)}
	}
	return all
}

// outline returns the lessons of a course as content says or has said them.
func (s *site) outline(ctx context.Context, slug string) ([]content.Lesson, error) {
	all, _, err := recall(s.shelf, "lessons "+slug, func() ([]content.Lesson, error) { return s.Content.Lessons(ctx, slug) })
	return all, err
}

// learn leads to the first lesson that is not done.
func (s *site) learn(w http.ResponseWriter, r *http.Request, v *view) error {
	slug := r.PathValue("slug")
	return s.signedIn(w, r, v, address(slug)+"/learn", reading, func(ctx context.Context, token string) error {
		lessons, err := s.outline(ctx, slug)
		if err != nil {
			return err
		}
		next := 1
		if done := s.progressIn(ctx, v.User, slug); done != nil {
			for next < len(lessons) && done.Has(next) {
				next++
			}
		}
		http.Redirect(w, r, address(slug)+"/lessons/"+strconv.Itoa(next), http.StatusSeeOther)
		return nil
	})
}

func (s *site) lesson(w http.ResponseWriter, r *http.Request, v *view) error {
	slug := r.PathValue("slug")
	n, err := strconv.Atoi(r.PathValue("n"))
	if err != nil || n < 1 {
		return content.ErrNoLesson
	}
	if n == content.Preview && v.User == nil {
		ctx, cancel := reading(r.Context())
		defer cancel()
		return s.showLesson(ctx, w, v, slug, n, "")
	}
	return s.signedIn(w, r, v, fmt.Sprintf("%s/lessons/%d", address(slug), n), reading, func(ctx context.Context, token string) error {
		return s.showLesson(ctx, w, v, slug, n, token)
	})
}

func (s *site) showLesson(ctx context.Context, w http.ResponseWriter, v *view, slug string, n int, token string) error {
	lesson, err := s.read(ctx, token, slug, n)
	if err != nil {
		return err
	}
	data := lessonPage{Lesson: lesson, Learner: token != ""}
	if data.Course, _, err = s.describe(ctx, slug); err != nil {
		data.Course = catalog.Course{Slug: slug}
	}
	var done *progress.Progress
	if data.Learner {
		if done = s.progressIn(ctx, v.User, slug); done == nil {
			v.Notice = "Your progress cannot be shown right now. None of it is lost, and you can go on."
		}
	}
	if lessons, err := s.outline(ctx, slug); err == nil {
		data.Lessons = list(lessons, n, done, data.Learner)
		if n < len(lessons) {
			data.Next = n + 1
		}
	}
	v.Title, v.Data = lesson.Title, data
	return s.views.render(w, http.StatusOK, "lesson", v)
}

// read returns a lesson. The one that is the same for everybody is remembered.
func (s *site) read(ctx context.Context, token, slug string, n int) (content.Lesson, error) {
	ask := func() (content.Lesson, error) { return s.Content.Lesson(ctx, token, slug, n) }
	if n != content.Preview {
		return ask()
	}
	l, _, err := recall(s.shelf, "preview "+slug, ask)
	return l, err
}

// finish notes that a lesson is done, and leads to the next one.
func (s *site) finish(w http.ResponseWriter, r *http.Request, v *view) error {
	slug := r.PathValue("slug")
	n, err := strconv.Atoi(r.PathValue("n"))
	if err != nil || n < 1 {
		return content.ErrNoLesson
	}
	return s.signedIn(w, r, v, fmt.Sprintf("%s/lessons/%d", address(slug), n), writing, func(ctx context.Context, token string) error {
		done, err := s.Progress.Finish(ctx, token, slug, n)
		if err != nil {
			return err
		}
		to := address(slug) + "/learn"
		if done.Completed != nil {
			to = address(slug) + "?done=completed"
		}
		http.Redirect(w, r, to, http.StatusSeeOther)
		return nil
	})
}

// progressOf returns how far the visitor has got in each course; false if that cannot be told in time.
func (s *site) progressOf(ctx context.Context, who *visitor) (map[string]progress.Progress, bool) {
	return s.progress(ctx, who, "")
}

// progressIn returns how far the visitor has got in one course; nil if that cannot be told in time.
func (s *site) progressIn(ctx context.Context, who *visitor, slug string) *progress.Progress {
	all, ok := s.progress(ctx, who, slug)
	if !ok {
		return nil
	}
	p := all[slug]
	return &p
}

func (s *site) progress(ctx context.Context, who *visitor, slug string) (map[string]progress.Progress, bool) {
	ctx, cancel := within(ctx, extra)
	defer cancel()
	all, err := s.Progress.Of(ctx, who.token, slug)
	if err != nil {
		s.log.WarnContext(ctx, "page without progress", "err", err)
	}
	return all, err == nil
}

// recommended returns courses that go with those the visitor has; none if they cannot be told in time.
func (s *site) recommended(ctx context.Context, mine []enrollment.Enrollment) []card {
	if len(mine) == 0 || s.away.resting("recommendations") {
		return nil
	}
	ctx, cancel := within(ctx, extra)
	defer cancel()
	query := map[string][]string{"size": {"3"}}
	for _, e := range mine {
		query["course"] = append(query["course"], e.Course)
	}
	var found struct {
		Courses []string `json:"courses"`
	}
	if err := s.Recommendations.Do(ctx, rest.Call{Method: http.MethodGet, Path: "/recommendations", Query: query}, &found); err != nil {
		s.away.rest("recommendations")
		s.log.InfoContext(ctx, "page without recommendations", "err", err)
		return nil
	}
	var all []card
	for _, slug := range found.Courses {
		if c, _, err := s.describe(ctx, slug); err == nil {
			all = append(all, card{Course: c})
		}
	}
	return all
}

// certificate shows that the visitor has completed a course.
func (s *site) certificate(w http.ResponseWriter, r *http.Request, v *view) error {
	slug := r.PathValue("slug")
	return s.signedIn(w, r, v, address(slug)+"/certificate.svg", reading, func(ctx context.Context, token string) error {
		all, err := s.Progress.Of(ctx, token, slug)
		if err != nil {
			return err
		}
		done := all[slug].Completed
		if done == nil {
			return rest.ErrNotFound
		}
		c, _, err := s.describe(ctx, slug)
		if err != nil {
			return err
		}
		var image []byte
		err = s.Certificates.Do(ctx, rest.Call{Method: http.MethodGet, Path: "/certificate.svg", Query: map[string][]string{
			"name": {v.User.Name}, "title": {c.Title}, "teacher": {c.Teacher}, "date": {done.Format("2 January 2006")},
			"hours": {strconv.Itoa(c.Weeks * c.Hours)},
		}}, &image)
		if err != nil {
			return errors.Join(errNoCertificate, err)
		}
		w.Header().Set("Content-Type", "image/svg+xml")
		w.Header().Set("Cache-Control", "private, max-age=60")
		w.Write(image)
		return nil
	})
}

var errNoCertificate = errors.New("certificates are away")
