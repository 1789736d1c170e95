package proxy

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// shape changes an answer as its route says.
func (to *destination) shape(q *request, r *response) {
	if p := to.policy; p != nil {
		p.dress(q, &r.header, true)
		if p.Compress {
			compress(q, r)
		}
	}
}

// shapeFailure gives an answer of the data plane itself what the route gives every answer.
func (p *policy) shapeFailure(q *request, f *failure) {
	if f.kind == kindClient {
		return
	}
	p.dress(q, &f.header, false)
}

func (to *destination) shapeFailure(q *request, f *failure) {
	if to.policy != nil {
		to.policy.shapeFailure(q, f)
	}
}

// dress sets the fields that a route's answers have. What a program said itself about security stands.
func (p *policy) dress(q *request, h *header, edit bool) {
	if p.cors != nil {
		p.cors.allow(q, h)
	}
	if p.SecurityHeaders {
		for _, f := range careful {
			if !h.Has(f.key) {
				h.Add(f.key, f.value)
			}
		}
	}
	if p.HSTS != "" && q.scheme == "https" && !h.Has("Strict-Transport-Security") {
		h.Add("Strict-Transport-Security", p.HSTS)
	}
	if edit && p.ResponseHeaders != nil {
		for _, k := range p.ResponseHeaders.Remove {
			h.Del(k)
		}
		for _, f := range p.setResp {
			h.Set(f.key, f.value)
		}
	}
}

// careful is what OWASP's list of secure headers has for every site, but for a content security policy, which only its
// author can write.
var careful = []field{
	{"X-Content-Type-Options", "nosniff"}, {"X-Frame-Options", "SAMEORIGIN"}, {"Referrer-Policy", "strict-origin-when-cross-origin"},
	{"Cross-Origin-Opener-Policy", "same-origin"}, {"X-Permitted-Cross-Domain-Policies", "none"},
}

// corsAnswer is a compiled CORS.
type corsAnswer struct {
	CORS
	any                       bool
	methods, headers, exposed string
	maxAge                    string
}

func newCORS(c *CORS) *corsAnswer {
	a := &corsAnswer{CORS: *c, methods: strings.Join(c.Methods, ", "), headers: strings.Join(c.Headers, ", "), exposed: strings.Join(c.Expose, ", ")}
	for _, o := range c.Origins {
		a.any = a.any || o == "*"
	}
	if c.MaxAge > 0 {
		a.maxAge = strconv.Itoa(c.MaxAge)
	}
	return a
}

// preflight says whether a browser asks before it sends the real request (Fetch Standard, section 3.2.2).
func preflight(q *request) bool {
	return q.method == "OPTIONS" && q.header.Has("Origin") && q.header.Has("Access-Control-Request-Method")
}

func (a *corsAnswer) preflight(q *request) *failure {
	var h header
	if a.origin(q) != "" {
		h.Add("Access-Control-Allow-Methods", cmp.Or(a.methods, q.header.Get("Access-Control-Request-Method")))
		if want := q.header.Get("Access-Control-Request-Headers"); a.headers != "" {
			h.Add("Access-Control-Allow-Headers", a.headers)
		} else if want != "" && !a.Credentials {
			h.Add("Access-Control-Allow-Headers", want)
		}
		if a.maxAge != "" {
			h.Add("Access-Control-Max-Age", a.maxAge)
		}
	}
	return &failure{status: 200, kind: kindPreflight, header: h, body: []byte{}}
}

// same says whether all answers allow the same, whoever asks. A cache may give each of them to everybody then, so the one to
// who names no origin has to say it too (Fetch Standard, "CORS protocol and HTTP caches").
func (a *corsAnswer) same() bool { return a.any && !a.Credentials }

// origin returns what Access-Control-Allow-Origin is to say, "" for nothing.
func (a *corsAnswer) origin(q *request) string {
	o, ok := q.header.Only("Origin")
	switch {
	case a.same():
		return "*"
	case !ok:
		return ""
	case slices.Contains(a.Origins, o):
		return o
	case a.any:
		return "*"
	}
	return ""
}

// allow tells the browser which page may read an answer. What the program says about that itself does not count: there is
// one place that decides.
func (a *corsAnswer) allow(q *request, h *header) {
	h.Del("Access-Control-Allow-Origin")
	h.Del("Access-Control-Allow-Credentials")
	if !a.same() {
		vary(h, "Origin")
	}
	o := a.origin(q)
	if o == "" {
		return
	}
	h.Add("Access-Control-Allow-Origin", o)
	if a.Credentials && o != "*" {
		h.Add("Access-Control-Allow-Credentials", "true")
	}
	if a.exposed != "" {
		h.Set("Access-Control-Expose-Headers", a.exposed)
	}
}

// vary adds a field to what caches tell answers apart by.
func vary(h *header, name string) {
	if !h.HasToken("Vary", lower(name)) && !h.HasToken("Vary", "*") {
		h.Add("Vary", name)
	}
}
