package server

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"
	"time"

	"trellis/compose"
	"trellis/engine/local"
	"trellis/identity"
	"trellis/state"
)

// TestTheGatewaysKeyIsLookedAt: a certificate without its key is issued anew at once, and not when it is two thirds through. The key is
// another one where the machine has ended between the writing of the two.
func TestTheGatewaysKeyIsLookedAt(t *testing.T) {
	c, _ := retained(t)
	c.location.Authority = filepath.Join(t.TempDir(), "ca")
	project := compose.Project{Name: "shop"}
	project.Trellis.Gateway = &compose.Gateway{HTTPS: ":8443"}
	if _, err := c.store.Put(t.Context(), state.Revision{Project: project}, 0); err != nil {
		t.Fatal(err)
	}
	files := local.LocalCertificate(c.location.TLS())
	for what, spoil := range map[string]func() error{
		"gone":      func() error { return os.Remove(files.Key) },
		"cut short": func() error { return os.Truncate(files.Key, 20) },
		"another one": func() error {
			a, err := identity.OpenAuthority(t.Context(), c.location.Authority, time.Now())
			if err != nil {
				return err
			}
			_, key, err := a.Issue([]string{"localhost"}, time.Now())
			if err != nil {
				return err
			}
			return identity.WriteFile(files.Key, key)
		},
	} {
		if err := c.certifyOnce(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if err := c.certifyOnce(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		if _, err := tls.LoadX509KeyPair(files.Chain, files.Key); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	before, err := os.ReadFile(files.Chain)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.certifyOnce(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(files.Chain); err != nil || string(after) != string(before) {
		t.Errorf("a good one is issued anew: %v", err)
	}
}
