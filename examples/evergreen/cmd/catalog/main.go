// Command catalog serves the courses.
package main

import (
	"context"
	"log/slog"
	"os"

	"evergreen/catalog"
	"evergreen/database"
	"evergreen/service"
)

func main() { os.Exit(service.Main("catalog", build)) }

func build(ctx context.Context, c service.Config, _ *slog.Logger) (service.App, error) {
	db, err := database.Open(ctx, c.Database, c.DataDir, "catalog")
	if err != nil {
		return service.App{}, err
	}
	store, err := catalog.NewStore(ctx, db)
	if err != nil {
		db.Close()
		return service.App{}, err
	}
	return service.App{Handler: catalog.Handler(store), Ready: db.Ready, Close: db.Close}, nil
}
