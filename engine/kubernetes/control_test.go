package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"

	"trellis/compose"
	"trellis/errdefs"
)

// covers says whether rules give everything that one of them gives.
func covers(rules []rbacv1.PolicyRule, one rbacv1.PolicyRule) error {
	for _, group := range one.APIGroups {
		for _, resource := range one.Resources {
			for _, verb := range one.Verbs {
				if !slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool {
					return slices.Contains(r.APIGroups, group) && slices.Contains(r.Resources, resource) && slices.Contains(r.Verbs, verb) && len(r.ResourceNames) == 0
				}) {
					return fmt.Errorf("%s %s of group %q", verb, resource, group)
				}
			}
		}
	}
	return nil
}

// TestRightsAreGivenByWhoHasThem: a cluster lets nobody give rights that he has not. Who deploys gives those of every Role of the
// project, and so does the control plane when it goes back.
func TestRightsAreGivenByWhoHasThem(t *testing.T) {
	p, opt := front(t)
	deployer, err := Role(p, opt)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := Render(p, nil, opt)
	if err != nil {
		t.Fatal(err)
	}
	roles := objectsOf[*rbacv1.Role](objects)
	i := slices.IndexFunc(roles, func(r *rbacv1.Role) bool { return r.Name == controlName(p.Name) })
	if i < 0 || len(roles) != 3 {
		t.Fatalf("%d Roles, that of the control plane at %d", len(roles), i)
	}
	for _, role := range roles {
		for _, rule := range role.Rules {
			if err := covers(deployer.Rules, rule); err != nil {
				t.Errorf("who deploys gives with %s what he has not: %v", role.Name, err)
			}
			if err := covers(roles[i].Rules, rule); err != nil {
				t.Errorf("the control plane gives with %s what it has not: %v", role.Name, err)
			}
		}
	}
	for _, o := range objects {
		kind := o.GetObjectKind().GroupVersionKind()
		rule := rbacv1.PolicyRule{APIGroups: []string{kind.Group}, Resources: []string{resources[kind.Kind]}, Verbs: []string{"get", "create", "patch", "delete"}}
		if err := covers(roles[i].Rules, rule); err != nil {
			t.Errorf("the control plane may not make %s: %v", o.GetName(), err)
		}
	}
	all := 0
	for _, names := range everyKind {
		all += len(names)
	}
	named := map[string]bool{}
	for _, f := range foreigners() { // whose kinds only projects that have them may make
		for _, kind := range f.kinds {
			named[resources[kind.Kind]] = !slices.Contains(everyKind["gateway.networking.k8s.io"], resources[kind.Kind]) // one of them has the same name
		}
	}
	for _, other := range named {
		if other {
			all++
		}
	}
	if all != len(resources) {
		t.Errorf("the control plane may make %d kinds, and there are %d", all, len(resources))
	}
}

// TestRightsToClaims: who has volumes without a name taken down finds and removes their claims, which the cluster has made; who has none
// needs no right to any.
func TestRightsToClaims(t *testing.T) {
	for target, want := range map[string][]string{"/data": {"get", "list", "delete"}, "": nil} {
		db := compose.Service{Image: "db:1"}
		if target != "" {
			db.Volumes = []compose.Mount{{Type: compose.MountVolume, Target: target}}
		}
		role, err := Role(compose.Project{Name: "shop", Services: map[string]compose.Service{"db": db}}, Options{Standalone: true})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, rule := range role.Rules {
			if slices.Contains(rule.Resources, "persistentvolumeclaims") {
				got = append(got, rule.Verbs...)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("with a volume at %q: %v", target, got)
		}
	}
}

// TestControlPlaneIsDurable where the cluster has volumes, and otherwise not.
func TestControlPlaneIsDurable(t *testing.T) {
	p, opt := front(t)
	for _, durable := range []bool{false, true} {
		opt.Durable = durable
		objects, err := Render(p, nil, opt)
		if err != nil {
			t.Fatal(err)
		}
		valid(t, objects)
		claimed := slices.ContainsFunc(objects, func(o Object) bool {
			return o.GetObjectKind().GroupVersionKind().Kind == "PersistentVolumeClaim" && o.GetName() == controlName(p.Name)
		})
		for _, d := range deployments(objects) {
			if d.Name != controlName(p.Name) {
				continue
			}
			mounted := slices.IndexFunc(d.Spec.Template.Spec.Volumes, func(v corev1.Volume) bool { return v.PersistentVolumeClaim != nil })
			if claimed != durable || (mounted >= 0) != durable {
				t.Errorf("durable is %v: a claim %v, mounted at %d", durable, claimed, mounted)
			}
		}
	}
}

// TestDurableWhereTheClusterHasVolumes: a claim that nothing will ever meet is not made, and one that is there is kept.
func TestDurableWhereTheClusterHasVolumes(t *testing.T) {
	s, c := cluster(t)
	e := New("shop", c, slog.New(slog.DiscardHandler))
	claimed := Live{Objects: []Object{&corev1.PersistentVolumeClaim{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"}, ObjectMeta: metav1.ObjectMeta{Name: controlName("shop")},
	}}}
	class := func(isDefault string) {
		s.objects["/apis/storage.k8s.io/v1/storageclasses/standard"] = map[string]any{
			"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
			"metadata": map[string]any{"name": "standard", "annotations": map[string]any{isDefaultClass: isDefault}},
		}
	}
	forbidden := func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/storageclasses") {
			return false
		}
		answer(w, http.StatusForbidden, "Forbidden", "may not")
		return true
	}
	for _, step := range []struct {
		what  string
		set   func()
		live  Live
		image string
		want  bool
	}{
		{"no class", func() {}, Live{}, "trellis:1", false},
		{"a claim that is there", func() {}, claimed, "trellis:1", true},
		{"no control plane", func() {}, claimed, "", false},
		{"a class that is not the default", func() { class("false") }, Live{}, "trellis:1", false},
		{"a class that is", func() { class("true") }, Live{}, "trellis:1", true},
		{"classes that may not be seen", func() { s.before = forbidden }, Live{}, "trellis:1", false},
	} {
		step.set()
		if got, err := e.durable(t.Context(), step.image, step.live); err != nil || got != step.want {
			t.Errorf("%s: %v, %v, want %v", step.what, got, err, step.want)
		}
	}
}

// TestOneHoldsTheLease: of two control planes one runs; the other does when the first is done, or has been silent for as long as the
// Lease lasts.
func TestOneHoldsTheLease(t *testing.T) {
	s, c := cluster(t)
	path := "/apis/coordination.k8s.io/v1/namespaces/shop/leases/trellis-shop"
	plain, err := plainObject(newRenderer(compose.Project{Name: "shop"}, nil, Options{Namespace: "shop", Revision: 1}).lease())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.apply(t.Context(), "shop", plain, 0, false); err != nil {
		t.Fatal(err)
	}
	holder := func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		var l coordinationv1.Lease
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(s.objects[path], &l); err != nil {
			t.Fatal(err)
		}
		return deref(l.Spec.HolderIdentity)
	}
	first, done := make(chan struct{}), make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		done <- c.Hold(ctx, "shop", "first", slog.New(slog.DiscardHandler), func(ctx context.Context) error {
			close(first)
			<-ctx.Done()
			return nil
		})
	}()
	<-first
	if got := holder(); got != "first" {
		t.Errorf("%q holds it", got)
	}
	second := lease{leases: leasesOf(t, c), name: "trellis-shop", who: "second"}
	now := time.Now()
	for _, look := range []struct {
		after time.Duration
		taken bool
	}{{0, false}, {leaseTime - time.Second, false}} {
		if taken, err := second.take(t.Context(), now.Add(look.after)); err != nil || taken != look.taken {
			t.Errorf("after %s: taken %v, %v", look.after, taken, err)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("who let go of it: %v", err)
	}
	if got := holder(); got != "" {
		t.Errorf("%q holds it though it let go", got)
	}
	if taken, err := second.take(t.Context(), now.Add(time.Second)); err != nil || !taken {
		t.Errorf("a free one: taken %v, %v", taken, err)
	}
	// The second says nothing more.
	third := lease{leases: leasesOf(t, c), name: "trellis-shop", who: "third"}
	for after, want := range []bool{false, true} {
		if taken, err := third.take(t.Context(), now.Add(time.Duration(after)*leaseTime)); err != nil || taken != want {
			t.Errorf("look %d at one that is silent: taken %v, %v", after, taken, err)
		}
	}
}

func leasesOf(t *testing.T, c *Client) dynamic.ResourceInterface {
	t.Helper()
	r, err := c.resource(coordinationv1.SchemeGroupVersion.WithKind("Lease"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestReachControlSaysWhatToDo where there is no control plane to be reached.
func TestReachControlSaysWhatToDo(t *testing.T) {
	_, c := cluster(t)
	e := New("shop", c, slog.New(slog.DiscardHandler))
	if _, err := e.ReachControl(t.Context()); !errors.Is(err, errdefs.ErrUnsupported) || !strings.Contains(err.Error(), "TRELLIS_IMAGE") {
		t.Errorf("without an image: %v", err)
	}
	e.UsePlane(Plane{Image: "registry.example.org/trellis:1"})
	if _, err := e.ReachControl(t.Context()); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("with an image and no pod: %v", err)
	}
}
