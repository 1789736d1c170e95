package identity_test

import (
	"errors"
	"testing"
	"time"

	"trellis/errdefs"
	"trellis/identity"
	"trellis/identity/identitytest"
)

func TestClientCertificates(t *testing.T) {
	ca := identitytest.NewCA(t, "ca")
	cas, err := identity.ParseClientCAs(ca.PEM() + "\n" + identitytest.NewCA(t, "other").PEM())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*identitytest.Certified{"direct": ca.Issue("partner", nil), "below another": ca.Sub("between", nil).Sub("deeper", nil).Issue("partner", nil)} {
		who, err := cas.Verify(c.Chain(), time.Now())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if who.Subject != "spiffe://example.org/partner" || !who.Has("dns", []string{"partner.example.org"}) || who.Claim("cn") != "partner" || who.Claim("o") != "Test" || len(who.Claim("fingerprint")) != 64 {
			t.Errorf("%s: %+v", name, who)
		}
		if _, err := cas.Verify(c.Chain(), who.Expires.Add(time.Second)); !errors.Is(err, identity.ErrRefused) {
			t.Errorf("%s, after its end: %v", name, err)
		}
	}
	for name, c := range identitytest.BadClients(t, ca) {
		if who, err := cas.Verify(c.Chain(), time.Now()); !errors.Is(err, identity.ErrRefused) {
			t.Errorf("%s: taken for %+v, %v", name, who, err)
		}
	}
	if _, err := cas.Verify(nil, time.Now()); !errors.Is(err, identity.ErrRefused) {
		t.Errorf("nothing: %v", err)
	}
	for name, text := range map[string]string{
		"nothing": "", "no PEM": "x", "a client": ca.Issue("partner", nil).PEM(), "more": ca.PEM() + "more",
		"a key": ca.PEM() + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
	} {
		if _, err := identity.ParseClientCAs(text); !errors.Is(err, errdefs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseClientCAs(f *testing.F) {
	ca := identitytest.NewCA(f, "ca")
	f.Add(ca.PEM())
	f.Add(ca.PEM() + ca.Issue("partner", nil).PEM())
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := identity.ParseClientCAs(text); (c == nil) == (err == nil) {
			t.Errorf("%v, %v", c, err)
		}
	})
}
