package identity_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"trellis/errdefs"
	"trellis/identity"
	"trellis/identity/identitytest"
)

func verifier(t testing.TB, keys *identity.Keys) *identity.JWT {
	t.Helper()
	v, err := identity.NewJWT(identity.JWTConfig{Issuer: identitytest.Name, Audience: identitytest.Audience}, keys)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func serving(set func() []byte, fetches *atomic.Int64) *identity.Keys {
	return identity.NewKeys(func(context.Context) ([]byte, error) {
		fetches.Add(1)
		return set(), nil
	}, nil)
}

// TestGoodTokens are accepted, with and without what is optional.
func TestGoodTokens(t *testing.T) {
	i := identitytest.New(t)
	var fetches atomic.Int64
	v := verifier(t, serving(i.KeySet, &fetches))
	var tokens []string
	for _, alg := range identitytest.Algorithms {
		tokens = append(tokens, i.Token(alg, nil), i.Token(alg, map[string]any{"aud": []string{"other", "shop"}}),
			i.Token(alg, map[string]any{"iat": nil, "nbf": i.Now.Unix()}), i.Token(alg, map[string]any{"exp": i.Now.Add(-30 * time.Second).Unix()}),
			i.Sign(alg, map[string]any{"alg": alg, "typ": "at+jwt"}, i.Claims(nil)), i.Token(alg, map[string]any{"exp": float64(i.Now.Unix()) + 5.5}))
	}
	for _, token := range tokens {
		for range 2 { // the second time it is known
			c, err := v.Verify(t.Context(), token)
			if err != nil || c.Subject != "ada" || c.Claim("iss") != identitytest.Name {
				t.Errorf("%s: %+v, %v", token, c, err)
			}
		}
	}
	if n := fetches.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

// TestCorpus: not one of the corpus is accepted, before and after good tokens were.
func TestCorpus(t *testing.T) {
	i := identitytest.New(t)
	var fetches atomic.Int64
	v := verifier(t, serving(i.KeySet, &fetches))
	corpus := i.Corpus()
	if len(corpus) < 300 {
		t.Fatalf("only %d tokens", len(corpus))
	}
	for range 2 {
		for _, bad := range corpus {
			if c, err := v.Verify(t.Context(), bad.Token); err == nil || !errors.Is(err, identity.ErrRefused) {
				t.Errorf("%s: %+v, %v", bad.Name, c, err)
			}
		}
		if _, err := v.Verify(t.Context(), i.Token("RS256", nil)); err != nil {
			t.Fatal(err)
		}
	}
	if n := fetches.Load(); n > 3 {
		t.Errorf("unknown key ids made %d fetches", n)
	}
	t.Logf("%d tokens refused", len(corpus))
}

// TestKeysRotate: a new key is found by its first token, and an old one counts no more when the issuer has dropped it.
func TestKeysRotate(t *testing.T) {
	old, young := identitytest.New(t), identitytest.New(t)
	synctest.Test(t, func(t *testing.T) {
		old.Now, young.Now = time.Now(), time.Now()
		var fetches atomic.Int64
		var rotated atomic.Bool
		v := verifier(t, serving(func() []byte {
			if rotated.Load() {
				return young.KeySet()
			}
			return old.KeySet()
		}, &fetches))
		token := old.Token("ES256", nil)
		if _, err := v.Verify(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		rotated.Store(true)
		if _, err := v.Verify(t.Context(), old.Token("ES256", nil)); err != nil {
			t.Fatalf("cached keys: %v", err)
		}
		time.Sleep(6 * time.Minute) // old: fetched in the background
		if _, err := v.Verify(t.Context(), token); err != nil {
			t.Fatalf("while the new ones are fetched: %v", err)
		}
		synctest.Wait()
		if _, err := v.Verify(t.Context(), token); !errors.Is(err, identity.ErrRefused) {
			t.Errorf("a key that was dropped: %v", err)
		}
		if _, err := v.Verify(t.Context(), young.Token("ES256", nil)); err != nil {
			t.Errorf("a new key: %v", err)
		}
		if fetches.Load() != 2 {
			t.Errorf("%d fetches", fetches.Load())
		}
	})
}

// TestKeysUnavailable: an issuer that can't be reached leaves the keys in force for an hour, then nobody is let in. One
// fetch is under way at a time, whoever asks.
func TestKeysUnavailable(t *testing.T) {
	i := identitytest.New(t)
	synctest.Test(t, func(t *testing.T) {
		i.Now = time.Now()
		var down atomic.Bool
		var fetches, atOnce, most atomic.Int64
		keys := identity.NewKeys(func(ctx context.Context) ([]byte, error) {
			fetches.Add(1)
			most.Store(max(most.Load(), atOnce.Add(1)))
			defer atOnce.Add(-1)
			if down.Load() {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return i.KeySet(), nil
		}, nil)
		v := verifier(t, keys)
		token := i.Token("EdDSA", map[string]any{"exp": i.Now.Add(9 * time.Hour).Unix()})
		if _, err := v.Verify(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		down.Store(true)
		for range 58 {
			time.Sleep(time.Minute)
			if _, err := v.Verify(t.Context(), token); err != nil {
				t.Fatalf("within the hour: %v", err)
			}
		}
		time.Sleep(3 * time.Minute)
		var wg sync.WaitGroup
		before := fetches.Load()
		for range 200 {
			wg.Go(func() {
				if _, err := v.Verify(t.Context(), token); !errors.Is(err, errdefs.ErrUnavailable) || errors.Is(err, identity.ErrRefused) {
					t.Errorf("after an hour: %v", err)
				}
			})
		}
		wg.Wait()
		if n := fetches.Load() - before; n > 1 || most.Load() > 1 {
			t.Errorf("%d fetches for 200 callers, %d at a time", n, most.Load())
		}
		down.Store(false)
		time.Sleep(11 * time.Second)
		if _, err := v.Verify(t.Context(), token); err != nil {
			t.Errorf("back again: %v", err)
		}
	})
}

// TestKeySets: what is no key set, or holds nothing usable, is none.
func TestKeySets(t *testing.T) {
	i := identitytest.New(t)
	for name, set := range map[string][]byte{
		"nothing": nil, "HTML": []byte("<html>"), "no keys": []byte(`{"keys":[]}`), "a secret": []byte(`{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"rsa"}]}`),
		"10 MB": append([]byte(`{"keys":[`), make([]byte, 10<<20)...), "for encryption": []byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","use":"enc"}]}`),
	} {
		v := verifier(t, identity.NewKeys(func(context.Context) ([]byte, error) { return set, nil }, nil))
		if _, err := v.Verify(t.Context(), i.Token("RS256", nil)); !errors.Is(err, errdefs.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzToken(f *testing.F) {
	i := identitytest.New(f)
	for n, bad := range i.Corpus() {
		if n%10 == 0 {
			f.Add(bad.Token)
		}
	}
	var fetches atomic.Int64
	v := verifier(f, serving(i.KeySet, &fetches))
	f.Fuzz(func(t *testing.T, token string) {
		if c, err := v.Verify(t.Context(), token); err == nil { // nobody guesses a signature
			t.Errorf("%q is %+v", token, c)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	i := identitytest.New(b)
	var fetches atomic.Int64
	v := verifier(b, serving(i.KeySet, &fetches))
	token := i.Token("RS256", nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), token); err != nil {
			b.Fatal(err)
		}
	}
}
