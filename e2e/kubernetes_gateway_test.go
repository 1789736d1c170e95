//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"trellis/api"
	"trellis/engine"
)

// gatewayController says of a Gateway of a class and of its routes what the controller of a cluster's gateway would: the tests have
// none. It sends no request on.
type gatewayController struct {
	c                *testCluster
	namespace, class string

	mu     sync.Mutex
	refuse map[string]string // what it says of routes whose backends it does not take, by kind and name
}

// run looks at the namespace until ctx is done.
func (g *gatewayController) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := g.look(ctx); err != nil && ctx.Err() == nil {
			g.c.t.Errorf("the part of a gateway's controller: %v", err)
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// look says of everything that is there what is the matter with it.
func (g *gatewayController) look(ctx context.Context) error {
	var gateways gatewayv1.GatewayList
	var web gatewayv1.HTTPRouteList
	var grpc gatewayv1.GRPCRouteList
	for kind, to := range map[string]any{"gateways": &gateways, "httproutes": &web, "grpcroutes": &grpc} {
		out, err := exec.CommandContext(ctx, "kubectl", "get", kind, "-n", g.namespace, "-o", "json").Output()
		if err != nil {
			return fmt.Errorf("list %s: %w", kind, err)
		}
		if err := json.Unmarshal(out, to); err != nil {
			return fmt.Errorf("list %s: %w", kind, err)
		}
	}
	for _, one := range gateways.Items {
		if string(one.Spec.GatewayClassName) != g.class {
			continue
		}
		status := gatewayv1.GatewayStatus{
			Addresses:  []gatewayv1.GatewayStatusAddress{{Value: g.c.node}},
			Conditions: []metav1.Condition{met("Accepted", one.Generation), met("Programmed", one.Generation)},
		}
		if err := g.say(ctx, "gateway/"+one.Name, one.Status, status); err != nil {
			return err
		}
		for _, r := range web.Items {
			if err := g.judge(ctx, one.Name, "HTTPRoute", r.ObjectMeta, r.Status.RouteStatus, true); err != nil {
				return err
			}
		}
		for _, r := range grpc.Items {
			alone := !slices.ContainsFunc(web.Items, func(o gatewayv1.HTTPRoute) bool { return sameHost(r.Spec.Hostnames, o.Spec.Hostnames) })
			if err := g.judge(ctx, one.Name, "GRPCRoute", r.ObjectMeta, r.Status.RouteStatus, alone); err != nil {
				return err
			}
		}
	}
	return nil
}

// judge says of a route what becomes of it. Of the HTTPRoutes and GRPCRoutes of one host a gateway accepts one kind.
func (g *gatewayController) judge(ctx context.Context, gateway, kind string, of metav1.ObjectMeta, before gatewayv1.RouteStatus, alone bool) error {
	accepted, resolved := met("Accepted", of.Generation), met("ResolvedRefs", of.Generation)
	if !alone {
		accepted.Status, accepted.Reason, accepted.Message = metav1.ConditionFalse, "HostnameConflict", "an HTTPRoute has this host"
	}
	g.mu.Lock()
	if why := g.refuse[kind+" "+of.Name]; why != "" {
		resolved.Status, resolved.Reason, resolved.Message = metav1.ConditionFalse, "BackendNotFound", why
	}
	g.mu.Unlock()
	return g.say(ctx, strings.ToLower(kind)+"/"+of.Name, before, gatewayv1.RouteStatus{Parents: []gatewayv1.RouteParentStatus{{
		ParentRef: gatewayv1.ParentReference{Name: gatewayv1.ObjectName(gateway)}, ControllerName: "example.org/gateway",
		Conditions: []metav1.Condition{accepted, resolved},
	}}})
}

// met is a condition that holds.
func met(kind string, generation int64) metav1.Condition {
	return metav1.Condition{
		Type: kind, Status: metav1.ConditionTrue, Reason: kind, ObservedGeneration: generation, LastTransitionTime: metav1.Unix(1, 0),
	}
}

// say writes a status where it is another one than before. What is gone meanwhile has none.
func (g *gatewayController) say(ctx context.Context, object string, before, now any) error {
	var texts []string
	for _, status := range []any{before, now} {
		text, err := json.Marshal(status)
		if err != nil {
			return err
		}
		texts = append(texts, string(text))
	}
	if strings.Contains(texts[0], strings.Trim(texts[1], "{}")) {
		return nil
	}
	out, err := exec.CommandContext(ctx, "kubectl", "patch", object, "-n", g.namespace, "--subresource=status", "--type=merge", "-p", `{"status": `+texts[1]+`}`).CombinedOutput()
	if err != nil && !strings.Contains(string(out), "NotFound") {
		return fmt.Errorf("say of %s: %w: %s", object, err, out)
	}
	return nil
}

func sameHost(a, b []gatewayv1.Hostname) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(host gatewayv1.Hostname) bool { return slices.Contains(b, host) })
}

// TestKubernetesGatewayOfTheCluster: the API server takes every route that is written for a gateway of the cluster's own, and what its
// controller says is told by up, ps, routes and why: that there is none, that it serves a route or does not.
func TestKubernetesGatewayOfTheCluster(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	c.dataPlane() // and with it the control plane, which is asked why
	const name, class = "e2e-outside", "e2e-outside"
	p := c.project(name)
	p.flags = []string{"--environment", "live"}
	c.t.Cleanup(func() { c.kubectl("", "delete", "gatewayclass", class, "--ignore-not-found") })
	file := func(version string) string {
		return fmt.Sprintf(`name: %[1]s
x-trellis:
  environments: {live: {on: kubernetes, gateway_class: %[2]s, namespace: %[1]s}}
  auth: {staff: {api_keys: {secret: keys}}}
  gateway: {http: ":8080", hosts: [Shop.Example.org, my_shop.example.org], policy: {auth: none, rate_limit: {rate: 50/s}}}
services:
  web:
    image: %[3]s
    environment: {PORT: "8080", VERSION: %[4]s}
    x-trellis: {probe: {http: /healthz}}
    ports:
      - target: 8080
        app_protocol: http
        x-trellis:
          routes:
            - {path: "/*"}
            - {path: "/users/{id}/*", methods: [GET]}
            - {path: "/a|b/*", request_headers: {set: {X-Empty: ""}}}
            - {path: "/late/*", timeout: 5s}
            - {path: "/old/*", redirect: {to: "https://Other.example.org/new"}, split: [{service: web-2, share: 10%%}]}
            - {path: "/open/*", cors: {origins: ["https://a.example.org", "*"], methods: [GET, PURGE]}}
            - {path: "/part/*", rewrite: /, methods: [GET, POST], split: [{service: web-2, header: X-Next, value: "1"}, {service: web-2, share: 25%%}]}
            - {path: "/staff/*", auth: staff}
  web-2:
    image: %[3]s
    environment: {PORT: "8080"}
    x-trellis: {probe: {http: /healthz}}
    ports: [{target: 8080, app_protocol: http, x-trellis: {routes: [{path: "/*", host: next.example.org}]}}]
  calls:
    image: %[3]s
    environment: {PORT: "50051"}
    x-trellis: {probe: {http: /healthz}}
    ports: [{target: 50051, app_protocol: grpc, x-trellis: {routes: [{path: "/a.B/*"}, {path: "/*", host: calls.example.org}]}}]
secrets: {keys: {environment: PATH}}
`, name, class, c.image, version)
	}
	p.write("compose.yaml", file("v1"))
	out := p.run("up", "--yes", "--timeout", "120s")
	if want := "not served: every route: nobody in the cluster has taken the gateway: is there a GatewayClass " + class; !strings.Contains(out, want) {
		t.Errorf("%q is not said:\n%s", want, out)
	}

	c.kubectl("apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: "+class+"}\nspec: {controllerName: example.org/gateway}\n", "apply", "-f", "-")
	c.kubectl("", "patch", "gatewayclass", class, "--subresource=status", "--type=merge", "-p",
		`{"status": {"supportedFeatures": [{"name": "HTTPRoute"}, {"name": "HTTPRouteMethodMatching"}, {"name": "HTTPRoutePathRewrite"}]}}`)
	controller := &gatewayController{c: c, namespace: name, class: class, refuse: map[string]string{}}
	ctx, stop := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() { controller.run(ctx) })
	defer ended.Wait()
	defer stop()
	eventually(t, 30*time.Second, "the gateway serves the routes", func() string {
		if status := p.ps(); len(status.Unserved) > 0 || status.Gateway.HTTP == nil || *status.Gateway.HTTP != "http://"+c.node+":8080" {
			return fmt.Sprintf("%+v, %v", status.Unserved, status.Gateway.HTTP)
		}
		return ""
	})
	var routes []api.Route
	p.json(&routes, "routes")
	hosts := map[string]int{}
	for _, r := range routes {
		hosts[r.Host]++
		// The gateway's host that is no name of the DNS has no part in it.
		if closed := strings.HasPrefix(r.Path, "/staff"); (r.Closed != "") != closed || len(r.Rules) > 0 && strings.Contains(strings.Join(r.Rules, " "), "50/s") || r.Address != "http://"+c.node+":8080" {
			t.Errorf("a route is told as %+v", r)
		}
	}
	if len(routes) < 11 || hosts["next.example.org"] != 1 || hosts["calls.example.org"] != 1 {
		t.Errorf("the routes are %+v", routes)
	}

	const trouble = "no such Service"
	controller.mu.Lock()
	controller.refuse["HTTPRoute web"] = trouble
	controller.mu.Unlock()
	p.write("compose.yaml", file("v2"))
	out = p.run("up", "--yes", "--timeout", "120s")
	for _, want := range []string{"not served: /*: no such Service (BackendNotFound)", "feature=HTTPRouteBackendTimeout", "feature=HTTPRouteCORS"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not said:\n%s", want, out)
		}
	}
	if out := p.run("ps"); !strings.Contains(out, "not served: /*: "+trouble) {
		t.Errorf("of a route that is refused ps says:\n%s", out)
	}
	eventually(t, 60*time.Second, "why says of the route that it is refused", func() string {
		out, err := p.try("why", "web")
		if err != nil || !strings.Contains(out, "nobody reaches web by /*") || !strings.Contains(out, trouble) {
			return fmt.Sprint(out, err)
		}
		return ""
	})
	if svc := serviceOf(t, p.ps(), "web"); svc.State != engine.ServiceHealthy {
		t.Errorf("web is %s", svc.State)
	}

	controller.mu.Lock()
	delete(controller.refuse, "HTTPRoute web")
	controller.mu.Unlock()
	p.write("compose.yaml", file("v3"))
	if out := p.run("up", "--yes", "--timeout", "120s"); strings.Contains(out, "not served") {
		t.Errorf("the gateway serves everything, and up says:\n%s", out)
	}
}
