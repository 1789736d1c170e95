// Package identitytest has an issuer of tokens for tests, and a corpus of tokens that nobody may accept.
package identitytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Issuer and Audience are what the tokens of an Issuer say.
const (
	Name     = "https://id.example.org"
	Audience = "shop"
)

// Issuer has a key of each kind, by the key ids "rsa", "ec" and "ed".
type Issuer struct {
	t    testing.TB
	RSA  *rsa.PrivateKey
	EC   *ecdsa.PrivateKey
	Ed   ed25519.PrivateKey
	Now  time.Time // tokens are valid from a minute before to an hour after
	more []jose.JSONWebKey
}

// New makes an issuer.
func New(t testing.TB) *Issuer {
	t.Helper()
	i := &Issuer{t: t, Now: time.Now()}
	var err error
	if i.RSA, err = rsa.GenerateKey(rand.Reader, 2048); err == nil {
		i.EC, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err == nil {
		_, i.Ed, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// KeySet returns the public keys as a JSON Web Key Set.
func (i *Issuer) KeySet() []byte {
	set := jose.JSONWebKeySet{Keys: append([]jose.JSONWebKey{
		{Key: i.RSA.Public(), KeyID: "rsa", Use: "sig"}, {Key: i.EC.Public(), KeyID: "ec", Algorithm: "ES256"},
		{Key: i.Ed.Public(), KeyID: "ed", Use: "sig"},
	}, i.more...)}
	b, err := json.Marshal(set)
	if err != nil {
		i.t.Fatal(err)
	}
	return b
}

// Claims are those of a good token, with changes; a nil value takes one away.
func (i *Issuer) Claims(changes map[string]any) map[string]any {
	claims := map[string]any{
		"iss": Name, "aud": Audience, "sub": "ada", "iat": i.Now.Add(-time.Minute).Unix(), "exp": i.Now.Add(time.Hour).Unix(),
	}
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	return claims
}

// Token returns a good token, but for the changes to its claims.
func (i *Issuer) Token(alg string, changes map[string]any) string {
	return i.Sign(alg, map[string]any{"alg": alg, "typ": "JWT", "kid": kidOf(alg)}, i.Claims(changes))
}

func kidOf(alg string) string {
	switch alg[:2] {
	case "ES":
		return "ec"
	case "Ed":
		return "ed"
	}
	return "rsa"
}

// Sign signs whatever header and claims say, each a value to be marshalled or its text as []byte.
func (i *Issuer) Sign(alg string, header, claims any) string {
	in := part(i.t, header) + "." + part(i.t, claims)
	return in + "." + b64(i.signature(alg, []byte(in)))
}

func (i *Issuer) signature(alg string, in []byte) []byte {
	sum := sha256.Sum256(in)
	var sig []byte
	var err error
	switch alg {
	case "RS256":
		sig, err = rsa.SignPKCS1v15(rand.Reader, i.RSA, crypto.SHA256, sum[:])
	case "PS256":
		sig, err = rsa.SignPSS(rand.Reader, i.RSA, crypto.SHA256, sum[:], nil)
	case "ES256":
		r, s, e := ecdsa.Sign(rand.Reader, i.EC, sum[:])
		sig, err = make([]byte, 64), e
		r.FillBytes(sig[:32])
		s.FillBytes(sig[32:])
	case "EdDSA":
		sig = ed25519.Sign(i.Ed, in)
	default:
		i.t.Fatalf("no such algorithm: %s", alg)
	}
	if err != nil {
		i.t.Fatal(err)
	}
	return sig
}

func hmacOf(key, in []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(in)
	return h.Sum(nil)
}

func part(t testing.TB, v any) string {
	b, ok := v.([]byte)
	if !ok {
		var err error
		if b, err = json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	return b64(b)
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
