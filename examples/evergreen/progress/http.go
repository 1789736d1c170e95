package progress

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"evergreen/content"
	"evergreen/enrollment"
	"evergreen/identity"
	"evergreen/notifications"
	"evergreen/rest"
	"evergreen/service"
)

// App is progress as a part of a process.
func App(ctx context.Context, env *service.Env) (service.App, error) {
	db, err := env.DB(ctx, "progress")
	if err != nil {
		return service.App{}, err
	}
	tell := &notifications.Client{REST: env.Client("notifications")}
	outbox, err := notifications.NewOutbox(ctx, db, "progress", tell.Tell, env.Log)
	if err != nil {
		return service.App{}, err
	}
	lessons := &content.Client{REST: env.Client("content")}
	seats := &enrollment.Client{REST: env.Client("enrollment")}
	store, err := NewStore(ctx, db, Config{Lessons: lessons.Lessons, Outbox: outbox})
	if err != nil {
		return service.App{}, err
	}
	return service.App{Handler: Handler(store, identity.Trust(env), enrollment.NewDoor(seats.Seat).Admit), Ready: db.Ready,
		Loops: []func(context.Context) error{outbox.Run}}, nil
}

// Handler serves progress. Learners are known by their tokens. admit tells who has a seat: enrollment.Door.Admit or as good.
//
//	PUT /api/progress/{course}/{lesson}  the lesson is done: the course's Progress
//	GET /api/progress?course=            the learner's Progress in one course or in all
func Handler(s *Store, v *identity.Verifier, admit enrollment.Admit) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /api/progress/{course}/{lesson}", v.Learner(func(w http.ResponseWriter, r *http.Request, who identity.Claims) error {
		course := r.PathValue("course")
		n, err := strconv.Atoi(r.PathValue("lesson"))
		if err != nil {
			return content.ErrNoLesson
		}
		seat, err := admit(r.Context(), who.Subject, identity.Token(r), course)
		if err != nil {
			return err
		}
		p, err := s.Finish(r.Context(), who.Subject, course, seat.Title, n)
		rest.Answer(w, http.StatusOK, p, err)
		return nil
	}))
	mux.HandleFunc("GET /api/progress", v.Learner(func(w http.ResponseWriter, r *http.Request, who identity.Claims) error {
		all, err := s.Of(r.Context(), who.Subject, r.URL.Query().Get("course"))
		rest.Answer(w, http.StatusOK, all, err)
		return nil
	}))
	return mux
}

// Client speaks to progress over the network. token is the learner's.
type Client struct{ REST *rest.Client }

// Finish says that the learner has done a lesson; see Store.Finish.
func (c *Client) Finish(ctx context.Context, token, course string, lesson int) (Progress, error) {
	var p Progress
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodPut, Token: token, Repeatable: true,
		Path: "/api/progress/" + url.PathEscape(course) + "/" + strconv.Itoa(lesson)}, &p)
	return p, err
}

// Of returns how far the learner has got, by course; in one only where course is not "".
func (c *Client) Of(ctx context.Context, token, course string) (map[string]Progress, error) {
	query := url.Values{}
	if course != "" {
		query.Set("course", course)
	}
	var all []Progress
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodGet, Path: "/api/progress", Query: query, Token: token}, &all)
	m := make(map[string]Progress, len(all))
	for _, p := range all {
		m[p.Course] = p
	}
	return m, err
}
