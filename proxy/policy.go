package proxy

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"trellis/errdefs"
	"trellis/identity"
)

// policy is a compiled Decision: what a route does besides sending on. A route that does nothing has none.
type policy struct {
	Decision
	scheme  *scheme
	limiter *limiter
	active  *atomic.Int64 // requests in flight; shared with the policy's successors
	cors    *corsAnswer
	setReq  []field
	setResp []field
	closed  string // why nobody may pass
}

type field struct{ key, value string }

// destination is where a request goes, and under which policy.
type destination struct {
	svc     *service
	port    int
	timeout time.Duration // 0: the default
	try     time.Duration // of one attempt; 0: timeout
	policy  *policy       // nil: none

	counted  bool // in policy.active
	mirrored *service
}

// newPolicy compiles a decision; old is that of the same route in the table before, whose limiter and count live on.
func newPolicy(d Decision, t *table, old *policy, now time.Time) (*policy, error) {
	p := &policy{Decision: d, closed: d.Problem}
	if d.Auth != "" && d.Auth != "none" {
		if p.scheme = t.schemes[d.Auth]; p.scheme == nil {
			p.closed = fmt.Sprintf("auth scheme %q is not available here", d.Auth)
		} else if p.scheme.problem != "" {
			p.closed = fmt.Sprintf("auth scheme %q: %s", d.Auth, p.scheme.problem)
		}
	} else if len(d.Require) > 0 {
		p.closed = "claims are required and nobody is asked who they are"
	}
	if d.RateLimit != nil {
		if !(d.RateLimit.Rate > 0) || d.RateLimit.Burst < 0 {
			return nil, fmt.Errorf("%w: rate limit %v/s, burst %d", errdefs.ErrInvalid, d.RateLimit.Rate, d.RateLimit.Burst)
		}
		if p.perCaller() && p.scheme == nil {
			p.closed = cmp.Or(p.closed, "the limit is per caller and nobody is asked who they are")
		}
		if old != nil && old.limiter != nil && old.limiter.conf == *d.RateLimit {
			p.limiter = old.limiter
		} else {
			p.limiter = newLimiter(*d.RateLimit, now)
		}
	}
	if p.active = new(atomic.Int64); old != nil {
		p.active = old.active
	}
	for _, s := range d.Split {
		if t.services[s.Service] == nil {
			return nil, fmt.Errorf("%w: no service %q to split to", errdefs.ErrInvalid, s.Service)
		}
	}
	if m := d.Mirror; m != nil && t.services[m.Service] == nil {
		return nil, fmt.Errorf("%w: no service %q to mirror to", errdefs.ErrInvalid, m.Service)
	}
	if d.CORS != nil {
		p.cors = newCORS(d.CORS)
	}
	var err error
	if p.setReq, err = compileEdit(d.RequestHeaders); err == nil {
		p.setResp, err = compileEdit(d.ResponseHeaders)
	}
	return p, err
}

func (p *policy) perCaller() bool {
	return p.RateLimit.Per == "key" || strings.HasPrefix(p.RateLimit.Per, "claim:")
}

// compileEdit returns the fields that an edit sets.
func compileEdit(e *HeaderEdit) ([]field, error) {
	if e == nil {
		return nil, nil
	}
	var all []field
	for k, v := range e.Set {
		if !isToken(k) || ownField(k) || !printable(v) {
			return nil, fmt.Errorf("%w: header %q can't be set", errdefs.ErrInvalid, k)
		}
		all = append(all, field{k, v})
	}
	return all, nil
}

// admit decides whether a request may go on, and changes it as its route says. to.done is to be called when it has been
// answered.
func (p *Proxy) admit(ctx context.Context, to *destination, q *request) *failure {
	pol := to.policy
	if pol.closed != "" {
		return &failure{status: 503, kind: kindAuth, detail: "this route is closed: its policy can't be enforced now"}
	}
	if pol.cors != nil && preflight(q) {
		return pol.cors.preflight(q)
	}
	now := time.Now()
	if pol.limiter != nil && !pol.perCaller() {
		if f := pol.limit(q, nil, now); f != nil {
			return f
		}
	}
	if pol.scheme != nil {
		caller, f := pol.scheme.authenticate(ctx, p, q)
		if f != nil {
			return f
		}
		if f := pol.authorize(q, caller); f != nil {
			return f
		}
		if pol.limiter != nil && pol.perCaller() {
			if f := pol.limit(q, caller, now); f != nil {
				return f
			}
		}
		pol.scheme.introduce(q, caller)
	}
	if f := pol.bound(to, q); f != nil {
		return f
	}
	if pol.Redirect != nil {
		return pol.redirect(q)
	}
	pol.edit(q)
	p.choose(to, q)
	return nil
}

// limit counts the request.
func (p *policy) limit(q *request, c *identity.Caller, now time.Time) *failure {
	var key limitKey
	switch per := p.RateLimit.Per; per {
	case "route":
	case "key":
		key.name = cmp.Or(c.Claim("key"), c.Subject)
	default:
		if name, ok := strings.CutPrefix(per, "claim:"); ok {
			key.name = c.Claim(name)
		} else {
			key = clientKey(q.client)
		}
	}
	wait := p.limiter.take(key, now)
	if wait == 0 {
		return nil
	}
	seconds := int((wait + time.Second - 1) / time.Second)
	return &failure{status: 429, kind: kindLimit, detail: "too many requests; try again later", retryAfter: seconds}
}

// authorize checks the claims that the route requires.
func (p *policy) authorize(q *request, c *identity.Caller) *failure {
	for claim, values := range p.Require {
		if !c.Has(claim, values) {
			return &failure{status: 403, kind: kindDenied, detail: "this caller may not do that"}
		}
	}
	return nil
}

// bound holds the request to the limits of size and number.
func (p *policy) bound(to *destination, q *request) *failure {
	if p.MaxBody > 0 && q.body != nil {
		if q.length > p.MaxBody {
			return tooLarge(p.MaxBody)
		}
		if q.length < 0 {
			q.body.limit(p.MaxBody)
		}
	}
	if p.Concurrency > 0 {
		to.counted = true
		if p.active.Add(1) > int64(p.Concurrency) {
			return &failure{status: 503, kind: kindOverload, detail: "as many requests as may be are under way here", retryAfter: 1}
		}
	}
	return nil
}

func tooLarge(limit int64) *failure {
	return &failure{status: 413, kind: kindTooLarge, detail: "the body is longer than " + strconv.FormatInt(limit, 10) + " bytes"}
}

// done lets go of what admit has taken.
func (to *destination) done() {
	if to.counted {
		to.policy.active.Add(-1)
		to.counted = false
	}
}

// redirect answers with where to go instead.
func (p *policy) redirect(q *request) *failure {
	_, query, has := strings.Cut(q.target, "?")
	if has {
		query = "?" + query
	}
	where := strings.NewReplacer("{path}", q.path, "{query}", query, "{host}", q.host).Replace(p.Redirect.To)
	return &failure{status: p.Redirect.Status, kind: kindRedirect, header: fields("Location", where), body: []byte{}}
}

// edit changes path and header as the route says.
func (p *policy) edit(q *request) {
	if r := p.Rewrite; r != nil {
		q.rewrite(r.From, r.To)
	}
	if e := p.RequestHeaders; e != nil {
		for _, k := range e.Remove {
			q.drop(k)
		}
		for _, f := range p.setReq {
			q.set(f.key, f.value)
		}
	}
}

// rewrite replaces whole segments at the beginning of the path.
func (q *request) rewrite(from, to string) {
	rest, ok := strings.CutPrefix(q.path, strings.TrimSuffix(from, "/"))
	if !ok || rest != "" && rest[0] != '/' {
		return
	}
	path := strings.TrimSuffix(to, "/") + rest
	if path == "" {
		path = "/"
	}
	_, query, has := strings.Cut(q.target, "?")
	if q.path, q.target = path, path; has {
		q.target += "?" + query
	}
}

// set gives a field one value, in place of whatever the client sent under the name in any spelling.
func (q *request) set(name, value string) {
	q.drop(name)
	if q.outside && forwarding(name) { // else it would go the way of the client's own
		q.vouched.Add(name, value)
		return
	}
	q.header.Add(name, value)
}

// drop takes a field away, in any spelling.
func (q *request) drop(name string) {
	same := func(n string) bool { return sameField(n, name) }
	removeFields(&q.header, same)
	removeFields(&q.vouched, same)
	q.named = slices.DeleteFunc(q.named, same) // else a client's Connection would take ours away
}

// choose takes the service that a split or mirror asks for.
func (p *Proxy) choose(to *destination, q *request) {
	pol := to.policy
	if len(pol.Split) == 0 && pol.Mirror == nil {
		return
	}
	services := p.table.Load().services
	for i := range pol.Split {
		s := &pol.Split[i]
		if svc := services[s.Service]; svc != nil && s.takes(q) {
			to.svc, to.port = svc, s.Port
			break
		}
	}
	if m := pol.Mirror; m != nil && rand.Float64() < m.Share {
		to.mirrored = services[m.Service]
	}
}

// takes says whether a request goes the way of a split.
func (s *Split) takes(q *request) bool {
	switch {
	case s.Header != "":
		v, ok := q.header.Only(s.Header)
		return ok && v == s.Value
	case s.Cookie != "":
		return q.cookie(s.Cookie) == s.Value
	}
	return rand.Float64() < s.Share
}

// cookie returns the value of a cookie, "" where there is none.
func (q *request) cookie(name string) string {
	for _, line := range q.header.Values("Cookie") {
		for line != "" {
			var one string
			one, line, _ = strings.Cut(line, ";")
			if v, ok := strings.CutPrefix(strings.TrimLeft(one, " "), name); ok && strings.HasPrefix(v, "=") {
				return strings.Trim(v[1:], `"`)
			}
		}
	}
	return ""
}
