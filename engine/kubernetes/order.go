package kubernetes

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/compose"
)

const (
	// startedSeconds is how long a pod waits for what it only needs to have started, healthySeconds at least for what has
	// to be ready. Then it goes on: what is down must not keep what is started again from coming back, and two that ask
	// each other whether they are ready must not wait for ever.
	startedSeconds = 60
	healthySeconds = 300
	nobody         = 65534
	tokenPath      = "/var/run/secrets/kubernetes.io/serviceaccount"
)

// steps renders what has to succeed before a service starts: what runs once as a Job, what runs for each replica as a
// container of its pods. claims are what each of these has of its own.
func (r *renderer) steps(svc compose.Service, t *corev1.PodTemplateSpec, c corev1.Container, claims []corev1.PersistentVolumeClaim) {
	var once []corev1.Container
	own := r.stepEnvironment(svc)
	mixed := false
	for i, h := range svc.PreStart {
		s := r.step(svc, t.Spec, c, h, i)
		for _, v := range own[i] {
			s.Env = append(slices.DeleteFunc(s.Env, func(e corev1.EnvVar) bool { return e.Name == v.Name }), v)
		}
		if h.PerReplica {
			s.Name = r.beside(svc, s.Name)
			t.Spec.InitContainers = append(t.Spec.InitContainers, s)
			continue
		}
		mixed = mixed || len(t.Spec.InitContainers) > 0
		once = append(once, s)
	}
	if mixed {
		r.note(at(svc, "pre_start"), "is changed: the steps that run once come before those that each replica runs")
	}
	if len(once) == 0 {
		return
	}
	pod := *t.Spec.DeepCopy()
	pod.InitContainers, pod.Containers = once[:len(once)-1], once[len(once)-1:]
	for _, claim := range claims {
		i := slices.IndexFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == claim.Name })
		if i < 0 {
			continue // another one is mounted there
		}
		pod.Volumes = append(pod.Volumes, corev1.Volume{Name: claim.Name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
		r.note(at(svc, "pre_start"), "is changed: a step that runs once finds %s empty and leaves nothing there, where each replica has a volume of its own: "+
			"set per_replica, or give the volume a name", c.VolumeMounts[i].MountPath)
	}
	pod.RestartPolicy, pod.TopologySpreadConstraints = corev1.RestartPolicyNever, nil
	if pod.Affinity != nil {
		pod.Affinity.PodAntiAffinity = nil
	}
	labels := maps.Clone(t.Labels)
	maps.Copy(labels, r.preparing(svc.Name)) // no Service leads to it
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod}
	r.hold(svc, &template, false)
	named := func(t corev1.PodTemplateSpec) string { return r.names.of[svc.Name] + "-" + short(string(mustJSON(t))) }
	template = r.joined(svc, template, named)
	name := named(template)
	r.jobs[svc.Name+"/"+preparation] = name
	m := r.meta(svc, name)
	m.Labels = maps.Clone(m.Labels)
	m.Labels[labelComponent] = preparation
	r.add(&batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"}, ObjectMeta: m,
		Spec: batchv1.JobSpec{BackoffLimit: new(int32), Template: template},
	})
}

// preparing finds the pods of the Job that runs a service's steps.
func (r *renderer) preparing(service string) map[string]string {
	return map[string]string{
		labelProject: labelValue(r.p.Name), labelService: cleaned(r.names.of[service]+"-"+preparation, 63), labelComponent: preparation,
	}
}

// step is one step before the start: the service with another command, and no ports and probes.
func (r *renderer) step(svc compose.Service, pod corev1.PodSpec, c corev1.Container, h compose.PreStart, i int) corev1.Container {
	s := *c.DeepCopy()
	s.Name, s.Ports, s.Lifecycle = stepName(i), nil, nil
	s.ReadinessProbe, s.StartupProbe, s.LivenessProbe = nil, nil, nil
	s.Command, s.Args = literal(h.Command), nil
	if len(svc.Entrypoint) > 0 {
		s.Command, s.Args = literal(svc.Entrypoint), literal(h.Command)
	}
	if h.Image != "" {
		s.Image = h.Image
	}
	if h.WorkingDir != "" {
		s.WorkingDir = h.WorkingDir
	}
	path := at(svc, "pre_start") + index(i)
	if uid, gid := r.user(path+".user", h.User); uid != nil {
		s.SecurityContext.RunAsUser, s.SecurityContext.RunAsGroup = uid, gid
		if pod.SecurityContext.RunAsNonRoot != nil && *uid == 0 {
			s.SecurityContext.RunAsNonRoot = new(bool)
			if caps := s.SecurityContext.Capabilities; caps != nil { // nil: privileged, and so has all of them
				caps.Add = slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(asRoot), caps.Add...))))
			}
		}
	}
	if h.Privileged {
		s.SecurityContext.Privileged, s.SecurityContext.AllowPrivilegeEscalation, s.SecurityContext.Capabilities = pointer(true), nil, nil
	}
	return s
}

// besideSuffix ends the names of what runs in a pod before a program that is called the same.
const besideSuffix = "-before"

// beside returns the name of what runs in a service's own pods before its program: of two containers of a pod none may be called as the other.
func (r *renderer) beside(svc compose.Service, name string) string {
	if r.names.of[svc.Name] == name {
		return name + besideSuffix
	}
	return name
}

func stepName(i int) string { return fmt.Sprintf("%s-%d", preparation, i+1) }

// StepVariable is the key under which a variable of step i of a service's pre_start is in a Secret.
func StepVariable(i int, variable string) string { return stepName(i) + "." + variable }

// stepEnvironment renders the variables that each step before the start sets itself.
func (r *renderer) stepEnvironment(svc compose.Service) [][]corev1.EnvVar {
	secret := map[string][]byte{}
	for i, h := range svc.PreStart {
		for name, value := range h.Environment {
			if key := StepVariable(i, name); belongsInSecret(name, value, key) {
				secret[key] = []byte(value)
			}
		}
	}
	object := ""
	if len(secret) > 0 {
		object = r.secret(svc, r.names.of[svc.Name]+"-"+preparation+"-env", secret, nil, at(svc, "pre_start"))
	}
	all := make([][]corev1.EnvVar, len(svc.PreStart))
	for i, h := range svc.PreStart {
		for _, name := range slices.Sorted(maps.Keys(h.Environment)) {
			v := corev1.EnvVar{Name: name, Value: unexpanded(h.Environment[name])}
			if key := StepVariable(i, name); secret[key] != nil {
				v = fromSecret(name, object, key)
			}
			all[i] = append(all[i], v)
		}
	}
	return all
}

// hold renders the containers that hold a pod back until what it depends on is there: a pod of the service itself (own), or
// of the Job that runs its steps.
func (r *renderer) hold(svc compose.Service, t *corev1.PodTemplateSpec, own bool) {
	var reach []string // "host port seconds", one for each
	var done []string  // Jobs
	for _, name := range slices.Sorted(maps.Keys(svc.DependsOn)) {
		other, ok := r.p.Services[name]
		if !ok || other.Provided() {
			continue
		}
		switch d := svc.DependsOn[name]; {
		case r.jobs[name] != "" && d.Condition == compose.ServiceCompletedSuccessfully:
			done = append(done, r.jobs[name])
		case r.kindOf(other) == job || !r.mayReach(svc.Name, name, false):
			// what runs to its end is reached by nobody; what shares no network cannot be asked
		default:
			wait := int32(startedSeconds)
			if d.Condition == compose.ServiceHealthy {
				wait = max(healthySeconds, patience(other))
			}
			reach = append(reach, fmt.Sprintf("%s %d %d", r.names.of[name], firstTCP(other), wait))
		}
	}
	if prepared := r.jobs[svc.Name+"/"+preparation]; own && prepared != "" {
		done = append(done, prepared)
	}
	var gates []corev1.Container
	if len(reach) > 0 && r.opt.Gates.Wait != "" {
		gates = append(gates, gate(r.beside(svc, "wait"), r.opt.Gates.Wait, "32Mi", []string{"/bin/sh", "-c", waitScript(reach)}))
	}
	if len(done) > 0 && r.opt.Gates.Ask != "" {
		gates = append(gates, r.ask(svc, t, done, own))
		if own { // whatever its Job asks for they ask for too
			r.checkAsking(svc)
		}
	}
	t.Spec.InitContainers = append(gates, t.Spec.InitContainers...)
}

// firstTCP is the port by which a service is asked whether it is there, 0 for one whose file names none.
func firstTCP(svc compose.Service) int32 {
	for _, p := range ports(svc) {
		if p.protocol == corev1.ProtocolTCP {
			return p.number
		}
	}
	return 0
}

// waitScript waits for services, one after the other: until somebody listens at the port, which only a ready pod does
// behind a Service, or, without a port, until the name leads to a pod that is ready.
func waitScript(reach []string) string {
	return `await() {
  end=$(($(date +%s) + $3))
  while [ "$(date +%s)" -lt "$end" ]; do
    if [ "$2" -gt 0 ]; then
      nc -z -w 2 "$1" "$2" && return
    else
      nc -z -w 2 "$1" 1 2>&1 | grep -q 'bad address' || return
    fi
    sleep 1
  done
  echo "$1 is not there after $3 seconds: starting without it" >&2
}
await ` + strings.Join(reach, "\nawait ") + "\n"
}

// gate is a container that only waits.
func gate(name, image, memory string, command []string) corev1.Container {
	c := corev1.Container{
		Name: name, Image: image, Command: command,
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse(memory)},
			Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse(memory)},
		},
		SecurityContext: &corev1.SecurityContext{
			RunAsUser: pointer(int64(nobody)), RunAsGroup: pointer(int64(nobody)), RunAsNonRoot: pointer(true), AllowPrivilegeEscalation: new(bool),
			ReadOnlyRootFilesystem: pointer(true), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
	bounded(&c)
	return c
}

// ask waits for Jobs to complete. It alone has a token in its pod, with which it may look at these Jobs.
func (r *renderer) ask(svc compose.Service, t *corev1.PodTemplateSpec, jobs []string, own bool) corev1.Container {
	command := []string{"kubectl", "wait", "--for=condition=complete", "--timeout=1h"}
	for _, name := range jobs {
		command = append(command, "job/"+name)
	}
	c := gate(r.beside(svc, "ask"), r.opt.Gates.Ask, "128Mi", command)
	const volume = "token"
	c.VolumeMounts = []corev1.VolumeMount{{Name: volume, MountPath: tokenPath, ReadOnly: true}}
	t.Spec.Volumes = append(t.Spec.Volumes, corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: pointer(int32(0o444)),
		Sources:     tokenSources(),
	}}})
	name := r.names.of[svc.Name]
	if !own {
		name = cleaned(name+"-"+preparation, 63)
	}
	m := r.meta(svc, name)
	r.add(
		&rbacv1.Role{
			TypeMeta: metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "Role"}, ObjectMeta: m,
			Rules: []rbacv1.PolicyRule{{APIGroups: []string{"batch"}, Resources: []string{"jobs"}, ResourceNames: jobs, Verbs: []string{"get", "list", "watch"}}},
		},
		&rbacv1.RoleBinding{
			TypeMeta: metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "RoleBinding"}, ObjectMeta: m,
			RoleRef:  rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: name},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: r.names.of[svc.Name], Namespace: r.opt.Namespace}},
		},
	)
	return c
}

// checkAsking says where what waits for Jobs does not reach the API server. No policy of Trellis' lets it: where that server is no file says, a
// policy holds for the whole pod, and for some networks the server has no address that a policy could name.
func (r *renderer) checkAsking(svc compose.Service) {
	path := at(svc, "networks")
	if svc.NetworkMode == "none" {
		path = at(svc, "network_mode")
	} else if !r.inside(svc) {
		return
	}
	r.note(path, "is changed: its pods ask the API server whether the Jobs before them have completed, and do not reach it from inside where the cluster enforces "+
		"NetworkPolicies: they would never start: beside base, add a NetworkPolicy that lets them reach your API server, or have them wait for no Job (--kubectl-image '')")
}

// tokenSources are what a pod needs to speak to its cluster as its account.
func tokenSources() []corev1.VolumeProjection {
	return []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: pointer(int64(3600)), Path: "token"}},
		{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
		}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
			Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
		}}}},
	}
}
