package enrollment

import (
	"context"
	"net/http"
	"net/url"

	"evergreen/identity"
	"evergreen/rest"
)

type enroll struct {
	Course string `json:"course"`
}

// Handler serves enrollment. Learners are known by their tokens, services by secret.
//
//	POST   /api/enrollments               takes a seat: an Enrollment; Idempotency-Key is needed
//	GET    /api/enrollments               the learner's Enrollments
//	GET    /api/enrollments/{course}      the learner's Enrollment in one course
//	DELETE /api/enrollments/{course}      gives the seat back
//	POST   /api/enrollments/{id}/confirm  a held seat is its learner's for good; for services
//	GET    /api/seats?course=a&course=b   Seats, public; at most 100 courses, or, where none is named, all
func Handler(s *Store, v *identity.Verifier, secret string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/enrollments", v.Learner(func(w http.ResponseWriter, r *http.Request, who identity.Claims) error {
		var in enroll
		if err := rest.Read(w, r, &in); err != nil {
			return err
		}
		key, err := rest.Key(r)
		if err != nil {
			return err
		}
		if in.Course == "" || len(in.Course) > 200 {
			return rest.Invalid("course", "The slug of a course is needed.")
		}
		e, err := s.Enroll(r.Context(), who.Subject, in.Course, key)
		rest.Answer(w, http.StatusCreated, e, err)
		return nil
	}))
	mux.HandleFunc("GET /api/enrollments", v.Learner(func(w http.ResponseWriter, r *http.Request, who identity.Claims) error {
		all, err := s.Of(r.Context(), who.Subject)
		rest.Answer(w, http.StatusOK, all, err)
		return nil
	}))
	mux.HandleFunc("GET /api/enrollments/{course}", v.Learner(func(w http.ResponseWriter, r *http.Request, who identity.Claims) error {
		e, err := s.Seat(r.Context(), who.Subject, r.PathValue("course"))
		rest.Answer(w, http.StatusOK, e, err)
		return nil
	}))
	mux.HandleFunc("DELETE /api/enrollments/{course}", v.Learner(func(w http.ResponseWriter, r *http.Request, who identity.Claims) error {
		err := s.Leave(r.Context(), who.Subject, r.PathValue("course"))
		if err == nil {
			w.WriteHeader(http.StatusNoContent)
		}
		return err
	}))
	mux.HandleFunc("POST /api/enrollments/{id}/confirm", rest.Services(secret, func(w http.ResponseWriter, r *http.Request) {
		e, err := s.Confirm(r.Context(), r.PathValue("id"))
		rest.Answer(w, http.StatusOK, e, err)
	}))
	mux.HandleFunc("GET /api/seats", func(w http.ResponseWriter, r *http.Request) {
		courses := r.URL.Query()["course"]
		if len(courses) > 100 {
			rest.WriteError(w, rest.Invalid("course", "At most 100 courses can be asked for at once."))
			return
		}
		all, err := s.Taken(r.Context(), courses)
		if err != nil {
			rest.WriteError(w, err)
			return
		}
		rest.Write(w, http.StatusOK, all)
	})
	return mux
}

// Client asks enrollment over the network. token is the learner's.
type Client struct{ REST *rest.Client }

// Enroll takes a seat, once for each key.
func (c *Client) Enroll(ctx context.Context, token, course, key string) (Enrollment, error) {
	var e Enrollment
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodPost, Path: "/api/enrollments", Token: token, Key: key,
		Body: enroll{course}}, &e)
	return e, err
}

// Leave gives a seat back.
func (c *Client) Leave(ctx context.Context, token, course string) error {
	return c.REST.Do(ctx, rest.Call{Method: http.MethodDelete, Path: "/api/enrollments/" + url.PathEscape(course),
		Token: token, Repeatable: true}, nil)
}

// Seat returns the learner's seat in a course, or ErrNoSeat.
func (c *Client) Seat(ctx context.Context, token, course string) (Enrollment, error) {
	var e Enrollment
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodGet, Path: "/api/enrollments/" + url.PathEscape(course), Token: token}, &e)
	return e, err
}

// Confirm makes a held seat its learner's for good, or returns ErrNoSeat: it has gone back. Either answer is final.
func (c *Client) Confirm(ctx context.Context, id string) (Enrollment, error) {
	var e Enrollment
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodPost, Path: "/api/enrollments/" + url.PathEscape(id) + "/confirm",
		Repeatable: true}, &e)
	return e, err
}

// Mine returns the learner's enrollments, newest first.
func (c *Client) Mine(ctx context.Context, token string) ([]Enrollment, error) {
	var all []Enrollment
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodGet, Path: "/api/enrollments", Token: token}, &all)
	return all, err
}

// Taken returns the seats of courses, or of all where none is named, by slug. Those that nobody has asked a seat of yet are
// left out.
func (c *Client) Taken(ctx context.Context, courses ...string) (map[string]Seats, error) {
	var all []Seats
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodGet, Path: "/api/seats", Query: url.Values{"course": courses}}, &all)
	m := make(map[string]Seats, len(all))
	for _, n := range all {
		m[n.Course] = n
	}
	return m, err
}
