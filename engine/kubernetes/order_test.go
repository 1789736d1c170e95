package kubernetes

import (
	"slices"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

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

// TestSecretsOfSteps: what a step before the start sets that looks like a secret is in a Secret, each step's own, and neither in the Job
// nor in the pods.
func TestSecretsOfSteps(t *testing.T) {
	p := compose.Project{Name: "shop", Services: map[string]compose.Service{"web": {
		Image: "web:1", Environment: map[string]string{"DB_PASSWORD": "of-the-service"},
		PreStart: []compose.PreStart{
			{Hook: compose.Hook{Command: []string{"migrate"}, Environment: map[string]string{"DB_PASSWORD": "of-the-owner", "LEVEL": "debug"}}},
			{Hook: compose.Hook{Command: []string{"seed"}}},
			{Hook: compose.Hook{Command: []string{"fill"}, Environment: map[string]string{"DB_PASSWORD": "of-each"}}, PerReplica: true},
		},
	}}}
	objects, err := Render(p, nil, Options{Revision: 1})
	if err != nil {
		t.Fatal(err)
	}
	valid(t, objects)
	secrets := map[string]*corev1.Secret{}
	for _, o := range objects {
		if s, ok := o.(*corev1.Secret); ok {
			secrets[s.Name] = s
		} else if strings.Contains(string(text(t, o)), "of-") {
			t.Errorf("in clear:\n%s", text(t, o))
		}
	}
	job, pods := objectsOf[*batchv1.Job](objects)[0].Spec.Template.Spec, deployments(objects)[0].Spec.Template.Spec
	for _, test := range []struct {
		c    corev1.Container
		want string
	}{
		{job.InitContainers[0], "of-the-owner"}, {job.Containers[0], "of-the-service"}, {pods.InitContainers[0], "of-each"}, {pods.Containers[0], "of-the-service"},
	} {
		got := ""
		for _, v := range test.c.Env {
			if v.Name == "DB_PASSWORD" && v.ValueFrom != nil {
				ref := v.ValueFrom.SecretKeyRef
				got = string(secrets[ref.Name].Data[ref.Key])
			}
		}
		if got != test.want {
			t.Errorf("%v has %q, want %q", test.c.Command, got, test.want)
		}
	}
}

// TestAskingFromInside: what waits for Jobs where it does not reach the API server is told, once a service, and of nothing else.
func TestAskingFromInside(t *testing.T) {
	after := map[string]compose.Dependency{"migrate": {Condition: compose.ServiceCompletedSuccessfully, Required: true}}
	once := []compose.PreStart{{Hook: compose.Hook{Command: []string{"fill"}}}}
	each := []compose.PreStart{{Hook: compose.Hook{Command: []string{"fill"}}, PerReplica: true}}
	inside, both := map[string]compose.Attachment{"inside": {}}, map[string]compose.Attachment{"inside": {}, "default": {}}
	p := compose.Project{Name: "shop", Networks: map[string]compose.Network{"inside": {Internal: true}, "default": {}}, Services: map[string]compose.Service{
		"migrate": {Image: "migrate:1", Restart: "no", Networks: inside}, "open": {Image: "web:1", Networks: both, DependsOn: after, PreStart: once},
		"both": {Image: "web:1", Networks: inside, DependsOn: after, PreStart: once}, "steps": {Image: "web:1", Networks: inside, PreStart: once},
		"replica": {Image: "web:1", Networks: inside, PreStart: each}, "closed": {Image: "web:1", NetworkMode: "none", DependsOn: after},
	}}
	for ask, want := range map[string][]string{
		"kubectl:1.36": {"services.both.networks", "services.closed.network_mode", "services.steps.networks"},
		"":             nil,
	} {
		var got []string
		for _, n := range Notes(p, Options{Gates: Gates{Wait: "busybox:1.37", Ask: ask}}) {
			if strings.Contains(n.Message, "API server") {
				got = append(got, n.Path)
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("asked with %q: told of %v, want %v", ask, got, want)
		}
	}
}

// TestServiceCalledAsWhatWaits: a service may be called as what Trellis puts into its pods; what waits is called otherwise there, and as ever
// in the pods of all others.
func TestServiceCalledAsWhatWaits(t *testing.T) {
	services := map[string]compose.Service{
		"db": {Image: "db:1", Expose: []string{"5432"}, Networks: map[string]compose.Attachment{"default": {}}}, "migrate": {Image: "migrate:1", Restart: "no"},
	}
	first := map[string][]string{ // what comes before the program
		"web": {"wait", "ask", "pre-start-1"}, "wait": {"wait-before", "ask", "pre-start-1"}, "ask": {"wait", "ask-before", "pre-start-1"},
		"pre-start-1": {"wait", "ask", "pre-start-1-before"},
	}
	for name := range first {
		services[name] = compose.Service{
			Image: "web:1", PreStart: []compose.PreStart{{Hook: compose.Hook{Command: []string{"fill"}}, PerReplica: true}},
			Networks: map[string]compose.Attachment{"default": {}},
			DependsOn: map[string]compose.Dependency{
				"db": {Condition: compose.ServiceHealthy, Required: true}, "migrate": {Condition: compose.ServiceCompletedSuccessfully, Required: true},
			},
		}
	}
	objects, err := Render(compose.Project{Name: "shop", Services: services}, nil, Options{Gates: Gates{Wait: "busybox:1.37", Ask: "kubectl:1.36"}})
	if err != nil {
		t.Fatal(err)
	}
	valid(t, objects)
	for _, d := range deployments(objects) {
		var got []string
		for _, c := range d.Spec.Template.Spec.InitContainers {
			got = append(got, c.Name)
		}
		if !slices.Equal(got, first[d.Name]) || d.Spec.Template.Spec.Containers[0].Name != d.Name {
			t.Errorf("%s comes after %v, want %v", d.Name, got, first[d.Name])
		}
	}
}
