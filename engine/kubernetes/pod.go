package kubernetes

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"

	"trellis/compose"
	"trellis/engine"
)

// defaultGrace is Compose's default of stop_grace_period.
const defaultGrace = 10 * time.Second

// podTemplate renders the pods of a service, but for their part in a mesh, and the claims that each of them has of its own.
func (r *renderer) podTemplate(svc compose.Service, k kind) (corev1.PodTemplateSpec, []corev1.PersistentVolumeClaim) {
	t := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: r.labels(svc)},
		Spec: corev1.PodSpec{
			ServiceAccountName:           r.names.of[svc.Name],
			AutomountServiceAccountToken: new(bool),
			EnableServiceLinks:           new(bool), // variables that Compose does not know
			PriorityClassName:            r.opt.PriorityClass,
		},
	}
	t.Annotations = r.annotated(nil, svc.Labels, at(svc, "labels"))
	t.Annotations = r.called(r.annotated(t.Annotations, svc.Annotations, at(svc, "annotations")), svc)
	t.Spec.TerminationGracePeriodSeconds = pointer(int64(seconds(svc.StopGracePeriod.Or(defaultGrace))))
	if k != job {
		*t.Spec.TerminationGracePeriodSeconds += unrouteSeconds
	}
	c := r.container(svc, k)
	m := r.mounts(svc, k)
	t.Spec.Volumes, c.VolumeMounts = m.volumes, m.mounts
	for _, key := range m.shared {
		t.Labels[labelVolume+short(key)] = "shared"
	}
	r.security(svc, &t.Spec, &c)
	r.network(svc, &t.Spec)
	r.place(svc, k, &t, m.shared)
	r.steps(svc, &t, c, m.claims)
	r.hold(svc, &t, true)
	t.Spec.Containers = []corev1.Container{c}
	return t, m.claims
}

// container renders the program of a service, without its mounts and its security context.
func (r *renderer) container(svc compose.Service, k kind) corev1.Container {
	c := corev1.Container{
		Name: r.names.of[svc.Name], Image: r.image(svc), ImagePullPolicy: pullPolicy(svc.PullPolicy),
		Command: literal(svc.Entrypoint), Args: literal(svc.Command), WorkingDir: svc.WorkingDir,
		Resources: r.resources(svc), Stdin: svc.StdinOpen, TTY: svc.Tty, Env: r.environment(svc),
	}
	if ofArtifacts(svc) {
		c.Command, c.Args, c.WorkingDir = nil, nil, ""
	}
	if k != job {
		r.probes(svc, &c)
		c.Lifecycle = r.lifecycle(svc, unrouteSeconds)
	} else if l := r.lifecycle(svc, 0); *l != (corev1.Lifecycle{}) { // nobody sends it requests
		c.Lifecycle = l
	}
	for _, p := range ports(svc) {
		one := corev1.ContainerPort{Name: p.name, ContainerPort: p.number, Protocol: p.protocol}
		if p.host > 0 && svc.NetworkMode != "host" {
			one.HostPort, one.HostIP = p.host, p.hostIP
		}
		c.Ports = append(c.Ports, one)
	}
	return c
}

func (r *renderer) image(svc compose.Service) string {
	if image := cmp.Or(r.opt.Images[svc.Name], svc.Trellis.ImageID, svc.Image); image != "" || svc.Build == nil || r.opt.Revision != 0 {
		return image
	}
	return cleaned(r.p.Name, maxName) + "-" + r.names.of[svc.Name] // as Compose names what it builds
}

// BuiltImages returns the images that a project builds and its file gives no name, sorted: they have to be pushed somewhere
// before a cluster can run them.
func BuiltImages(p compose.Project, opt Options) []string {
	r := newRenderer(p, nil, opt)
	var all []string
	for _, name := range p.ServiceNames() {
		if svc := r.p.Services[name]; svc.Image == "" && svc.Build != nil && opt.Images[name] == "" && svc.Trellis.ImageID == "" {
			all = append(all, r.image(svc))
		}
	}
	return all
}

// checkImage says of an image what a cluster makes of it.
func (r *renderer) checkImage(svc compose.Service) {
	image := r.image(svc)
	switch {
	case r.opt.Images[svc.Name] != "", svc.Trellis.ImageID != "":
	case svc.Build != nil:
		r.note(at(svc, "build"), "is changed: a cluster builds nothing: build the image, and push it as %s", image)
	case untagged(image):
		r.note(at(svc, "image"), "is changed: %s names no version: each node runs what is the latest when it pulls", image)
	}
}

// untagged says whether an image is written without a tag or digest.
func untagged(image string) bool {
	named, err := reference.ParseNormalizedNamed(image)
	return err == nil && reference.IsNameOnly(named)
}

// pullPolicy is Kubernetes' word for a pull policy; "" where the file says nothing, which is by the image's tag.
func pullPolicy(policy string) corev1.PullPolicy {
	switch {
	case policy == "always", policy == "daily", policy == "weekly", strings.HasPrefix(policy, "every_"):
		return corev1.PullAlways
	case policy == "never":
		return corev1.PullNever
	case policy != "":
		return corev1.PullIfNotPresent
	}
	return ""
}

// literal keeps Kubernetes from expanding $(NAME) in a command: Compose has expanded what it expands.
func literal(words []string) []string {
	out := slices.Clone(words)
	for i, w := range out {
		out[i] = unexpanded(w)
	}
	return out
}

func unexpanded(text string) string {
	if strings.Contains(text, "$(") || strings.Contains(text, "$$") {
		return strings.ReplaceAll(text, "$", "$$")
	}
	return text
}

// environment renders the variables of a service. Those whose names say that they are secrets are in a Secret.
func (r *renderer) environment(svc compose.Service) []corev1.EnvVar {
	secret := map[string][]byte{}
	for name, value := range svc.Environment {
		if belongsInSecret(name, value, name) {
			secret[name] = []byte(value)
		}
	}
	object := ""
	if len(secret) > 0 {
		object = r.secret(svc, r.names.of[svc.Name]+"-env", secret, nil, at(svc, "environment"))
	}
	var all []corev1.EnvVar
	for _, name := range slices.Sorted(maps.Keys(svc.Environment)) {
		if len(utilvalidation.IsEnvVarName(name)) > 0 {
			r.note(compose.JoinPath(at(svc, "environment"), name), "has no effect: a cluster has no variables of such a name")
			continue
		}
		v := corev1.EnvVar{Name: name, Value: unexpanded(svc.Environment[name])}
		if secret[name] != nil {
			v = fromSecret(name, object, name)
		}
		all = append(all, v)
	}
	return append(all, r.telemetryEnvironment(svc)...)
}

// belongsInSecret says whether a variable's name and value say that it is a secret, and a Secret can have it under a key.
func belongsInSecret(name, value, key string) bool {
	return engine.LooksSecret(name, value) && value != "" && len(utilvalidation.IsConfigMapKey(key)) == 0
}

// fromSecret is a variable whose value is in a Secret.
func fromSecret(name, object, key string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: object}, Key: key,
	}}}
}

// annotated adds labels of Compose to annotations: their values may be anything, which those of Kubernetes' labels may not.
func (r *renderer) annotated(to, labels map[string]string, path string) map[string]string {
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if problems := validation.ValidateAnnotations(map[string]string{key: ""}, nil); len(problems) > 0 {
			r.note(compose.JoinPath(path, key), "has no effect: a cluster has no annotations of such a name")
			continue
		}
		to = with(to, key, labels[key])
	}
	return to
}

// askedOfLimit is the part of a limit of CPU that is asked for where the file reserves none.
const askedOfLimit = 10

// resources renders limits and reservations. What asks for a kind of device is a limit of that.
func (r *renderer) resources(svc compose.Service) corev1.ResourceRequirements {
	res := svc.Deploy.Resources
	out := corev1.ResourceRequirements{Limits: amounts(res.Limits), Requests: amounts(res.Reservations)}
	for name, limit := range out.Limits {
		if request, ok := out.Requests[name]; ok && request.Cmp(limit) > 0 {
			out.Requests[name] = limit // as much is never given
			r.note(at(svc, "deploy.resources.reservations"), "is changed: %s reserves more than its limit, which is what is reserved", svc.Name)
		}
	}
	// A limit reserves nothing, and a cluster asks for all of it where it is told no request: ten services that may use a CPU
	// each would need a machine of ten. Of memory so much is asked for, because what was lent twice is taken by killing.
	if limit, ok := out.Limits[corev1.ResourceCPU]; ok && out.Requests.Cpu().IsZero() {
		if out.Requests == nil {
			out.Requests = corev1.ResourceList{}
		}
		out.Requests[corev1.ResourceCPU] = *resource.NewMilliQuantity(max(1, limit.MilliValue()/askedOfLimit), resource.DecimalSI)
	}
	devices, _ := res.Reservations.Other["devices"].([]any)
	for i, d := range devices {
		n, ok := gpus(d)
		if !ok {
			r.note(at(svc, "deploy.resources.reservations.devices")+index(i), "has no effect: only so many GPUs can be asked for: write capabilities: [gpu] and count")
			continue
		}
		if out.Limits == nil {
			out.Limits = corev1.ResourceList{}
		}
		out.Limits["nvidia.com/gpu"] = *resource.NewQuantity(n, resource.DecimalSI)
	}
	return out
}

func index(i int) string { return "[" + strconv.Itoa(i) + "]" }

// gpus reads one device that is reserved: how many GPUs it is.
func gpus(device any) (int64, bool) {
	d, _ := device.(map[string]any)
	n, _ := d["count"].(float64)
	capabilities, _ := d["capabilities"].([]any)
	driver, _ := d["driver"].(string)
	return int64(n), n >= 1 && n < math.MaxInt32 && slices.Contains(capabilities, any("gpu")) && (driver == "" || driver == "nvidia")
}

func amounts(a compose.ResourceAmounts) corev1.ResourceList {
	list := corev1.ResourceList{}
	if a.CPUs > 0 {
		list[corev1.ResourceCPU] = *resource.NewMilliQuantity(int64(math.Ceil(min(a.CPUs, 1e6)*1000)), resource.DecimalSI)
	}
	if a.Memory > 0 {
		list[corev1.ResourceMemory] = *resource.NewQuantity(a.Memory, resource.BinarySI)
	}
	if len(list) == 0 {
		return nil
	}
	return list
}

// seconds rounds up: Kubernetes counts in whole seconds, and none would be no time at all.
func seconds(d time.Duration) int32 {
	return int32(min(int64((d+time.Second-1)/time.Second), math.MaxInt32/2))
}
