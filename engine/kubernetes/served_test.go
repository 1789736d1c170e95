package kubernetes

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"trellis/compose"
	"trellis/engine"
	"trellis/state"
)

// outside is a project whose routes a gateway of the cluster has, and its objects as they are once they have been applied.
func outside(t *testing.T) (compose.Project, []Object) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "compose.yaml")
	const file = `name: shop
x-trellis:
  environments: {live: {on: kubernetes, gateway_class: example}}
  auth: {staff: {api_keys: {secret: keys}}}
  gateway: {https: ":443", hosts: [shop.example.org], redirect_https: true, certificates: [{certificate: keys, key: keys}], policy: {auth: none, rate_limit: {rate: 5/s}}}
services:
  web: {image: web:1, ports: [{target: 8080, app_protocol: http, x-trellis: {routes: [{path: "/*"}, {path: "/staff/*", auth: staff}]}}]}
  calls: {image: web:1, ports: [{target: 50051, app_protocol: grpc, x-trellis: {routes: [{host: grpc.example.org}]}}]}
secrets: {keys: {environment: PATH}}
`
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	p, _, err := compose.Load(t.Context(), compose.Options{Files: []string{path}})
	if err != nil {
		t.Fatal(err)
	}
	p.Environment = "live"
	objects, err := Render(p, nil, Options{Namespace: "shop", Revision: 1, Standalone: true})
	if err != nil {
		t.Fatal(err)
	}
	return p, objects
}

// said adds what a controller says of generation 3 of an object.
func said(all *[]metav1.Condition, kind string, status metav1.ConditionStatus, reason, message string) {
	*all = append(*all, metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: 3})
}

// TestUnserved: what the controller of the cluster's gateway says of the gateway and of routes is told, and nothing where all is well.
func TestUnserved(t *testing.T) {
	type objects struct {
		gateway  *gatewayv1.Gateway
		web, tls *gatewayv1.HTTPRoute
		calls    *gatewayv1.GRPCRoute
	}
	const nobody = "nobody in the cluster has taken the gateway: is there a GatewayClass example ('kubectl get gatewayclass'), and does its controller run?"
	for _, test := range []struct {
		name string
		of   func(objects)
		want []string
	}{
		{"all is well", func(objects) {}, nil},
		{"no controller", func(o objects) {
			o.gateway.Status = gatewayv1.GatewayStatus{}
			said(&o.gateway.Status.Conditions, "Accepted", metav1.ConditionUnknown, "Pending", "Waiting for controller")
			o.web.Status.Parents, o.tls.Status.Parents, o.calls.Status.Parents = nil, nil, nil
		}, []string{": " + nobody}},
		{"refused", func(o objects) {
			o.gateway.Status.Conditions[0] = metav1.Condition{Type: "Accepted", Status: metav1.ConditionFalse, Reason: "Invalid", Message: "no more ports"}
			said(&o.gateway.Status.Listeners[0].Conditions, "Accepted", metav1.ConditionFalse, "PortUnavailable", "80 is taken")
		}, []string{": gateway_class example refuses the gateway: no more ports (Invalid)", "http: the gateway does not open it: 80 is taken (PortUnavailable)"}},
		{"no address yet", func(o objects) {
			o.gateway.Status.Conditions[1] = metav1.Condition{Type: "Programmed", Status: metav1.ConditionFalse, Reason: "AddressNotAssigned"}
		}, []string{": the gateway is not ready: AddressNotAssigned"}},
		{"a listener without its certificate", func(o objects) {
			said(&o.gateway.Status.Listeners[1].Conditions, "Programmed", metav1.ConditionFalse, "Invalid", "no")
			said(&o.gateway.Status.Listeners[1].Conditions, "ResolvedRefs", metav1.ConditionFalse, "InvalidCertificateRef", "keys is no certificate")
		}, []string{"https: the gateway does not open it: keys is no certificate (InvalidCertificateRef)"}},
		{"routes that are refused", func(o objects) {
			o.web.Status.Parents[0].Conditions = nil
			said(&o.web.Status.Parents[0].Conditions, "Accepted", metav1.ConditionFalse, "UnsupportedValue", "no such filter")
			said(&o.calls.Status.Parents[0].Conditions, "ResolvedRefs", metav1.ConditionFalse, "BackendNotFound", "")
			said(&o.tls.Status.Parents[0].Conditions, "PartiallyInvalid", metav1.ConditionTrue, "UnsupportedValue", "Dropped Rule 1")
		}, []string{"redirect_https: a part of it is left out: Dropped Rule 1 (UnsupportedValue)", "calls grpc.example.org/*: BackendNotFound", "web /*: no such filter (UnsupportedValue)"}},
		{"a route that has changed", func(o objects) { o.web.Generation = 4 }, []string{"web /*: what has changed has not been looked at yet"}},
		{"a route of which nothing is said", func(o objects) { o.web.Status.Parents[0].ParentRef.Name = "another" }, []string{"web /*: the gateway has not looked at it yet"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, all := outside(t)
			o := objects{gateway: objectsOf[*gatewayv1.Gateway](all)[0], calls: objectsOf[*gatewayv1.GRPCRoute](all)[0]}
			o.gateway.Generation = 3
			said(&o.gateway.Status.Conditions, "Accepted", metav1.ConditionTrue, "Accepted", "")
			said(&o.gateway.Status.Conditions, "Programmed", metav1.ConditionTrue, "Programmed", "")
			o.gateway.Status.Listeners = []gatewayv1.ListenerStatus{{Name: "http"}, {Name: "https"}}
			parent := func(generation *int64) (all []gatewayv1.RouteParentStatus) {
				*generation = 3
				all = []gatewayv1.RouteParentStatus{{ParentRef: gatewayv1.ParentReference{Name: "shop"}}}
				said(&all[0].Conditions, "Accepted", metav1.ConditionTrue, "Accepted", "")
				return all
			}
			o.calls.Status.Parents = parent(&o.calls.Generation)
			for _, r := range objectsOf[*gatewayv1.HTTPRoute](all) {
				r.Status.Parents = parent(&r.Generation)
				switch r.Name {
				case "web":
					o.web = r
				case "shop-https":
					o.tls = r
				}
			}
			test.of(o)
			s := Read(state.Revision{Number: 1, Project: p}, Live{Objects: all})
			var got []string
			for _, u := range s.Unserved {
				if (u.Source == "") != (u.Service == "") {
					t.Errorf("%+v has no place in the file", u)
				}
				got = append(got, strings.TrimSpace(u.Service+" "+u.Route)+": "+u.Reason)
			}
			if d := cmp.Diff(test.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			p.Environment = ""
			if s := Read(state.Revision{Number: 1, Project: p}, Live{Objects: all}); s.Unserved != nil {
				t.Errorf("of an environment whose gateway is Trellis' own it says %+v", s.Unserved)
			}
		})
	}
}

// TestOutsideRoutes: the routes at a gateway of the cluster's own are the file's, without what that does not carry out, and with why
// nobody reaches one.
func TestOutsideRoutes(t *testing.T) {
	p, _ := outside(t)
	const gone = "the gateway is not there: 'trellis ps' says why"
	for _, test := range []struct {
		name     string
		unserved []engine.Unserved
		want     map[string]string // problems by path and host
	}{
		{"all are served", nil, map[string]string{"grpc.example.org/*": "", "shop.example.org/*": "", "shop.example.org/staff/*": "it asks who calls (auth: staff), which the cluster's gateway does not"}},
		{"one is not", []engine.Unserved{{Service: "web", Source: p.RoutePlace("web", 0, 0), Reason: "no"}}, map[string]string{"grpc.example.org/*": "", "shop.example.org/*": "no", "shop.example.org/staff/*": "it asks who calls (auth: staff), which the cluster's gateway does not"}},
		{"a door of the gateway is not", []engine.Unserved{{Route: "https", Reason: "no"}}, map[string]string{"grpc.example.org/*": "", "shop.example.org/*": "", "shop.example.org/staff/*": "it asks who calls (auth: staff), which the cluster's gateway does not"}},
		{"none is", []engine.Unserved{{Reason: "nobody"}}, map[string]string{"grpc.example.org/*": gone, "shop.example.org/*": gone, "shop.example.org/staff/*": "it asks who calls (auth: staff), which the cluster's gateway does not"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := map[string]string{}
			for _, r := range OutsideRoutes(p, test.unserved) {
				got[r.Host+r.Path] = r.Problem
				if r.RateLimit != nil {
					t.Errorf("%s says that it has a limit: %+v", r.Path, r.RateLimit)
				}
			}
			if d := cmp.Diff(test.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}
