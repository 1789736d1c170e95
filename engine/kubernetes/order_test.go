package kubernetes

import (
	"slices"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"

	"trellis/compose"
)

// TestStepAsRootOfAPrivilegedService: what is privileged has every capability, and there are none to give to a step that root runs.
func TestStepAsRootOfAPrivilegedService(t *testing.T) {
	svc := compose.Service{Name: "web", Image: "web:1", Privileged: true, User: "1000"}
	svc.PreStart = []compose.PreStart{{Hook: compose.Hook{Command: []string{"chown", "a"}, User: "root"}}}
	objects := renderAs(t, compose.Project{Name: "shop", Services: map[string]compose.Service{"web": svc}}, nil, 1)
	valid(t, objects)
	step := objectsOf[*batchv1.Job](objects)[0].Spec.Template.Spec.Containers[0].SecurityContext
	if *step.RunAsUser != 0 || *step.RunAsNonRoot || !*step.Privileged || step.Capabilities != nil {
		t.Errorf("%+v", step)
	}
}

// TestStepBesideAVolumeWithoutAName: what runs once has none of the volumes that each pod has of its own, and is told so; what each replica
// runs has its own.
func TestStepBesideAVolumeWithoutAName(t *testing.T) {
	svc := compose.Service{Name: "db", Image: "db:1", Volumes: []compose.Mount{{Type: compose.MountVolume, Target: "/cache"}}}
	svc.PreStart = []compose.PreStart{{Hook: compose.Hook{Command: []string{"fill"}}}}
	for _, each := range []bool{false, true} {
		svc.PreStart[0].PerReplica = each
		p := compose.Project{Name: "shop", Services: map[string]compose.Service{"db": svc}}
		objects := renderAs(t, p, nil, 1)
		valid(t, objects)
		if jobs := objectsOf[*batchv1.Job](objects); len(jobs) == 1 == each || len(jobs) == 1 && jobs[0].Spec.Template.Spec.Volumes[0].EmptyDir == nil {
			t.Errorf("for each replica %v: %d Jobs", each, len(jobs))
		}
		told := slices.ContainsFunc(Notes(p, Options{}), func(d compose.Diagnostic) bool {
			return d.Path == "services.db.pre_start" && strings.Contains(d.Message, "/cache")
		})
		if told == each {
			t.Errorf("for each replica %v: told %v", each, told)
		}
	}
}
