package identity

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"evergreen/database/databasetest"
	"evergreen/rest"
)

const issuer = "https://id.test"

// cheap keeps tests fast; what a hash costs is no part of what they show.
var cheap = Cost{Memory: 64, Passes: 1}

type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func TestMain(m *testing.M) { os.Exit(databasetest.Main(m)) }

func newStore(t testing.TB) (*Store, *clock) {
	t.Helper()
	db := databasetest.Open(t)
	c := &clock{time.Unix(1_800_000_000, 0)}
	s, err := NewStore(context.Background(), db, Config{Issuer: issuer, Cost: cheap, Now: c.Now}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

func (s *Store) verifier() *Verifier {
	v := NewVerifier(issuer, func(ctx context.Context) (JWKS, error) { return s.JWKS(ctx, s.now()) })
	v.now = s.now
	return v
}

func join(t *testing.T, s *Store) Session {
	t.Helper()
	if _, err := s.SignUp(t.Context(), "ada@example.org", "Ada Lovelace", "a short sentence"); err != nil {
		t.Fatal(err)
	}
	session, err := s.SignIn(t.Context(), " ADA@example.org ", "a short sentence")
	if err != nil {
		t.Fatal(err)
	}
	return session
}

func TestSignUpAndIn(t *testing.T) {
	s, _ := newStore(t)
	session := join(t, s)
	c, err := s.verifier().Verify(t.Context(), session.Token)
	if err != nil || c.Name != "Ada Lovelace" || c.Subject != session.Account.ID {
		t.Errorf("got %+v, %v", c, err)
	}
	if _, err := s.SignUp(t.Context(), "Ada@Example.org", "Somebody", "another sentence"); !errors.Is(err, ErrTaken) {
		t.Errorf("taken address: %v", err)
	}
	for _, wrong := range [][2]string{{"ada@example.org", "wrong"}, {"nobody@example.org", "a short sentence"}, {"", ""}} {
		if _, err := s.SignIn(t.Context(), wrong[0], wrong[1]); !errors.Is(err, ErrWrong) {
			t.Errorf("%v: %v", wrong, err)
		}
	}
}

func TestSignUpSaysWhichFieldIsWrong(t *testing.T) {
	s, _ := newStore(t)
	for want, in := range map[string][3]string{
		"email":    {"not an address", "Ada", "a short sentence"},
		"name":     {"a@example.org", "  ", "a short sentence"},
		"password": {"a@example.org", "Ada", "short"},
	} {
		_, err := s.SignUp(t.Context(), in[0], in[1], in[2])
		var p *rest.Problem
		if !errors.As(err, &p) || p.Field != want {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := s.SignUp(t.Context(), "Ada <a@example.org>", "Ada", "a short sentence"); err == nil {
		t.Error("an address with a name was taken")
	}
}

func TestGuessingIsStopped(t *testing.T) {
	s, c := newStore(t)
	join(t, s)
	for range maxFailures {
		if _, err := s.SignIn(t.Context(), "ada@example.org", "guess"); !errors.Is(err, ErrWrong) {
			t.Fatal(err)
		}
	}
	if _, err := s.SignIn(t.Context(), "ada@example.org", "a short sentence"); !errors.Is(err, ErrTooMany) {
		t.Errorf("after %d guesses: %v", maxFailures, err)
	}
	c.now = c.now.Add(failureWindow + time.Second)
	if _, err := s.SignIn(t.Context(), "ada@example.org", "a short sentence"); err != nil {
		t.Errorf("after the window: %v", err)
	}
}

func TestSessions(t *testing.T) {
	s, c := newStore(t)
	session := join(t, s)
	c.now = c.now.Add(tokenLife + skew + time.Second)
	if _, err := s.verifier().Verify(t.Context(), session.Token); !errors.Is(err, rest.ErrUnauthorized) {
		t.Errorf("expired token: %v", err)
	}
	again, err := s.Refresh(t.Context(), session.Secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.verifier().Verify(t.Context(), again.Token); err != nil {
		t.Error(err)
	}
	if err := s.SignOut(t.Context(), session.Secret); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Refresh(t.Context(), session.Secret); !errors.Is(err, ErrNoSession) {
		t.Errorf("after the end: %v", err)
	}
	c.now = c.now.Add(sessionLife)
	if err := s.forget(t.Context(), c.now); err != nil {
		t.Error(err)
	}
}

// TestKeysRotate signs in every hour for four days. Each token must be believed for all of its life by somebody who has
// fetched the keys at any moment of the ten minutes before it was signed.
func TestKeysRotate(t *testing.T) {
	s, c := newStore(t)
	session := join(t, s)
	kids := map[string]bool{}
	for range 96 {
		early := s.verifier()
		set, err := s.JWKS(t.Context(), c.now)
		if err != nil {
			t.Fatal(err)
		}
		early.learn(set)
		early.fetch = func(context.Context) (JWKS, error) { return JWKS{}, errors.New("identity is away") }
		c.now = c.now.Add(5 * time.Minute)
		token, err := s.token(t.Context(), session.Account)
		if err != nil {
			t.Fatal(err)
		}
		kid, _ := keyID(token.Token)
		kids[kid] = true
		for range 3 {
			if _, err := early.Verify(t.Context(), token.Token); err != nil {
				t.Fatalf("at %s: %v", c.now, err)
			}
			if _, err := s.verifier().Verify(t.Context(), token.Token); err != nil {
				t.Fatalf("at %s, keys fetched now: %v", c.now, err)
			}
			c.now = c.now.Add(5 * time.Minute)
		}
		for range 8 {
			if err := s.Rotate(t.Context(), c.now); err != nil {
				t.Fatal(err)
			}
			c.now = c.now.Add(5 * time.Minute)
		}
		if err := s.Rotate(t.Context(), c.now); err != nil {
			t.Fatal(err)
		}
	}
	if len(kids) < 4 || len(kids) > 5 {
		t.Errorf("%d keys in four days", len(kids))
	}
	if set, err := s.JWKS(t.Context(), c.now); err != nil || len(set.Keys) > 3 {
		t.Errorf("%d keys are published, %v", len(set.Keys), err)
	}
}

func TestKeysAfterALongSleep(t *testing.T) {
	s, c := newStore(t)
	session := join(t, s)
	c.now = c.now.Add(40 * 24 * time.Hour)
	token, err := s.token(t.Context(), session.Account)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.verifier().Verify(t.Context(), token.Token); err != nil {
		t.Error(err)
	}
}

func TestPublishedKeysArePublic(t *testing.T) {
	s, c := newStore(t)
	set, err := s.JWKS(t.Context(), c.now)
	if err != nil || len(set.Keys) == 0 {
		t.Fatalf("%d keys, %v", len(set.Keys), err)
	}
	text, _ := json.Marshal(set)
	if strings.Contains(string(text), `"d"`) {
		t.Errorf("got %s", text)
	}
}

func TestForgedTokens(t *testing.T) {
	s, c := newStore(t)
	good := join(t, s).Token
	key, err := s.signer(t.Context(), c.now)
	if err != nil {
		t.Fatal(err)
	}
	_, stranger, _ := ed25519.GenerateKey(nil)
	claims := Claims{Issuer: issuer, Audience: Audience, Subject: "acc", IssuedAt: c.now.Unix(), Expires: c.now.Add(time.Hour).Unix()}
	forge := func(change func(*Claims), kid string, k ed25519.PrivateKey) string {
		claims := claims
		change(&claims)
		token, err := sign(claims, kid, k)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	same := func(*Claims) {}
	if _, err := s.verifier().Verify(t.Context(), forge(same, key.id, key.private)); err != nil {
		t.Fatalf("the forger's own measure is wrong: %v", err)
	}
	part := strings.Split(good, ".")
	none := b64.EncodeToString([]byte(`{"alg":"none","kid":"` + key.id + `"}`))
	for name, token := range map[string]string{
		"empty":              "",
		"no signature":       part[0] + "." + part[1] + ".",
		"no algorithm":       none + "." + part[1] + ".",
		"other algorithm":    b64.EncodeToString([]byte(`{"alg":"HS256","kid":"`+key.id+`"}`)) + "." + part[1] + "." + part[2],
		"other claims":       part[0] + "." + b64.EncodeToString([]byte(`{"sub":"root"}`)) + "." + part[2],
		"stranger's key":     forge(same, key.id, stranger),
		"unknown key":        forge(same, "unknown", stranger),
		"other issuer":       forge(func(c *Claims) { c.Issuer = "https://other" }, key.id, key.private),
		"other audience":     forge(func(c *Claims) { c.Audience = "other" }, key.id, key.private),
		"no subject":         forge(func(c *Claims) { c.Subject = "" }, key.id, key.private),
		"expired":            forge(func(cl *Claims) { cl.Expires = c.now.Add(-time.Hour).Unix() }, key.id, key.private),
		"not yet issued":     forge(func(cl *Claims) { cl.IssuedAt = c.now.Add(time.Hour).Unix() }, key.id, key.private),
		"something appended": good + "A",
	} {
		if got, err := s.verifier().Verify(t.Context(), token); !errors.Is(err, rest.ErrUnauthorized) || got != (Claims{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestUnknownKeysDoNotFloodIdentity(t *testing.T) {
	s, c := newStore(t)
	join(t, s)
	n := 0
	v := NewVerifier(issuer, func(ctx context.Context) (JWKS, error) { n++; return s.JWKS(ctx, c.now) })
	v.now = c.Now
	_, stranger, _ := ed25519.GenerateKey(nil)
	token, _ := sign(Claims{Subject: "x"}, "unknown", stranger)
	for range 50 {
		if _, err := v.Verify(t.Context(), token); !errors.Is(err, rest.ErrUnauthorized) {
			t.Fatal(err)
		}
	}
	if n != 1 {
		t.Errorf("%d fetches", n)
	}
}

func TestATokenWhoseKeyCannotBeFetchedIsNotRefused(t *testing.T) {
	s, _ := newStore(t)
	token := join(t, s).Token
	v := NewVerifier(issuer, func(context.Context) (JWKS, error) { return JWKS{}, errors.New("away") })
	v.now = s.now
	if _, err := v.Verify(t.Context(), token); !errors.Is(err, rest.ErrUnavailable) || errors.Is(err, rest.ErrUnauthorized) {
		t.Errorf("got %v", err)
	}
}

func TestPasswordHashes(t *testing.T) {
	h := newHasher(cheap)
	encoded, err := h.hash(t.Context(), "a short sentence")
	if err != nil || !strings.HasPrefix(encoded, "$argon2id$v=19$m=64,t=1,p=1$") {
		t.Fatalf("got %s, %v", encoded, err)
	}
	if other, _ := h.hash(t.Context(), "a short sentence"); other == encoded {
		t.Error("two hashes of one password are equal")
	}
	stronger := newHasher(Cost{Memory: 128, Passes: 2})
	for password, want := range map[string]bool{"a short sentence": true, "A short sentence": false, "": false} {
		if got, err := stronger.verify(t.Context(), password, encoded); got != want || err != nil {
			t.Errorf("%q: %v, %v", password, got, err)
		}
	}
	if got := newHasher(Cost{}); got.cost.Memory != 19<<10 || got.cost.Passes != 2 {
		t.Errorf("default cost %+v", got.cost)
	}
}

func TestHashingIsBounded(t *testing.T) {
	h := newHasher(Cost{Memory: 64, Passes: 1, Parallel: 1})
	h.slots <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := h.hash(ctx, "x"); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v", err)
	}
}

func FuzzPHC(f *testing.F) {
	f.Add("$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA")
	f.Add("$argon2id$v=19$m=4294967295,t=1,p=1$$")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePHC(s)
		if err == nil && (p.memory > 1<<20 || p.passes > 64 || len(p.key) < 16 || p.lanes == 0) {
			t.Errorf("%q: %+v", s, p)
		}
	})
}

func FuzzToken(f *testing.F) {
	public, private, _ := ed25519.GenerateKey(nil)
	now := time.Unix(1_800_000_000, 0)
	good, _ := sign(Claims{Issuer: issuer, Audience: Audience, Subject: "a", IssuedAt: now.Unix(), Expires: now.Unix() + 60}, "k", private)
	f.Add(good)
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		keyID(token)
		if c, err := verify(token, issuer, public, now); (err == nil) != (c.Subject == "a") {
			t.Errorf("%q: %+v, %v", token, c, err)
		}
	})
}

func TestOverTheNetwork(t *testing.T) {
	s, _ := newStore(t)
	server := httptest.NewServer(Handler(s))
	defer server.Close()
	c := &Client{REST: &rest.Client{Base: server.URL}}
	first, err := c.SignUp(t.Context(), "ada@example.org", "Ada", "a short sentence")
	if err != nil {
		t.Fatal(err)
	}
	account := first.Account
	if again, err := c.Refresh(t.Context(), first.Secret); err != nil || again.Account != account {
		t.Errorf("who signs up is not signed in: %+v, %v", again, err)
	}
	if _, err := c.SignUp(t.Context(), "ada@example.org", "Ada", "a short sentence"); !errors.Is(err, ErrTaken) {
		t.Errorf("got %v", err)
	}
	if _, err := c.SignIn(t.Context(), "ada@example.org", "wrong"); !errors.Is(err, ErrWrong) {
		t.Errorf("got %v", err)
	}
	session, err := c.SignIn(t.Context(), "ada@example.org", "a short sentence")
	if err != nil {
		t.Fatal(err)
	}
	var me Account
	if err := c.REST.Do(t.Context(), rest.Call{Method: http.MethodGet, Path: "/api/accounts/me", Token: session.Token}, &me); err != nil || me != account {
		t.Errorf("got %+v, %v", me, err)
	}
	if err := c.REST.Do(t.Context(), rest.Call{Method: http.MethodGet, Path: "/api/accounts/me"}, &me); !errors.Is(err, rest.ErrUnauthorized) {
		t.Errorf("got %v", err)
	}
	v := NewVerifier(issuer, c.JWKS)
	v.now = s.now
	if claims, err := v.Verify(t.Context(), session.Token); err != nil || claims.Subject != account.ID {
		t.Errorf("got %+v, %v", claims, err)
	}
	if err := c.SignOut(t.Context(), session.Secret); err != nil {
		t.Error(err)
	}
	if _, err := c.Refresh(t.Context(), session.Secret); !errors.Is(err, ErrNoSession) {
		t.Errorf("got %v", err)
	}
}
