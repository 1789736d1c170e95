// Command identity serves accounts, sign-in and the keys of tokens.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"evergreen/database"
	"evergreen/identity"
	"evergreen/service"
)

func main() { os.Exit(service.Main("identity", build)) }

func build(ctx context.Context, c service.Config, log *slog.Logger) (service.App, error) {
	config, err := configure(c)
	if err != nil {
		return service.App{}, err
	}
	db, err := database.Open(ctx, c.Database, c.DataDir, "identity")
	if err != nil {
		return service.App{}, err
	}
	store, err := identity.NewStore(ctx, db, config, log)
	if err != nil {
		db.Close()
		return service.App{}, err
	}
	return service.App{Handler: identity.Handler(store), Ready: db.Ready, Close: db.Close,
		Loops: []func(context.Context) error{store.KeepKeys}}, nil
}

// configure reads ISSUER, KEY_ROTATION, ARGON2_MEMORY_KIB, ARGON2_PASSES and ARGON2_PARALLEL.
func configure(c service.Config) (identity.Config, error) {
	config := identity.Config{Issuer: c.Issuer()}
	var err error
	if config.Rotation.Period, err = c.Duration("KEY_ROTATION", 24*time.Hour); err != nil {
		return config, err
	}
	var memory, passes, parallel int
	for name, to := range map[string]*int{"ARGON2_MEMORY_KIB": &memory, "ARGON2_PASSES": &passes, "ARGON2_PARALLEL": &parallel} {
		if v := c.Getenv(name); v != "" {
			if *to, err = strconv.Atoi(v); err != nil || *to < 1 || *to > 1<<20 {
				return config, fmt.Errorf("%s=%q: a number from 1 to %d is needed", name, v, 1<<20)
			}
		}
	}
	config.Cost = identity.Cost{Memory: uint32(memory), Passes: uint32(passes), Parallel: parallel}
	return config, nil
}
