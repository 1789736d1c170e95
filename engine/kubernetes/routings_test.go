package kubernetes

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// routesOf renders a project for a gateway of the cluster. It returns its objects and notes.
func routesOf(t *testing.T, file string) ([]Object, []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(path, []byte("name: shop\n"+file), 0o600); err != nil {
		t.Fatal(err)
	}
	p := loaded(t, path)
	opt := Options{Namespace: "shop", Standalone: true, GatewayClass: "example"}
	objects, err := Render(p, nil, opt)
	if err != nil {
		t.Fatal(err)
	}
	valid(t, objects)
	var notes []string
	for _, n := range Notes(p, opt) {
		notes = append(notes, strings.TrimPrefix(n.Path, "services.web.ports[0].x-trellis.")+" "+n.Message)
	}
	return objects, notes
}

// routesFile is a project of one service, web, with these routes.
func routesFile(gateway, protocol string, routes ...string) string {
	return fmt.Sprintf(`
x-trellis: {gateway: {policy: {auth: none}%s}}
services:
  web:
    image: web:1
    ports: [{target: 8080, app_protocol: %s, x-trellis: {routes: [%s]}}]
  next: {image: web:2, expose: [8080]}
`, gateway, protocol, strings.Join(routes, ", "))
}

// kindsOf are the kinds of routes, with their names and hosts.
func kindsOf(objects []Object) []string {
	var all []string
	add := func(o Object, hosts []gatewayv1.Hostname) {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %s", o.GetObjectKind().GroupVersionKind().Kind, o.GetName(), strings.Trim(fmt.Sprint(hosts), "[]"))))
	}
	for _, o := range objects {
		switch o := o.(type) {
		case *gatewayv1.HTTPRoute:
			add(o, o.Spec.Hostnames)
		case *gatewayv1.GRPCRoute:
			add(o, o.Spec.Hostnames)
		}
	}
	return all
}

// TestOneKindOfRouteAHost: of the HTTPRoutes and GRPCRoutes of one host a gateway drops those of one kind, so there is one kind alone.
func TestOneKindOfRouteAHost(t *testing.T) {
	for _, test := range []struct {
		name   string
		routes []string // of a gRPC service
		web    string   // of a service beside it, which speaks HTTP
		want   []string
	}{
		{"gRPC alone", []string{`{path: "/*"}`, `{path: "/a.B/*", host: b.example.org}`}, "", []string{"GRPCRoute web", "GRPCRoute web-2 b.example.org"}},
		{"HTTP has every host", []string{`{path: "/a.B/*", host: b.example.org}`}, `{}`, []string{"HTTPRoute beside", "HTTPRoute web b.example.org"}},
		{"HTTP has another host", []string{`{path: "/a.B/*", host: b.example.org}`}, `{host: c.example.org}`, []string{"HTTPRoute beside c.example.org", "GRPCRoute web b.example.org"}},
		{"HTTP has a wildcard", []string{`{path: "/a.B/*", host: b.example.org}`}, `{host: "*.example.org"}`, []string{"HTTPRoute beside *.example.org", "HTTPRoute web b.example.org"}},
		{"gRPC has a wildcard", []string{`{path: "/a.B/*", host: "*.example.org"}`}, `{host: c.b.example.org}`, []string{"HTTPRoute beside c.b.example.org", "HTTPRoute web *.example.org"}},
		{"one leads to the next", []string{`{path: "/a.B/*", host: b.example.org}`, `{path: "/a.B/*", host: "*.example.org"}`, `{path: "/"}`}, `{host: d.org}`, []string{"HTTPRoute beside d.org", "HTTPRoute web b.example.org", "HTTPRoute web-2 *.example.org", "HTTPRoute web-3"}},
		{"a closed one would be open", []string{`{path: "/*"}`, `{path: "/a.B/*", auth: staff}`}, "", []string{"HTTPRoute web", "HTTPRoute web-2"}},
		{"a closed one is none", []string{`{path: "/a.B/*"}`}, `{auth: staff}`, []string{"GRPCRoute web"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := routesFile("}, auth: {staff: {api_keys: {secret: keys}}", "grpc", test.routes...)
			if test.web != "" {
				file += "  beside: {image: web:1, ports: [{target: 80, app_protocol: http, x-trellis: {routes: [" + test.web + "]}}]}\n"
			}
			objects, _ := routesOf(t, file+"secrets: {keys: {environment: PATH}}\n")
			if d := cmp.Diff(test.want, kindsOf(objects)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// TestClosedStaysClosed: a route that asks who calls is closed also where another one that asks nobody would have its requests, by the same
// methods alone, and nobody else's are kept from anybody.
func TestClosedStaysClosed(t *testing.T) {
	for _, test := range []struct {
		name   string
		routes []string
		want   []string // what leads nowhere
	}{
		{"below an open one", []string{`{path: "/*"}`, `{path: "/staff/*", auth: staff}`}, []string{"/staff"}},
		{"one path of it", []string{`{path: "/staff/keys", auth: staff}`, `{path: "/staff/*"}`}, []string{"/staff/keys"}},
		{"some of its methods", []string{`{path: "/*"}`, `{path: "/staff/*", methods: [PUT, PURGE], auth: staff}`}, []string{"PUT /staff"}},
		{"a method that no gateway knows", []string{`{path: "/*"}`, `{path: "/staff/*", methods: [PURGE], auth: staff}`}, []string{"/staff"}},
		{"with a parameter", []string{`{path: "/*"}`, `{path: "/staff/{id}", auth: staff}`}, []string{"^/staff/[^/]+$"}},
		{"under a host of the open one's", []string{`{path: "/*", host: "*.example.org"}`, `{path: "/staff/*", host: a.example.org, auth: staff}`}, []string{"/staff"}},
		{"beside it", []string{`{path: "/shop/*"}`, `{path: "/staff/*", auth: staff}`, `{path: "/staffing"}`}, nil},
		{"around it", []string{`{path: "/shop/*"}`, `{path: "/*", auth: staff}`}, nil},
		{"under another host", []string{`{path: "/*", host: b.example.org}`, `{path: "/staff/*", host: a.example.org, auth: staff}`}, nil},
		{"under none that a gateway knows", []string{`{path: "/*"}`, `{path: "/staff/*", host: my_shop, auth: staff}`}, nil},
		{"both closed", []string{`{path: "/*", auth: staff}`, `{path: "/staff/*", auth: staff}`}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := routesFile("}, auth: {staff: {api_keys: {secret: keys}}", "http", test.routes...)
			objects, _ := routesOf(t, file+"secrets: {keys: {environment: PATH}}\n")
			var got []string
			for _, route := range objectsOf[*gatewayv1.HTTPRoute](objects) {
				for _, rule := range route.Spec.Rules {
					for _, m := range rule.Matches {
						if len(rule.BackendRefs) == 0 {
							method := ""
							if m.Method != nil {
								method = string(*m.Method) + " "
							}
							got = append(got, method+*m.Path.Value)
						}
					}
				}
			}
			if d := cmp.Diff(test.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// TestNamesOfRoutes: the second route of a service is called neither as another service's first, nor as the redirect to TLS.
func TestNamesOfRoutes(t *testing.T) {
	file := routesFile(`, https: ":443", redirect_https: true, certificates: [{certificate: crt, key: key}]`, "http", `{path: "/*"}`, `{path: "/a"}`, `{path: "/b"}`)
	for _, name := range []string{"web-2", "shop-https"} {
		file += "  " + name + `: {image: web:1, ports: [{target: 80, x-trellis: {routes: [{path: "/` + name + `"}]}}]}` + "\n"
	}
	objects, _ := routesOf(t, file+"secrets: {crt: {environment: PATH}, key: {environment: PATH}}\n")
	all := kindsOf(objects)
	if len(all) != 6 || !slices.Contains(all, "HTTPRoute web-2") || !slices.Contains(all, "HTTPRoute shop-https") || !slices.Contains(all, "HTTPRoute web-3") {
		t.Errorf("the routes are %v", all)
	}
}

// TestHostsOfRoutes: hosts are written as the Gateway API takes them, and a route none of whose hosts it takes is not open for all.
func TestHostsOfRoutes(t *testing.T) {
	for _, test := range []struct {
		name, gateway, route string
		want, notes          []string
	}{
		{"capitals", "", `{host: "*.Shop.Example.ORG"}`, []string{"HTTPRoute web *.shop.example.org"}, nil},
		{"an address", "", `{host: 192.0.2.7}`, nil, []string{"routes[0] has no effect: it has no host that the Gateway API knows; the route stays closed", `routes[0].host has no effect: the Gateway API knows hosts by names of the DNS, and "192.0.2.7" is none`}},
		{"an underscore", ", hosts: [my_shop.example.org, shop.example.org, Shop.example.org]", `{}`, []string{"HTTPRoute web shop.example.org"}, []string{`x-trellis.gateway.hosts[0] has no effect: the Gateway API knows hosts by names of the DNS, and "my_shop.example.org" is none`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			objects, notes := routesOf(t, routesFile(test.gateway, "http", test.route))
			if d := cmp.Diff(test.want, kindsOf(objects)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if d := cmp.Diff(test.notes, notes); d != "" {
				t.Errorf("notes (-want +got):\n%s", d)
			}
		})
	}
}

// TestLoopbackOfTheGateway: that the cluster's gateway opens what the file has for this machine alone is said.
func TestLoopbackOfTheGateway(t *testing.T) {
	const opened = " is changed: a cluster's gateway has no loopback of yours: whoever reaches it reaches the routes"
	for address, want := range map[string][]string{":8000": nil, "192.0.2.7:8000": nil, "127.0.0.1:8000": {"x-trellis.gateway.http" + opened}, "localhost:8000": {"x-trellis.gateway.http" + opened}, "[::1]:8000": {"x-trellis.gateway.http" + opened}} {
		if _, notes := routesOf(t, routesFile(`, http: "`+address+`"`, "http", "{}")); !cmp.Equal(notes, want) {
			t.Errorf("of %s it notes %q", address, notes)
		}
	}
}

// TestGatewayReachesParts: where not everyone may reach everyone, the cluster's gateway reaches a service that has a part in the routes
// of another, at that port alone.
func TestGatewayReachesParts(t *testing.T) {
	for part, want := range map[string]string{
		`split: [{service: next, share: 10%}]`:                                   "8080",
		`split: [{service: next, share: 10%}, {service: next, share: 10%}]`:      "8080",
		`mirror: {service: next, port: 9090}`:                                    "9090",
		`split: [{service: next, share: 10%}], redirect: {to: "/new{query}"}`:    "",
		`split: [{service: next, header: X-Next, value: a}], headers: {X-A: ""}`: "",
		`request_headers: {set: {X-A: b}}`:                                       "",
	} {
		file := strings.Replace(routesFile("", "http", "{"+part+"}"), "expose: [8080]", "expose: [8080, 9090]", 1)
		objects, _ := routesOf(t, strings.Replace(file, "    ports:", "    x-trellis: {calls: [next]}\n    ports:", 1))
		got := ""
		for _, o := range objectsOf[*networkingv1.NetworkPolicy](objects) {
			for _, rule := range o.Spec.Ingress {
				for _, port := range rule.Ports {
					if o.Name == "next" && len(rule.From) == 0 {
						got += port.Port.String()
					}
				}
			}
		}
		if got != want {
			t.Errorf("with %s everyone reaches ports %q of next, want %q", part, got, want)
		}
	}
}

// TestRulesOfRoutes: what a route says, and what the Gateway API does not take as it is.
func TestRulesOfRoutes(t *testing.T) {
	fields := func(n int) string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprintf("X-%02d: a", i)
		}
		return "{" + strings.Join(all, ", ") + "}"
	}
	for _, test := range []struct {
		name, route string
		want        []string // in the YAML of its rules; none: it is closed
		note        string
	}{
		{"who may GET may HEAD", `{methods: [GET, POST, GET]}`, []string{"- method: GET\n      path:\n        type: PathPrefix\n        value: /\n    - method: HEAD\n      path:\n        type: PathPrefix\n        value: /\n    - method: POST\n      path:\n        type: PathPrefix\n        value: /\n"}, ""},
		{"whoever says so", `{methods: [HEAD, GET]}`, []string{"- method: HEAD\n      path:\n        type: PathPrefix\n        value: /\n    - method: GET\n      path:\n        type: PathPrefix\n        value: /\n"}, ""},
		{"no such method", `{methods: [PURGE]}`, nil, "routes[0].methods[0] has no effect: the Gateway API knows no method PURGE"},
		{"a parameter", `{path: "/u.s/{id}"}`, []string{`value: ^/u\.s/[^/]+$`}, "routes[0].path is changed: parameters are a regular expression, which not every gateway knows"},
		{"a parameter and more", `{path: "/u/{id}/*"}`, []string{`value: ^/u/[^/]+(/.*)?$`}, "routes[0].path is changed: parameters are a regular expression, which not every gateway knows"},
		{"a path that is none there", `{path: "/a|b/*"}`, []string{`value: ^/a\|b(/.*)?$`, "RegularExpression"}, "routes[0].path is changed: the Gateway API takes it as a regular expression, which not every gateway knows"},
		{"a redirect that has splits", `{redirect: {to: "/new{query}"}, split: [{service: next, header: X-Next, value: "1"}]}`, []string{"replaceFullPath: /new\n"}, ""},
		{"a redirect to capitals", `{redirect: {to: "https://Other.Example.org{path}{query}"}}`, []string{"hostname: other.example.org\n"}, ""},
		{"a redirect without its query", `{redirect: {to: "/new"}}`, []string{"replaceFullPath: /new\n"}, "routes[0].redirect.to is changed: most gateways send the query along, of which the Gateway API says nothing"},
		{"a time-out", `{timeout: 5s}`, []string{"backendRequest: 5s"}, "routes[0].timeout is changed: the Gateway API bounds a response as a whole, not its headers alone"},
		{"nothing as a value", `{request_headers: {set: {X-A: "", X-B: b}}}`, []string{"remove:\n        - X-A\n        set:\n        - name: X-B"}, `routes[0].request_headers is changed: the Gateway API sets no field to nothing: X-A is removed`},
		{"many fields", `{response_headers: {set: ` + fields(16) + `}}`, []string{"name: X-15"}, ""},
		{"too many fields", `{response_headers: {set: ` + fields(17) + `}}`, nil, "routes[0] has no effect: more than 16 fields of its response_headers cannot be set or removed; the route stays closed"},
		{"a header that is nothing", `{headers: {X-A: ""}}`, nil, "routes[0].headers.X-A has no effect: the Gateway API matches no header that is empty; the route stays closed"},
		{"any origin among others", `{cors: {origins: ["https://a.example.org", "*"], methods: [GET, PURGE]}}`, []string{"allowOrigins:\n        - '*'\n", "allowMethods:\n        - GET\n"}, "routes[0].cors.methods is changed: the Gateway API knows no method PURGE"},
	} {
		t.Run(test.name, func(t *testing.T) {
			objects, notes := routesOf(t, routesFile("", "http", test.route))
			all := objectsOf[*gatewayv1.HTTPRoute](objects)
			if want := min(len(test.want), 1); len(all) != want {
				t.Fatalf("there are %d routes, want %d", len(all), want)
			}
			for _, want := range test.want {
				if rules := string(text(t, all[0])); !strings.Contains(rules, want) {
					t.Errorf("%q is not said:\n%s", want, rules)
				}
			}
			if want := compact(test.note); !cmp.Equal(notes, want) {
				t.Errorf("notes are %q, want %q", notes, want)
			}
		})
	}
}

// compact is a list of one text, or of none.
func compact(text string) []string {
	if text == "" {
		return nil
	}
	return []string{text}
}
