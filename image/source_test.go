package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"trellis/errdefs"
)

// TestDigests: what was made of the same is not made again, unless nobody has asked for it for long or half of it was written.
func TestDigests(t *testing.T) {
	made := 0
	source := func(key string) *Source {
		return &Source{Key: key, Make: func(context.Context) (v1.Image, error) { made++; return random.Image(100, 1) }}
	}
	d := Digests(filepath.Join(t.TempDir(), "images"))
	of := func(key string, times int) v1.Hash {
		t.Helper()
		digest, err := d.Of(t.Context(), source(key))
		if err != nil || made != times {
			t.Fatalf("%s: %v; images were made %d times, want %d", key, err, made, times)
		}
		return digest
	}
	files := func() []string {
		t.Helper()
		all, err := filepath.Glob(filepath.Join(string(d), "*"))
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	web := of("web", 1)
	if again := of("web", 1); again != web {
		t.Errorf("it is %s, then %s", web, again)
	}
	if other := of("tool", 2); other == web {
		t.Error("two are the same")
	}
	var errs []error
	for _, f := range files() {
		errs = append(errs, os.WriteFile(f, []byte(web.String()[:20]), 0o600))
	}
	of("web", 3)
	long := time.Now().Add(-2 * forgotten)
	for _, f := range files() {
		errs = append(errs, os.Chtimes(f, long, long))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	of("web", 3)  // asked for, and so young again
	of("more", 4) // forgets the other one
	of("web", 4)
	if n := len(files()); n != 2 {
		t.Errorf("%d are remembered", n)
	}
}

// TestDigestOfBefore: a digest that is not that of what is made now is refused once, and then forgotten.
func TestDigestOfBefore(t *testing.T) {
	d := Digests(filepath.Join(t.TempDir(), "images"))
	source := func() *Source {
		return &Source{Key: "web", Make: func(context.Context) (v1.Image, error) { return random.Image(100, 1) }}
	}
	before, err := d.Of(t.Context(), source())
	if err != nil {
		t.Fatal(err)
	}
	from := source()
	if again, err := d.Of(t.Context(), from); err != nil || again != before {
		t.Fatalf("%s, then %s (%v)", before, again, err)
	}
	if _, err := from.Made(t.Context(), before); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("another image: %v", err)
	}
	from = source()
	now, err := d.Of(t.Context(), from)
	if err != nil || now == before {
		t.Errorf("it is %s as before (%v)", now, err)
	}
	if _, err := from.Made(t.Context(), now); err != nil {
		t.Error(err)
	}
}
