package kubernetes

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"trellis/compose"
	"trellis/state"
)

// specsOf returns what objects of a kind say, by their names.
func specsOf[T any](t *testing.T, objects []Object, kind string) map[string]T {
	t.Helper()
	all := map[string]T{}
	for _, o := range objects {
		u, ok := o.(*unstructured.Unstructured)
		if !ok || u.GetKind() != kind {
			continue
		}
		var spec T
		if err := json.Unmarshal(mustJSON(u.Object["spec"]), &spec); err != nil {
			t.Fatal(err)
		}
		all[u.GetName()] = spec
	}
	return all
}

// reaches is who reaches a service of the project, by account or as "component", and at which TCP ports everybody does.
type reaches struct {
	callers []string
	open    []int32
}

// byNetwork reads that out of NetworkPolicies.
func byNetwork(objects []Object, component map[string]string) map[string]reaches {
	all := map[string]reaches{}
	for _, p := range objectsOf[*networkingv1.NetworkPolicy](objects) {
		if p.Spec.PolicyTypes[0] != networkingv1.PolicyTypeIngress {
			continue
		}
		who, open := map[string]bool{}, map[int32]bool{}
		for _, rule := range p.Spec.Ingress {
			for _, peer := range rule.From {
				if l := peer.PodSelector.MatchLabels; l[labelComponent] == "" && l != nil {
					who[l[labelService]] = true
				} else if name := component[l[labelComponent]]; name != "" {
					who[name] = true
				}
			}
			for _, port := range rule.Ports {
				if len(rule.From) == 0 && *port.Protocol == corev1.ProtocolTCP {
					open[port.Port.IntVal] = true
				}
			}
		}
		all[p.Name] = reaches{slices.Sorted(maps.Keys(who)), slices.Sorted(maps.Keys(open))}
	}
	return all
}

// byIstio reads it out of what Istio is told.
func byIstio(t *testing.T, objects []Object, namespace string) map[string]reaches {
	all := map[string]reaches{}
	for name, p := range specsOf[istioPolicy](t, objects, "AuthorizationPolicy") {
		var one reaches
		for _, rule := range p.Rules {
			for _, from := range rule.From {
				for _, principal := range from.Source.Principals {
					one.callers = append(one.callers, strings.TrimPrefix(principal, "*/ns/"+namespace+"/sa/"))
				}
			}
			for _, to := range rule.To {
				for _, port := range to.Operation.Ports {
					var n int32
					_, _ = fmt.Sscan(port, &n)
					if len(rule.From) == 0 {
						one.open = append(one.open, n)
					}
				}
			}
		}
		slices.Sort(one.callers)
		all[name] = one
	}
	return all
}

// byLinkerd reads it out of what Linkerd is told.
func byLinkerd(t *testing.T, objects []Object, _ string) map[string]reaches {
	all := map[string]reaches{}
	for name, spec := range specsOf[meshTLS](t, objects, "MeshTLSAuthentication") {
		one := reaches{}
		for _, ref := range spec.Identities {
			one.callers = append(one.callers, ref.Name)
		}
		slices.Sort(one.callers)
		all[name] = one
	}
	policies := specsOf[linkerdPolicy](t, objects, "AuthorizationPolicy")
	for name, server := range specsOf[linkerdServer](t, objects, "Server") {
		whose := server.Pods.MatchLabels[labelService]
		p, asked := policies[name]
		switch of := all[whose]; {
		case server.Access == letAll:
			of.open = append(of.open, server.Port)
			all[whose] = of
		case server.Pods.MatchLabels[labelComponent] == dataPlane && asked:
			t.Errorf("somebody is let in at %s", name)
		case whose != "" && server.Access == letNobody && (!asked || p.Target.Name != name || p.Required[0].Name != whose):
			t.Errorf("%s: who is named is not let in: %+v", name, p)
		}
	}
	return all
}

// TestMeshMeansWhatThePoliciesMean: in every project the mesh lets in who the cluster's network does, and opens no port that this does not open;
// what it opens is taken without TLS, and nothing else is.
func TestMeshMeansWhatThePoliciesMean(t *testing.T) {
	files := append(projects(t), "testdata/foreign/compose.yaml")
	limited := 0
	for _, file := range files {
		for mesh, read := range map[string]func(*testing.T, []Object, string) map[string]reaches{compose.Istio: byIstio, compose.Linkerd: byLinkerd} {
			t.Run(mesh+" "+filepath.Base(filepath.Dir(file))+"/"+filepath.Base(file), func(t *testing.T) {
				p := loaded(t, file)
				opt := full(t, p)
				opt.Standalone, opt.GatewayClass, opt.Image, opt.Revision, opt.Gates = false, "", planeImage, 1, Gates{}
				opt.Images, opt.Mesh = anyImage(p), mesh
				objects, err := Render(p, nil, opt)
				if err != nil {
					t.Fatal(err)
				}
				r := newRenderer(p, nil, opt)
				own := map[string]string{dataPlane: planeName(p.Name), controlPlane: controlName(p.Name)}
				want, got := byNetwork(objects, own), read(t, objects, opt.Namespace)
				if !r.limits() {
					for name := range got {
						t.Errorf("everybody may reach everybody, and the mesh asks who reaches %s", name)
					}
					return
				}
				limited++
				for _, service := range p.ServiceNames() {
					svc, name := r.p.Services[service], r.names.of[service]
					_, has := got[name]
					if has != joins(svc) {
						t.Errorf("%s: a policy of the mesh: %v", name, has)
					}
					if !has {
						continue
					}
					callers := slices.DeleteFunc(slices.Clone(want[name].callers), func(caller string) bool {
						for other, inCluster := range r.names.of {
							if inCluster == caller && !joins(r.p.Services[other]) {
								return true
							}
						}
						return strings.HasSuffix(caller, "-"+preparation) // runs as its service does
					})
					if !slices.Equal(callers, got[name].callers) {
						t.Errorf("%s: the mesh lets in %v, the network %v", name, got[name].callers, callers)
					}
					for _, port := range got[name].open {
						if !slices.Contains(want[name].open, port) {
							t.Errorf("%s: port %d is open in the mesh alone", name, port)
						}
					}
				}
				if got[own[dataPlane]].callers != nil {
					t.Errorf("a service is reached through the data plane: %v", got[own[dataPlane]])
				}
			})
		}
	}
	if limited < 4 {
		t.Errorf("only %d projects say who may reach whom", limited)
	}
}

// anyImage has every service that is built have an image.
func anyImage(p compose.Project) map[string]string {
	all := map[string]string{}
	for _, name := range p.ServiceNames() {
		if p.Services[name].Image == "" {
			all[name] = "any:1"
		}
	}
	return all
}

// TestStrictButWhereOutsideComesIn: who comes from outside of the mesh is let in where the file opens something to the outside, and nowhere else.
func TestStrictButWhereOutsideComesIn(t *testing.T) {
	file := func(text string) compose.Project {
		p, _, err := compose.Load(t.Context(), compose.Options{Files: []string{written(t, text)}})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	const text = `
name: shop
x-trellis: {gateway: {http: ":8000", policy: {auth: none}}}
services:
  web: {image: "web:1", ports: [{target: 8080, published: "80", x-trellis: {routes: [{path: "/*"}]}}, {target: 8081, published: "81", protocol: udp}], x-trellis: {metrics: {port: 9100}}}
  here: {image: "here:1", ports: ["127.0.0.1:5432:5432"]}
  each: {image: "each:1", ports: [{target: 9000, published: "9000", mode: host}], deploy: {mode: global}}
`
	p := file(text)
	for name, c := range map[string]struct {
		set  func(*Options)
		want map[string]string
	}{
		"a data plane": {func(*Options) {}, map[string]string{
			"web": "", "here": "", "each": "9000 PERMISSIVE", planeName("shop"): "19000 DISABLE, 19080 DISABLE, 20002 DISABLE", controlName("shop"): "19000 DISABLE",
		}},
		"one that does not serve yet": {func(o *Options) { o.Direct = true }, map[string]string{
			"web": "8080 PERMISSIVE", "here": "", "each": "9000 PERMISSIVE", planeName("shop"): "19000 DISABLE, 19080 DISABLE", controlName("shop"): "19000 DISABLE",
		}},
		"a gateway of the cluster": {func(o *Options) { o.GatewayClass = "example" }, map[string]string{
			"web": "8080 PERMISSIVE", "here": "", "each": "9000 PERMISSIVE", planeName("shop"): "19000 DISABLE, 20002 DISABLE", controlName("shop"): "19000 DISABLE",
		}},
		"exported":   {func(o *Options) { o.Standalone, o.Revision = true, 0 }, map[string]string{"web": "8080 PERMISSIVE", "here": "", "each": "9000 PERMISSIVE"}},
		"none opens": {func(o *Options) { o.Standalone, o.Revision, o.Publish = true, 0, PublishNone }, map[string]string{"web": "", "here": "", "each": "9000 PERMISSIVE"}},
		"a Prometheus": {func(o *Options) { o.Monitoring = compose.PrometheusOperator }, map[string]string{
			"web": "9100 PERMISSIVE", "here": "", "each": "9000 PERMISSIVE", planeName("shop"): "19000 DISABLE, 19080 DISABLE, 20002 DISABLE", controlName("shop"): "19000 DISABLE",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			opt := Options{Namespace: "ns", Revision: 1, Image: planeImage, Mesh: compose.Istio}
			c.set(&opt)
			objects, err := Render(p, nil, opt)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for name, spec := range specsOf[peerAuthentication](t, objects, "PeerAuthentication") {
				var all []string
				for _, port := range slices.Sorted(maps.Keys(spec.Ports)) {
					all = append(all, port+" "+spec.Ports[port].Mode)
				}
				if got[name] = strings.Join(all, ", "); spec.MTLS.Mode != mtlsStrict {
					t.Errorf("%s is %s", name, spec.MTLS.Mode)
				}
			}
			if !maps.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
			for _, o := range objects { // what is taken without TLS leads past the proxy of pods that want to know who calls
				if template := templateOf(o); template != nil && o.GetLabels()[labelComponent] == dataPlane {
					if ports := strings.ReplaceAll(got[planeName("shop")], " DISABLE", ""); template.Annotations[istioExclude] != strings.ReplaceAll(ports, " ", "") {
						t.Errorf("past the proxy lead %s, want %s", template.Annotations[istioExclude], ports)
					}
				}
			}
		})
	}
}

// TestMovingIntoAMesh: as long as pods run that are not in the mesh nobody is asked who they are, or the first of them to be replaced would not be
// reached by the others; then everybody is.
func TestMovingIntoAMesh(t *testing.T) {
	p, opt, _ := beside(t)
	opt.Mesh = compose.Istio
	pod := func(service, component string, phase corev1.PodPhase, more map[string]string) Object {
		labels := map[string]string{labelProject: "shop", labelService: service, labelManagedBy: managedBy}
		if component != "" {
			labels[labelComponent] = component
		}
		one := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: service + component, Labels: labels, Annotations: map[string]string{}}, Status: corev1.PodStatus{Phase: phase}}
		m, _ := meshNamed(compose.Istio)
		for key, value := range more {
			one.Labels[key] = value
			maps.Copy(one.Annotations, m.annotations(true))
		}
		return one
	}
	in := map[string]string{istioInject: "true"}
	lost := pod("db", "", corev1.PodRunning, nil).(*corev1.Pod)
	lost.Spec.NodeName = "gone"
	lost.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}, {Type: corev1.ContainersReady, Status: corev1.ConditionTrue}}
	for name, c := range map[string]struct {
		live   []Object
		moving bool
	}{
		"nothing runs":            {nil, false},
		"all are in it":           {[]Object{pod("web", "", corev1.PodRunning, in), pod("", dataPlane, corev1.PodRunning, in)}, false},
		"a service is not":        {[]Object{pod("web", "", corev1.PodRunning, in), pod("db", "", corev1.PodRunning, nil)}, true},
		"the data plane is not":   {[]Object{pod("web", "", corev1.PodRunning, in), pod("", dataPlane, corev1.PodRunning, nil)}, true},
		"on a node that is lost":  {[]Object{lost}, false},
		"what has ended does not": {[]Object{pod("migrate", "", corev1.PodSucceeded, nil)}, false},
		"what is not the file's":  {[]Object{pod("gone", "", corev1.PodRunning, nil), pod("", driftWatch, corev1.PodRunning, nil)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			objects, err := Render(p, c.live, opt)
			if err != nil {
				t.Fatal(err)
			}
			for name, spec := range specsOf[peerAuthentication](t, objects, "PeerAuthentication") {
				if (spec.MTLS.Mode == mtlsPermissive) != c.moving {
					t.Errorf("%s is %s", name, spec.MTLS.Mode)
				}
			}
			if n := len(specsOf[istioPolicy](t, objects, "AuthorizationPolicy")); (n == 0) != c.moving {
				t.Errorf("%d policies", n)
			}
			if got := outsiders(p, compose.Istio, c.live); got != c.moving {
				t.Errorf("waited for: %v", got)
			}
		})
	}
}

// TestWhoIsNotInTheMesh: who has the network of a node, or none, gets no proxy, and a proxy reaches its control plane from within a network that
// is internal.
func TestWhoIsNotInTheMesh(t *testing.T) {
	p, _, err := compose.Load(t.Context(), compose.Options{Files: []string{written(t, `
name: shop
services:
  web: {image: "web:1", networks: [inside], annotations: {sidecar.istio.io/nativeSidecar: "false"}}
  agent: {image: "agent:1", network_mode: host}
  alone: {image: "alone:1", network_mode: none}
networks: {inside: {internal: true}}
`)}})
	if err != nil {
		t.Fatal(err)
	}
	opt := Options{Namespace: "ns", Revision: 1, Image: planeImage, Mesh: compose.Istio}
	objects, err := Render(p, nil, opt)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range deployments(objects) {
		if got, want := d.Spec.Template.Labels[istioInject], fmt.Sprint(d.Name == "web"); got != want {
			t.Errorf("%s gets a proxy: %s", d.Name, got)
		}
		if d.Name == "web" && d.Spec.Template.Annotations[istioNative] != "false" {
			t.Error("what the file says of the proxy does not hold")
		}
	}
	found := false
	for _, n := range Notes(p, opt) {
		found = found || n.Path == "services.agent.network_mode" && strings.Contains(n.Message, "not in the mesh")
	}
	if !found {
		t.Error("nothing is said of agent")
	}
	for _, policy := range objectsOf[*networkingv1.NetworkPolicy](objects) {
		if policy.Name == "web-inside" && !strings.Contains(string(mustJSON(policy.Spec.Egress)), `"port":15012`) {
			t.Errorf("the proxy of web does not reach istiod: %s", mustJSON(policy.Spec.Egress))
		}
	}
}

// written is a project's file with a text.
func written(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestAppliedOnceAllAreInTheMesh: a revision is carried out once the last pod of before is gone, and not sooner.
func TestAppliedOnceAllAreInTheMesh(t *testing.T) {
	p, _, err := compose.Load(t.Context(), compose.Options{Files: []string{written(t, `
name: shop
x-trellis: {environments: {live: {on: kubernetes, mesh: istio}}}
services: {web: {image: "web:1", expose: ["8080"]}}
`)}})
	if err != nil {
		t.Fatal(err)
	}
	p.Environment = "live"
	s, c := cluster(t)
	s.more = map[string]map[string]string{
		"security.istio.io/v1": {"peerauthentications": "PeerAuthentication", "authorizationpolicies": "AuthorizationPolicy"}, "networking.istio.io/v1": {"destinationrules": "DestinationRule"},
	}
	const at = "/api/v1/namespaces/shop/pods/web-1"
	s.objects[at] = map[string]any{
		"apiVersion": "v1", "kind": "Pod", "status": map[string]any{"phase": "Running"},
		"metadata": map[string]any{"name": "web-1", "labels": map[string]any{labelProject: "shop", labelService: "web", labelManagedBy: managedBy}},
	}
	e := New("shop", c, slog.New(slog.DiscardHandler))
	for i, want := range []string{mtlsPermissive, mtlsStrict} {
		rev, err := e.Apply(t.Context(), state.Revision{Project: p}, "")
		if err != nil {
			t.Fatal(err)
		}
		applied, err := c.note(t.Context(), "shop", appliedKey)
		if err != nil {
			t.Fatal(err)
		}
		mode, _, _ := unstructured.NestedString(s.objects["/apis/security.istio.io/v1/namespaces/shop/peerauthentications/web"], "spec", "mtls", "mode")
		if done := applied == fmt.Sprint(rev.Number); done != (i == 1) || mode != want {
			t.Errorf("%s, and applied whole: %v (%q); want %s", mode, done, applied, want)
		}
		delete(s.objects, at)
	}
}

// TestWhomLinkerdLetsIn at a port: those who are named where the file names somebody, else all that is in the mesh; everybody where the file opens it to
// the outside, and while pods run that are not in the mesh.
func TestWhomLinkerdLetsIn(t *testing.T) {
	const text = `
name: shop
services:
  web: {image: "web:1", ports: ["80:8080"], x-trellis: {calls: %s, metrics: {port: 9100}, probe: {http: /, port: 8080}}}
  db: {image: "db:1", expose: ["3306", "53/udp"], x-trellis: {probe: {grpc: true, port: 3306}}}
  bare: {image: "bare:1"}
`
	outsider := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-1", Labels: map[string]string{labelProject: "shop", labelService: "web"}}}
	for name, c := range map[string]struct {
		calls string
		live  []Object
		set   func(*Options)
		want  string
	}{
		"somebody is named": {"[db]", nil, func(*Options) {}, "db-3306 deny opaque, shop-control-plane-4318 deny, shop-data-plane-20000 deny, shop-data-plane-20003 deny, web-8080 deny, web-9100 deny"},
		"nobody is":         {"[]", nil, func(*Options) {}, "db-3306 all-authenticated opaque, shop-control-plane-4318 all-authenticated, shop-data-plane-20000 all-authenticated, shop-data-plane-20003 all-authenticated, web-8080 all-authenticated, web-9100 all-authenticated"},
		"moving in":         {"[db]", []Object{outsider}, func(*Options) {}, "db-3306 all-unauthenticated opaque, shop-control-plane-4318 all-unauthenticated, shop-data-plane-20000 all-unauthenticated, shop-data-plane-20003 all-unauthenticated, web-8080 all-unauthenticated, web-9100 all-unauthenticated"},
		"exported, and seen": {"[db]", nil, func(o *Options) {
			o.Standalone, o.Revision, o.Monitoring = true, 0, compose.PrometheusOperator
		}, "db-3306 deny opaque, web-8080 all-unauthenticated, web-9100 all-unauthenticated"},
	} {
		t.Run(name, func(t *testing.T) {
			p := loaded(t, written(t, fmt.Sprintf(text, c.calls)))
			opt := Options{Namespace: "ns", Revision: 1, Image: planeImage, Mesh: compose.Linkerd}
			c.set(&opt)
			objects, err := Render(p, c.live, opt)
			if err != nil {
				t.Fatal(err)
			}
			var all []string
			for name, s := range specsOf[linkerdServer](t, objects, "Server") {
				all = append(all, strings.TrimSpace(strings.TrimPrefix(name, "trellis-")+" "+s.Access+" "+s.Protocol))
			}
			slices.Sort(all)
			if got := strings.Join(all, ", "); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
			policies := specsOf[linkerdPolicy](t, objects, "AuthorizationPolicy")
			if health := policies["db-3306-health"]; health.Target.Kind != "HTTPRoute" || health.Required[0].Name != "shop-everybody" {
				t.Errorf("a kubelet may not ask how db is: %+v", health)
			}
			said := map[string]string{}
			for _, n := range Notes(p, opt) {
				said[n.Path] += n.Message
			}
			if named := strings.Contains(said["services.bare.x-trellis.calls"], "add expose"); named != (c.calls != "[]") {
				t.Errorf("said of a service without ports: %q", said["services.bare.x-trellis.calls"])
			}
		})
	}
	p := loaded(t, written(t, `{name: shop, services: {web: {image: "web:1", expose: ["80"]}, job: {image: "job:1", expose: ["80"], restart: "no"}}}`))
	said := map[string]bool{}
	for _, n := range Notes(p, Options{Mesh: compose.Linkerd}) {
		said[n.Path] = strings.Contains(n.Message, "ready before it listens")
	}
	if !said["services.web.x-trellis.probe"] || said["services.job.x-trellis.probe"] {
		t.Errorf("of a probe that says nothing behind a proxy: %v", said)
	}
}

// TestNothingGivesPodsTheirProxy: where a cluster has the kinds of a mesh and nothing that gives pods its proxy, an apply says so; to whoever may
// not look it says nothing.
func TestNothingGivesPodsTheirProxy(t *testing.T) {
	const all = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
	for name, c := range map[string]struct {
		mesh      string
		webhook   string // "": none
		forbidden bool
		said      bool
	}{
		"Istio's":                      {compose.Istio, "rev.namespace.sidecar-injector.istio.io", false, false},
		"one of another for Istio":     {compose.Istio, "linkerd-proxy-injector.linkerd.io", false, true},
		"Linkerd's":                    {compose.Linkerd, "linkerd-proxy-injector.linkerd.io", false, false},
		"none for Linkerd":             {compose.Linkerd, "", false, true},
		"whoever may not look":         {compose.Linkerd, "", true, false},
		"nobody wants to be in a mesh": {"", "", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := cluster(t)
			s.more = map[string]map[string]string{"admissionregistration.k8s.io/v1": {"/mutatingwebhookconfigurations": webhookKind.Kind}}
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != all || !c.forbidden {
					return false
				}
				answer(w, http.StatusForbidden, "Forbidden", "no")
				return true
			}
			if c.webhook != "" {
				s.objects[all+"/one"] = map[string]any{
					"apiVersion": "admissionregistration.k8s.io/v1", "kind": webhookKind.Kind, "metadata": map[string]any{"name": "one"},
					"webhooks": []any{map[string]any{"name": "validate.example.org"}, map[string]any{"name": c.webhook}},
				}
			}
			var said bytes.Buffer
			e := New("shop", client, slog.New(slog.NewTextHandler(&said, nil)))
			p := compose.Project{Name: "shop", Environment: "live"}
			p.Trellis.Environments = map[string]compose.EnvironmentRef{"live": {Mesh: c.mesh}}
			if err := e.noteGround(t.Context(), p, ground{}); err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(said.String(), "mesh="+c.mesh+" "); got != c.said {
				t.Errorf("said %v, want %v:\n%s", got, c.said, &said)
			}
		})
	}
}

// TestMeshRunsNoJobAgain: what has run to its end is not run once more because its project comes into a mesh, goes into another, or leaves it, and is
// applied as it is there; what has not ended well is run anew, as part of the mesh.
func TestMeshRunsNoJobAgain(t *testing.T) {
	p := compose.Project{Name: "shop", Services: map[string]compose.Service{
		"migrate": {Image: "migrate:1", Restart: "no", Annotations: map[string]string{istioNative: "false"}},
		"web":     {Image: "web:1", PreStart: []compose.PreStart{{Hook: compose.Hook{Command: []string{"fill"}}}}},
	}}
	jobs := func(live []Object, mesh string, revision int64) []*batchv1.Job {
		t.Helper()
		objects, err := Render(p, live, Options{Namespace: "ns", Revision: revision, Mesh: mesh})
		if err != nil {
			t.Fatal(err)
		}
		valid(t, objects)
		for _, d := range deployments(objects) {
			if in := d.Spec.Template.Labels[istioInject] != ""; in != (mesh == compose.Istio) {
				t.Errorf("in %q %s is in Istio: %v", mesh, d.Name, in)
			}
		}
		return objectsOf[*batchv1.Job](objects)
	}
	as := func(all []*batchv1.Job, how batchv1.JobConditionType) (live []Object) {
		for _, job := range all {
			one := job.DeepCopy()
			if how != "" {
				one.Status.Conditions = []batchv1.JobCondition{{Type: how, Status: corev1.ConditionTrue}}
			}
			live = append(live, one)
		}
		return live
	}
	meshes := []string{"", compose.Istio, compose.Linkerd}
	for _, from := range meshes {
		first := jobs(nil, from, 1)
		for _, to := range meshes {
			if d := cmp.Diff(first, jobs(as(first, batchv1.JobComplete), to, 2)); d != "" {
				t.Errorf("ended in %q, then in %q (-was +is):\n%s", from, to, d)
			}
			for _, how := range []batchv1.JobConditionType{"", batchv1.JobFailed} {
				again, anew := jobs(as(first, how), to, 2), jobs(nil, to, 2)
				for i := range again {
					if same := again[i].Name == first[i].Name; same != (from == to) || again[i].Name != anew[i].Name {
						t.Errorf("%s of %q in %q is %s, which has not ended well (%s)", first[i].Name, from, to, again[i].Name, how)
					}
				}
			}
		}
	}
	first := jobs(nil, "", 1)
	migrate := p.Services["migrate"]
	migrate.Image = "migrate:2"
	p.Services["migrate"] = migrate
	for _, job := range jobs(as(first, batchv1.JobComplete), compose.Istio, 2) {
		if in := job.Spec.Template.Labels[istioInject] == "true"; in != (serviceOf(job) == "migrate") {
			t.Errorf("%s is in Istio: %v", job.Name, in)
		}
	}
}
