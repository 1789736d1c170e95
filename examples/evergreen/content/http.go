package content

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"evergreen/enrollment"
	"evergreen/identity"
	"evergreen/rest"
	"evergreen/service"
)

// App is content as a part of a process.
func App(ctx context.Context, env *service.Env) (service.App, error) {
	db, err := env.DB(ctx, "content")
	if err != nil {
		return service.App{}, err
	}
	store, err := NewStore(ctx, db)
	if err != nil {
		return service.App{}, err
	}
	door := enrollment.NewDoor((&enrollment.Client{REST: env.Client("enrollment")}).Seat)
	return service.App{Handler: Handler(store, identity.Trust(env), door.Admit), Ready: db.Ready}, nil
}

// Handler serves lessons. admit tells who has a seat: enrollment.Door.Admit or as good.
//
//	GET /api/lessons/{course}      all Lessons without their bodies, public
//	GET /api/lessons/{course}/{n}  one Lesson; the first is public, the others are for learners of the course
func Handler(s *Store, v *identity.Verifier, admit enrollment.Admit) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/lessons/{course}", func(w http.ResponseWriter, r *http.Request) {
		all, err := s.Lessons(r.Context(), r.PathValue("course"))
		w.Header().Set("Cache-Control", "public, max-age=30")
		rest.Answer(w, http.StatusOK, all, err)
	})
	mux.HandleFunc("GET /api/lessons/{course}/{n}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		course := r.PathValue("course")
		n, err := strconv.Atoi(r.PathValue("n"))
		if err != nil || n < 1 {
			rest.WriteError(w, ErrNoLesson)
			return
		}
		if n != Preview {
			err = enter(r, v, admit, course)
		}
		var l Lesson
		if err == nil {
			l, err = s.Lesson(r.Context(), course, n)
		}
		rest.Answer(w, http.StatusOK, l, err)
	})
	return mux
}

func enter(r *http.Request, v *identity.Verifier, admit enrollment.Admit, course string) error {
	who, err := v.Caller(r)
	if err != nil {
		return err
	}
	_, err = admit(r.Context(), who.Subject, identity.Token(r), course)
	return err
}

// Client asks content over the network.
type Client struct{ REST *rest.Client }

// Lessons returns the lessons of a course without their bodies, in order.
func (c *Client) Lessons(ctx context.Context, course string) ([]Lesson, error) {
	var all []Lesson
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodGet, Path: "/api/lessons/" + url.PathEscape(course)}, &all)
	return all, err
}

// Lesson returns one lesson in full: ErrNoLesson, or enrollment.ErrNoSeat if the learner, whose token it is, has none.
func (c *Client) Lesson(ctx context.Context, token, course string, n int) (Lesson, error) {
	var l Lesson
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodGet, Token: token,
		Path: "/api/lessons/" + url.PathEscape(course) + "/" + strconv.Itoa(n)}, &l)
	if err == nil && l.Body == nil {
		err = errors.New("a lesson without a body")
	}
	return l, err
}
