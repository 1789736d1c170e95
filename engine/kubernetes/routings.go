package kubernetes

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"trellis/compose"
)

// routing is one route of the file, and what a gateway of the cluster is told of it.
type routing struct {
	svc    compose.Service
	port   compose.Port
	route  compose.Route
	policy compose.Policy
	at     [2]int   // which port, and which route of it
	path   string   // of the route in the file
	name   string   // of the object
	hosts  []string // as the Gateway API writes them; none: all
	grpc   bool     // it is a GRPCRoute, and else an HTTPRoute
	object Object   // nil where it is closed
	closed string   // why there is no object, or one that leads nowhere
	asks   bool     // who calls, which closes it
	wall   bool     // its object leads nowhere: another route that is open would have its requests
}

// place is where the file has the route.
func (x routing) place(p compose.Project) string { return p.RoutePlace(x.svc.Name, x.at[0], x.at[1]) }

// close keeps a route from being rendered, and says so.
func (r *renderer) close(x *routing, path, format string, args ...any) {
	x.closed = fmt.Sprintf(format, args...)
	r.note(path, "has no effect: %s; the route stays closed", x.closed)
}

// decideRoutes says what becomes of the routes where a gateway of the cluster has them, for routes. One that asks who calls is not
// rendered: without the question it would be open. Where what is left out would go the way of another route that asks nobody, a gateway
// is told that it leads nowhere.
func (r *renderer) decideRoutes() {
	if r.fronted() || !r.routed() {
		return
	}
	called := r.routeNames()
	for _, service := range r.p.ServiceNames() {
		svc, n := r.p.Services[service], 0
		for i, p := range svc.Ports {
			for j, route := range p.Trellis.Routes {
				x := routing{svc: svc, port: p, route: route, at: [2]int{i, j}, path: at(svc, "ports") + index(i) + ".x-trellis.routes" + index(j), name: called(service, n)}
				n++
				if g := r.p.Trellis.Gateway; g != nil && g.Policy != nil {
					x.policy = *g.Policy
				}
				r.admit(&x)
				r.routings = append(r.routings, x)
			}
		}
	}
	for i := range r.routings {
		x := &r.routings[i]
		x.wall = x.asks && slices.ContainsFunc(r.routings, func(o routing) bool {
			return o.closed == "" && meet(x.hosts, o.hosts) && widens(o.route.Path, x.route.Path)
		})
	}
	r.sortProtocols()
	for i := range r.routings {
		switch x := &r.routings[i]; {
		case x.closed == "":
			x.object = r.route(x)
		case x.wall:
			x.object = r.walled(*x)
		}
	}
}

// widens says whether requests that are meant for the path of one route may match that of another, wider one.
func widens(wide, narrow string) bool {
	wide, narrow = cmp.Or(wide, "/*"), cmp.Or(narrow, "/*")
	if wide == narrow || strings.Contains(wide+narrow, "{") {
		return true
	}
	prefix, wild := strings.CutSuffix(wide, "/*")
	return wild && strings.HasPrefix(strings.TrimSuffix(narrow, "/*")+"/", prefix+"/")
}

// walled renders a route that is closed as one without anywhere to lead, which a gateway answers with an error.
func (r *renderer) walled(x routing) Object {
	notes := len(r.notes)
	matches, ok := r.matches(&x)
	if !ok { // then by its path alone: rather too much than too little is closed
		matches = []gatewayv1.HTTPRouteMatch{{Path: r.pathMatch(x)}}
	}
	r.notes = r.notes[:notes] // of how it would match all is said: it is closed
	o := r.httpRoute(x.svc, x.name, r.section(), x.hosts)
	o.Spec.Rules = []gatewayv1.HTTPRouteRule{{Matches: matches}}
	return o
}

// routeNames gives the objects of routes their names: the first of a service has that of the service, which no other route has.
func (r *renderer) routeNames() func(service string, n int) string {
	all := names{taken: map[string]bool{r.redirectName(): true}}
	for _, name := range r.names.of {
		all.taken[name] = true
	}
	return func(service string, n int) string {
		if n == 0 {
			return r.names.of[service]
		}
		return all.take(cleaned(fmt.Sprintf("%s-%d", r.names.of[service], n+1), maxName), service)
	}
}

// redirectName is that of the route which sends everyone to TLS.
func (r *renderer) redirectName() string {
	name := cleaned(r.gatewayName()+"-https", maxName)
	for _, service := range r.names.of {
		if service == name {
			return cleaned(name, maxName-11) + "-" + short(name, r.p.Name)
		}
	}
	return name
}

// admit closes a route that a gateway of the cluster must not have, and sets which hosts it has.
func (r *renderer) admit(x *routing) {
	if r.gatewayClass() == "" {
		x.closed = "nothing says which gateway of the cluster has it"
		remedy := "give the class of its Gateway API"
		if !r.opt.Standalone {
			remedy = "unless it has a data plane already, name a registry for it with --registry, or an image of Trellis in TRELLIS_IMAGE"
		}
		r.note(x.path, "has no effect: %s: %s", x.closed, remedy)
		return
	}
	if auth := cmp.Or(x.route.Auth, x.policy.Auth); auth != "none" {
		x.closed, x.asks = fmt.Sprintf("it asks who calls (auth: %s), which the cluster's gateway does not", auth), true
		r.note(x.path, "has no effect: %s; it stays closed", x.closed)
	}
	asked, place := []string{x.route.Host}, func(int) string { return x.path + ".host" }
	if x.route.Host == "" {
		asked, place = nil, func(i int) string { return "x-trellis.gateway.hosts" + index(i) }
		if g := r.p.Trellis.Gateway; g != nil {
			asked = g.Hosts
		}
	}
	for i, host := range asked {
		host = strings.ToLower(host)
		switch {
		case !isHost(strings.TrimPrefix(host, "*.")):
			r.note(place(i), "has no effect: the Gateway API knows hosts by names of the DNS, and %q is none", host)
		case !slices.Contains(x.hosts, host):
			x.hosts = append(x.hosts, host)
		}
	}
	switch {
	case len(asked) > 0 && len(x.hosts) == 0 && x.asks: // no gateway gets a request for it
		x.asks = false
	case len(asked) > 0 && len(x.hosts) == 0: // it would be open for all
		r.close(x, x.path, "it has no host that the Gateway API knows")
	case len(x.hosts) > maxHosts:
		r.note("x-trellis.gateway.hosts", "is changed: the first %d of them are used", maxHosts)
		x.hosts = x.hosts[:maxHosts]
	}
}

// maxHosts is how many names of hosts a route of the Gateway API may have.
const maxHosts = 16

// sortProtocols says which routes are GRPCRoutes. Of those and the HTTPRoutes of one host a gateway accepts one alone, and drops the
// other (GRPCRoute, hostnames): a gRPC route that shares a host with one that is not is an HTTPRoute like it.
func (r *renderer) sortProtocols() {
	for i := range r.routings {
		x := &r.routings[i]
		x.grpc = x.closed == "" && r.callsGRPC(x)
	}
	for changed := true; changed; {
		changed = false
		for i := range r.routings {
			x := &r.routings[i]
			if x.grpc && slices.ContainsFunc(r.routings, func(o routing) bool { return (o.closed == "" || o.wall) && !o.grpc && meet(x.hosts, o.hosts) }) {
				x.grpc, changed = false, true
			}
		}
	}
}

// meet says whether a host is meant by both lists; an empty one means all.
func meet(a, b []string) bool {
	if len(a) == 0 || len(b) == 0 {
		return true
	}
	return slices.ContainsFunc(a, func(one string) bool {
		return slices.ContainsFunc(b, func(other string) bool { return one == other || standsFor(one, other) || standsFor(other, one) })
	})
}

// standsFor says whether a host with a wildcard stands for another one.
func standsFor(wild, host string) bool {
	suffix, ok := strings.CutPrefix(wild, "*")
	return ok && strings.HasSuffix(strings.TrimPrefix(host, "*"), suffix)
}

// partOf returns the ports of a service to which the cluster's gateway sends a part of what the routes of others take, or copies.
func (r *renderer) partOf(service string) []int {
	var all []int
	add := func(name string, port int) {
		if name == service {
			all = append(all, int(*r.backend(name, port).Port))
		}
	}
	for _, x := range r.routings {
		if x.object == nil || x.wall || x.route.Redirect != nil {
			continue
		}
		for _, s := range x.route.Split {
			add(s.Service, s.Port)
		}
		if m := x.route.Mirror; m != nil {
			add(m.Service, m.Port)
		}
	}
	return all
}

// routes renders the routes of a service for a gateway of the cluster.
func (r *renderer) routes(svc compose.Service) {
	for _, x := range r.routings {
		if x.svc.Name == svc.Name && x.object != nil {
			r.add(x.object)
		}
	}
}
