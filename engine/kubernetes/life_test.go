package kubernetes

import (
	"math"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"trellis/compose"
)

// TestWhoIsKilledByAProbe: only where liveness is asked for. Else a program that takes longer to start than its start period is not ready,
// and goes on; it is asked all along as often as during its start.
func TestWhoIsKilledByAProbe(t *testing.T) {
	slow, often := compose.Duration(10*time.Second), compose.Duration(5*time.Second)
	for name, test := range map[string]struct {
		start    *compose.Duration
		liveness bool
		startup  int32 // how many failures it takes, 0: there is no such probe
		live     int32
	}{
		"a start period":               {start: &slow, startup: math.MaxInt32},
		"a start period, and liveness": {start: &slow, liveness: true, startup: 7, live: 15},
		"no start period":              {},
		"only liveness":                {liveness: true, live: 15},
	} {
		svc := compose.Service{
			Image: "db:1", Expose: []string{"5432"},
			Healthcheck: &compose.Healthcheck{Test: []string{"CMD", "ready"}, StartPeriod: test.start, Interval: &often, Retries: pointer(5)},
		}
		if test.liveness {
			svc.Trellis.Probe = &compose.Probe{Liveness: true}
		}
		objects, err := Render(compose.Project{Name: "shop", Services: map[string]compose.Service{"db": svc}}, nil, Options{Revision: 1})
		if err != nil {
			t.Fatal(err)
		}
		valid(t, objects)
		c := deployments(objects)[0].Spec.Template.Spec.Containers[0]
		var startup, live int32
		if c.StartupProbe != nil {
			startup = c.StartupProbe.FailureThreshold
			if c.StartupProbe.PeriodSeconds != 5 {
				t.Errorf("%s: asked every %d s", name, c.StartupProbe.PeriodSeconds)
			}
		}
		if c.LivenessProbe != nil {
			live = c.LivenessProbe.FailureThreshold
		}
		if startup != test.startup || live != test.live || c.ReadinessProbe.FailureThreshold != 5 {
			t.Errorf("%s: it is killed before its start after %d failures, want %d, after it after %d, want %d", name, startup, test.startup, live, test.live)
		}
	}
}

// TestStopOfAJob: nothing takes a part of the time that a Job has to end. No cluster takes a wait that is longer than that.
func TestStopOfAJob(t *testing.T) {
	soon := compose.Duration(2 * time.Second)
	hook := []compose.Hook{{Command: []string{"note"}}}
	for name, svc := range map[string]compose.Service{
		"a Job":         {Restart: "no", PostStart: hook},
		"and its hooks": {Restart: "no", PostStart: hook, PreStop: hook},
	} {
		svc.Image, svc.StopGracePeriod = "job:1", &soon
		objects := renderAs(t, compose.Project{Name: "shop", Services: map[string]compose.Service{"job": svc}}, nil, 1)
		valid(t, objects)
		pod := objectsOf[*batchv1.Job](objects)[0].Spec.Template.Spec
		if stop := pod.Containers[0].Lifecycle.PreStop; stop != nil && (stop.Sleep != nil || len(stop.Exec.Command) != 1) || *pod.TerminationGracePeriodSeconds != 2 {
			t.Errorf("%s: of %d s it is %+v", name, *pod.TerminationGracePeriodSeconds, stop)
		}
	}
}
