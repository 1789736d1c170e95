package identity

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Claims are what a token says. The gateway and every service can check them without asking identity.
type Claims struct {
	Issuer   string `json:"iss"`
	Audience string `json:"aud"`
	Subject  string `json:"sub"` // the account
	Name     string `json:"name"`
	ID       string `json:"jti"`
	IssuedAt int64  `json:"iat"` // seconds since 1970
	Expires  int64  `json:"exp"` // likewise
}

// Audience is whom Evergreen's tokens are meant for.
const Audience = "evergreen"

// skew is how far the clocks of two machines may be apart.
const skew = 30 * time.Second

type header struct {
	Algorithm string `json:"alg"`
	Type      string `json:"typ,omitempty"`
	KeyID     string `json:"kid"`
}

// errToken is the error of every token that is not to be believed; what exactly is wrong is joined to it for the log.
var errToken = errors.New("token")

var b64 = base64.RawURLEncoding

// sign returns the token of c: a JWT signed with EdDSA (RFC 7519, RFC 8037).
func sign(c Claims, kid string, key ed25519.PrivateKey) (string, error) {
	h, err := json.Marshal(header{Algorithm: "EdDSA", Type: "JWT", KeyID: kid})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	text := b64.EncodeToString(h) + "." + b64.EncodeToString(body)
	return text + "." + b64.EncodeToString(ed25519.Sign(key, []byte(text))), nil
}

// keyID returns the name of the key that a token claims to be signed with, before anything is checked.
func keyID(token string) (string, error) {
	head, _, _ := strings.Cut(token, ".")
	var h header
	if err := decode(head, &h); err != nil {
		return "", err
	}
	if h.Algorithm != "EdDSA" {
		return "", fmt.Errorf("%w: algorithm %q", errToken, h.Algorithm)
	}
	return h.KeyID, nil
}

// verify checks signature, issuer, audience and time, and only then returns what token says.
func verify(token, issuer string, key ed25519.PublicKey, now time.Time) (Claims, error) {
	var c Claims
	text, sig, ok := cutLast(token, '.')
	if !ok || len(key) != ed25519.PublicKeySize {
		return c, fmt.Errorf("%w: malformed", errToken)
	}
	raw, err := b64.DecodeString(sig)
	if err != nil || !ed25519.Verify(key, []byte(text), raw) {
		return c, fmt.Errorf("%w: bad signature", errToken)
	}
	_, body, _ := strings.Cut(text, ".")
	if err := decode(body, &c); err != nil {
		return c, err
	}
	if err := c.check(issuer, now); err != nil {
		return Claims{}, err
	}
	return c, nil
}

// check returns what is wrong with claims whose signature is right.
func (c Claims) check(issuer string, now time.Time) error {
	switch {
	case c.Issuer != issuer, c.Audience != Audience, c.Subject == "":
		return fmt.Errorf("%w: issued by %q for %q", errToken, c.Issuer, c.Audience)
	case now.After(time.Unix(c.Expires, 0).Add(skew)):
		return fmt.Errorf("%w: expired", errToken)
	case now.Before(time.Unix(c.IssuedAt, 0).Add(-skew)):
		return fmt.Errorf("%w: from the future", errToken)
	}
	return nil
}

func decode(part string, v any) error {
	raw, err := b64.DecodeString(part)
	if err == nil {
		err = json.Unmarshal(raw, v)
	}
	if err != nil {
		return fmt.Errorf("%w: malformed", errToken)
	}
	return nil
}

func cutLast(s string, sep byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}
