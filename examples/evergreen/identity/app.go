package identity

import (
	"context"
	"time"

	"evergreen/service"
)

// App is identity as a part of a process. It reads KEY_ROTATION, ARGON2_MEMORY_KIB, ARGON2_PASSES, ARGON2_PARALLEL and
// DEMO_ACCOUNTS.
func App(ctx context.Context, env *service.Env) (service.App, error) {
	config, demo, err := configure(env.Config)
	if err != nil {
		return service.App{}, err
	}
	db, err := env.DB(ctx, "identity")
	if err != nil {
		return service.App{}, err
	}
	store, err := NewStore(ctx, db, config, env.Log)
	if err == nil {
		err = store.Demo(ctx, demo)
	}
	if err != nil {
		return service.App{}, err
	}
	return service.App{Handler: Handler(store), Ready: db.Ready, Loops: []func(context.Context) error{store.KeepKeys}}, nil
}

// Trust returns the Verifier of this platform's tokens.
func Trust(env *service.Env) *Verifier {
	return NewVerifier(env.Issuer(), (&Client{REST: env.Client("identity")}).JWKS)
}

func configure(c service.Config) (config Config, demo int, err error) {
	config.Issuer = c.Issuer()
	if config.Rotation.Period, err = c.Duration("KEY_ROTATION", 24*time.Hour); err != nil {
		return config, 0, err
	}
	const most = 1 << 20
	var memory, passes int
	for _, v := range []struct {
		name     string
		to       *int
		fallback int
	}{
		{"ARGON2_MEMORY_KIB", &memory, 0}, {"ARGON2_PASSES", &passes, 0}, {"ARGON2_PARALLEL", &config.Cost.Parallel, 0},
		{"DEMO_ACCOUNTS", &demo, 0},
	} {
		if *v.to, err = c.Number(v.name, v.fallback, 0, most); err != nil {
			return config, 0, err
		}
	}
	config.Cost.Memory, config.Cost.Passes = uint32(memory), uint32(passes)
	return config, demo, nil
}
