package web

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"evergreen/catalog"
	"evergreen/enrollment"
	"evergreen/rest"
)

// apology is a page that says what went wrong and what to do now.
type apology struct {
	Status int
	Title  string
	Text   string
	Retry  bool
}

func (s *site) nowhere(http.ResponseWriter, *http.Request, *view) error { return rest.ErrNotFound }

var errForeign = &rest.Problem{Status: http.StatusForbidden, Code: "foreign", Title: "This form came from another site."}

func (s *site) foreign(http.ResponseWriter, *http.Request, *view) error { return errForeign }

// sorry answers with a page for err.
func (s *site) sorry(w http.ResponseWriter, r *http.Request, v *view, err error) {
	a := apologise(err)
	if a.Status >= 500 {
		s.log.Error("page failed", "path", r.URL.Path, "status", a.Status, "err", err)
	}
	if a.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(int((5 * time.Second).Seconds())))
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		a.Retry = false
	}
	w.Header().Set("Cache-Control", "no-store")
	v.Title, v.Data = a.Title, a
	if err := s.views.render(w, a.Status, "sorry", v); err != nil {
		s.log.Error("render", "err", err)
		http.Error(w, a.Title, a.Status)
	}
}

func apologise(err error) apology {
	switch {
	case errors.Is(err, enrollment.ErrFull):
		return apology{Status: http.StatusConflict, Title: "This course is full",
			Text: "Somebody took the last seat before you. Seats come back when learners leave, so it is worth another look tomorrow."}
	case errors.Is(err, enrollment.ErrKey):
		return apology{Status: http.StatusConflict, Title: "This form was used before",
			Text: "Go back to the course and try once more from there. Nothing was booked twice."}
	case errors.Is(err, catalog.ErrNoCourse):
		return apology{Status: http.StatusNotFound, Title: "There is no such course",
			Text: "It may have been renamed, or the link was cut short on its way to you. A search will find what is there."}
	case errors.Is(err, rest.ErrNotFound):
		return apology{Status: http.StatusNotFound, Title: "There is nothing here",
			Text: "The address may have been cut short on its way to you. The list of courses is a good place to start again."}
	case errors.Is(err, errForeign):
		return apology{Status: http.StatusForbidden, Title: "That came from somewhere else",
			Text: "The form was sent from another site, so nothing was done. Start again from a page of ours."}
	case errors.Is(err, rest.ErrUnavailable):
		return apology{Status: http.StatusServiceUnavailable, Title: "One moment, please", Retry: true,
			Text: "A part of Evergreen is taking a short break. Nothing is lost: your account and your seats are safe. Try again in a few seconds."}
	}
	return apology{Status: http.StatusInternalServerError, Title: "Something went wrong on our side", Retry: true,
		Text: "We have written down what happened. Trying again often helps."}
}
