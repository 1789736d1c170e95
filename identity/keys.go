package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"trellis/errdefs"
)

// MaxKeySet bounds a fetched key set, in bytes; a Fetch returns no more.
const MaxKeySet = 256 << 10

const (
	maxKeys      = 100
	refreshKeys  = 5 * time.Minute  // keys older than this are fetched anew, while the old ones serve on
	maxKeysAge   = time.Hour        // after this without a successful fetch they count no more
	refetchPause = 10 * time.Second // between two fetches, whatever asks for them
	fetchTime    = 5 * time.Second
	minRSABits   = 2048
)

// Keys are the public keys of an issuer, fetched when they are needed. One fetch is under way at a time, and another
// begins no sooner than ten seconds after it, however many unknown keys are asked for. Safe for concurrent use.
type Keys struct {
	fetch func(ctx context.Context) ([]byte, error)
	now   func() time.Time

	mu      sync.Mutex
	byID    map[string][]jose.JSONWebKey // "" those without one
	fetched time.Time                    // when byID was
	tried   time.Time                    // when the last fetch ended
	changes uint64                       // counts the sets that differed
	last    string                       // the text of byID
	err     error                        // of the last fetch
	running chan struct{}                // closed when the fetch under way has ended; nil: none
}

// NewKeys returns the keys that fetch returns as a JSON Web Key Set (RFC 7517, section 5). fetch is never called twice
// at a time; its context ends after five seconds. now is time.Now where it is nil.
func NewKeys(fetch func(ctx context.Context) ([]byte, error), now func() time.Time) *Keys {
	if now == nil {
		now = time.Now
	}
	return &Keys{fetch: fetch, now: now}
}

// current returns a number that changes whenever the keys do, and whether they may still be relied upon. It begins a
// fetch where they are old.
func (k *Keys) current() (generation uint64, usable bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changes, k.begin(false)
}

// begin begins a fetch where one is due and none is under way; it says whether the keys count. k.mu is held.
func (k *Keys) begin(unknown bool) (usable bool) {
	now := k.now()
	age := now.Sub(k.fetched)
	usable = !k.fetched.IsZero() && age < maxKeysAge
	due := !usable || unknown || age >= refreshKeys
	if due && k.running == nil && (k.tried.IsZero() || now.Sub(k.tried) >= refetchPause) {
		k.running = make(chan struct{})
		go k.run(k.running)
	}
	return usable
}

// find returns the keys that may have signed with alg under a key id.
func (k *Keys) find(ctx context.Context, kid, alg string) ([]any, uint64, error) {
	if err := k.refresh(ctx, false); err != nil {
		return nil, 0, err
	}
	found, generation := k.lookUp(kid, alg)
	if len(found) == 0 { // perhaps they were rotated
		if err := k.refresh(ctx, true); err != nil {
			return nil, 0, err
		}
		found, generation = k.lookUp(kid, alg)
	}
	if len(found) == 0 {
		return nil, 0, fmt.Errorf("%w: no such key", ErrRefused)
	}
	return found, generation, nil
}

// lookUp returns the keys of an id. A token without one may be signed by the only key of its kind, not by any of many.
func (k *Keys) lookUp(kid, alg string) ([]any, uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var found []any
	for id, keys := range k.byID {
		for i := range keys {
			if (id == kid || kid == "") && suits(keys[i], alg) {
				found = append(found, keys[i].Key)
			}
		}
	}
	if kid == "" && len(found) > 1 {
		return nil, k.changes
	}
	return found, k.changes
}

// refresh waits for a fetch where there are no keys that count or unknown says that one is missing, and begins one in
// the background where they are old.
func (k *Keys) refresh(ctx context.Context, unknown bool) error {
	k.mu.Lock()
	usable := k.begin(unknown)
	running, err := k.running, k.err
	k.mu.Unlock()
	if usable && !unknown {
		return nil
	}
	if running == nil { // tried a moment ago
		if usable {
			return nil
		}
		return fmt.Errorf("keys of the issuer: %w: %w", errdefs.ErrUnavailable, err)
	}
	select {
	case <-running:
	case <-ctx.Done():
		return ctx.Err()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fetched.IsZero() || k.now().Sub(k.fetched) >= maxKeysAge {
		return fmt.Errorf("keys of the issuer: %w: %w", errdefs.ErrUnavailable, k.err)
	}
	return nil
}

// run fetches once.
func (k *Keys) run(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTime)
	defer cancel()
	b, err := k.fetch(ctx)
	var byID map[string][]jose.JSONWebKey
	if err == nil {
		byID, err = readKeys(b)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tried, k.err = k.now(), err
	if err == nil {
		k.fetched = k.tried
		if k.last != string(b) {
			k.byID, k.last = byID, string(b)
			k.changes++
		}
	}
	k.running = nil
	close(done)
}

// Err returns what went wrong with the last fetch, nil where nothing did.
func (k *Keys) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// readKeys reads a key set. Keys that can't be used to check a signature are left out.
func readKeys(b []byte) (map[string][]jose.JSONWebKey, error) {
	if len(b) > MaxKeySet {
		return nil, fmt.Errorf("%w: the key set is larger than %d KiB", errdefs.ErrInvalid, MaxKeySet>>10)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, fmt.Errorf("%w: the key set: %w", errdefs.ErrInvalid, err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("%w: the key set has more than %d keys", errdefs.ErrInvalid, maxKeys)
	}
	byID := map[string][]jose.JSONWebKey{}
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if json.Unmarshal(raw, &key) != nil || !key.Valid() || !key.IsPublic() || key.Use != "" && key.Use != "sig" {
			continue
		}
		if r, ok := key.Key.(*rsa.PublicKey); ok && r.N.BitLen() < minRSABits {
			continue
		}
		byID[key.KeyID] = append(byID[key.KeyID], key)
	}
	if len(byID) == 0 {
		return nil, errors.Join(errdefs.ErrInvalid, errors.New("the key set has no public key for signatures"))
	}
	return byID, nil
}

// suits says whether a key is of the kind that an algorithm uses, and says no other algorithm itself.
func suits(key jose.JSONWebKey, alg string) bool {
	if key.Algorithm != "" && key.Algorithm != alg {
		return false
	}
	switch k := key.Key.(type) {
	case *rsa.PublicKey:
		return alg[:2] == "RS" || alg[:2] == "PS"
	case *ecdsa.PublicKey:
		return alg == map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[k.Curve.Params().BitSize]
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}
