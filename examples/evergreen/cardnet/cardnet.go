// Package cardnet stands in for a card network: another company's service, somewhere else, slow now and then, whose
// answers get lost. It remembers every charge by the caller's key in a book of its own, so that it can be asked afterwards
// what was really taken.
package cardnet

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	mrand "math/rand/v2"
	"time"

	"evergreen/database"
)

var schema = []string{
	`CREATE TABLE card_charges (
		key TEXT PRIMARY KEY, id TEXT NOT NULL UNIQUE, amount INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,
		created INTEGER NOT NULL);`,
}

// State is how far a charge has got.
type State string

// A charge is authorized first: the money is set aside. Capture takes it, Void lets it go.
const (
	Authorized State = "authorized"
	Captured   State = "captured"
	Voided     State = "voided"
	Declined   State = "declined"
)

// Charge is what the network knows under one key.
type Charge struct {
	Key    string `json:"key"`
	ID     string `json:"id"`
	Amount int    `json:"amount"` // cents of a euro
	State  State  `json:"state"`
	Reason string `json:"reason,omitempty"` // of a decline
}

// Reasons of a decline.
const (
	Refused      = "refused"
	Insufficient = "insufficient_funds"
	Expired      = "expired_card"
)

// The numbers that are declined or lost, whatever the configuration says. All other numbers are good.
var (
	declines = map[string]string{"4000000000000002": Refused, "4000000000009995": Insufficient, "4000000000000069": Expired}
	lost     = "4000000000000119" // its first answer never arrives
)

// ErrLost says that no answer came: the charge may or may not have happened.
var ErrLost = errors.New("card network: no answer")

// Config says how the network behaves. Its zero value answers at once and honestly.
type Config struct {
	Latency  time.Duration // of each call, on average; a call takes half of it to one and a half
	Declines float64       // share of good cards that are declined all the same, 0 to 1
	Losses   float64       // share of answers that are lost after the deed, 0 to 1
}

// Network is the simulated network.
type Network struct {
	db *database.DB
	Config
}

// New makes the network's book.
func New(ctx context.Context, db *database.DB, c Config) (*Network, error) {
	return &Network{db, c}, db.Migrate(ctx, "cardnet", schema)
}

// Authorize sets amount aside. The same key again gets the same charge, whatever the card. ErrLost if no answer came.
func (n *Network) Authorize(ctx context.Context, key, card string, amount int) (Charge, error) {
	if err := n.travel(ctx); err != nil {
		return Charge{}, err
	}
	c := Charge{Key: key, ID: "chg_" + rand.Text(), Amount: amount, State: Authorized}
	if c.Reason = n.judge(key, card); c.Reason != "" {
		c.State = Declined
	}
	c, again, err := n.keep(ctx, c)
	if err == nil && (card == lost && !again || n.loses()) {
		err = ErrLost
	}
	return c, err
}

// judge returns why a card is declined, "" if it is not.
func (n *Network) judge(key, card string) string {
	if reason := declines[card]; reason != "" {
		return reason
	}
	h := fnv.New32a()
	h.Write([]byte(key))
	if float64(h.Sum32()%10_000)/10_000 < n.Declines {
		return Refused
	}
	return ""
}

// Capture takes the money of an authorized charge. A captured one stays so; any other stays what it is, and is returned.
func (n *Network) Capture(ctx context.Context, key string) (Charge, error) {
	return n.settle(ctx, key, Captured)
}

// Void lets the money of an authorized charge go, and makes sure that a charge whose key is not known yet can never
// happen. Any other charge stays what it is, and is returned.
func (n *Network) Void(ctx context.Context, key string) (Charge, error) {
	if _, _, err := n.keep(ctx, Charge{Key: key, ID: "chg_" + rand.Text(), State: Voided}); err != nil {
		return Charge{}, err
	}
	return n.settle(ctx, key, Voided)
}

func (n *Network) settle(ctx context.Context, key string, to State) (Charge, error) {
	if err := n.travel(ctx); err != nil {
		return Charge{}, err
	}
	var c Charge
	err := n.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE card_charges SET state = $1 WHERE key = $2 AND state = $3`, string(to), key,
			string(Authorized)); err != nil {
			return err
		}
		var err error
		c, err = find(ctx, tx, key)
		return err
	})
	if err == nil && n.loses() {
		err = ErrLost
	}
	if err != nil {
		return c, fmt.Errorf("%s charge %s: %w", to, key, err)
	}
	return c, nil
}

// keep writes c down, or returns what is known under its key.
func (n *Network) keep(ctx context.Context, c Charge) (kept Charge, again bool, err error) {
	err = n.db.Write(ctx, func(tx *database.Tx) error {
		made, err := tx.Changed(ctx, `INSERT INTO card_charges (key, id, amount, state, reason, created)
			VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (key) DO NOTHING`, c.Key, c.ID, c.Amount, string(c.State), c.Reason,
			time.Now().UnixMilli())
		if err != nil {
			return err
		}
		again = !made
		kept, err = find(ctx, tx, c.Key)
		return err
	})
	if err != nil {
		return Charge{}, false, fmt.Errorf("charge %s: %w", c.Key, err)
	}
	return kept, again, nil
}

func find(ctx context.Context, q database.Querier, key string) (Charge, error) {
	c := Charge{Key: key}
	err := q.QueryRow(ctx, `SELECT id, amount, state, reason FROM card_charges WHERE key = $1`, key).
		Scan(&c.ID, &c.Amount, &c.State, &c.Reason)
	return c, err
}

// Find returns what the network knows under key; false if nothing. Nobody waits for it: it is how a book is compared.
func (n *Network) Find(ctx context.Context, key string) (Charge, bool, error) {
	c, err := find(ctx, n.db.Read(), key)
	if errors.Is(err, sql.ErrNoRows) {
		return Charge{}, false, nil
	}
	return c, err == nil, err
}

// Taken returns the captured charges whose key comes after after, in the order of keys.
func (n *Network) Taken(ctx context.Context, after string, limit int) ([]Charge, error) {
	rows, err := n.db.Read().Query(ctx, `SELECT key, id, amount, state FROM card_charges WHERE state = $1 AND key > $2
		ORDER BY key LIMIT $3`, string(Captured), after, limit)
	if err != nil {
		return nil, fmt.Errorf("captured charges: %w", err)
	}
	defer rows.Close()
	all := []Charge{}
	for rows.Next() {
		var c Charge
		if err := rows.Scan(&c.Key, &c.ID, &c.Amount, &c.State); err != nil {
			return nil, fmt.Errorf("captured charges: %w", err)
		}
		all = append(all, c)
	}
	return all, rows.Err()
}

func (n *Network) loses() bool { return n.Losses > 0 && mrand.Float64() < n.Losses }

// travel takes the time that the way there and back takes.
func (n *Network) travel(ctx context.Context) error {
	if n.Latency == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return errors.Join(ErrLost, ctx.Err())
	case <-time.After(n.Latency/2 + mrand.N(n.Latency)):
		return nil
	}
}
