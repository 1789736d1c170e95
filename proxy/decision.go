package proxy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/docker/go-units"
)

// Decision is what a route does with requests besides sending them on. The zero value lets everyone in and changes
// nothing.
type Decision struct {
	// Auth names what in Snapshot.Auth a caller has to pass; "none" or "": nothing.
	Auth string `json:"auth,omitempty"`
	// Require are claims that the caller has to have, each with one of the values.
	Require   map[string][]string `json:"require,omitempty"`
	RateLimit *RateLimit          `json:"rate_limit,omitempty"`
	// MaxBody bounds a request's body in bytes, Concurrency the requests in flight; 0: unbounded.
	MaxBody     int64 `json:"max_body,omitempty"`
	Concurrency int   `json:"concurrency,omitempty"`

	// Idempotent says that any request may be carried out again: one whose instance died is sent to another.
	Idempotent bool `json:"idempotent,omitempty"`

	CORS            *CORS       `json:"cors,omitempty"`
	RequestHeaders  *HeaderEdit `json:"request_headers,omitempty"`
	ResponseHeaders *HeaderEdit `json:"response_headers,omitempty"`
	// SecurityHeaders sets what a browser is told to be careful about, where the program says nothing itself.
	SecurityHeaders bool `json:"security_headers,omitempty"`
	// HSTS is the Strict-Transport-Security of answers over TLS, "" for none.
	HSTS     string `json:"hsts,omitempty"`
	Compress bool   `json:"compress,omitempty"` // with zstd or gzip, as the client takes it

	Redirect *Redirect `json:"redirect,omitempty"` // answers by itself
	// StripPrefix and Rewrite replace the beginning of the path, whole segments of it.
	Rewrite *Rewrite `json:"rewrite,omitempty"`
	Mirror  *Mirror  `json:"mirror,omitempty"`
	Split   []Split  `json:"split,omitempty"` // the first that takes a request has it
	// Problem says why something that the decision rests on can't be had. The route is closed then.
	Problem string `json:"problem,omitempty"`
}

// plain says whether a route with it has nothing to do but to send on, once or again.
func (d *Decision) plain() bool {
	return (d.Auth == "" || d.Auth == "none") && len(d.Require) == 0 && d.RateLimit == nil && d.MaxBody == 0 && d.Concurrency == 0 &&
		d.CORS == nil && d.RequestHeaders == nil && d.ResponseHeaders == nil && !d.SecurityHeaders && d.HSTS == "" && !d.Compress &&
		d.Redirect == nil && d.Rewrite == nil && d.Mirror == nil && len(d.Split) == 0 && d.Problem == ""
}

// Rules says in a few words each what the decision asks of requests and does to them, beside Auth.
func (d *Decision) Rules() []string {
	all := []string{}
	for _, claim := range slices.Sorted(maps.Keys(d.Require)) {
		all = append(all, claim+"="+strings.Join(d.Require[claim], "|"))
	}
	if l := d.RateLimit; l != nil {
		rate, unit := l.Rate, "s"
		for _, longer := range []string{"m", "h"} {
			if rate < 1 {
				rate, unit = 60*rate, longer
			}
		}
		all = append(all, fmt.Sprintf("%.4g/%s per %s", rate, unit, l.Per))
	}
	if d.MaxBody > 0 {
		all = append(all, "body "+units.BytesSize(float64(d.MaxBody)))
	}
	if d.Concurrency > 0 {
		all = append(all, fmt.Sprintf("%d at a time", d.Concurrency))
	}
	if d.Idempotent {
		all = append(all, "idempotent")
	}
	if r := d.Redirect; r != nil {
		all = append(all, fmt.Sprintf("%d to %s", r.Status, r.To))
	}
	if r := d.Rewrite; r != nil {
		all = append(all, fmt.Sprintf("%s as %s", r.From, r.To))
	}
	for _, s := range d.Split {
		what := fmt.Sprintf("%.4g%%", 100*s.Share)
		if s.Header != "" {
			what = s.Header + ": " + s.Value
		} else if s.Cookie != "" {
			what = "cookie " + s.Cookie + "=" + s.Value
		}
		all = append(all, fmt.Sprintf("%s to %s:%d", what, s.Service, s.Port))
	}
	if m := d.Mirror; m != nil {
		all = append(all, fmt.Sprintf("%.4g%% copied to %s:%d", 100*m.Share, m.Service, m.Port))
	}
	for _, one := range []struct {
		on   bool
		what string
	}{{d.CORS != nil, "cors"}, {d.Compress, "compress"}, {d.SecurityHeaders, "security headers"}, {d.RequestHeaders != nil || d.ResponseHeaders != nil, "headers"}} {
		if one.on {
			all = append(all, one.what)
		}
	}
	return all
}

// key tells routes apart, from snapshot to snapshot.
func (r *Route) key() string {
	return fmt.Sprintf("%q %q %q %q", r.Host, r.Path, r.Methods, r.Headers)
}

// RateLimit is the generic cell rate algorithm: Burst requests at once, Rate a second in the long run.
type RateLimit struct {
	// Per is who shares a limit: "client" (an IPv4 address, an IPv6 /64), "route" (everyone), "key" (an authenticated
	// caller) or "claim:NAME" (callers with the same value of a claim).
	Per   string  `json:"per"`
	Rate  float64 `json:"rate"` // a second
	Burst int     `json:"burst"`
}

// CORS lets pages of other origins use the route (Fetch Standard, section 3.2).
type CORS struct {
	Origins     []string `json:"origins"` // "https://a.example.org"; "*": any
	Methods     []string `json:"methods,omitempty"`
	Headers     []string `json:"headers,omitempty"`
	Expose      []string `json:"expose,omitempty"`
	Credentials bool     `json:"credentials,omitempty"`
	MaxAge      int      `json:"max_age,omitempty"` // seconds
}

// HeaderEdit changes header fields: what is removed goes first.
type HeaderEdit struct {
	Set    map[string]string `json:"set,omitempty"`
	Remove []string          `json:"remove,omitempty"`
}

// Redirect sends the client elsewhere. In To, {path} stands for the path and {query} for the query with its question
// mark, {host} for the host.
type Redirect struct {
	To     string `json:"to"`
	Status int    `json:"status"`
}

// Rewrite puts To in the place of From at the beginning of a path.
type Rewrite struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Mirror sends a copy of a share of the requests to a service and drops its answers.
type Mirror struct {
	Service string  `json:"service"`
	Port    int     `json:"port"`
	Share   float64 `json:"share"` // 0 to 1
}

// Split sends requests to another service: those with the header or cookie, or a share of all.
type Split struct {
	Service string  `json:"service"`
	Port    int     `json:"port"`
	Share   float64 `json:"share,omitempty"` // 0 to 1, of what no split before it took
	Header  string  `json:"header,omitempty"`
	Cookie  string  `json:"cookie,omitempty"`
	Value   string  `json:"value,omitempty"` // of header or cookie
}

// Auth is one way to prove who calls; one of its pointers is set.
type Auth struct {
	JWT     *JWTAuth     `json:"jwt,omitempty"`
	APIKeys *APIKeyAuth  `json:"api_keys,omitempty"`
	Forward *ForwardAuth `json:"forward,omitempty"`
	// ClientCertificate takes what a client shows in the TLS handshake.
	ClientCertificate *ClientCertificateAuth `json:"client_certificate,omitempty"`
	// Claims are passed to the program, by the header they are in. A client can't set these headers, whatever route or
	// port it calls.
	Claims map[string]string `json:"claims,omitempty"`
	// Problem says why this scheme can't be used: what needs it is closed.
	Problem string `json:"problem,omitempty"`
}

// JWTAuth takes bearer tokens.
type JWTAuth struct {
	Issuer     string   `json:"issuer"`
	Audience   string   `json:"audience"`
	Algorithms []string `json:"algorithms,omitempty"`
	// JWKS is the URL of the issuer's keys; "": as the issuer's discovery document says. A host that is one of the
	// project's services is called as such.
	JWKS string `json:"jwks,omitempty"`
}

// APIKeyAuth takes API keys, as bearer token or in X-API-Key.
type APIKeyAuth struct {
	List string `json:"list"` // hashes, as identity.ParseAPIKeys reads them
}

// ClientCertificateAuth takes client certificates.
type ClientCertificateAuth struct {
	CA string `json:"ca"` // certificates of the authorities, as identity.ParseClientCAs reads them
}

// ForwardAuth asks a service, which answers 2xx to let the caller in. Anything else below 500 is given to the client.
type ForwardAuth struct {
	Service string   `json:"service"`
	Port    int      `json:"port"`
	Path    string   `json:"path"`
	Headers []string `json:"headers,omitempty"` // of its answer, passed on to the program
}
