package kubernetes

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiversion "k8s.io/apimachinery/pkg/util/version"

	"trellis/compose"
	"trellis/proxy"
)

const planeImage = "registry.example.org/trellis:1"

// front is a project with a gateway, whose key is among its secrets.
func front(t *testing.T) (compose.Project, Options) {
	t.Helper()
	p := loaded(t, "testdata/front.compose.yaml")
	opt := full(t, p)
	opt.Standalone, opt.GatewayClass, opt.Image, opt.Revision, opt.Gates = false, "", planeImage, 1, Gates{}
	opt.Version = apiversion.MajorMinor(1, sameNode)
	opt.Contents = map[string][]byte{"secrets/chain": []byte("chain"), "secrets/key": []byte("key"), "secrets/partner_keys": []byte("")}
	return p, opt
}

func TestPlanOfTraffic(t *testing.T) {
	p, opt := front(t)
	objects, err := Render(p, nil, opt)
	if err != nil {
		t.Fatal(err)
	}
	valid(t, objects)
	plan := planAmong(objects)
	var got []string
	for _, l := range plan.Snapshot.Listeners {
		got = append(got, fmt.Sprintf("%s at %s: %s to %s:%d, tls %v", l.Name, l.Address, l.Protocol, l.Service, l.Port, l.TLS))
	}
	want := []string{
		"gateway at :19080: http to :0, tls false",
		"gateway/https at :19443: http to :0, tls true",
		"service/api/tcp-8080 at :20000: http to api:8080, tls false",
		"service/dns/udp-53 at :20001: udp to dns:53, tls false",
		"service/web/tcp-80 at :20002: detect to web:80, tls false",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("listeners (-want +got):\n%s", d)
	}
	if l := plan.Snapshot.Listeners[0]; l.Upgrade != 9443 {
		t.Errorf("requests over http are sent to port %d, want 9443", l.Upgrade)
	}
	if r := plan.Snapshot.Routes; len(r) != 1 || r[0].Service != "api" || r[0].Auth != "partner" || r[0].RateLimit == nil {
		t.Errorf("routes %+v", r)
	}
	if plan.Snapshot.Auth["partner"].APIKeys == nil {
		t.Errorf("auth %+v", plan.Snapshot.Auth)
	}
	gateway := serviceNamed(t, objects, "front-gateway")
	if s := gateway.Spec; s.Type != corev1.ServiceTypeLoadBalancer || s.Selector[labelComponent] != dataPlane || len(s.Ports) != 2 || s.Ports[1].Port != 9443 {
		t.Errorf("the gateway's Service: %+v", s)
	}
	again, err := Render(p, objects, opt)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(objects, again); d != "" {
		t.Errorf("rendered again (-first +second):\n%s", d)
	}
}

func serviceNamed(t *testing.T, objects []Object, name string) *corev1.Service {
	t.Helper()
	for _, s := range objectsOf[*corev1.Service](objects) {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("there is no Service %s", name)
	return nil
}

// TestNamesLeadWhereTheyMay: to the data plane once it serves, to the instances until then, and where a project says who may
// reach whom, for only the instances' own policies tell callers apart.
func TestNamesLeadWhereTheyMay(t *testing.T) {
	for name, c := range map[string]struct {
		change      func(*compose.Project, *Options)
		api, public string
	}{
		"served":       {func(*compose.Project, *Options) {}, dataPlane, dataPlane},
		"not yet":      {func(_ *compose.Project, o *Options) { o.Direct = true }, "", ""},
		"without":      {func(_ *compose.Project, o *Options) { o.Image = "" }, "", ""},
		"with calls":   {func(p *compose.Project, _ *Options) { p.Services["web"] = calling(p.Services["web"], "api") }, "", dataPlane},
		"on each node": {func(p *compose.Project, _ *Options) { p.Services["web"] = global(p.Services["web"]) }, dataPlane, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, opt := front(t)
			c.change(&p, &opt)
			objects, err := Render(p, nil, opt)
			if err != nil {
				t.Fatal(err)
			}
			if got := serviceNamed(t, objects, "api").Spec.Selector[labelComponent]; got != c.api {
				t.Errorf("api leads to %q, want %q", got, c.api)
			}
			if got := serviceNamed(t, objects, "web-public").Spec.Selector[labelComponent]; got != c.public {
				t.Errorf("web's published port leads to %q, want %q", got, c.public)
			}
			for _, policy := range objectsOf[*networkingv1.NetworkPolicy](objects) {
				if own := policy.Name == planeName(p.Name); name == "with calls" && !own && !strings.Contains(string(mustJSON(policy.Spec.Ingress)), dataPlane) {
					t.Errorf("the gateway does not reach %s", policy.Name)
				}
			}
		})
	}
}

// TestOnlyDoorsAreOpen: where not everyone may reach everyone nobody reaches a service by way of its port at the data plane. As long as names
// lead there that is left open, and the revision waits for them to lead past it.
func TestOnlyDoorsAreOpen(t *testing.T) {
	p, opt := front(t)
	before, err := Render(p, nil, opt)
	if err != nil {
		t.Fatal(err)
	}
	own := func(objects []Object) (open []string) {
		for _, policy := range objectsOf[*networkingv1.NetworkPolicy](objects) {
			if policy.Name != planeName(p.Name) {
				continue
			}
			if d := cmp.Diff(map[string]string{labelProject: "front", labelComponent: dataPlane}, policy.Spec.PodSelector.MatchLabels); d != "" {
				t.Errorf("it is about other pods (-want +got):\n%s", d)
			}
			for _, rule := range policy.Spec.Ingress {
				for _, port := range rule.Ports {
					open = append(open, fmt.Sprint(port.Port.IntVal, "/", *port.Protocol))
				}
			}
		}
		return open
	}
	if open := own(before); open != nil {
		t.Errorf("where everyone may reach everyone there is a policy for %v", open)
	}
	p.Services["web"] = calling(p.Services["web"], "api")
	for name, c := range map[string]struct {
		live    []Object
		turning bool
	}{"from the start": {nil, false}, "while names lead to it": {before, true}} {
		objects, err := Render(p, c.live, opt)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"19000/TCP", "19080/TCP", "19443/TCP"}
		for _, s := range serviceNamed(t, objects, "web-public").Spec.Ports {
			want = append(want, fmt.Sprint(s.TargetPort.IntVal, "/", s.Protocol))
		}
		if c.turning {
			want = nil
		}
		if d := cmp.Diff(want, own(objects)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		if got := turning(objects, c.live); got != c.turning {
			t.Errorf("%s: turning %v", name, got)
		}
		if again, err := Render(p, objects, opt); err != nil || len(own(again)) < 3 {
			t.Errorf("%s, once names lead past it: %v, %v", name, own(again), err)
		}
	}
}

func calling(svc compose.Service, other string) compose.Service {
	svc.Trellis.Calls = []string{other}
	return svc
}

func global(svc compose.Service) compose.Service {
	svc.Deploy.Mode = "global"
	return svc
}

// TestTrafficIsFollowed: a data plane is told once it knows everything, hears of a pod that comes, is ready and ends, and of
// an API server that does not answer, and keeps what it knows meanwhile.
func TestTrafficIsFollowed(t *testing.T) {
	p, opt := front(t)
	p.Name, opt.Namespace = "shop", "shop"
	objects, err := Render(p, nil, opt)
	if err != nil {
		t.Fatal(err)
	}
	world := &watched{events: make(chan any, 8), down: make(chan struct{})}
	c := clientOf(t, world)
	for _, o := range objectsOf[*corev1.Secret](objects) {
		if o.Data[keyPlan] != nil {
			world.secret = o
		}
	}
	var said lockedBuffer
	told := make(chan Traffic, 16)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.FollowTraffic(ctx, "shop", slog.New(slog.NewTextHandler(&said, nil)), func(t Traffic) { told <- t })
	}()
	next := func(what string, ok func(Traffic) bool) Traffic {
		t.Helper()
		late := time.After(20 * time.Second)
		for {
			select {
			case one := <-told:
				if ok(one) {
					return one
				}
			case <-late:
				t.Fatalf("not told: %s", what)
			}
		}
	}
	first := next("the plan", func(one Traffic) bool { return true })
	if len(first.Snapshot.Listeners) != 5 || instancesIn(first, "api") != "" || first.Away {
		t.Errorf("first: %+v", first)
	}
	pod := corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: "api-1", Labels: map[string]string{labelService: "api"}, ResourceVersion: "2"},
		Status:     corev1.PodStatus{PodIP: "10.0.0.1", Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
	world.events <- map[string]any{"type": "ADDED", "object": pod}
	next("an instance", func(one Traffic) bool { return instancesIn(one, "api") == "api-1 10.0.0.1 ready" })
	pod.DeletionTimestamp, pod.ResourceVersion = &metav1.Time{Time: time.Now().Add(15 * time.Second)}, "3"
	world.events <- map[string]any{"type": "MODIFIED", "object": pod}
	leaving := next("it leaves", func(one Traffic) bool { return instancesIn(one, "api") == "api-1 10.0.0.1 draining" })
	if text := said.String(); text != "" {
		t.Errorf("of an API server that answers is said:\n%s", text)
	}
	close(world.down)
	away := next("the API server is away", func(one Traffic) bool { return one.Away })
	if d := cmp.Diff(leaving.Snapshot.Services, away.Snapshot.Services); d != "" {
		t.Errorf("with the API server something else was forgotten:\n%s", d)
	}
	if text := said.String(); !strings.Contains(text, "does not answer") || !strings.Contains(text, "err=down") {
		t.Errorf("of one that does not is said:\n%s", text)
	}
	cancel()
	<-ended
}

// lockedBuffer takes a log.
type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func instancesIn(t Traffic, service string) string {
	var all []string
	for _, svc := range t.Snapshot.Services {
		for _, in := range svc.Instances {
			if svc.Name != service {
				continue
			}
			how := map[[2]bool]string{{true, false}: "ready", {false, true}: "draining"}[[2]bool{in.Ready, in.Draining}]
			all = append(all, in.ID+" "+in.Host+" "+how)
		}
	}
	return strings.Join(all, ", ")
}

// watched is an API server that has a plan, and tells events of pods, until it is down.
type watched struct {
	secret *corev1.Secret
	events chan any
	down   chan struct{}
}

func (w *watched) ServeHTTP(to http.ResponseWriter, r *http.Request) {
	select {
	case <-w.down:
		answer(to, http.StatusServiceUnavailable, "ServiceUnavailable", "down")
		return
	default:
	}
	to.Header().Set("Content-Type", "application/json")
	kind, items, events := "PodList", []any{}, w.events
	if strings.HasSuffix(r.URL.Path, "/secrets") {
		kind, items, events = "SecretList", []any{map[string]any{
			"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": w.secret.Name, "resourceVersion": "1"},
			"data": map[string]any{keyPlan: base64.StdEncoding.EncodeToString(w.secret.Data[keyPlan])},
		}}, nil
	}
	switch q := r.URL.Query(); {
	case q.Get("sendInitialEvents") != "": // as a server that does not know it
		answer(to, http.StatusUnprocessableEntity, "Invalid", "sendInitialEvents is forbidden for watch")
		return
	case q.Get("watch") == "":
		_ = json.NewEncoder(to).Encode(map[string]any{"kind": kind, "apiVersion": "v1", "metadata": map[string]any{"resourceVersion": "1"}, "items": items})
		return
	}
	to.(http.Flusher).Flush()
	for {
		select {
		case e := <-events:
			_ = json.NewEncoder(to).Encode(e)
			to.(http.Flusher).Flush()
		case <-w.down:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func TestInstancesOfPods(t *testing.T) {
	plan := trafficPlan{
		Snapshot: proxy.Snapshot{Services: []proxy.Service{{Name: "my_web"}, {Name: "api"}}},
		Services: map[string]string{"my-web-1234": "my_web", "api": "api"},
	}
	seen := []located{{"my-web-1234", false, proxy.Instance{ID: "a", Host: "1"}}, {"gone", false, proxy.Instance{ID: "b", Host: "2"}}, {"api", true, proxy.Instance{ID: "c", Host: "3"}}}
	first, second := snapshotOf(plan, seen, 1), snapshotOf(plan, seen[:1], 2)
	if len(first.Services[0].Instances) != 1 || len(first.Services[1].Instances) != 1 || len(second.Services[1].Instances) != 0 || len(plan.Snapshot.Services[0].Instances) != 0 {
		t.Errorf("%+v, then %+v, of %+v", first, second, plan)
	}
	if d := cmp.Diff(map[string]string{"1": "my_web"}, first.Callers); d != "" { // an address of a node is nobody's alone
		t.Errorf("callers (-want +got):\n%s", d)
	}
}

// TestWhyThereIsNoDataPlane: it is said once nothing will change by itself, and waited for until then.
func TestWhyThereIsNoDataPlane(t *testing.T) {
	now := time.Now()
	pod := func(reason string, age time.Duration) corev1.Pod {
		return corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{labelComponent: dataPlane}, CreationTimestamp: metav1.NewTime(now.Add(-age))},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Image: "i"}}},
			Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
				Image: "i", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "nowhere"}},
			}}},
		}
	}
	stalled := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{labelComponent: dataPlane}}}
	stalled.Spec.Template.Spec.Containers = []corev1.Container{{Image: "i"}}
	stalled.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Message: "took too long"}}
	for name, c := range map[string]struct {
		image string
		live  Live
		want  string
	}{
		"nothing yet":    {"i", Live{}, ""},
		"another image":  {"j", Live{Objects: []Object{stalled}, Pods: []corev1.Pod{pod("ErrImagePull", time.Minute)}}, ""},
		"pulls":          {"i", Live{Pods: []corev1.Pod{pod("ContainerCreating", time.Minute)}}, ""},
		"just now":       {"i", Live{Pods: []corev1.Pod{pod("ErrImagePull", time.Second)}}, ""},
		"no such image":  {"i", Live{Pods: []corev1.Pod{pod("ErrImagePull", time.Minute)}}, "its image i cannot be had: nowhere"},
		"never is ready": {"i", Live{Objects: []Object{stalled}}, "took too long"},
	} {
		if got := planeTrouble(c.image, c.live, now); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestImageOfTheDataPlane(t *testing.T) {
	for _, c := range []struct {
		plane       Plane
		noted, want string
	}{
		{Plane{Version: "v2"}, "", ""},
		{Plane{Default: "example.org/trellis", Version: "v2"}, "", "example.org/trellis:v2"},
		{Plane{Default: "example.org/trellis", Version: "v2"}, "own.example.org/t:v1", "own.example.org/t:v1"},
		{Plane{Image: "third.example.org:5000/t", Version: "v2"}, "own.example.org/t:v1", "third.example.org:5000/t:v2"},
		{Plane{Default: "example.org/trellis", Version: "v2"}, NoImage, ""},
		{Plane{Image: NoImage, Default: "example.org/trellis"}, "own.example.org/t", ""},
		{Plane{Made: "here/t@sha256:1", Default: "example.org/trellis"}, "", "here/t@sha256:1"},
		{Plane{Made: "here/t@sha256:2"}, "made here/t@sha256:1", "here/t@sha256:2"},
		{Plane{Default: "example.org/trellis"}, "made here/t@sha256:1", "here/t@sha256:1"},
		{Plane{Made: "here/t@sha256:1"}, "own.example.org/t:v1", "own.example.org/t:v1"},
		{Plane{Made: "here/t@sha256:1"}, NoImage, ""},
		{Plane{Image: "own.example.org/t:v1", Made: "here/t@sha256:1"}, "made here/t@sha256:1", "own.example.org/t:v1"},
	} {
		if got := c.plane.Of(c.noted); got != c.want {
			t.Errorf("%+v, noted %q: %q, want %q", c.plane, c.noted, got, c.want)
		}
	}
}

// TestWhatTheClusterKeepsOfTheImage: what somebody has said outlasts what a deploy has made, and a pod that is told what was made
// does not turn it into something that was said.
func TestWhatTheClusterKeepsOfTheImage(t *testing.T) {
	for _, c := range []struct {
		plane       Plane
		noted, want string
	}{
		{Plane{}, "", ""},
		{Plane{}, "said:1", "said:1"},
		{Plane{Made: "t@sha256:1"}, "", "made t@sha256:1"},
		{Plane{Made: "t@sha256:2"}, "made t@sha256:1", "made t@sha256:2"},
		{Plane{}, "made t@sha256:1", "made t@sha256:1"},
		{Plane{Made: "t@sha256:1"}, "said:1", "said:1"},
		{Plane{Made: "t@sha256:1"}, NoImage, NoImage},
		{Plane{Image: "t@sha256:1"}, "made t@sha256:1", "made t@sha256:1"},
		{Plane{Image: "said:1"}, "made t@sha256:1", "said:1"},
		{Plane{Image: NoImage}, "made t@sha256:1", NoImage},
	} {
		if got := c.plane.note(c.noted); got != c.want {
			t.Errorf("%+v keeps %q of %q, want %q", c.plane, got, c.noted, c.want)
		}
	}
}
