package web

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"evergreen/catalog"
	"evergreen/content"
	"evergreen/enrollment"
	"evergreen/payments"
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
		s.log.ErrorContext(r.Context(), "page failed", "path", r.URL.Path, "status", a.Status, "err", err)
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
		s.log.ErrorContext(r.Context(), "render", "err", err)
		http.Error(w, a.Title, a.Status)
	}
}

func apologise(err error) apology {
	switch {
	case errors.Is(err, enrollment.ErrFull):
		return apology{Status: http.StatusConflict, Title: "This course is full",
			Text: "Somebody took the last seat before you. Seats come back when learners leave, so it is worth another look tomorrow."}
	case errors.Is(err, enrollment.ErrNoSeat):
		return apology{Status: http.StatusConflict, Title: "You have no seat in this course",
			Text: "A seat that was kept for you goes back when it is not paid in time. Nothing was taken from your card. Open the course to take a seat again, if there is one."}
	case errors.Is(err, enrollment.ErrPaid):
		return apology{Status: http.StatusConflict, Title: "This seat has been paid for",
			Text: "It cannot be given back here. It stays yours, and the lessons wait for as long as you like."}
	case errors.Is(err, content.ErrNoLesson):
		return apology{Status: http.StatusNotFound, Title: "There is no such lesson",
			Text: "The course may have changed since the link was made. Its page knows which lessons there are."}
	case errors.Is(err, errNoCertificate):
		return apology{Status: http.StatusServiceUnavailable, Title: "The printer is resting", Retry: true,
			Text: "Your certificate cannot be drawn right now. You have earned it all the same, and it will be here later."}
	case errors.Is(err, enrollment.ErrKey), errors.Is(err, payments.ErrKey):
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
