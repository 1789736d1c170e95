package identity_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"trellis/errdefs"
	"trellis/identity"
)

func TestAPIKeys(t *testing.T) {
	now := time.Now()
	forever, text, err := identity.NewAPIKey("acme", []string{"orders:read", "orders:write"}, now, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	ending, endingText, err := identity.NewAPIKey("old", nil, now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	list := "# keys of partners\n\n" + forever.Line() + "\n" + ending.Line() + "\n"
	if strings.Contains(list, text) || strings.Contains(list, text[len(text)-64:]) {
		t.Error("the list holds a key in clear")
	}
	keys, err := identity.ParseAPIKeys(list)
	if err != nil {
		t.Fatal(err)
	}
	c, err := keys.Verify(text, now)
	if err != nil || c.Subject != "acme" || !c.Has("scope", []string{"orders:write"}) || c.Has("scope", []string{"orders"}) || c.Claim("key") != forever.ID {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := keys.Verify(endingText, now.Add(59*time.Minute)); err != nil {
		t.Error(err)
	}
	if _, err := keys.Verify(endingText, now.Add(time.Hour)); !errors.Is(err, identity.ErrRefused) {
		t.Errorf("expired: %v", err)
	}
	for _, bad := range []string{"", "trk_", "trk__", text[:len(text)-1], text + "0", strings.ToUpper(text), "trk_" + forever.ID + "_", strings.Replace(text, forever.ID, ending.ID, 1), strings.Repeat("a", 1000)} {
		if _, err := keys.Verify(bad, now); !errors.Is(err, identity.ErrRefused) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, bad := range []string{text, "x", forever.Line() + "\n" + forever.Line(), forever.Line() + " more", strings.Replace(forever.Line(), " acme ", " a,b ", 1), strings.Repeat("x", 1<<20)} {
		if _, err := identity.ParseAPIKeys(bad); !errors.Is(err, errdefs.ErrInvalid) || strings.Contains(err.Error(), text) {
			t.Errorf("list %.80q: %v", bad, err)
		}
	}
	if _, _, err := identity.NewAPIKey("a name", nil, now, time.Time{}); !errors.Is(err, errdefs.ErrInvalid) {
		t.Error(err)
	}
}

func FuzzParseAPIKeys(f *testing.F) {
	k, _, _ := identity.NewAPIKey("acme", []string{"a"}, time.Now(), time.Now())
	f.Add(k.Line())
	f.Add("# x\n\n" + k.Line() + "\n")
	f.Fuzz(func(t *testing.T, list string) {
		keys, err := identity.ParseAPIKeys(list)
		if err != nil {
			return
		}
		for _, k := range keys.List { // what was read is written the same
			if again, err := identity.ParseAPIKeys(k.Line()); err != nil || len(again.List) != 1 || again.List[0].Line() != k.Line() {
				t.Errorf("%q: %v", k.Line(), err)
			}
		}
	})
}
