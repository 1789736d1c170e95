package traffic

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"trellis/compose"
	"trellis/errdefs"
	"trellis/identity/identitytest"
	"trellis/proxy"
)

func TestShift(t *testing.T) {
	authority := identitytest.NewCA(t, "authority").PEM()
	content := func(secret string) (string, error) {
		switch secret {
		case "authority":
			return authority, nil
		case "junk":
			return "PEM", nil
		}
		return "", errdefs.ErrNotFound
	}
	for _, c := range []struct {
		name  string
		shift *compose.Shift
		want  *proxy.Shift
		to    proxy.Service
		err   error
	}{
		{"none", nil, nil, proxy.Service{}, nil},
		{"plain", &compose.Shift{To: "http://10.0.0.7", Share: 0.1},
			&proxy.Shift{Service: "http://10.0.0.7:80", Port: 80, Share: 0.1},
			proxy.Service{Name: "http://10.0.0.7:80", Instances: []proxy.Instance{{ID: "10.0.0.7:80", Host: "10.0.0.7", Ready: true}}}, nil},
		{"over TLS", &compose.Shift{To: "https://shop.example.org/"},
			&proxy.Shift{Service: "https://shop.example.org:443", Port: 443},
			proxy.Service{
				Name: "https://shop.example.org:443", Instances: []proxy.Instance{{ID: "shop.example.org:443", Host: "shop.example.org", Ready: true}},
				TLS: &proxy.UpstreamTLS{ServerName: "shop.example.org"},
			}, nil},
		{"by another name and authority", &compose.Shift{To: "https://[2001:db8::7]:8443", Share: 1, ServerName: "shop.example.org", CA: "authority"},
			&proxy.Shift{Service: "https://[2001:db8::7]:8443", Port: 8443, Share: 1},
			proxy.Service{
				Name: "https://[2001:db8::7]:8443", Instances: []proxy.Instance{{ID: "[2001:db8::7]:8443", Host: "2001:db8::7", Ready: true}},
				TLS: &proxy.UpstreamTLS{ServerName: "shop.example.org", CA: authority},
			}, nil},
		{"an authority that can't be read", &compose.Shift{To: "https://10.0.0.7", CA: "gone"}, nil, proxy.Service{}, errdefs.ErrNotFound},
		{"an authority that is none", &compose.Shift{To: "https://10.0.0.7", CA: "junk"}, nil, proxy.Service{}, errdefs.ErrInvalid},
		{"no URL", &compose.Shift{To: "10.0.0.7"}, nil, proxy.Service{}, errdefs.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := compose.Project{}
			p.Trellis.Gateway = &compose.Gateway{Shift: c.shift}
			shift, to, err := Shift(p, content)
			if !errors.Is(err, c.err) {
				t.Fatalf("got %v, want %v", err, c.err)
			}
			if d := cmp.Diff(c.want, shift); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(c.to, to); d != "" {
				t.Error(d)
			}
			if len(to.Instances) > 0 && to.Instances[0].ID != Elsewhere(p) {
				t.Errorf("%s is elsewhere, and %s", to.Instances[0].ID, Elsewhere(p))
			}
		})
	}
	if shift, _, err := Shift(compose.Project{}, content); shift != nil || err != nil {
		t.Errorf("without a gateway: %v %v", shift, err)
	}
}
