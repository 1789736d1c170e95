// Package traffic says in the data plane's words what a project's file says of its traffic: the gateway's routes with what
// they decide, the ways to prove who calls, what is spoken at a port. It is the same for every engine.
package traffic

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"trellis/compose"
	"trellis/engine"
	"trellis/identity"
	"trellis/proxy"
)

// Routes returns the gateway's routes: one for each host that a route of the file stands for.
func Routes(p compose.Project) []proxy.Route {
	var hosts []string
	policy := compose.Policy{}
	if g := p.Trellis.Gateway; g != nil {
		hosts = g.Hosts
		if g.Policy != nil {
			policy = *g.Policy
		}
	}
	var all []proxy.Route
	for _, name := range p.ServiceNames() {
		for i, port := range p.Services[name].Ports {
			for j, r := range port.Trellis.Routes {
				at := []string{r.Host}
				if r.Host == "" && len(hosts) > 0 {
					at = hosts
				}
				for _, host := range at {
					all = append(all, proxy.Route{
						Host: host, Path: cmp.Or(r.Path, "/*"), Methods: r.Methods, Headers: r.Headers, Service: name,
						Port: port.Target, Timeout: r.Timeout.Or(0), Try: r.TryTimeout.Or(0), Source: p.RoutePlace(name, i, j), Decision: decisionOf(p, policy, r),
					})
				}
			}
		}
	}
	return all
}

// decisionOf returns what a route decides: what it says itself, else what the policy says.
func decisionOf(p compose.Project, policy compose.Policy, r compose.Route) proxy.Decision {
	d := proxy.Decision{
		Auth: cmp.Or(r.Auth, policy.Auth), SecurityHeaders: either(r.SecurityHeaders, policy.SecurityHeaders),
		Compress: either(r.Compress, policy.Compress), Idempotent: r.Idempotent, RequestHeaders: editOf(r.RequestHeaders),
		ResponseHeaders: editOf(cmp.Or(r.ResponseHeaders, policy.ResponseHeaders)), CORS: corsOf(cmp.Or(r.CORS, policy.CORS)),
	}
	if g := p.Trellis.Gateway; g != nil && g.HSTS != nil && g.HTTPS != "" {
		d.HSTS = fmt.Sprintf("max-age=%d", int(g.HSTS.Or(0)/time.Second))
	}
	for claim, values := range r.Require {
		if d.Require == nil {
			d.Require = map[string][]string{}
		}
		d.Require[claim] = values
	}
	if l := cmp.Or(r.RateLimit, policy.RateLimit); l != nil {
		d.RateLimit = &proxy.RateLimit{Per: cmp.Or(l.Per, "client"), Rate: float64(l.Rate), Burst: cmp.Or(l.Burst, max(1, int(l.Rate)))}
	}
	if l := cmp.Or(r.Limits, policy.Limits); l != nil {
		d.MaxBody, d.Concurrency = int64(l.Body), l.Concurrency
	}
	if r.Redirect != nil {
		d.Redirect = &proxy.Redirect{To: r.Redirect.To, Status: cmp.Or(r.Redirect.Status, 308)}
	}
	if r.Rewrite != "" {
		d.Rewrite = &proxy.Rewrite{From: literalOf(r.Path), To: r.Rewrite}
	}
	if m := r.Mirror; m != nil {
		d.Mirror = &proxy.Mirror{Service: m.Service, Port: portOf(p, m.Service, m.Port), Share: 1}
		if m.Share != nil {
			d.Mirror.Share = float64(*m.Share)
		}
	}
	for _, s := range r.Split {
		d.Split = append(d.Split, proxy.Split{
			Service: s.Service, Port: portOf(p, s.Service, s.Port), Share: float64(s.Share), Header: s.Header, Cookie: s.Cookie, Value: s.Value,
		})
	}
	return d
}

func either(own *bool, otherwise bool) bool {
	if own != nil {
		return *own
	}
	return otherwise
}

// literalOf returns the segments of a path before its first parameter or wildcard.
func literalOf(path string) string {
	out := ""
	for s := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if s == "*" || strings.HasPrefix(s, "{") {
			break
		}
		out += "/" + s
	}
	return out
}

// portOf returns the port of a service that is meant: the one that is written, else its only or first one.
func portOf(p compose.Project, service string, port int) int {
	if port != 0 {
		return port
	}
	if all := engine.TCPPorts(p.Services[service]); len(all) > 0 {
		return all[0]
	}
	return 0
}

func editOf(e *compose.HeaderEdit) *proxy.HeaderEdit {
	if e == nil {
		return nil
	}
	return &proxy.HeaderEdit{Set: e.Set, Remove: e.Remove}
}

func corsOf(c *compose.CORS) *proxy.CORS {
	if c == nil {
		return nil
	}
	return &proxy.CORS{
		Origins: c.Origins, Methods: c.Methods, Headers: c.Headers, Expose: c.Expose, Credentials: c.Credentials,
		MaxAge: int(c.MaxAge.Or(0) / time.Second),
	}
}

// Schemes returns the ways to prove who calls. content reads a secret by its name; a scheme whose secret can't be read has a
// problem, which closes its routes.
func Schemes(p compose.Project, content func(secret string) (string, error)) map[string]proxy.Auth {
	if len(p.Trellis.Auth) == 0 {
		return nil
	}
	all := make(map[string]proxy.Auth, len(p.Trellis.Auth))
	for name, s := range p.Trellis.Auth {
		a := proxy.Auth{Claims: s.Claims}
		switch {
		case s.JWT != nil:
			a.JWT = &proxy.JWTAuth{Issuer: s.JWT.Issuer, Audience: s.JWT.Audience, JWKS: s.JWT.JWKS, Algorithms: s.JWT.Algorithms}
		case s.APIKeys != nil:
			list, err := content(s.APIKeys.Secret)
			if err == nil {
				_, err = identity.ParseAPIKeys(list)
			}
			if err != nil {
				a.Problem = err.Error()
			}
			a.APIKeys = &proxy.APIKeyAuth{List: list}
		case s.ClientCertificate != nil:
			list, err := content(s.ClientCertificate.CA)
			if err == nil {
				_, err = identity.ParseClientCAs(list)
			}
			if err != nil {
				a.Problem = err.Error()
			}
			a.ClientCertificate = &proxy.ClientCertificateAuth{CA: list}
		case s.Forward != nil:
			a.Forward = &proxy.ForwardAuth{
				Service: s.Forward.Service, Port: portOf(p, s.Forward.Service, s.Forward.Port), Path: s.Forward.Path, Headers: s.Forward.Headers,
			}
		}
		all[name] = a
	}
	return all
}
