package identity

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"evergreen/rest"
)

// Verifier tells who a token belongs to, by the keys that identity publishes. It keeps them: once it has seen a key,
// tokens are checked while identity is away. It is safe for concurrent use.
type Verifier struct {
	fetch  func(context.Context) (JWKS, error)
	issuer string
	now    func() time.Time

	mu    sync.RWMutex
	known map[string]ed25519.PublicKey
	tried time.Time
	// believed are the claims of tokens whose signature has been checked: a browser shows the same one for minutes.
	believed map[string]Claims

	fetching chan struct{} // holds one token: only one fetch at a time
}

// refetch is how long after a fetch an unknown key does not cause another one, so that forged tokens cost nothing.
const refetch = 2 * time.Second

// NewVerifier returns a Verifier of tokens of issuer whose keys are got by fetch.
func NewVerifier(issuer string, fetch func(context.Context) (JWKS, error)) *Verifier {
	return &Verifier{fetch: fetch, issuer: issuer, now: time.Now, known: map[string]ed25519.PublicKey{},
		believed: map[string]Claims{}, fetching: make(chan struct{}, 1)}
}

// Verify returns what token says: rest.ErrUnauthorized if it is not to be believed, rest.ErrUnavailable if its key is
// not known and identity cannot be asked.
func (v *Verifier) Verify(ctx context.Context, token string) (Claims, error) {
	v.mu.RLock()
	c, believed := v.believed[token]
	v.mu.RUnlock()
	if believed {
		if err := c.check(v.issuer, v.now()); err != nil {
			return Claims{}, errors.Join(rest.ErrUnauthorized, err)
		}
		return c, nil
	}
	kid, err := keyID(token)
	if err != nil {
		return Claims{}, errors.Join(rest.ErrUnauthorized, err)
	}
	key, err := v.key(ctx, kid)
	if err != nil {
		return Claims{}, err
	}
	if c, err = verify(token, v.issuer, key, v.now()); err != nil {
		return Claims{}, errors.Join(rest.ErrUnauthorized, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.believed) >= maxBelieved {
		clear(v.believed)
	}
	v.believed[token] = c
	return c, nil
}

// maxBelieved bounds the tokens that are remembered: about half a kilobyte each.
const maxBelieved = 10_000

func (v *Verifier) lookup(kid string) (key ed25519.PublicKey, recent bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.known[kid], v.now().Sub(v.tried) < refetch
}

func (v *Verifier) key(ctx context.Context, kid string) (ed25519.PublicKey, error) {
	if key, recent := v.lookup(kid); key != nil {
		return key, nil
	} else if recent {
		return nil, unknown(kid)
	}
	select {
	case v.fetching <- struct{}{}:
		defer func() { <-v.fetching }()
	case <-ctx.Done():
		return nil, errors.Join(rest.ErrUnavailable, ctx.Err())
	}
	if key, recent := v.lookup(kid); key != nil {
		return key, nil
	} else if recent {
		return nil, unknown(kid)
	}
	set, err := v.fetch(ctx)
	if err != nil {
		return nil, fmt.Errorf("fetch keys: %w", errors.Join(rest.ErrUnavailable, err))
	}
	v.learn(set)
	if key, _ := v.lookup(kid); key != nil {
		return key, nil
	}
	return nil, unknown(kid)
}

func unknown(kid string) error {
	return errors.Join(rest.ErrUnauthorized, fmt.Errorf("%w: unknown key %q", errToken, kid))
}

// learn replaces the known keys by those that are published, so that a key that was withdrawn is believed no longer.
func (v *Verifier) learn(set JWKS) {
	known := map[string]ed25519.PublicKey{}
	for _, k := range set.Keys {
		x, err := b64.DecodeString(k.X)
		if err == nil && k.Type == "OKP" && k.Curve == "Ed25519" && len(x) == ed25519.PublicKeySize {
			known[k.ID] = x
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.known, v.tried = known, v.now()
	clear(v.believed) // a key may have been withdrawn
}

// Caller returns who sent r, by its bearer token.
func (v *Verifier) Caller(r *http.Request) (Claims, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return Claims{}, rest.ErrUnauthorized
	}
	return v.Verify(r.Context(), token)
}

// Learner makes a handler of do for those who are signed in. Nothing of what it answers is kept by anybody in between.
func (v *Verifier) Learner(do func(w http.ResponseWriter, r *http.Request, who Claims) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		c, err := v.Caller(r)
		if err == nil {
			err = do(w, r, c)
		}
		if err != nil {
			rest.WriteError(w, err)
		}
	}
}

// Token returns the bearer token of a request, for calls in the name of who sent it.
func Token(r *http.Request) string {
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
}
