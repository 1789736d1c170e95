package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"trellis/errdefs"
	"trellis/identity"
)

// table is a compiled snapshot: what the hot path reads, without a lock. It is immutable but for the services in it.
type table struct {
	epoch, version uint64
	router         *router
	schemes        map[string]*scheme
	reserved       reserved // header fields that no client sets, beside those of Trellis
	services       map[string]*service
	listeners      map[string]*Listener
	logged         float64                   // share of the requests
	certs          map[string]*certificates  // by listener
	proxied        map[string][]netip.Prefix // Listener.Proxied, by listener
	trusted        map[string][]netip.Prefix // Listener.Trusted, by listener
	shift          *Shift
	mesh           *Mesh
	callers        map[netip.Addr]string // Snapshot.Callers
	policies       map[string]*policy    // by Route.key; what is counted for a route outlives the table
}

func emptyTable() *table {
	r, _ := newRouter(nil)
	return &table{router: r}
}

// older says whether a snapshot comes before t, or is the same.
func (t *table) older(s *Snapshot) bool {
	return s.Epoch < t.epoch || s.Epoch == t.epoch && s.Version <= t.version
}

// compile checks a snapshot whole and makes a table of it, in which the services of old live on. The services do not
// have their new configuration yet.
func (p *Proxy) compile(s *Snapshot, old *table, now time.Time) (*table, error) {
	t := &table{
		epoch: s.Epoch, version: s.Version, logged: s.AccessLog, mesh: s.Mesh,
		services: make(map[string]*service, len(s.Services)), listeners: make(map[string]*Listener, len(s.Listeners)),
	}
	var errs []error
	invalid := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: %s", errdefs.ErrInvalid, fmt.Sprintf(format, args...)))
	}
	for i := range s.Services {
		c := &s.Services[i]
		if t.services[c.Name] != nil || c.Name == "" {
			invalid("service %q: no name, or one that is there twice", c.Name)
			continue
		}
		if t.services[c.Name] = old.services[c.Name]; t.services[c.Name] == nil {
			t.services[c.Name] = newService(c.Name, now)
		}
		ids := map[string]bool{}
		for _, inst := range c.Instances {
			if ids[inst.ID] || inst.ID == "" || inst.Host == "" {
				invalid("service %q: instance %q: no ID or host, or an ID that is there twice", c.Name, inst.ID)
			}
			ids[inst.ID] = true
			if inst.Plane != "" && (s.Mesh == nil || !validPlane(inst.Plane)) {
				invalid("service %q: instance %q: another host's data plane is a host and a port, and needs a mesh", c.Name, inst.ID)
			}
		}
	}
	if m := s.Mesh; m != nil && (identity.ValidDomain(m.Domain) != nil || m.Identities == "") {
		invalid("mesh: %q is no trust domain, or there is no folder of identities", m.Domain)
	}
	t.callers = make(map[netip.Addr]string, len(s.Callers))
	for address, service := range s.Callers {
		ip, err := netip.ParseAddr(address)
		if err != nil {
			invalid("caller %s: %q is no address", service, address)
			continue
		}
		t.callers[ip.Unmap()] = service
	}
	for i := range s.Listeners {
		l := &s.Listeners[i]
		switch {
		case l.Name == "" || t.listeners[l.Name] != nil:
			invalid("listener %q: no name, or one that is there twice", l.Name)
		case l.Service != "" && t.services[l.Service] == nil:
			invalid("listener %q: no service %q", l.Name, l.Service)
		case l.Protocol == Link && (s.Mesh == nil || l.Service != "" || l.TLS || len(l.Names) > 0):
			invalid("listener %q: links need a mesh, and nothing else", l.Name)
		case l.Service == "" && l.Protocol != HTTP1 && l.Protocol != Detect && l.Protocol != Link:
			invalid("listener %q: the gateway speaks HTTP, not %q", l.Name, l.Protocol)
		case l.Protocol != Detect && l.Protocol != TCP && l.Protocol != UDP && l.Protocol != HTTP1 && l.Protocol != Link:
			invalid("listener %q: protocol %q", l.Name, l.Protocol)
		}
		for address, name := range l.Names {
			if t.services[name] == nil {
				invalid("listener %q: no service %q, which %s names", l.Name, name, address)
			}
		}
		t.listeners[l.Name] = l
		if err := errors.Join(compilePrefixes(&t.proxied, l, l.Proxied), compilePrefixes(&t.trusted, l, l.Trusted)); err != nil {
			invalid("%v", err)
		}
		if l.TLS {
			if t.certs == nil {
				t.certs = map[string]*certificates{}
			}
			clients := s.asksClients(l)
			if was := old.certs[l.Name]; was != nil && slices.Equal(was.files, l.Certificates) && was.answers == l.Challenges && was.clients == clients {
				t.certs[l.Name] = was
			} else {
				t.certs[l.Name] = &certificates{files: l.Certificates, answers: l.Challenges, clients: clients}
			}
		}
	}
	if t.shift = s.Shift; t.shift != nil && t.services[t.shift.Service] == nil {
		invalid("shift: no service %q", t.shift.Service)
	}
	t.compileSchemes(p, s, old)
	for _, r := range s.Routes {
		if t.services[r.Service] == nil {
			invalid("route %s: no service %q", r.Source, r.Service)
		}
	}
	var err error
	if t.router, err = newRouter(s.Routes); err != nil {
		errs = append(errs, err)
	}
	if err := t.compilePolicies(p, s, old, now); err != nil {
		errs = append(errs, err)
	}
	return t, errors.Join(errs...)
}

// compileSchemes makes the ways to prove who calls; keys that were fetched live on.
func (t *table) compileSchemes(p *Proxy, s *Snapshot, old *table) {
	if len(s.Auth) == 0 {
		return
	}
	t.schemes = make(map[string]*scheme, len(s.Auth))
	for name, conf := range s.Auth {
		c := newScheme(p, name, conf, old.schemes[name])
		t.schemes[name] = c
		if was := old.schemes[name]; c.problem != "" && (was == nil || was.problem != c.problem) {
			p.log.Error("auth scheme can't be used: routes that need it are closed", "auth", name, "err", c.problem)
		}
	}
	t.reserved = reservedBy(t.schemes)
}

// compilePolicies gives every route its policy; what is counted for a route lives on.
func (t *table) compilePolicies(p *Proxy, s *Snapshot, old *table, now time.Time) error {
	var errs []error
	t.policies = map[string]*policy{}
	for i := range s.Routes {
		r := &s.Routes[i]
		if r.Decision.plain() {
			continue
		}
		key := r.key()
		pol, err := newPolicy(r.Decision, t, old.policies[key], now)
		if err != nil {
			errs = append(errs, fmt.Errorf("route %d %s: %w", i, r.Source, err))
			continue
		}
		if was := old.policies[key]; pol.closed != "" && (was == nil || was.closed != pol.closed) {
			p.log.Error("route is closed", "host", r.Host, "path", r.Path, "source", r.Source, "err", pol.closed)
		}
		t.policies[key] = pol
		if c := t.router.ofSnapshot(i); c != nil {
			c.policy = pol
		}
	}
	return errors.Join(errs...)
}

// from returns who calls at a socket, as far as the address tells where the socket does not: for what is measured.
func (t *table) from(l *Listener, client netip.Addr) string {
	if l.Service != "" && l.Caller == "" {
		return t.callers[client.Unmap()]
	}
	return l.Caller
}

// route returns where a request goes.
func (p *Proxy) route(l *Listener, q *request) (destination, *failure) {
	t := p.table.Load()
	if trusted := t.trusted[l.Name]; trusted != nil {
		q.believe(trusted)
	}
	q.caller, q.from = l.Caller, t.from(l, q.client)
	shifted := t.shift != nil && q.header.Has(shiftedHeader) // it is among what is taken away
	if q.outside {
		q.strip(t.reserved)
	}
	if l.Service != "" {
		if t.refuses(l) {
			return destination{}, &failure{status: 403, kind: kindDenied, detail: p.refused(l)}
		}
		if s := t.services[l.Service]; s != nil {
			return destination{svc: s, port: l.Port}, nil
		}
		return destination{}, &failure{status: 404, kind: kindNoRoute, detail: "no service " + l.Service}
	}
	if l.Challenges != "" {
		if answer := l.challenge(q); answer != nil {
			return destination{}, answer
		}
	}
	if l.Upgrade != 0 && q.host != "" && q.scheme == "http" {
		return destination{}, l.elsewhere(q)
	}
	var r *route
	var allow []string
	if q.path[0] == '/' { // "OPTIONS *" asks about the server as a whole: there is none here
		r, allow = t.router.match(q.host, q.path, q.method, q.header)
		if preflight(q) { // it is about the request that will follow, whoever else takes OPTIONS
			next, _ := t.router.match(q.host, q.path, q.header.Get("Access-Control-Request-Method"), q.header)
			if next != nil && next.policy != nil && next.policy.cors != nil {
				r = next
			}
		}
	}
	if r == nil {
		if allow != nil {
			return destination{}, &failure{status: 405, kind: kindMethod, detail: "no route takes this method here", allow: allow}
		}
		return destination{}, &failure{status: 404, kind: kindNoRoute, detail: "no route matches"}
	}
	q.route = r.pattern
	q.safe = q.safe || r.again
	if s := t.shift; s != nil && s.takes(shifted) {
		q.set(shiftedHeader, "1")
		return destination{svc: t.services[s.Service], port: s.Port, timeout: r.timeout}, nil
	}
	return destination{svc: t.services[r.service], port: r.port, timeout: r.timeout, try: r.try, policy: r.policy}, nil
}
