package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"trellis/errdefs"
	"trellis/identity"
)

func TestAuthority(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "ca"), time.Now()
	a, err := identity.OpenAuthority(t.Context(), dir, now)
	if err != nil {
		t.Fatal(err)
	}
	again, err := identity.OpenAuthority(t.Context(), dir, now.Add(time.Hour))
	if err != nil || string(again.Root()) != string(a.Root()) {
		t.Fatalf("opened again: %v", err)
	}
	if info, err := os.Stat(filepath.Join(dir, "root.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("root.key: %v %v", info, err)
	}
	names := []string{"shop.localhost", "*.shop.localhost", "127.0.0.1"}
	cert, key, err := again.Issue(names, now)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.Root())
	for name, good := range map[string]bool{"shop.localhost": true, "a.shop.localhost": true, "127.0.0.1": true, "other.localhost": false} {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: now})
		if (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range []struct {
		names []string
		after time.Duration
		due   bool
	}{{names, 0, false}, {names, 15 * time.Hour, false}, {names, 17 * time.Hour, true}, {names, -time.Hour, true}, {names[:2], 0, true}} {
		if due := a.Due(cert, key, c.names, now.Add(c.after)); due != c.due {
			t.Errorf("%v after %s: due %v", c.names, c.after, due)
		}
	}
	other, err := identity.OpenAuthority(t.Context(), filepath.Join(t.TempDir(), "ca"), now)
	if err != nil || !other.Due(cert, key, names, now) || !other.Due(nil, key, names, now) {
		t.Errorf("another authority takes it for its own: %v", err)
	}
	_, otherKey, err := a.Issue(names, now)
	if err != nil {
		t.Fatal(err)
	}
	for what, k := range map[string][]byte{"no key": nil, "a damaged key": key[:len(key)/2], "another key": otherKey} { // as an end between two writes leaves it
		if !a.Due(cert, k, names, now) {
			t.Errorf("%s serves", what)
		}
	}
	for _, at := range []time.Time{now.Add(11 * 365 * 24 * time.Hour), now.Add(-24 * time.Hour)} { // expired, and a clock that is behind
		if _, err := identity.OpenAuthority(t.Context(), dir, at); !errors.Is(err, errdefs.ErrInvalid) || !strings.Contains(err.Error(), "remove root.crt and root.key") {
			t.Errorf("at %s: %v", at, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "root.key"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.OpenAuthority(t.Context(), dir, now); !errors.Is(err, errdefs.ErrInvalid) {
		t.Errorf("a damaged key: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "root.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.OpenAuthority(t.Context(), dir, now); err == nil {
		t.Error("a root whose key is kept elsewhere was replaced")
	}
}

// TestAuthorityMadeAtOnce: the projects of a user that start for the first time together get one authority.
func TestAuthorityMadeAtOnce(t *testing.T) {
	now := time.Now()
	for range 5 {
		dir := filepath.Join(t.TempDir(), "ca")
		roots, errs := make([]string, 20), make([]error, 20)
		var all sync.WaitGroup
		for i := range roots {
			all.Go(func() {
				a, err := identity.OpenAuthority(t.Context(), dir, now)
				if errs[i] = err; err == nil {
					roots[i] = string(a.Root())
				}
			})
		}
		all.Wait()
		kept, err := identity.OpenAuthority(t.Context(), dir, now)
		if err != nil {
			t.Fatal(err)
		}
		for i := range roots {
			if errs[i] != nil || roots[i] != string(kept.Root()) {
				t.Fatalf("%d of %d at once: not the root that is kept, %v", i+1, len(roots), errs[i])
			}
		}
	}
}
