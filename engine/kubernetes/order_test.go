package kubernetes

import (
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
