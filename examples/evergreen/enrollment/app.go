package enrollment

import (
	"context"

	"evergreen/catalog"
	"evergreen/identity"
	"evergreen/notifications"
	"evergreen/service"
)

// App is enrollment as a part of a process. It reads HOLD: how long a seat is kept for its payment.
func App(ctx context.Context, env *service.Env) (service.App, error) {
	hold, err := env.Duration("HOLD", 0)
	if err != nil {
		return service.App{}, err
	}
	db, err := env.DB(ctx, "enrollment")
	if err != nil {
		return service.App{}, err
	}
	tell := &notifications.Client{REST: env.Client("notifications")}
	outbox, err := notifications.NewOutbox(ctx, db, "enrollment", tell.Tell, env.Log)
	if err != nil {
		return service.App{}, err
	}
	courses := &catalog.Client{REST: env.Client("catalog")}
	store, err := NewStore(ctx, db, Config{Course: courses.Course, Hold: hold, Outbox: outbox})
	if err != nil {
		return service.App{}, err
	}
	tidy := func(ctx context.Context) error { return store.Tidy(ctx, env.Log) }
	return service.App{Handler: Handler(store, identity.Trust(env), env.Secret), Ready: db.Ready,
		Loops: []func(context.Context) error{tidy, outbox.Run}}, nil
}
