package server

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"trellis/errdefs"
	"trellis/identity"
)

// TestRuntimeDirectoryInSomebodyElsesFolder: whoever owns the folder that runtime directories lie in could put one of their own in the
// place of ours, and would be sent the secrets of the next deploy. In /tmp anybody may have made it first.
func TestRuntimeDirectoryInSomebodyElsesFolder(t *testing.T) {
	parent, stranger := t.TempDir(), 65534
	if os.Geteuid() == 0 {
		if err := os.Chown(parent, stranger, -1); err != nil {
			t.Fatal(err)
		}
	} else {
		parent = "/tmp" // root's
	}
	state := t.TempDir()
	l := Location{Project: "shop", WorkingDir: state, StateDir: filepath.Join(state, "state"), RuntimeDir: filepath.Join(parent, "trellis-test-of-strangers")}
	t.Cleanup(func() { _ = os.RemoveAll(l.RuntimeDir) })
	if err := l.prepare(); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("prepare: %v, want that it is refused", err)
	}
	if _, err := os.Stat(l.RuntimeDir); err == nil {
		t.Error("there is a runtime directory in it")
	}
	if _, _, err := Connect(t.Context(), l); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("connect: %v, want that it is refused", err)
	}
}

// TestAuthorityVersionInAFolderLikeAPattern: a change of the issuers is noticed whatever the project's folder is called.
func TestAuthorityVersionInAFolderLikeAPattern(t *testing.T) {
	l := Location{StateDir: filepath.Join(t.TempDir(), "shop [old]", "*")}
	if _, err := identity.OpenDomain(l.IdentityAuthority(), "shop", time.Now()); err != nil {
		t.Fatal(err)
	}
	first := l.authorityVersion()
	if err := identity.Rotate(l.IdentityAuthority(), "shop", time.Now(), true); err != nil {
		t.Fatal(err)
	}
	if second := l.authorityVersion(); first == "" || second == first {
		t.Errorf("version %q, and with another issuer %q", first, second)
	}
}
