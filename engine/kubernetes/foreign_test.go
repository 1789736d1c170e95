package kubernetes

import (
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiversion "k8s.io/apimachinery/pkg/util/version"

	"trellis/compose"
	"trellis/errdefs"
	"trellis/state"
)

// beside is a project in a cluster that has, or has not, what foreigners bring.
func beside(t *testing.T, set ...func(*Options)) (compose.Project, Options, []Object) {
	t.Helper()
	p := loaded(t, "testdata/foreign/compose.yaml")
	opt := full(t, p)
	opt.Standalone, opt.GatewayClass, opt.Image, opt.Revision, opt.Gates = false, "", planeImage, 1, Gates{}
	opt.Key, opt.Namespace, opt.Version = "told", "shop-live", apiversion.MajorMinor(1, sameNode)
	for _, s := range set {
		s(&opt)
	}
	objects, err := Render(p, nil, opt)
	if err != nil {
		t.Fatal(err)
	}
	valid(t, objects)
	return p, opt, objects
}

// TestForeignGolden: what a cluster is told in words of what it has besides Kubernetes is beside the project, with whatever else is another
// for it.
func TestForeignGolden(t *testing.T) {
	_, _, without := beside(t)
	plain := map[string]string{}
	for _, o := range without {
		plain[itemOf(o).String()] = string(text(t, o))
	}
	for name, set := range map[string]func(*Options){
		"monitored": func(o *Options) { o.Monitoring = compose.PrometheusOperator },
		"istio":     func(o *Options) { o.Mesh = compose.Istio },
		"linkerd":   func(o *Options) { o.Mesh = compose.Linkerd },
		"keda":      func(o *Options) { o.Autoscaler = compose.KEDA },
	} {
		t.Run(name, func(t *testing.T) {
			_, _, with := beside(t, set)
			var out strings.Builder
			seen := map[string]bool{}
			for _, o := range with {
				id, now := itemOf(o).String(), string(text(t, o))
				if seen[id] = true; plain[id] != now {
					out.WriteString("---\n" + now)
				}
			}
			for id := range plain {
				if !seen[id] && !strings.HasPrefix(id, "Job ") && (name != "keda" || id != "HorizontalPodAutoscaler web") { // whose name says what it runs, and how
					t.Errorf("%s is not there any more", id)
				}
			}
			golden(t, "testdata/foreign/"+name+".yaml", out.String())
		})
	}
}

// TestRoleOfForeigners: who deploys a project that a foreigner knows of may make what that reads, and so may its control plane; nobody else
// gets more than before.
func TestRoleOfForeigners(t *testing.T) {
	p, opt, _ := beside(t)
	groups := func(opt Options) []string {
		role, err := Role(p, opt)
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]bool{}
		for _, r := range role.Rules {
			for _, g := range r.APIGroups {
				_, foreign := foreignOf(schema.GroupKind{Group: g, Kind: kindsIn(g)})
				if foreign && slices.Contains(r.Verbs, "patch") {
					all[g+" "+strings.Join(r.Resources, ",")] = true
				}
			}
		}
		return slices.Sorted(maps.Keys(all))
	}
	if got := groups(opt); len(got) > 0 {
		t.Errorf("without any: %v", got)
	}
	for name, c := range map[string]struct {
		set  func(*Options)
		want []string
	}{
		"the Prometheus Operator": {func(o *Options) { o.Monitoring = compose.PrometheusOperator }, []string{"monitoring.coreos.com podmonitors,prometheusrules"}},
		"Istio": {func(o *Options) { o.Mesh = compose.Istio }, []string{
			"networking.istio.io destinationrules", "security.istio.io authorizationpolicies,peerauthentications",
		}},
		"KEDA": {func(o *Options) { o.Autoscaler = compose.KEDA }, []string{"keda.sh scaledobjects"}},
		"Linkerd": {func(o *Options) { o.Mesh = compose.Linkerd }, []string{
			"policy.linkerd.io authorizationpolicies,httproutes,meshtlsauthentications,networkauthentications,servers",
		}},
	} {
		with := opt
		c.set(&with)
		if got := groups(with); !slices.Equal(got, c.want) {
			t.Errorf("with %s: %v", name, got)
		}
		mayGive(t, p, with)
	}
}

// mayGive holds what whoever deploys may do against the Roles and objects that there are then.
func mayGive(t *testing.T, p compose.Project, opt Options) {
	t.Helper()
	deployer, err := Role(p, opt)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := Render(p, nil, opt)
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range objectsOf[*rbacv1.Role](objects) {
		for _, rule := range role.Rules {
			if err := covers(deployer.Rules, rule); err != nil {
				t.Errorf("who deploys gives with %s what he has not: %v", role.Name, err)
			}
		}
		if role.Labels[labelComponent] != controlPlane {
			continue
		}
		for _, o := range objects {
			kind := o.GetObjectKind().GroupVersionKind()
			rule := rbacv1.PolicyRule{APIGroups: []string{kind.Group}, Resources: []string{resources[kind.Kind]}, Verbs: []string{"get", "list", "create", "patch", "delete"}}
			if err := covers(role.Rules, rule); err != nil {
				t.Errorf("the control plane may not make %s: %v", itemOf(o), err)
			}
		}
	}
}

// kindsIn returns one kind of a foreigner's group, "" where no foreigner has it.
func kindsIn(group string) string {
	for _, f := range foreigners() {
		for _, k := range f.kinds {
			if k.Group == group {
				return k.Kind
			}
		}
	}
	return ""
}

// TestForeignersAreAskedFor: a deploy into a cluster that has not what the environment says it has says so before it writes anything; there
// it is applied, and once the file no longer says it, it is removed before the control plane loses the right to do so.
func TestForeignersAreAskedFor(t *testing.T) {
	p, opt, _ := beside(t)
	p.Environment = "live"
	s, c := cluster(t)
	e := New("shop", c, slog.New(slog.DiscardHandler))
	e.UsePlane(Plane{Image: planeImage})
	kept, err := e.Keep(t.Context(), p, opt.Contents, true)
	const want = "unsupported: x-trellis.environments.live.monitoring is prometheus-operator, and the cluster has no PodMonitor (monitoring.coreos.com/v1): install the Prometheus Operator"
	if !errors.Is(err, errdefs.ErrUnsupported) || !strings.Contains(err.Error(), want) {
		t.Errorf("looked at: %v, want %s", err, want)
	}
	if _, err := e.Apply(t.Context(), state.Revision{Project: kept}, ""); !errors.Is(err, errdefs.ErrUnsupported) || !strings.Contains(err.Error(), want) {
		t.Errorf("applied: %v", err)
	}
	if len(s.writes) > 0 {
		t.Errorf("something is written: %v", s.writes)
	}
	s.more = map[string]map[string]string{
		"monitoring.coreos.com/v1": {"podmonitors": "PodMonitor", "prometheusrules": "PrometheusRule"}, "autoscaling/v2": {"horizontalpodautoscalers": "HorizontalPodAutoscaler"},
	}
	if kept, err = e.Keep(t.Context(), p, opt.Contents, false); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Apply(t.Context(), state.Revision{Project: kept}, ""); err != nil {
		t.Fatal(err)
	}
	monitors := func() int {
		n := 0
		for path := range s.objects {
			if strings.Contains(path, "/podmonitors/") || strings.Contains(path, "/prometheusrules/") {
				n++
			}
		}
		return n
	}
	if n := monitors(); n != 4 {
		t.Errorf("%d objects of the operator, want 4", n)
	}
	if d, err := e.client.list(t.Context(), podMonitorKind, "shop"); err != nil || len(d) != 3 {
		t.Errorf("listed: %v, %v", d, err)
	}
	s.writes = nil
	kept.Trellis.Environments = nil
	if _, err := e.Apply(t.Context(), state.Revision{Project: kept}, ""); err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(s.writes, func(w string) bool { return strings.HasSuffix(w, "/roles/trellis-shop-control-plane") }) {
		t.Errorf("while the Job of migrate runs nothing is removed yet, and the Role says that nothing may be any more: %v", s.writes)
	}
}

// TestRoleOfTheControlPlaneGoesLast where it no longer says what is yet to be removed.
func TestRoleOfTheControlPlaneGoesLast(t *testing.T) {
	s, c := cluster(t)
	s.more = map[string]map[string]string{
		"monitoring.coreos.com/v1": {"podmonitors": "PodMonitor", "prometheusrules": "PrometheusRule"}, "autoscaling/v2": {"horizontalpodautoscalers": "HorizontalPodAutoscaler"},
	}
	set := func(monitoring string) []Object {
		_, _, objects := beside(t, func(o *Options) { o.Namespace, o.Monitoring = c.Namespace, monitoring })
		return objects
	}
	for i, monitoring := range []string{compose.PrometheusOperator, ""} {
		s.writes = nil
		if err := c.put(t.Context(), "shop", set(monitoring), false); err != nil {
			t.Fatal(err)
		}
		role := slices.IndexFunc(s.writes, func(w string) bool { return strings.HasSuffix(w, "/roles/trellis-shop-control-plane") })
		last := -1
		for n, w := range s.writes {
			if strings.Contains(w, "/podmonitors/") || strings.Contains(w, "/prometheusrules/") {
				last = n
			}
		}
		if role < 0 || last < 0 || (role > last) != (i == 1) {
			t.Errorf("%q: the Role is written as number %d, the last of the operator's objects as number %d", monitoring, role, last)
		}
	}
}

// TestDriftOfForeigners is told in words of the file.
func TestDriftOfForeigners(t *testing.T) {
	p, _, _ := beside(t)
	p.Environment = "live"
	d := &drifting{project: p, names: newNames(p)}
	for _, c := range []struct {
		service string
		of      item
		path    string
		want    string
	}{
		{"catalog", item{Group: podMonitorKind.Group, Kind: "PodMonitor", Name: "catalog"}, ".spec.podMetricsEndpoints", "services.catalog.x-trellis.metrics"},
		{"", item{Group: podMonitorKind.Group, Kind: "PodMonitor", Name: "trellis-shop-data-plane"}, ".spec.selector", "x-trellis.environments.live.monitoring"},
		{"", item{Group: prometheusRuleKind.Group, Kind: "PrometheusRule", Name: "trellis-shop"}, ".spec.groups", "x-trellis.environments.live.monitoring"},
		{"", item{Kind: "Service", Name: "shop-gateway"}, ".spec.ports", "x-trellis.gateway"},
	} {
		if got := d.driftAt(c.service, c.of, c.path, "a", "b", "kubectl-edit").Path; got != c.want {
			t.Errorf("%s %s is told at %s, want %s", c.of, c.path, got, c.want)
		}
		if got := d.gone(c.service, c.of, "is not there any more").Path; c.service == "" && got != c.want {
			t.Errorf("%s is missing at %s, want %s", c.of, got, c.want)
		}
	}
}

// TestWhatIsNotScraped is said.
func TestWhatIsNotScraped(t *testing.T) {
	p, opt, _ := beside(t, func(o *Options) { o.Monitoring = compose.PrometheusOperator })
	said := func(path string) string {
		for _, n := range Notes(p, opt) {
			if n.Path == path {
				return n.Message
			}
		}
		return ""
	}
	if got := said("services.catalog.x-trellis.metrics"); got != "" {
		t.Errorf("of what is scraped: %s", got)
	}
	svc := p.Services["catalog"]
	svc.Expose, svc.Trellis.Probe, svc.Trellis.Metrics = nil, nil, &compose.Metrics{}
	p.Services["catalog"] = svc
	if got := said("services.catalog.x-trellis.metrics"); !strings.Contains(got, "names no port of catalog") {
		t.Errorf("without a port: %q", got)
	}
	opt.Standalone, opt.Revision = true, 0
	if got := said("x-trellis.alerts"); !strings.Contains(got, "its Alertmanager says where alerts go") {
		t.Errorf("exported: %q", got)
	}
	objects, err := Render(p, nil, opt)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if o.GetObjectKind().GroupVersionKind() == prometheusRuleKind && strings.Contains(string(text(t, o)), "trellis_requests_total") {
			t.Error("what is exported has rules over what nobody counts")
		}
	}
}
