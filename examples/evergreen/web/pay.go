package web

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"

	"evergreen/enrollment"
	"evergreen/payments"
	"evergreen/rest"
)

type payPage struct {
	Seat    enrollment.Enrollment
	Key     string // names the payment that the form on this page asks for
	Problem string
	Field   string // that Problem is about
}

// Minutes is for how long the seat is kept.
func (p payPage) Minutes() int { return minutes(&p.Seat) }

func (s *site) payForm(w http.ResponseWriter, r *http.Request, v *view) error {
	where := address(r.PathValue("slug"))
	return s.signedIn(w, r, v, where+"/pay", reading, func(ctx context.Context, token string) error {
		return s.showPay(ctx, w, r, v, token, http.StatusOK, payPage{Key: rand.Text()})
	})
}

func (s *site) showPay(ctx context.Context, w http.ResponseWriter, r *http.Request, v *view, token string, status int, data payPage) error {
	seat, err := s.Enrollment.Seat(ctx, token, r.PathValue("slug"))
	if err != nil {
		return err
	}
	if !seat.Held() {
		http.Redirect(w, r, address(seat.Course), http.StatusSeeOther)
		return nil
	}
	data.Seat = seat
	v.Title, v.Data = "Pay for your seat", data
	w.Header().Set("Cache-Control", "no-store")
	return s.views.render(w, status, "pay", v)
}

func (s *site) pay(w http.ResponseWriter, r *http.Request, v *view) error {
	slug := r.PathValue("slug")
	where := address(slug)
	return s.signedIn(w, r, v, where+"/pay", writing, func(ctx context.Context, token string) error {
		key := formKey(w, r)
		card := payments.Card{Number: r.PostFormValue("number"), Expiry: r.PostFormValue("expiry"), Code: r.PostFormValue("code")}
		_, err := s.Payments.Pay(ctx, token, slug, card, key)
		if err == nil || errors.Is(err, payments.ErrSettled) {
			http.Redirect(w, r, where+"?done=paid", http.StatusSeeOther)
			return nil
		}
		return s.notPaid(w, r, v, token, key, err)
	})
}

// notPaid shows the form again where that helps: with what is wrong, and with the same key as long as it is not known
// what has become of the payment, so that nobody pays twice.
func (s *site) notPaid(w http.ResponseWriter, r *http.Request, v *view, token, key string, err error) error {
	var p *rest.Problem
	data := payPage{Key: key}
	status := http.StatusServiceUnavailable
	switch {
	case errors.Is(err, payments.ErrBusy), errors.Is(err, rest.ErrUnavailable):
		data.Problem = "Your bank has not answered yet. Please send the form once more in a moment: you will not pay twice."
		w.Header().Set("Retry-After", "2")
	case errors.As(err, &p) && (p.Status == http.StatusPaymentRequired || p.Status == http.StatusUnprocessableEntity):
		status, data = p.Status, payPage{Key: rand.Text(), Problem: p.Title, Field: p.Field}
		if p.Field == "" {
			data.Problem += " The seat is still kept for you: try another card."
		}
	default:
		return err
	}
	ctx, cancel := reading(r.Context())
	defer cancel()
	return s.showPay(ctx, w, r, v, token, status, data)
}
