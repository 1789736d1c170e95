// Command web serves the pages.
package main

import (
	"context"
	"log/slog"
	"os"

	"evergreen/catalog"
	"evergreen/enrollment"
	"evergreen/identity"
	"evergreen/rest"
	"evergreen/service"
	"evergreen/web"
)

func main() { os.Exit(service.Main("web", build)) }

func build(_ context.Context, c service.Config, log *slog.Logger) (service.App, error) {
	people := &identity.Client{REST: &rest.Client{Base: c.URL("IDENTITY_URL", "identity")}}
	handler, err := web.New(web.Services{
		Catalog:    &catalog.Client{REST: &rest.Client{Base: c.URL("CATALOG_URL", "catalog")}},
		Identity:   people,
		Enrollment: &enrollment.Client{REST: &rest.Client{Base: c.URL("ENROLLMENT_URL", "enrollment")}},
		Verifier:   identity.NewVerifier(c.Issuer(), people.JWKS),
	}, log)
	return service.App{Handler: handler}, err
}
