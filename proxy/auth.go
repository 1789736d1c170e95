package proxy

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"trellis/errdefs"
	"trellis/identity"
)

// scheme is a compiled Auth.
type scheme struct {
	name    string
	conf    Auth
	jwt     *identity.JWT
	keys    *identity.Keys // of jwt
	keysURL string         // what keys are of
	list    *identity.APIKeys
	clients *identity.ClientCAs
	claims  []field // header and claim
	problem string
}

// Headers that every program behind a route with a scheme gets, unless Auth.Claims names its own.
const (
	subjectHeader = "X-Trellis-Subject"
	schemeHeader  = "X-Trellis-Auth"
)

// newScheme compiles an Auth. One that can't be used has a problem; it never fails.
func newScheme(p *Proxy, name string, conf Auth, old *scheme) *scheme {
	s := &scheme{name: name, conf: conf, problem: conf.Problem}
	if conf.Claims == nil {
		conf.Claims = map[string]string{subjectHeader: "sub"}
	}
	for h, claim := range conf.Claims {
		if !isToken(h) || ownField(h) {
			s.problem = cmp.Or(s.problem, "header "+strconv.Quote(h)+" can't hold a claim")
		}
		s.claims = append(s.claims, field{h, claim})
	}
	var err error
	switch {
	case s.problem != "":
	case conf.JWT != nil:
		s.keysURL = conf.JWT.JWKS + " " + conf.JWT.Issuer
		if old != nil && old.keys != nil && old.keysURL == s.keysURL {
			s.keys = old.keys
		} else {
			s.keys = identity.NewKeys(func(ctx context.Context) ([]byte, error) { return p.fetchKeys(ctx, name, *conf.JWT) }, nil)
		}
		s.jwt, err = identity.NewJWT(identity.JWTConfig{Issuer: conf.JWT.Issuer, Audience: conf.JWT.Audience, Algorithms: conf.JWT.Algorithms}, s.keys)
	case conf.APIKeys != nil:
		s.list, err = identity.ParseAPIKeys(conf.APIKeys.List)
	case conf.ClientCertificate != nil:
		s.clients, err = identity.ParseClientCAs(conf.ClientCertificate.CA)
	case conf.Forward != nil:
		if f := conf.Forward; f.Service == "" || !strings.HasPrefix(f.Path, "/") || !opaqueTarget(f.Path) {
			s.problem = "no service and path to ask"
		}
	default:
		s.problem = "it says nothing"
	}
	if err != nil {
		s.problem = err.Error()
	}
	return s
}

// authenticate returns who calls, or what to answer somebody who has not proven it.
func (s *scheme) authenticate(ctx context.Context, p *Proxy, q *request) (*identity.Caller, *failure) {
	if s.conf.Forward != nil {
		return s.forward(ctx, p, q)
	}
	if s.clients != nil {
		return s.certified(p, q, time.Now())
	}
	credential, ok := q.credential(s.list != nil)
	if !ok {
		return nil, s.unauthenticated("")
	}
	var c *identity.Caller
	var err error
	if s.list != nil {
		c, err = s.list.Verify(credential, time.Now())
	} else {
		c, err = s.jwt.Verify(ctx, credential)
	}
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, identity.ErrRefused):
		p.log.Debug("credential refused", "auth", s.name, "err", err)
		return nil, s.unauthenticated(`, error="invalid_token"`)
	case errors.Is(err, errdefs.ErrUnavailable):
		return nil, &failure{status: 503, kind: kindAuth, detail: "this route is closed: callers can't be checked now", retryAfter: 5}
	}
	return nil, &failure{status: 499, kind: kindClient, detail: "the client went away"}
}

// unauthenticated is the answer to somebody who has not said who they are, or has not proven it (RFC 6750, section 3).
func (s *scheme) unauthenticated(why string) *failure {
	return &failure{
		status: 401, kind: kindDenied, detail: "this route needs a valid credential",
		header: fields("Www-Authenticate", `Bearer realm="`+s.name+`"`+why),
	}
}

// credential returns the one credential that a request has: a bearer token, or where keys are taken the X-API-Key. Two of
// a field, or a token in the query, are none.
func (q *request) credential(key bool) (string, bool) {
	if key {
		if v, ok := q.header.Only("X-Api-Key"); ok && !q.header.Has("Authorization") {
			return v, v != ""
		}
	}
	v, ok := q.header.Only("Authorization")
	if !ok || len(v) < 8 || !strings.EqualFold(v[:7], "Bearer ") {
		return "", false
	}
	return v[7:], true
}

// introduce tells the program who calls, in headers that a client can't set.
func (s *scheme) introduce(q *request, c *identity.Caller) {
	if s.conf.Forward != nil {
		return // its own headers say
	}
	q.set(schemeHeader, s.name)
	for _, f := range s.claims {
		if v := c.Claim(f.value); v != "" && len(v) <= 1024 && printable(v) {
			q.set(f.key, v)
		} else {
			q.drop(f.key)
		}
	}
}

// printable says whether a value may stand in a header field.
func printable(v string) bool {
	for i := range len(v) {
		if v[i] < 0x20 || v[i] == 0x7f {
			return false
		}
	}
	return true
}

// reserved are the header fields by which schemes say who calls. No client sets them, nor any X-Trellis-*.
type reserved []string

func (r reserved) has(key string) bool {
	if len(key) > 10 && sameField(key[:10], "X-Trellis-") {
		return true
	}
	for _, k := range r {
		if sameField(k, key) {
			return true
		}
	}
	return false
}

// reservedBy collects the fields of all schemes.
func reservedBy(schemes map[string]*scheme) reserved {
	var r reserved
	for _, s := range schemes {
		for _, f := range s.claims {
			r = append(r, f.key)
		}
		if s.conf.Forward != nil {
			for _, h := range s.conf.Forward.Headers {
				r = append(r, h)
			}
		}
	}
	return r
}

// strip takes every field away that says who calls: a client has no business with them. Some servers take a trailer's fields for the
// head's, where the others that no client sets go away as they are sent on.
func (q *request) strip(r reserved) {
	removeFields(&q.header, r.has)
	if len(q.declared) > 0 {
		q.declared = slices.DeleteFunc(q.declared, func(name string) bool { return forwarding(name) || r.has(name) })
	}
}

// forward asks a service whether the caller may pass. It sees the request's head as the client sent it.
func (s *scheme) forward(ctx context.Context, p *Proxy, q *request) (*identity.Caller, *failure) {
	f := s.conf.Forward
	closed := &failure{status: 503, kind: kindAuth, detail: "this route is closed: callers can't be checked now", retryAfter: 5}
	svc := p.table.Load().services[f.Service]
	if svc == nil {
		return nil, closed
	}
	ask := q.about(f.Path)
	defer ask.leave()
	resp, _, fail := p.call(ctx, destination{svc: svc, port: f.Port, timeout: forwardTime}, ask)
	if fail != nil {
		if fail.kind == kindClient {
			return nil, fail
		}
		p.log.Warn("caller can't be checked", "auth", s.name, "service", f.Service, "err", fail)
		return nil, closed
	}
	if resp.tunnel != nil || resp.status >= 500 {
		resp.close(false)
		return nil, closed
	}
	if resp.status < 200 || resp.status > 299 {
		return nil, relay(resp)
	}
	subject := strings.Clone(resp.header.Get(subjectHeader))
	for _, h := range f.Headers {
		if v, ok := resp.header.Only(h); ok && printable(v) {
			q.set(h, strings.Clone(v)) // the answer's memory is used again
		} else {
			q.drop(h)
		}
	}
	_, whole := drainBody(resp, maxRelayed)
	resp.close(whole)
	q.set(schemeHeader, s.name)
	return identity.NewCaller(subject, time.Time{}, nil), nil
}

const (
	forwardTime = 5 * time.Second
	maxRelayed  = 64 << 10 // of the body of a refusal
)

// relay makes an answer of the service that was asked ours.
func relay(resp *response) *failure {
	f := &failure{status: resp.status, kind: kindDenied, detail: "refused"}
	for _, k := range []string{"Location", "Www-Authenticate", "Content-Type", "Set-Cookie", "Retry-After", "Cache-Control"} {
		for _, v := range resp.header.Values(k) {
			f.header.Add(k, strings.Clone(v))
		}
	}
	body, whole := drainBody(resp, maxRelayed)
	resp.close(whole)
	f.body = append([]byte{}, body...)
	return f
}

// drainBody reads a body of at most limit bytes; whole says that it has ended.
func drainBody(resp *response, limit int) (body []byte, whole bool) {
	if resp.body == nil {
		return nil, true
	}
	buf := make([]byte, 4096)
	for len(body) <= limit {
		n, err := resp.body.Read(buf)
		body = append(body, buf[:n]...)
		if err != nil {
			return body, err == io.EOF
		}
	}
	return body[:limit], false
}

// about is a request without a body that asks what to do with q.
func (q *request) about(path string) *request {
	ask := &request{
		id: q.id, method: "GET", authority: q.authority, host: q.host, path: path, target: path, client: q.client, scheme: q.scheme,
		outside: true, safe: true,
	}
	for i := range q.header {
		if f := &q.header[i]; q.passes(f) {
			ask.header.Add(f.Name, f.Value)
		}
	}
	ask.set("X-Original-Method", q.method)
	ask.set("X-Original-Uri", q.target)
	return ask
}
