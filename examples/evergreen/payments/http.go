package payments

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"evergreen/cardnet"
	"evergreen/enrollment"
	"evergreen/identity"
	"evergreen/notifications"
	"evergreen/rest"
	"evergreen/service"
)

// App is payments as a part of a process. It reads CARDNET_LATENCY and, in percent, CARDNET_DECLINES and CARDNET_LOSSES.
func App(ctx context.Context, env *service.Env) (service.App, error) {
	config, err := configure(env.Config)
	if err != nil {
		return service.App{}, err
	}
	db, err := env.DB(ctx, "payments")
	if err != nil {
		return service.App{}, err
	}
	cards, err := cardnet.New(ctx, db, config)
	if err != nil {
		return service.App{}, err
	}
	tell := &notifications.Client{REST: env.Client("notifications")}
	outbox, err := notifications.NewOutbox(ctx, db, "payments", tell.Tell, env.Log)
	if err != nil {
		return service.App{}, err
	}
	store, err := NewStore(ctx, db, cards, &enrollment.Client{REST: env.Client("enrollment")}, outbox, env.Log)
	if err != nil {
		return service.App{}, err
	}
	return service.App{Handler: Handler(store, identity.Trust(env), env.Secret), Ready: db.Ready,
		Loops: []func(context.Context) error{store.Recover, outbox.Run}}, nil
}

func configure(c service.Config) (cardnet.Config, error) {
	var config cardnet.Config
	var err error
	if config.Latency, err = c.Duration("CARDNET_LATENCY", 80*time.Millisecond); err != nil {
		return config, err
	}
	for name, to := range map[string]*float64{"CARDNET_DECLINES": &config.Declines, "CARDNET_LOSSES": &config.Losses} {
		percent, err := c.Number(name, 0, 0, 100)
		if err != nil {
			return config, err
		}
		*to = float64(percent) / 100
	}
	return config, nil
}

type pay struct {
	Course string `json:"course"`
	Card   Card   `json:"card"`
}

// Handler serves payments. Learners are known by their tokens, services by secret.
//
//	POST /api/payments              pays for the seat held in a course: a Payment; Idempotency-Key is needed
//	GET  /api/ledger?after=&limit=  lines of the ledger, for services
//	GET  /api/charges?after=&limit= what the card network says it has captured, for services
func Handler(s *Store, v *identity.Verifier, secret string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/payments", v.Learner(func(w http.ResponseWriter, r *http.Request, who identity.Claims) error {
		var in pay
		if err := rest.Read(w, r, &in); err != nil {
			return err
		}
		key, err := rest.Key(r)
		if err != nil {
			return err
		}
		p, err := s.Pay(r.Context(), Order{Account: who.Subject, Token: identity.Token(r), Course: in.Course, Card: in.Card, Key: key})
		rest.Answer(w, http.StatusCreated, p, err)
		return nil
	}))
	mux.HandleFunc("GET /api/ledger", rest.Services(secret, func(w http.ResponseWriter, r *http.Request) {
		after, limit := part(r.URL.Query())
		all, err := s.Ledger(r.Context(), after, limit)
		rest.Answer(w, http.StatusOK, all, err)
	}))
	mux.HandleFunc("GET /api/charges", rest.Services(secret, func(w http.ResponseWriter, r *http.Request) {
		after, limit := part(r.URL.Query())
		all, err := s.cards.Taken(r.Context(), after, limit)
		rest.Answer(w, http.StatusOK, all, err)
	}))
	return mux
}

// part reads which part of a list is asked for: at most 1000 lines after one.
func part(v url.Values) (after string, limit int) {
	limit, err := strconv.Atoi(v.Get("limit"))
	if err != nil || limit < 1 || limit > 1000 {
		limit = 1000
	}
	return v.Get("after"), limit
}

// Client speaks to payments over the network.
type Client struct{ REST *rest.Client }

// Pay pays for the seat that the learner, whose token it is, holds in a course; see Store.Pay.
func (c *Client) Pay(ctx context.Context, token, course string, card Card, key string) (Payment, error) {
	var p Payment
	err := c.REST.Do(ctx, rest.Call{Method: http.MethodPost, Path: "/api/payments", Body: pay{course, card}, Token: token, Key: key}, &p)
	return p, err
}
