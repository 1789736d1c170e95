// Command enrollment serves seats.
package main

import (
	"context"
	"log/slog"
	"os"

	"evergreen/catalog"
	"evergreen/database"
	"evergreen/enrollment"
	"evergreen/identity"
	"evergreen/rest"
	"evergreen/service"
)

func main() { os.Exit(service.Main("enrollment", build)) }

func build(ctx context.Context, c service.Config, log *slog.Logger) (service.App, error) {
	db, err := database.Open(ctx, c.Database, c.DataDir, "enrollment")
	if err != nil {
		return service.App{}, err
	}
	courses := &catalog.Client{REST: &rest.Client{Base: c.URL("CATALOG_URL", "catalog")}}
	people := &identity.Client{REST: &rest.Client{Base: c.URL("IDENTITY_URL", "identity")}}
	store, err := enrollment.NewStore(ctx, db, courses.Course)
	if err != nil {
		db.Close()
		return service.App{}, err
	}
	verifier := identity.NewVerifier(c.Issuer(), people.JWKS)
	return service.App{Handler: enrollment.Handler(store, verifier), Ready: db.Ready, Close: db.Close,
		Loops: []func(context.Context) error{func(ctx context.Context) error { return store.ForgetKeys(ctx, log) }}}, nil
}
