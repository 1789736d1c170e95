package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"trellis/errdefs"
	"trellis/identity/identitytest"
)

// TestWhereKeysAre: where an issuer's document says, but that keys of an issuer over TLS are not fetched without: whoever is on the way
// could sign any token.
func TestWhereKeysAre(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ issuer, names, keys, wrong string }{
		{"https://id.example.org", "https://id.example.org", "https://keys.example.org/set", ""},
		{"https://id.example.org", "https://id.example.org", "HTTPS://keys.example.org/set", ""},
		{"http://127.0.0.1:8080", "http://127.0.0.1:8080", "http://127.0.0.1:8080/keys", ""},
		{"http://127.0.0.1:8080", "http://127.0.0.1:8080", "https://keys.example.org/set", ""},
		{"https://id.example.org", "https://id.example.org", "http://keys.example.org/set", "is not https"},
		{"https://id.example.org", "https://id.example.org", "HTTP://identity:8080/set", "is not https"},
		{"HTTPS://id.example.org", "HTTPS://id.example.org", "http://keys.example.org/set", "is not https"},
		{"https://id.example.org", "https://id.example.org", "//keys.example.org/set", "is not https"},
		{"https://id.example.org", "https://id.example.org", "", "no keys"},
		{"https://id.example.org", "https://id.example.com", "https://keys.example.org/set", "another issuer"},
	} {
		got, err := keysURL(c.issuer, fmt.Appendf(nil, `{"issuer": %q, "jwks_uri": %q}`, c.names, c.keys))
		switch {
		case c.wrong == "" && (err != nil || got != c.keys):
			t.Errorf("%+v: %q, %v", c, got, err)
		case c.wrong != "" && (got != "" || !errors.Is(err, errdefs.ErrInvalid) || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
}

// TestDiscovery: an issuer on this machine, without TLS, says where its keys are.
func TestDiscovery(t *testing.T) {
	i := identitytest.New(t)
	var issuer string
	ids := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			fmt.Fprintf(w, `{"issuer": %q, "jwks_uri": %q}`, issuer, issuer+"/keys")
		case "/keys":
			w.Write(i.KeySet())
		default:
			http.NotFound(w, r)
		}
	})
	issuer = "http://" + ids.addr
	r := newRig(t, Config{})
	auth := map[string]Auth{"learner": {JWT: &JWTAuth{Issuer: issuer, Audience: identitytest.Audience}}}
	url := r.policed(serveFunc(t, told), auth, Route{Decision: Decision{Auth: "learner"}})
	for token, status := range map[string]int{i.Token("ES256", map[string]any{"iss": issuer}): 200, i.Token("ES256", nil): 401} {
		if res, text := ask(t, "GET", url+"/", "", "Authorization", "Bearer "+token); res.StatusCode != status {
			t.Errorf("%d %s, want %d", res.StatusCode, text, status)
		}
	}
}
