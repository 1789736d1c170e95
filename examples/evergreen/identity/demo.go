package identity

import (
	"context"
	"fmt"

	"evergreen/database"
)

// DemoPassword is the password of every demo account.
const DemoPassword = "evergreen demo"

// demoCost is little: a password that everybody knows is not protected by what it costs to try it, and what is measured
// with demo accounts is the platform and not argon2.
var demoCost = Cost{Memory: 64, Passes: 1, Parallel: 1}

// demoPart is how many accounts are made in one transaction.
const demoPart = 500

// Demo makes the accounts learner-0@demo.example to learner-<n-1>@demo.example, as far as they are missing.
func (s *Store) Demo(ctx context.Context, n int) error {
	if n == 0 {
		return nil
	}
	password := newHasher(demoCost).encode(DemoPassword)
	standing := func(tx *database.Tx) (have int, err error) {
		err = tx.QueryRow(ctx, `SELECT count(*) FROM accounts WHERE id LIKE 'demo_%'`).Scan(&have)
		return have, err
	}
	return s.db.Seed(ctx, "demo accounts", n, demoPart, standing, func(tx *database.Tx, i int) error {
		_, err := tx.Exec(ctx, `INSERT INTO accounts (id, email, name, password, created) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT DO NOTHING`, fmt.Sprintf("demo_%d", i), fmt.Sprintf("learner-%d@demo.example", i),
			fmt.Sprintf("Learner %d", i), password, s.now().Unix())
		return err
	})
}
