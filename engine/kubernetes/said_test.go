package kubernetes

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiversion "k8s.io/apimachinery/pkg/util/version"

	"trellis/compose"
)

// TestWhatAKindDoesNotCarryOut: what one kind of workload carries out and another does not is said where it is not, and only there.
func TestWhatAKindDoesNotCarryOut(t *testing.T) {
	own := []compose.Mount{{Type: compose.MountVolume, Target: "/data"}}
	few := &compose.RestartPolicy{Condition: "any", MaxAttempts: pointer(3)}
	update := func(order string, parallelism int) *compose.UpdateConfig {
		return &compose.UpdateConfig{Order: order, Parallelism: &parallelism}
	}
	for name, c := range map[string]struct {
		svc  compose.Service
		said string // "": nothing
	}{
		"a name of its own":                {compose.Service{Hostname: "one"}, ""},
		"and a volume, which has a number": {compose.Service{Hostname: "one", Volumes: own}, "services.web.hostname"},
		"started again, so often":          {compose.Service{Deploy: compose.Deploy{RestartPolicy: few}}, "services.web.deploy.restart_policy.max_attempts"},
		"on each node, so often":           {compose.Service{Deploy: compose.Deploy{RestartPolicy: few, Mode: "global"}}, "services.web.deploy.restart_policy.max_attempts"},
		"a Job, so often":                  {compose.Service{Deploy: compose.Deploy{RestartPolicy: &compose.RestartPolicy{Condition: "on-failure", MaxAttempts: pointer(3)}}}, ""},
		"start first":                      {compose.Service{Deploy: compose.Deploy{UpdateConfig: update(compose.StartFirst, 1)}}, ""},
		"start first, with volumes": {
			compose.Service{Volumes: own, Deploy: compose.Deploy{UpdateConfig: update(compose.StartFirst, 1)}}, "services.web.deploy.update_config.order"},
		"two at a time": {compose.Service{Deploy: compose.Deploy{Replicas: pointer(4), UpdateConfig: update("", 2)}}, ""},
		"two at a time, with volumes": {
			compose.Service{Volumes: own, Deploy: compose.Deploy{Replicas: pointer(4), UpdateConfig: update("", 2)}}, "services.web.deploy.update_config.parallelism"},
	} {
		c.svc.Image = "web:1"
		said := ""
		for _, d := range Notes(compose.Project{Name: "shop", Services: map[string]compose.Service{"web": c.svc}}, Options{}) {
			if d.Path != "services.web.image" && d.Path != "services.web.volumes[0]" {
				said += d.Path
			}
		}
		if said != c.said {
			t.Errorf("%s: said of %q, want %q", name, said, c.said)
		}
	}
}

// TestSignalOfAJob: what runs to its end is stopped by the signal of its file, as what serves is.
func TestSignalOfAJob(t *testing.T) {
	for signal, want := range map[string]*corev1.Lifecycle{"": nil, "SIGQUIT": {StopSignal: pointer(corev1.Signal("SIGQUIT"))}, "SIGNONE": nil} {
		p := compose.Project{Name: "shop", Services: map[string]compose.Service{"migrate": {Image: "x:1", Restart: "no", StopSignal: signal}}}
		opt := Options{Revision: 1, Version: apiversion.MustParseGeneric(ExportedFor)}
		objects, err := Render(p, nil, opt)
		if err != nil {
			t.Fatal(err)
		}
		valid(t, objects)
		for _, o := range objects {
			if pod := templateOf(o); pod != nil {
				l := pod.Spec.Containers[0].Lifecycle
				if (l == nil) != (want == nil) || l != nil && *l.StopSignal != *want.StopSignal || (pod.Spec.OS != nil) != (want != nil) {
					t.Errorf("%q: %+v, %+v", signal, l, pod.Spec.OS)
				}
			}
		}
		if said := len(Notes(p, opt)); (said > 0) != (signal == "SIGNONE") {
			t.Errorf("%q: %d things are said", signal, said)
		}
	}
}
