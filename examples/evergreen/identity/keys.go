package identity

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"evergreen/database"
	"fmt"
	"time"
)

// Rotation is the life of signing keys. A key is published one Lead before it signs, so that nobody meets a token whose
// key they cannot know yet; it signs for one Period, and stays published until the last token it signed has expired.
type Rotation struct {
	Period time.Duration // 0 is 24 h
	Lead   time.Duration // 0 is 10 min; at most half of Period
}

func (r Rotation) normal() Rotation {
	if r.Period <= 0 {
		r.Period = 24 * time.Hour
	}
	if r.Lead <= 0 {
		r.Lead = 10 * time.Minute
	}
	r.Lead = min(r.Lead, r.Period/2)
	return r
}

type signingKey struct {
	id      string
	private ed25519.PrivateKey
	from    time.Time // signs from here on
	until   time.Time // and up to here
}

// JWK is one public key (RFC 7517, RFC 8037).
type JWK struct {
	Type      string `json:"kty"`
	Curve     string `json:"crv"`
	X         string `json:"x"`
	ID        string `json:"kid"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
}

// JWKS is the set of keys that tokens may be signed with now.
type JWKS struct {
	Keys []JWK `json:"keys"`
}

// signer is a key as it was read from the database.
type signer struct {
	key  signingKey
	read time.Time
}

// keys returns all keys that are published at now, oldest first.
func (s *Store) keys(ctx context.Context, q database.Querier, now time.Time) ([]signingKey, error) {
	rows, err := q.Query(ctx, `SELECT id, seed, starts, ends FROM signing_keys WHERE ends > $1 ORDER BY starts`,
		now.Add(-tokenLife-skew).Unix())
	if err != nil {
		return nil, fmt.Errorf("signing keys: %w", err)
	}
	defer rows.Close()
	var all []signingKey
	for rows.Next() {
		var k signingKey
		var seed []byte
		var from, until int64
		if err := rows.Scan(&k.id, &seed, &from, &until); err != nil {
			return nil, fmt.Errorf("signing keys: %w", err)
		}
		if len(seed) != ed25519.SeedSize {
			return nil, fmt.Errorf("signing key %s: damaged", k.id)
		}
		k.private = ed25519.NewKeyFromSeed(seed)
		k.from, k.until = time.Unix(from, 0), time.Unix(until, 0)
		all = append(all, k)
	}
	return all, rows.Err()
}

// Rotate makes the keys that are needed at now and forgets those that no valid token is signed with. It may run in
// several processes at once.
func (s *Store) Rotate(ctx context.Context, now time.Time) error {
	return s.db.Write(ctx, func(tx *database.Tx) error {
		all, err := s.keys(ctx, tx, now)
		if err != nil {
			return err
		}
		var last time.Time
		for _, k := range all {
			if k.until.After(last) {
				last = k.until
			}
		}
		if last.Before(now) {
			last = now // the first key, or the first after a long sleep, signs at once
		}
		for !last.After(now.Add(s.rotation.Lead)) {
			next := last.Add(s.rotation.Period)
			if err := addKey(ctx, tx, last, next); err != nil {
				return err
			}
			last = next
		}
		_, err = tx.Exec(ctx, `DELETE FROM signing_keys WHERE ends <= $1`, now.Add(-tokenLife-2*skew).Unix())
		return err
	})
}

func addKey(ctx context.Context, tx *database.Tx, from, until time.Time) error {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed)
	_, err := tx.Exec(ctx, `INSERT INTO signing_keys (id, seed, starts, ends) VALUES ($1, $2, $3, $4)`,
		rand.Text()[:12], seed, from.Unix(), until.Unix())
	return err
}

// signerFresh is how long a key signs on without a look at the database, where it may have been withdrawn.
const signerFresh = time.Minute

// signs reports whether k signs at now.
func (k signingKey) signs(now time.Time) bool {
	return k.from.Unix() <= now.Unix() && now.Before(k.until)
}

// signer returns the key that signs at now.
func (s *Store) signer(ctx context.Context, now time.Time) (signingKey, error) {
	if last := s.last.Load(); last != nil && last.key.signs(now) && now.Sub(last.read).Abs() < signerFresh {
		return last.key, nil
	}
	for range 2 {
		all, err := s.keys(ctx, s.db.Read(), now)
		if err != nil {
			return signingKey{}, err
		}
		for _, k := range all {
			if k.signs(now) {
				s.last.Store(&signer{k, now})
				return k, nil
			}
		}
		if err := s.Rotate(ctx, now); err != nil {
			return signingKey{}, err
		}
	}
	return signingKey{}, fmt.Errorf("no signing key at %s", now.Format(time.RFC3339))
}

// JWKS returns the public keys of all tokens that are valid at now or will be soon.
func (s *Store) JWKS(ctx context.Context, now time.Time) (JWKS, error) {
	all, err := s.keys(ctx, s.db.Read(), now)
	set := JWKS{Keys: []JWK{}}
	for _, k := range all {
		set.Keys = append(set.Keys, JWK{Type: "OKP", Curve: "Ed25519", Use: "sig", Algorithm: "EdDSA", ID: k.id,
			X: b64.EncodeToString(k.private.Public().(ed25519.PublicKey))})
	}
	return set, err
}

// KeepKeys rotates the keys until ctx ends.
func (s *Store) KeepKeys(ctx context.Context) error {
	t := time.NewTicker(s.rotation.Lead / 2)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-t.C:
			if err := s.Rotate(ctx, now); err != nil && ctx.Err() == nil {
				s.log.Error("rotate keys", "err", err)
			}
			if err := s.forget(ctx, now); err != nil && ctx.Err() == nil {
				s.log.Error("forget old sessions", "err", err)
			}
		}
	}
}
