package compose

import (
	"net/url"
	"slices"
	"strings"
	"time"
)

// checkScheme checks a way to prove who calls.
func (l *loading) checkScheme(p Project, a AuthScheme, at string) {
	n := 0
	for _, set := range []bool{a.JWT != nil, a.APIKeys != nil, a.ClientCertificate != nil, a.Forward != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		l.errorPath(at, "must have exactly one of jwt, api_keys, client_certificate and forward")
	}
	if strings.HasSuffix(at, ".none") {
		l.errorPath(at, "none is the word for letting everyone in: call the scheme something else")
	}
	if a.JWT != nil {
		l.checkJWT(a.JWT, at+".jwt")
	}
	if a.APIKeys != nil {
		l.known("secrets", a.APIKeys.Secret, at+".api_keys.secret")
	}
	if c := a.ClientCertificate; c != nil {
		l.known("secrets", c.CA, at+".client_certificate.ca")
		if g := p.Trellis.Gateway; g == nil || g.HTTPS == "" {
			l.errorPath(at+".client_certificate", "needs the gateway's https, over which alone a certificate can be shown: write x-trellis.gateway.https: \":8443\"")
		}
	}
	if f := a.Forward; f != nil {
		l.checkDestination(p, f.Service, f.Port, at+".forward")
		if !strings.HasPrefix(f.Path, "/") {
			l.errorPath(at+".forward.path", "%s must begin with /", quoted(f.Path))
		}
		for i, h := range f.Headers {
			l.checkHeaderName(h, indexPath(at+".forward.headers", i))
		}
		if len(a.Claims) > 0 {
			l.errorPath(at+".claims", "are those of a token, key or certificate; of forward, headers are passed on")
		}
	}
	for h := range a.Claims {
		l.checkHeaderName(h, JoinPath(at+".claims", h))
	}
}

// signatures are the algorithms that a token may be signed with. With a symmetric one, whoever can check a token can make one.
var signatures = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

func (l *loading) checkJWT(j *JWT, at string) {
	for i, name := range j.Algorithms {
		if !slices.Contains(signatures, name) {
			l.errorPath(indexPath(at+".algorithms", i), "%s is not accepted: it may be one of %s", quoted(name), strings.Join(signatures, ", "))
		}
	}
	for key, text := range map[string]string{"jwks": j.JWKS, "issuer": j.Issuer} {
		if text == "" || key == "issuer" && j.JWKS != "" {
			continue
		}
		if u, err := url.Parse(text); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
			l.errorPath(JoinPath(at, key), "%s is not an http or https URL", quoted(text))
		}
	}
}

// checkDestination checks a service and one of its ports.
func (l *loading) checkDestination(p Project, service string, port int, at string) {
	l.known("services", service, at+".service")
	if s, ok := p.Services[service]; ok && port == 0 && len(s.Ports) == 0 && len(s.Expose) == 0 {
		l.errorPath(at, "does not know which port of %s is meant: set port", service)
	}
	if port > 65535 {
		l.errorPath(at+".port", "is %d: it must be from 1 to 65535", port)
	}
}

// checkHeaderName checks the name of a field that the gateway is to write.
func (l *loading) checkHeaderName(name, at string) {
	if !httpToken.MatchString(name) {
		l.errorPath(at, "%s is not the name of a header", quoted(name))
		return
	}
	switch strings.ToLower(name) {
	case "host", "content-length", "connection", "proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
		"proxy-authenticate", "proxy-authorization", "http2-settings":
		l.errorPath(at, "%s is for the gateway alone to write", name)
	}
}

// checkRoute checks one route of a port.
func (l *loading) checkRoute(p Project, r Route, at string) {
	l.checkMatch(r, at)
	if t := r.Timeout.Or(30 * time.Second); r.TryTimeout != nil && (r.TryTimeout.Or(0) <= 0 || r.TryTimeout.Or(0) >= t) {
		l.errorPath(at+".try_timeout", "must be shorter than the timeout, which is %s: no other instance would be asked", t)
	}
	l.checkRateLimit(r.RateLimit, at+".rate_limit")
	l.checkCORS(r.CORS, at+".cors")
	l.checkEdit(r.RequestHeaders, at+".request_headers")
	l.checkEdit(r.ResponseHeaders, at+".response_headers")
	auth, policy := r.Auth, Policy{}
	if g := p.Trellis.Gateway; g != nil && g.Policy != nil {
		policy = *g.Policy
	}
	if auth != "" {
		l.checkAuth(auth, at+".auth")
	} else if auth = policy.Auth; auth == "" {
		l.errorPath(at, "has no auth and the gateway has no policy: write auth: none to let everyone in, here or as x-trellis.gateway.policy")
	}
	if auth == "none" && len(r.Require) > 0 {
		l.errorPath(at+".require", "needs auth: nobody is asked who they are")
	}
	if limit := r.RateLimit; limit != nil && perCaller(limit.Per) && auth == "none" {
		l.errorPath(at+".rate_limit.per", "%s needs auth: nobody is asked who they are", quoted(limit.Per))
	}
	for claim, values := range r.Require {
		if len(values) == 0 {
			l.errorPath(JoinPath(at+".require", claim), "has no values: nobody could have it")
		}
	}
	if r.Rewrite != "" && (!strings.HasPrefix(r.Rewrite, "/") || strings.ContainsAny(r.Rewrite, "?#*{} ") || badRoutePath(r.Rewrite) != "") {
		l.errorPath(at+".rewrite", "%s is not the beginning of a path", quoted(r.Rewrite))
	}
	if d := r.Redirect; d != nil {
		if d.To == "" || controlCharacter(d.To) != "" || !strings.HasPrefix(d.To, "/") && !strings.Contains(d.To, "://") {
			l.errorPath(at+".redirect.to", "%s is neither a URL nor a path", quoted(d.To))
		}
		if d.Status != 0 && !slices.Contains([]int{301, 302, 303, 307, 308}, d.Status) {
			l.errorPath(at+".redirect.status", "is %d: it may be 301, 302, 303, 307 or 308", d.Status)
		}
	}
	if m := r.Mirror; m != nil {
		l.checkDestination(p, m.Service, m.Port, at+".mirror")
	}
	for i, s := range r.Split {
		l.checkSplit(p, s, indexPath(at+".split", i))
	}
}

// checkMatch checks what a route matches.
func (l *loading) checkMatch(r Route, at string) {
	if r.Host != "" && !routeHost.MatchString(r.Host) {
		l.errorPath(at+".host", "%s is not a host name: write one such as shop.example.org or *.example.org, without port or scheme", quoted(r.Host))
	}
	if r.Path != "" {
		if message := badRoutePath(r.Path); message != "" {
			l.errorPath(at+".path", "%s %s", quoted(r.Path), message)
		}
	}
	for i, m := range r.Methods {
		if !httpToken.MatchString(m) || m != strings.ToUpper(m) {
			l.errorPath(indexPath(at+".methods", i), "%s is not a method: write it in capitals, such as GET", quoted(m))
		}
	}
	for h := range r.Headers {
		if !httpToken.MatchString(h) {
			l.errorPath(JoinPath(at+".headers", h), "%s is not the name of a header", quoted(h))
		}
	}
}

func (l *loading) checkSplit(p Project, s Split, at string) {
	l.checkDestination(p, s.Service, s.Port, at)
	n := 0
	for _, set := range []bool{s.Share != 0, s.Header != "", s.Cookie != ""} {
		if set {
			n++
		}
	}
	switch {
	case n != 1:
		l.errorPath(at, "must have exactly one of share, header and cookie")
	case s.Share == 0 && s.Value == "":
		l.errorPath(at, "needs value: what the header or cookie is")
	}
}

// checkPolicy checks what routes get that do not decide for themselves.
func (l *loading) checkPolicy(p Policy, at string) {
	l.checkRateLimit(p.RateLimit, at+".rate_limit")
	if p.RateLimit != nil && perCaller(p.RateLimit.Per) && (p.Auth == "" || p.Auth == "none") {
		l.errorPath(at+".rate_limit.per", "%s needs auth: nobody is asked who they are", quoted(p.RateLimit.Per))
	}
	l.checkCORS(p.CORS, at+".cors")
	l.checkEdit(p.ResponseHeaders, at+".response_headers")
}

func perCaller(per string) bool { return per == "key" || strings.HasPrefix(per, "claim:") }

func (l *loading) checkRateLimit(r *RateLimit, at string) {
	switch {
	case r == nil:
	case r.Rate <= 0:
		l.errorPath(at, "needs a rate, such as 50/s")
	case r.Per != "" && r.Per != "client" && r.Per != "route" && r.Per != "key" && (!strings.HasPrefix(r.Per, "claim:") || r.Per == "claim:"):
		l.errorPath(at+".per", "%s is not known: it may be client, route, key or claim:NAME", quoted(r.Per))
	}
}

func (l *loading) checkCORS(c *CORS, at string) {
	if c == nil {
		return
	}
	for i, o := range c.Origins {
		u, err := url.Parse(o)
		switch {
		case o == "*" && c.Credentials:
			l.errorPath(indexPath(at+".origins", i), "cannot be any origin where credentials are allowed: name them")
		case o != "*" && (err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" || u.RawQuery != "" || strings.ToLower(o) != o):
			l.errorPath(indexPath(at+".origins", i), "%s is not an origin: write one such as https://shop.example.org", quoted(o))
		}
	}
	if len(c.Origins) == 0 {
		l.errorPath(at, "names no origins")
	}
}

func (l *loading) checkEdit(e *HeaderEdit, at string) {
	if e == nil {
		return
	}
	for h, v := range e.Set {
		l.checkHeaderName(h, JoinPath(at+".set", h))
		if controlCharacter(v) != "" {
			l.errorPath(JoinPath(at+".set", h), "holds a control character")
		}
	}
	for i, h := range e.Remove {
		l.checkHeaderName(h, indexPath(at+".remove", i))
	}
}

func (l *loading) checkAuth(name, at string) {
	if name == "none" || l.root.at("x-trellis", "auth", name) != nil {
		return
	}
	l.errorPath(at, "there is no scheme %s%s", quoted(name), orDeclareAuth(didYouMean(name, append(l.root.at("x-trellis", "auth").keys(), "none"))))
}

func orDeclareAuth(hint string) string {
	if hint == "" {
		return ": declare it under x-trellis.auth"
	}
	return hint
}
