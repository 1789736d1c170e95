package proxy

import (
	"errors"
	"fmt"
	"time"

	"trellis/errdefs"
)

// table is a compiled snapshot: what the hot path reads, without a lock. It is immutable but for the services in it.
type table struct {
	epoch, version uint64
	router         *router
	services       map[string]*service
	listeners      map[string]*Listener
	logged         float64 // share of the requests
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
func compile(s *Snapshot, old *table, now time.Time) (*table, error) {
	t := &table{
		epoch: s.Epoch, version: s.Version, logged: s.AccessLog,
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
		}
	}
	for i := range s.Listeners {
		l := &s.Listeners[i]
		switch {
		case l.Name == "" || t.listeners[l.Name] != nil:
			invalid("listener %q: no name, or one that is there twice", l.Name)
		case l.Service != "" && t.services[l.Service] == nil:
			invalid("listener %q: no service %q", l.Name, l.Service)
		case l.Service == "" && l.Protocol != HTTP1 && l.Protocol != Detect:
			invalid("listener %q: the gateway speaks HTTP, not %q", l.Name, l.Protocol)
		case l.Protocol != Detect && l.Protocol != TCP && l.Protocol != UDP && l.Protocol != HTTP1:
			invalid("listener %q: protocol %q", l.Name, l.Protocol)
		}
		for address, name := range l.Names {
			if t.services[name] == nil {
				invalid("listener %q: no service %q, which %s names", l.Name, name, address)
			}
		}
		t.listeners[l.Name] = l
	}
	for _, r := range s.Routes {
		if t.services[r.Service] == nil {
			invalid("route %s: no service %q", r.Source, r.Service)
		}
	}
	var err error
	if t.router, err = newRouter(s.Routes); err != nil {
		errs = append(errs, err)
	}
	return t, errors.Join(errs...)
}

// route returns where a request goes, and the route's own time-out.
func (p *Proxy) route(l *Listener, q *request) (*service, int, time.Duration, *failure) {
	t := p.table.Load()
	if l.Service != "" {
		if s := t.services[l.Service]; s != nil {
			return s, l.Port, 0, nil
		}
		return nil, 0, 0, &failure{status: 404, kind: kindNoRoute, detail: "no service " + l.Service}
	}
	var r *route
	var allow []string
	if q.path[0] == '/' { // "OPTIONS *" asks about the server as a whole: there is none here
		r, allow = t.router.match(q.host, q.path, q.method, q.header)
	}
	if r == nil {
		if allow != nil {
			return nil, 0, 0, &failure{status: 405, kind: kindMethod, detail: "no route takes this method here", allow: allow}
		}
		return nil, 0, 0, &failure{status: 404, kind: kindNoRoute, detail: "no route matches"}
	}
	if r.auth != "" { // nobody is let in whom nothing here can ask who they are
		return nil, 0, 0, &failure{status: 503, kind: kindAuth, detail: fmt.Sprintf("auth scheme %q is not available here", r.auth)}
	}
	return t.services[r.service], r.port, r.timeout, nil
}
