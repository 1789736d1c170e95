package catalog

import (
	"context"

	"evergreen/service"
)

// App is the catalogue as a part of a process.
func App(ctx context.Context, env *service.Env) (service.App, error) {
	db, err := env.DB(ctx, "catalog")
	if err != nil {
		return service.App{}, err
	}
	store, err := NewStore(ctx, db)
	if err != nil {
		return service.App{}, err
	}
	return service.App{Handler: Handler(store), Ready: db.Ready}, nil
}
