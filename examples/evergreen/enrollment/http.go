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

// Handler serves enrollment. Learners are known by their tokens.
//
//	POST   /api/enrollments           takes a seat: an Enrollment; Idempotency-Key is needed
//	GET    /api/enrollments           the learner's Enrollments
//	DELETE /api/enrollments/{course}  gives the seat back
//	GET    /api/seats?course=a&course=b  Seats, public; at most 100 courses
func Handler(s *Store, v *identity.Verifier) http.Handler {
	mux := http.NewServeMux()
	learner := func(do func(w http.ResponseWriter, r *http.Request, account string) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "no-store")
			c, err := v.Caller(r)
			if err == nil {
				err = do(w, r, c.Subject)
			}
			if err != nil {
				rest.WriteError(w, err)
			}
		}
	}
	mux.HandleFunc("POST /api/enrollments", learner(func(w http.ResponseWriter, r *http.Request, account string) error {
		var in enroll
		if err := rest.Read(w, r, &in); err != nil {
			return err
		}
		key := r.Header.Get(rest.KeyHeader)
		if len(key) < 8 || len(key) > 128 {
			return errNoKey
		}
		if in.Course == "" || len(in.Course) > 200 {
			return rest.Invalid("course", "The slug of a course is needed.")
		}
		e, err := s.Enroll(r.Context(), account, in.Course, key)
		if err != nil {
			return err
		}
		rest.Write(w, http.StatusCreated, e)
		return nil
	}))
	mux.HandleFunc("GET /api/enrollments", learner(func(w http.ResponseWriter, r *http.Request, account string) error {
		all, err := s.Of(r.Context(), account)
		if err == nil {
			rest.Write(w, http.StatusOK, all)
		}
		return err
	}))
	mux.HandleFunc("DELETE /api/enrollments/{course}", learner(func(w http.ResponseWriter, r *http.Request, account string) error {
		err := s.Leave(r.Context(), account, r.PathValue("course"))
		if err == nil {
			w.WriteHeader(http.StatusNoContent)
		}
		return err
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

// Mine returns the learner's enrollments, newest first.
func (c *Client) Mine(ctx context.Context, token string) ([]Enrollment, error) {
	var all []Enrollment
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodGet, Path: "/api/enrollments", Token: token}, &all)
	return all, err
}

// Taken returns the seats of courses, by slug.
func (c *Client) Taken(ctx context.Context, courses ...string) (map[string]Seats, error) {
	var all []Seats
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodGet, Path: "/api/seats", Query: url.Values{"course": courses}}, &all)
	m := make(map[string]Seats, len(all))
	for _, n := range all {
		m[n.Course] = n
	}
	return m, err
}
