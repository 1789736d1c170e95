package kubernetes

import (
	"bytes"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"trellis/state"
)

// TestFeaturesOfTheGateway: a deploy says which routes ask for what the class of their gateway does not name, and nothing of a class
// that names nothing, or that whoever deploys may not see. It goes on in any case.
func TestFeaturesOfTheGateway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "compose.yaml")
	const file = `name: shop
x-trellis:
  environments: {live: {on: kubernetes, gateway_class: example}}
  gateway: {policy: {auth: none}}
services:
  web:
    image: web:1
    ports:
      - target: 8080
        app_protocol: http
        x-trellis:
          routes:
            - {path: "/*"}
            - {path: "/copy/*", mirror: {service: web}, timeout: 5s}
            - {path: "/late/*", timeout: 5s}
            - {path: "/old", redirect: {to: "/new{query}", status: 307}}
            - {path: "/staff/*", auth: staff, timeout: 5s}
  rpc: {image: web:1, ports: [{target: 50051, app_protocol: grpc, x-trellis: {routes: [{host: grpc.example.org}]}}]}
`
	if err := os.WriteFile(path, []byte(strings.Replace(file, "  gateway:", "  auth: {staff: {api_keys: {secret: keys}}}\n  gateway:", 1)+"secrets: {keys: {environment: PATH}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := loaded(t, path)
	p.Environment = "live"
	features := func(names ...string) map[string]any {
		var all []any
		for _, name := range names {
			all = append(all, map[string]any{"name": name})
		}
		return map[string]any{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": map[string]any{"name": "example"}, "status": map[string]any{"supportedFeatures": all}}
	}
	for _, test := range []struct {
		name      string
		class     map[string]any
		forbidden bool
		want      []string // what is said, a line each
	}{
		{name: "no class"},
		{name: "a class that names nothing", class: features()},
		{name: "all of them", class: features("HTTPRoute", "HTTPRouteRequestMirror", "HTTPRouteBackendTimeout", "HTTPRoutePathRedirect", "HTTPRoute307RedirectStatusCode")},
		{name: "some of them", class: features("HTTPRoute", "HTTPRouteRequestMirror", "HTTPRoutePathRedirect"), want: []string{
			`feature=HTTPRouteBackendTimeout routes="[compose.yaml:15:15 compose.yaml:16:15]"`, `feature=HTTPRoute307RedirectStatusCode routes=[compose.yaml:17:15]`,
		}},
		{name: "one that is not to be seen", class: features("HTTPRoute"), forbidden: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, c := cluster(t)
			s.more = map[string]map[string]string{"gateway.networking.k8s.io/v1": {"gateways": "Gateway", "httproutes": "HTTPRoute", "grpcroutes": "GRPCRoute", "/gatewayclasses": "GatewayClass"}}
			const at = "/apis/gateway.networking.k8s.io/v1/gatewayclasses/example"
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != at || !test.forbidden {
					return false
				}
				answer(w, http.StatusForbidden, "Forbidden", "no")
				return true
			}
			if test.class != nil {
				s.objects[at] = test.class
			}
			var said bytes.Buffer
			e := New("shop", c, slog.New(slog.NewTextHandler(&said, nil)))
			if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(said.String(), "gateway_class=example"); n != len(test.want) {
				t.Errorf("%d features are said to be missing, want %d:\n%s", n, len(test.want), &said)
			}
			for _, want := range test.want {
				if !strings.Contains(said.String(), want) {
					t.Errorf("%q is not said:\n%s", want, &said)
				}
			}
			if strings.Contains(said.String(), "lead nowhere") {
				t.Errorf("the routes are at the cluster's own gateway, and it says:\n%s", &said)
			}
		})
	}
}
