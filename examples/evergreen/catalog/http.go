package catalog

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"evergreen/rest"
)

// Handler serves the catalogue. Everything in it is public.
//
//	GET /api/courses?q=&topic=&level=&page=&size=   a Page
//	GET /api/courses/{slug}                         a Course
//	GET /api/topics                                 all Topics
func Handler(s *Store) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/courses", func(w http.ResponseWriter, r *http.Request) {
		q, err := parse(r.URL.Query())
		if err != nil {
			rest.WriteError(w, err)
			return
		}
		page, err := s.Search(r.Context(), q)
		answer(w, page, err)
	})
	mux.HandleFunc("GET /api/courses/{slug}", func(w http.ResponseWriter, r *http.Request) {
		c, err := s.Course(r.Context(), r.PathValue("slug"))
		answer(w, c, err)
	})
	mux.HandleFunc("GET /api/topics", func(w http.ResponseWriter, r *http.Request) {
		t, err := s.Topics(r.Context())
		answer(w, t, err)
	})
	return mux
}

func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		rest.WriteError(w, err)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=30")
	rest.Write(w, http.StatusOK, v)
}

func parse(v url.Values) (Query, error) {
	q := Query{Text: v.Get("q"), Topic: v.Get("topic"), Level: v.Get("level")}
	for _, f := range []struct {
		name string
		to   *int
	}{{"page", &q.Page}, {"size", &q.Size}} {
		if s := v.Get(f.name); s != "" {
			n, err := strconv.Atoi(s)
			if err != nil || n < 1 {
				return q, rest.Invalid(f.name, "A whole number from 1 is needed.")
			}
			*f.to = n
		}
	}
	return q, nil
}

// Client asks the catalogue over the network.
type Client struct{ REST *rest.Client }

// Search returns one page of courses.
func (c *Client) Search(ctx context.Context, q Query) (Page, error) {
	v := url.Values{}
	for name, value := range map[string]string{"q": q.Text, "topic": q.Topic, "level": q.Level} {
		if value != "" {
			v.Set(name, value)
		}
	}
	for name, n := range map[string]int{"page": q.Page, "size": q.Size} {
		if n > 0 {
			v.Set(name, strconv.Itoa(n))
		}
	}
	var page Page
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodGet, Path: "/api/courses", Query: v}, &page)
	return page, err
}

// Course returns one course in full, or ErrNoCourse.
func (c *Client) Course(ctx context.Context, slug string) (Course, error) {
	var course Course
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodGet, Path: "/api/courses/" + url.PathEscape(slug)}, &course)
	return course, err
}

// Topics returns all topics.
func (c *Client) Topics(ctx context.Context) ([]Topic, error) {
	var all []Topic
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodGet, Path: "/api/topics"}, &all)
	return all, err
}
