package kubernetes

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"trellis/compose"
	"trellis/engine"
	"trellis/engine/traffic"
	"trellis/proxy"
)

var (
	httpRouteKind = schema.FromAPIVersionAndKind(gatewayv1.GroupVersion.String(), "HTTPRoute")
	grpcRouteKind = schema.FromAPIVersionAndKind(gatewayv1.GroupVersion.String(), "GRPCRoute")
)

// GatewayClass returns the class of the cluster's gateway that has the routes of a project; "": the data plane has them.
func GatewayClass(p compose.Project) string {
	return p.Trellis.Environments[p.Environment].GatewayClass
}

// OutsideRoutes returns the routes of a project as the cluster's gateway has them, with what that carries out of each. Problem says
// why nobody reaches one: it was kept from the gateway, or the gateway does not serve it.
func OutsideRoutes(p compose.Project, unserved []engine.Unserved) []proxy.Route {
	closed := map[string]string{}
	for _, x := range decided(p).routings {
		closed[x.place(p)] = x.closed
	}
	all := ""
	for _, u := range unserved {
		switch {
		case u.Source != "":
			closed[u.Source] = cmp.Or(closed[u.Source], u.Reason)
		case u.Route == "":
			all = "the gateway is not there: 'trellis ps' says why"
		}
	}
	routes := traffic.Routes(p)
	for i := range routes {
		r := &routes[i]
		d := &r.Decision
		d.Require, d.RateLimit, d.MaxBody, d.Concurrency = nil, nil, 0, 0
		d.Idempotent, d.SecurityHeaders, d.Compress = false, false, false
		r.Problem = cmp.Or(closed[r.Source], all)
	}
	return routes
}

// decided is a renderer that has decided what becomes of the routes of a project, and nothing else.
func decided(p compose.Project) *renderer {
	r := newRenderer(p, nil, Options{})
	r.gateway()
	r.decideRoutes()
	return r
}

// unserved returns what the cluster's gateway says that it does not serve of a project. Of objects that are not there drift tells.
func unserved(p compose.Project, live Live) []engine.Unserved {
	gateways := objectsOf[*gatewayv1.Gateway](live.Objects)
	if GatewayClass(p) == "" || len(gateways) == 0 {
		return nil
	}
	r := decided(p)
	i := slices.IndexFunc(gateways, func(g *gatewayv1.Gateway) bool { return g.Name == r.gatewayName() })
	if i < 0 {
		return nil
	}
	g := gateways[i]
	if !metaHolds(g.Status.Conditions, string(gatewayv1.GatewayConditionAccepted)) {
		return append([]engine.Unserved{{Reason: unaccepted(g)}}, closedListeners(g)...)
	}
	var all []engine.Unserved
	if why := unmet(g.Status.Conditions, string(gatewayv1.GatewayConditionProgrammed), g.Generation); why != "" {
		all = append(all, engine.Unserved{Reason: "the gateway is not ready: " + why})
	}
	all = append(all, closedListeners(g)...)
	told := parentsOf(live.Objects)
	if status, there := told["HTTPRoute "+r.redirectName()]; there {
		if why := status.trouble(g); why != "" {
			all = append(all, engine.Unserved{Route: "redirect_https", Reason: why})
		}
	}
	for _, x := range r.routings {
		if x.object == nil {
			continue
		}
		status, there := told[x.object.GetObjectKind().GroupVersionKind().Kind+" "+x.name]
		if why := status.trouble(g); there && why != "" {
			all = append(all, engine.Unserved{
				Service: x.svc.Name, Route: x.route.Host + cmp.Or(x.route.Path, "/*"), Source: x.place(p), Reason: why,
			})
		}
	}
	return all
}

// unaccepted says why no controller has a Gateway.
func unaccepted(g *gatewayv1.Gateway) string {
	for _, c := range g.Status.Conditions {
		if c.Type == string(gatewayv1.GatewayConditionAccepted) && c.Status == metav1.ConditionFalse {
			return fmt.Sprintf("gateway_class %s refuses the gateway: %s", g.Spec.GatewayClassName, saying(c))
		}
	}
	return fmt.Sprintf("nobody in the cluster has taken the gateway: is there a GatewayClass %s ('kubectl get gatewayclass'), and does its controller run?", g.Spec.GatewayClassName)
}

// closedListeners are the doors of a Gateway that its controller does not open.
func closedListeners(g *gatewayv1.Gateway) []engine.Unserved {
	var all []engine.Unserved
	for _, l := range g.Status.Listeners {
		for _, kind := range []gatewayv1.ListenerConditionType{gatewayv1.ListenerConditionAccepted, gatewayv1.ListenerConditionResolvedRefs, gatewayv1.ListenerConditionProgrammed} {
			if why := unmet(l.Conditions, string(kind), g.Generation); why != "" {
				all = append(all, engine.Unserved{Route: string(l.Name), Reason: "the gateway does not open it: " + why})
				break
			}
		}
	}
	return all
}

// parents is what controllers say of a route, which is of a generation.
type parents struct {
	generation int64
	status     []gatewayv1.RouteParentStatus
}

// parentsOf returns what is said of routes, by kind and name.
func parentsOf(live []Object) map[string]parents {
	all := map[string]parents{}
	for _, o := range objectsOf[*gatewayv1.HTTPRoute](live) {
		all["HTTPRoute "+o.Name] = parents{o.Generation, o.Status.Parents}
	}
	for _, o := range objectsOf[*gatewayv1.GRPCRoute](live) {
		all["GRPCRoute "+o.Name] = parents{o.Generation, o.Status.Parents}
	}
	return all
}

// trouble says why a Gateway does not serve the route, "" where it does.
func (p parents) trouble(g *gatewayv1.Gateway) string {
	said := false
	for _, parent := range p.status {
		if string(parent.ParentRef.Name) != g.Name || parent.ParentRef.Namespace != nil && string(*parent.ParentRef.Namespace) != g.Namespace {
			continue
		}
		said = true
		for _, kind := range []gatewayv1.RouteConditionType{gatewayv1.RouteConditionAccepted, gatewayv1.RouteConditionResolvedRefs} {
			if why := unmet(parent.Conditions, string(kind), p.generation); why != "" {
				return why
			}
		}
		for _, c := range parent.Conditions {
			if c.Type == string(gatewayv1.RouteConditionPartiallyInvalid) && c.Status == metav1.ConditionTrue {
				return "a part of it is left out: " + saying(c)
			}
		}
	}
	if !said {
		return "the gateway has not looked at it yet"
	}
	return ""
}

func metaHolds(all []metav1.Condition, kind string) bool {
	return slices.ContainsFunc(all, func(c metav1.Condition) bool { return c.Type == kind && c.Status == metav1.ConditionTrue })
}

// unmet says why a condition does not hold, "" where it does, or where its controller has no such condition.
func unmet(all []metav1.Condition, kind string, generation int64) string {
	for _, c := range all {
		switch {
		case c.Type != kind:
		case c.ObservedGeneration != 0 && c.ObservedGeneration < generation:
			return "what has changed has not been looked at yet"
		case c.Status != metav1.ConditionTrue:
			return saying(c)
		}
	}
	return ""
}

// saying is what a condition says in words.
func saying(c metav1.Condition) string {
	if c.Message == "" || strings.EqualFold(c.Message, c.Reason) {
		return c.Reason
	}
	return c.Message + " (" + c.Reason + ")"
}
