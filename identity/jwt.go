package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"trellis/errdefs"
)

// JWTConfig says which tokens are accepted.
type JWTConfig struct {
	Issuer   string // iss must be it
	Audience string // aud must be or list it
	// Algorithms are accepted; none: RS256, PS256, ES256 and EdDSA. Symmetric ones and none never are: whoever can check
	// such a token can make one.
	Algorithms []string
	Leeway     time.Duration    // for clocks that differ; 0: 60 s, which is the most
	Now        func() time.Time // nil: time.Now
}

var asymmetric = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

const (
	maxLeeway   = time.Minute
	maxVerified = 8192 // tokens kept in each of two generations
)

// JWT verifies tokens of one issuer. It is safe for concurrent use.
type JWT struct {
	cfg        JWTConfig
	algorithms []jose.SignatureAlgorithm
	keys       *Keys

	mu       sync.Mutex
	verified map[string]*Caller // by token; those checked with the keys of generation
	older    map[string]*Caller
	keysAt   uint64
}

// NewJWT returns a verifier that takes its keys from keys.
func NewJWT(cfg JWTConfig, keys *Keys) (*JWT, error) {
	if cfg.Issuer == "" || cfg.Audience == "" {
		return nil, fmt.Errorf("verify tokens: %w: issuer and audience have to be known", errdefs.ErrInvalid)
	}
	if cfg.Leeway <= 0 || cfg.Leeway > maxLeeway {
		cfg.Leeway = maxLeeway
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if len(cfg.Algorithms) == 0 {
		cfg.Algorithms = []string{"RS256", "PS256", "ES256", "EdDSA"}
	}
	v := &JWT{cfg: cfg, keys: keys, verified: map[string]*Caller{}}
	for _, a := range cfg.Algorithms {
		if !slices.Contains(asymmetric, a) {
			return nil, fmt.Errorf("verify tokens: %w: algorithm %q: it may be one of %s", errdefs.ErrInvalid, a, strings.Join(asymmetric, ", "))
		}
		v.algorithms = append(v.algorithms, jose.SignatureAlgorithm(a))
	}
	return v, nil
}

// Verify returns who a compact JWS speaks for. A token that proves nothing: ErrRefused. Keys that can't be had: the error
// of Keys, which wraps ErrUnavailable. It blocks while keys are fetched.
func (v *JWT) Verify(ctx context.Context, token string) (*Caller, error) {
	now := v.cfg.Now()
	if c := v.known(token, now); c != nil {
		return c, nil
	}
	head, claims, err := v.read(token)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	c, err := v.caller(claims, now) // before the keys are asked for: an expired token costs nothing
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	found, generation, err := v.keys.find(ctx, head.kid, head.alg)
	if err != nil {
		return nil, err
	}
	sig, err := jose.ParseSignedCompact(token, v.algorithms)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	for _, key := range found {
		if _, err := sig.Verify(key); err == nil {
			v.remember(token, c, generation)
			return c, nil
		}
	}
	return nil, fmt.Errorf("%w: no key of the issuer has signed it", ErrRefused)
}

// head is what counts of a token's header.
type head struct{ alg, kid string }

// read checks everything of a token that needs no key.
func (v *JWT) read(token string) (head, map[string]any, error) {
	rawHead, rawClaims, err := split(token)
	if err != nil {
		return head{}, nil, err
	}
	fields, err := object(rawHead)
	if err != nil {
		return head{}, nil, fmt.Errorf("header: %w", err)
	}
	h, err := v.readHead(fields)
	if err != nil {
		return head{}, nil, err
	}
	claims, err := object(rawClaims)
	if err != nil {
		return head{}, nil, fmt.Errorf("claims: %w", err)
	}
	return h, claims, nil
}

// readHead takes what the header may say. Whatever names a key, or asks to be understood, is refused: keys come from the
// issuer alone (OWASP ASVS 5.0, 9.1.3).
func (v *JWT) readHead(fields map[string]any) (head, error) {
	var h head
	for name, f := range fields {
		s, _ := f.(string) // what is not text is refused as an empty one is
		switch name {
		case "alg":
			h.alg = s
		case "kid":
			if h.kid = s; s == "" || len(s) > 256 {
				return h, errors.New("header: kid is not a name")
			}
		case "typ":
			if t := strings.TrimPrefix(strings.ToLower(s), "application/"); t != "jwt" && t != "at+jwt" {
				return h, errors.New("header: typ is neither JWT nor at+jwt")
			}
		case "crit", "jku", "jwk", "x5u", "x5c", "b64", "zip", "cty", "enc", "epk", "p2c", "p2s":
			return h, fmt.Errorf("header: %s is not taken", name)
		}
	}
	if !slices.Contains(v.cfg.Algorithms, h.alg) {
		return h, errors.New("header: alg is not one of those accepted")
	}
	return h, nil
}

// caller checks the claims that are registered (RFC 7519, section 4.1).
func (v *JWT) caller(claims map[string]any, now time.Time) (*Caller, error) {
	if iss, _ := claims["iss"].(string); iss != v.cfg.Issuer {
		return nil, errors.New("iss is another issuer")
	}
	if !forAudience(claims["aud"], v.cfg.Audience) {
		return nil, errors.New("aud is somebody else")
	}
	exp, ok, err := moment(claims, "exp")
	if err != nil || !ok {
		return nil, errors.Join(errors.New("exp is missing or not a time"), err)
	}
	if !now.Before(exp.Add(v.cfg.Leeway)) {
		return nil, errors.New("expired")
	}
	for _, name := range []string{"nbf", "iat"} {
		at, ok, err := moment(claims, name)
		if err != nil {
			return nil, err
		}
		if ok && now.Add(v.cfg.Leeway).Before(at) {
			return nil, fmt.Errorf("%s is in the future", name)
		}
	}
	sub, isText := claims["sub"].(string)
	if _, there := claims["sub"]; there && !isText {
		return nil, errors.New("sub is not text")
	}
	return NewCaller(sub, exp.Add(v.cfg.Leeway), claims), nil
}

func forAudience(claim any, want string) bool {
	switch aud := claim.(type) {
	case string:
		return aud == want
	case []any:
		here := false
		for _, one := range aud {
			s, ok := one.(string)
			if !ok {
				return false
			}
			here = here || s == want
		}
		return here
	}
	return false
}

// moment returns a claim that is a NumericDate, between 1970 and 9999.
func moment(claims map[string]any, name string) (time.Time, bool, error) {
	v, there := claims[name]
	if !there {
		return time.Time{}, false, nil
	}
	n, ok := v.(json.Number)
	if !ok {
		return time.Time{}, false, fmt.Errorf("%s is not a number", name)
	}
	f, err := n.Float64()
	if err != nil || f < 0 || f > 253402300799 {
		return time.Time{}, false, fmt.Errorf("%s is not a time", name)
	}
	return time.UnixMilli(int64(f * 1000)), true, nil
}

// known returns the caller of a token that was verified with the keys that are still in force.
func (v *JWT) known(token string, now time.Time) *Caller {
	generation, usable := v.keys.current()
	if !usable {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.keysAt != generation {
		return nil
	}
	c := v.verified[token]
	if c == nil {
		if c = v.older[token]; c != nil {
			v.keep(token, c)
		}
	}
	if c == nil || !now.Before(c.Expires) {
		return nil
	}
	return c
}

func (v *JWT) remember(token string, c *Caller, generation uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.keysAt != generation {
		v.keysAt, v.verified, v.older = generation, map[string]*Caller{}, nil
	}
	v.keep(token, c)
}

// keep notes a verified token; of many the ones not seen for longest go first. v.mu is held. The token's bytes are its caller's, who
// may read the next request into them: another token would stand for c then.
func (v *JWT) keep(token string, c *Caller) {
	if len(v.verified) >= maxVerified {
		v.older, v.verified = v.verified, make(map[string]*Caller, maxVerified)
	}
	v.verified[strings.Clone(token)] = c
}
