package identitytest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"
	"time"
)

// Bad is a token that nobody may accept.
type Bad struct{ Name, Token string }

// Algorithms are those that an Issuer signs with.
var Algorithms = []string{"RS256", "PS256", "ES256", "EdDSA"}

// Corpus returns tokens of the issuer's keys, or that look so, each of which is wrong in one way.
func (i *Issuer) Corpus() []Bad {
	c := &corpus{Issuer: i}
	c.shapes()
	for _, alg := range Algorithms {
		c.times(alg)
		c.claims(alg)
		c.headers(alg)
		c.modified(alg)
		c.spelling(alg)
	}
	c.algorithms()
	c.keys()
	return c.list
}

type corpus struct {
	*Issuer
	list []Bad
}

func (c *corpus) add(token, name string, args ...any) {
	c.list = append(c.list, Bad{fmt.Sprintf(name, args...), token})
}

func (c *corpus) shapes() {
	good := c.Token("ES256", nil)
	p := strings.Split(good, ".")
	for name, token := range map[string]string{
		"nothing": "", "a dot": ".", "two dots": "..", "one part": p[0], "two parts": p[0] + "." + p[1], "no signature": p[0] + "." + p[1] + ".",
		"no header": "." + p[1] + "." + p[2], "no claims": p[0] + ".." + p[2], "four parts": good + "." + p[2], "five parts": good + "..",
		"a word": "token", "JSON": `{"alg":"none"}`, "parts swapped": p[1] + "." + p[0] + "." + p[2], "twice": good + good,
		"9 KiB": good + strings.Repeat("A", 9<<10), "dots": strings.Repeat(".", 5000), "JSON form": `{"payload":"` + p[1] + `","protected":"` + p[0] + `","signature":"` + p[2] + `"}`,
		"header is a list":   c.Sign("ES256", []byte(`["alg","ES256"]`), c.Claims(nil)),
		"header is text":     c.Sign("ES256", []byte(`"ES256"`), c.Claims(nil)),
		"header is null":     c.Sign("ES256", []byte(`null`), c.Claims(nil)),
		"header is empty":    c.Sign("ES256", []byte(`{}`), c.Claims(nil)),
		"header is cut":      c.Sign("ES256", []byte(`{"alg":"ES256"`), c.Claims(nil)),
		"header is followed": c.Sign("ES256", []byte(`{"alg":"ES256","kid":"ec"}{}`), c.Claims(nil)),
		"header not UTF-8":   c.Sign("ES256", []byte("{\"alg\":\"ES256\",\"kid\":\"ec\",\"a\":\"\xff\"}"), c.Claims(nil)),
		"claims are a list":  c.Sign("ES256", map[string]any{"alg": "ES256", "kid": "ec"}, []byte(`[]`)),
		"claims are null":    c.Sign("ES256", map[string]any{"alg": "ES256", "kid": "ec"}, []byte(`null`)),
		"claims are a token": c.Sign("ES256", map[string]any{"alg": "ES256", "kid": "ec"}, []byte(good)),
		"claims are nested":  c.Sign("ES256", map[string]any{"alg": "ES256", "kid": "ec"}, []byte(strings.Repeat(`{"a":`, 500)+"1"+strings.Repeat("}", 500))),
	} {
		c.add(token, "shape: %s", name)
	}
}

func (c *corpus) times(alg string) {
	now := c.Now
	for name, change := range map[string]map[string]any{
		"no exp": {"exp": nil}, "exp long ago": {"exp": 1}, "exp an hour ago": {"exp": now.Add(-time.Hour).Unix()},
		"exp beyond the leeway": {"exp": now.Add(-3 * time.Minute).Unix()}, "exp is 0": {"exp": 0}, "exp is negative": {"exp": -1},
		"exp is text": {"exp": fmt.Sprint(now.Add(time.Hour).Unix())}, "exp is true": {"exp": true}, "exp is a list": {"exp": []any{now.Add(time.Hour).Unix()}},
		"exp is an object": {"exp": map[string]any{}}, "exp is huge": {"exp": 1e300}, "nbf in an hour": {"nbf": now.Add(time.Hour).Unix()},
		"nbf is text": {"nbf": "0"}, "nbf is negative": {"nbf": -5}, "iat in an hour": {"iat": now.Add(time.Hour).Unix()}, "iat is text": {"iat": "now"},
		"iat is true": {"iat": true}, "nbf is a list": {"nbf": []any{}},
	} {
		c.add(c.Token(alg, change), "%s: %s", alg, name)
	}
	for _, exp := range []string{"1e400", "NaN", "Infinity", "0x7fffffff", "99999999999999999999999", "1,2", "+1"} {
		c.add(c.Sign(alg, c.header(alg, nil), []byte(`{"iss":"`+Name+`","aud":"`+Audience+`","exp":`+exp+`}`)), "%s: exp %s", alg, exp)
	}
}

func (c *corpus) header(alg string, more map[string]any) map[string]any {
	h := map[string]any{"alg": alg, "kid": kidOf(alg)}
	for k, v := range more {
		if h[k] = v; v == nil {
			delete(h, k)
		}
	}
	return h
}

func (c *corpus) claims(alg string) {
	for name, change := range map[string]map[string]any{
		"no iss": {"iss": nil}, "another iss": {"iss": "https://evil.example.org"}, "iss with a slash": {"iss": Name + "/"}, "iss in capitals": {"iss": strings.ToUpper(Name)},
		"iss is a list": {"iss": []string{Name}}, "iss is empty": {"iss": ""}, "iss with a space": {"iss": Name + " "}, "iss over http": {"iss": "http://id.example.org"},
		"iss below": {"iss": Name + ".evil.org"}, "no aud": {"aud": nil}, "another aud": {"aud": "bank"}, "aud is empty": {"aud": ""}, "aud is an empty list": {"aud": []string{}},
		"aud lists others": {"aud": []string{"bank", "post"}}, "aud in capitals": {"aud": "SHOP"}, "aud begins so": {"aud": "shop2"}, "aud holds it": {"aud": "bank shop"},
		"aud is an object": {"aud": map[string]any{"shop": true}}, "aud lists numbers": {"aud": []any{"shop", 1}}, "aud nested": {"aud": []any{[]any{"shop"}}}, "aud is true": {"aud": true},
		"sub is a number": {"sub": 7}, "sub is a list": {"sub": []string{"ada"}}, "sub is null text": {"sub": map[string]any{}},
	} {
		c.add(c.Token(alg, change), "%s: %s", alg, name)
	}
	exp := c.Now.Add(time.Hour).Unix()
	for name, claims := range map[string]string{
		"aud twice": `{"iss":"` + Name + `","aud":"bank","aud":"` + Audience + `","exp":%d}`, "exp twice": `{"iss":"` + Name + `","aud":"` + Audience + `","exp":1,"exp":%d}`,
		"iss twice":          `{"iss":"x","iss":"` + Name + `","aud":"` + Audience + `","exp":%d}`,
		"nested twice":       `{"iss":"` + Name + `","aud":"` + Audience + `","exp":%d,"x":{"a":1,"a":2}}`,
		"twice by an escape": `{"iss":"` + Name + `","aud":"` + Audience + `","exp":%d,"\u0065xp":1}`,
		"followed":           `{"iss":"` + Name + `","aud":"` + Audience + `","exp":%d} x`,
	} {
		c.add(c.Sign(alg, c.header(alg, nil), []byte(fmt.Sprintf(claims, exp))), "%s: claims: %s", alg, name)
	}
}

func (c *corpus) headers(alg string) {
	own := map[string]any{"kty": "oct", "k": "AAAA"}
	for name, more := range map[string]map[string]any{
		"no alg": {"alg": nil}, "alg none": {"alg": "none"}, "alg None": {"alg": "None"}, "alg empty": {"alg": ""}, "alg HS256": {"alg": "HS256"}, "alg in small letters": {"alg": strings.ToLower(alg)},
		"alg with a space": {"alg": alg + " "}, "alg is a list": {"alg": []string{alg}}, "alg is a number": {"alg": 256}, "alg unknown": {"alg": "XX999"}, "alg RS1": {"alg": "RS1"},
		"kid unknown": {"kid": "other"}, "kid empty": {"kid": ""}, "kid is a number": {"kid": 1}, "kid is a list": {"kid": []string{kidOf(alg)}}, "kid is a path": {"kid": "../../../../dev/null"},
		"kid is SQL": {"kid": "x' UNION SELECT 'key"}, "kid is a command": {"kid": "$(id)"}, "kid is long": {"kid": strings.Repeat("k", 300)}, "kid is a URL": {"kid": "https://evil.example.org/key"},
		"kid with NUL": {"kid": kidOf(alg) + "\x00"}, "kid in capitals": {"kid": strings.ToUpper(kidOf(alg))},
		"jku": {"jku": "https://evil.example.org/keys"}, "jku of the issuer": {"jku": Name + "/keys"}, "jwk": {"jwk": own}, "x5u": {"x5u": "https://evil.example.org/cert"}, "x5c": {"x5c": []string{"MIIB"}},
		"crit empty": {"crit": []string{}}, "crit exp": {"crit": []string{"exp"}, "exp": 1}, "crit unknown": {"crit": []string{"http://x"}}, "crit is text": {"crit": "b64"}, "b64 false": {"b64": false, "crit": []string{"b64"}},
		"b64 alone": {"b64": false}, "zip": {"zip": "DEF"}, "cty JWT": {"cty": "JWT"}, "typ JWE": {"typ": "JWE"}, "typ is a list": {"typ": []string{"JWT"}}, "typ of another kind": {"typ": "secevent+jwt"}, "typ dpop": {"typ": "dpop+jwt"},
		"enc": {"enc": "A128GCM"}, "p2c": {"p2c": 1 << 30},
	} {
		c.add(c.Sign(alg, c.header(alg, more), c.Claims(nil)), "%s: header: %s", alg, name)
	}
	c.add(c.Sign(alg, []byte(`{"alg":"none","alg":"`+alg+`","kid":"`+kidOf(alg)+`"}`), c.Claims(nil)), "%s: header: alg twice", alg)
	c.add(c.Sign(alg, []byte(`{"alg":"`+alg+`","kid":"`+kidOf(alg)+`","kid":"x"}`), c.Claims(nil)), "%s: header: kid twice", alg)
}

// modified tokens were good until somebody changed them.
func (c *corpus) modified(alg string) {
	p := strings.Split(c.Token(alg, nil), ".")
	other := strings.Split(c.Token(alg, map[string]any{"sub": "eve"}), ".")
	c.add(p[0]+"."+other[1]+"."+p[2], "%s: modified: claims of another", alg)
	c.add(p[0]+"."+p[1]+"."+other[2], "%s: modified: signature of another", alg)
	sig, _ := base64.RawURLEncoding.DecodeString(p[2])
	for _, at := range []int{0, 1, len(sig) / 2, len(sig) - 1} {
		bad := append([]byte(nil), sig...)
		bad[at] ^= 0x10
		c.add(p[0]+"."+p[1]+"."+b64(bad), "%s: modified: bit in byte %d of the signature", alg, at)
	}
	c.add(p[0]+"."+p[1]+"."+b64(sig[:len(sig)-1]), "%s: modified: signature a byte short", alg)
	c.add(p[0]+"."+p[1]+"."+b64(append(append([]byte(nil), sig...), 0)), "%s: modified: signature a byte long", alg)
	c.add(p[0]+"."+p[1]+"."+b64(make([]byte, len(sig))), "%s: modified: signature of zeros", alg)
	c.add(p[0]+"."+p[1]+"."+b64([]byte{0}), "%s: modified: signature of one zero", alg)
	c.add(p[0]+"."+b64([]byte(`{}`))+"."+p[2], "%s: modified: no claims", alg)
	c.add(part(c.t, map[string]any{"alg": "none"})+"."+p[1]+"."+p[2], "%s: modified: header says none", alg)
	c.add(part(c.t, map[string]any{"alg": "none"})+"."+p[1]+".", "%s: modified: none, unsigned", alg)
	in := part(c.t, map[string]any{"alg": "HS256", "kid": kidOf(alg)}) + "." + p[1]
	der, _ := x509.MarshalPKIXPublicKey(c.RSA.Public())
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	for i, key := range [][]byte{text, der, []byte(strings.TrimSpace(string(text))), {}, []byte("secret"), c.KeySet()} {
		c.add(in+"."+b64(hmacOf(key, []byte(in))), "%s: modified: HMAC with something public (%d)", alg, i)
	}
}

// spelling are tokens that decode to good ones and are spelt in another way.
func (c *corpus) spelling(alg string) {
	good := c.Token(alg, nil)
	p := strings.Split(good, ".")
	for i := range p {
		for name, change := range map[string]func(string) string{
			"padded": func(s string) string { return s + strings.Repeat("=", (4-len(s)%4)%4+boolToInt(len(s)%4 == 0)*4) }, "line feed": func(s string) string { return s[:4] + "\n" + s[4:] },
			"carriage return": func(s string) string { return s + "\r" }, "space": func(s string) string { return s[:4] + " " + s[4:] }, "NUL": func(s string) string { return s + "\x00" },
			"percent": func(s string) string { return "%" + fmt.Sprintf("%02x", s[0]) + s[1:] }, "plus": func(s string) string { return s + "+" }, "slash": func(s string) string { return "/" + s },
		} {
			q := append([]string(nil), p...)
			q[i] = change(q[i])
			c.add(strings.Join(q, "."), "%s: spelling: %s in part %d", alg, name, i+1)
		}
	}
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// algorithms crosses keys and algorithms.
func (c *corpus) algorithms() {
	for _, says := range append([]string{"RS384", "RS512", "PS384", "PS512", "ES384", "ES512", "ES256K", "HS256", "HS384", "HS512", "dir", "RSA-OAEP", "A128KW"}, Algorithms...) {
		for _, signs := range Algorithms {
			if says != signs {
				c.add(c.Sign(signs, map[string]any{"alg": says, "kid": kidOf(signs)}, c.Claims(nil)), "%s signed, %s said", signs, says)
			}
		}
	}
	for _, alg := range Algorithms {
		for _, kid := range []string{"rsa", "ec", "ed"} {
			if kid != kidOf(alg) {
				c.add(c.Sign(alg, map[string]any{"alg": alg, "kid": kid}, c.Claims(nil)), "%s with the key id %s", alg, kid)
			}
		}
	}
}

// keys are tokens signed with keys that are not the issuer's.
func (c *corpus) keys() {
	stranger := New(c.t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err == nil {
		small := *stranger
		small.RSA = weak
		c.add(small.Token("RS256", nil), "a key of 1024 bits")
	}
	for _, alg := range Algorithms {
		c.add(stranger.Token(alg, nil), "%s: a stranger's key", alg)
		c.add(stranger.Sign(alg, map[string]any{"alg": alg}, c.Claims(nil)), "%s: a stranger's key without an id", alg)
	}
}
