package kubernetes

import (
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"trellis/compose"
	"trellis/engine"
	"trellis/state"
)

// TestVolumesWithoutANameEnd with the time to live of what has them, and otherwise stay.
func TestVolumesWithoutANameEnd(t *testing.T) {
	ttl := compose.Duration(time.Hour)
	p := compose.Project{Name: "shop", Services: map[string]compose.Service{
		"db": {Image: "db:1", Volumes: []compose.Mount{{Type: compose.MountVolume, Target: "/data"}}},
		"kv": {Image: "kv:1", Volumes: []compose.Mount{{Type: compose.MountVolume, Target: "/data", Source: "kv"}}},
	}, Volumes: map[string]compose.Volume{"kv": {}}}
	p.Trellis.Environments = map[string]compose.EnvironmentRef{"preview": {TTL: &ttl}}
	for environment, deleted := range map[string]bool{"": false, "preview": true} {
		p.Environment = environment
		objects := renderAs(t, p, nil, 1)
		valid(t, slices.DeleteFunc(slices.Clone(objects), func(o Object) bool { return o.GetName() == lifetimeName("shop") }))
		for _, set := range objectsOf[*appsv1.StatefulSet](objects) {
			policy := set.Spec.PersistentVolumeClaimRetentionPolicy
			if (policy != nil) != (deleted && set.Name == "db") || policy != nil && (policy.WhenDeleted != appsv1.DeletePersistentVolumeClaimRetentionPolicyType || policy.WhenScaled == policy.WhenDeleted) {
				t.Errorf("in environment %q the claims of %s are kept by %+v", environment, set.Name, policy)
			}
		}
	}
}

// TestLifetime: what has a time to live is owned by a Job that the cluster removes when it is over, and a later revision begins
// a new time; without one, and where it is exported, there is none.
func TestLifetime(t *testing.T) {
	ttl := compose.Duration(time.Hour)
	p := compose.Project{Name: "shop", Environment: "preview", Services: map[string]compose.Service{"web": {Image: "web:1"}}}
	p.Trellis.Environments = map[string]compose.EnvironmentRef{"preview": {TTL: &ttl}}
	begun := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	render := func(p compose.Project, revision int64, live ...Object) ([]Object, *batchv1.Job) {
		t.Helper()
		all, err := Render(p, live, Options{Namespace: "shop", Revision: revision, AppliedAt: begun.Add(10 * time.Minute)})
		if err != nil {
			t.Fatal(err)
		}
		return all, lifetimeIn(all, p.Name)
	}
	all, job := render(p, 1)
	if job == nil || *job.Spec.TTLSecondsAfterFinished != 3600 || *job.Spec.Completions != 0 || all[0] != Object(job) {
		t.Fatalf("at first: %+v", job)
	}
	there := job.DeepCopy()
	there.UID, there.Status.CompletionTime = "u", &metav1.Time{Time: begun}
	all, job = render(p, 2, there)
	if *job.Spec.TTLSecondsAfterFinished != 4200 || len(job.OwnerReferences) > 0 {
		t.Errorf("deployed again ten minutes later: %+v", job)
	}
	for _, o := range all[1:] {
		if refs := o.GetOwnerReferences(); len(refs) != 1 || refs[0].UID != "u" || refs[0].Name != job.Name {
			t.Errorf("%s is owned by %v", o.GetName(), refs)
		}
	}
	if workloads := workloadsOf(all); len(workloads) != 1 {
		t.Errorf("workloads: %+v", workloads)
	}
	plain := p
	plain.Environment = ""
	if _, job := render(plain, 3, there); job != nil {
		t.Error("a project without a time to live has one")
	}
	if _, job := render(p, 0); job != nil {
		t.Error("what is exported has one")
	}
	items := []item{{Group: "batch", Version: "v1", Kind: "Job", Name: there.Name}}
	if over(items, Live{}, "shop") == nil || over(items, Live{Objects: []Object{there}}, "shop") != nil || over(nil, Live{}, "shop") != nil {
		t.Error("when it is over is not known")
	}
}

// TestVolumesOutliveADown also where the project has a time to live, which owns them: until that is over, or they are asked for. So they
// do where a later revision lives for ever.
func TestVolumesOutliveADown(t *testing.T) {
	ttl := compose.Duration(time.Hour)
	p := compose.Project{Name: "shop", Environment: "preview", Services: map[string]compose.Service{
		"db": {Name: "db", Image: "db:1", Volumes: []compose.Mount{{Type: compose.MountVolume, Source: "data", Target: "/data"}}},
	}, Volumes: map[string]compose.Volume{"data": {}}}
	p.Trellis.Environments = map[string]compose.EnvironmentRef{"preview": {TTL: &ttl}}
	const claim = "persistentvolumeclaims/data"
	for name, end := range map[string]func(*Engine) error{
		"taken down": func(e *Engine) error { return e.Delete(t.Context(), "shop", engine.DeleteOptions{}) },
		"for ever": func(e *Engine) error {
			p := p
			p.Environment, p.Services = "", map[string]compose.Service{"web": {Name: "web", Image: "web:1"}}
			_, err := e.Apply(t.Context(), state.Revision{Project: p}, "")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := cluster(t)
			s.more = map[string]map[string]string{"apps/v1": {"deployments": "Deployment", "statefulsets": "StatefulSet"}}
			e := quiet(client)
			if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
				t.Fatal(err)
			}
			if owners := (&unstructured.Unstructured{Object: s.objects["/api/v1/namespaces/shop/"+claim]}).GetOwnerReferences(); len(owners) != 1 {
				t.Fatalf("owned by %v", owners)
			}
			if err := end(e); err != nil {
				t.Fatal(err)
			}
			if left := s.names(); !slices.Contains(left, claim) || slices.Contains(left, "statefulsets/db") || slices.Contains(left, "jobs/"+lifetimeName("shop")) {
				t.Errorf("left: %v", left)
			}
			if err := e.Delete(t.Context(), "shop", engine.DeleteOptions{Volumes: true}); err != nil || slices.Contains(s.names(), claim) {
				t.Errorf("taken down with its volumes: %v, left %v", err, s.names())
			}
		})
	}
}
