package kubernetes

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"trellis/compose"
	"trellis/engine"
	"trellis/probe"
)

const (
	// unrouteSeconds pass between a pod's deletion and its stop signal: long enough for every data plane to have heard of
	// it, so that nothing new is sent to a program that is asked to end.
	unrouteSeconds = 5
	// defaultGrace is Compose's default of stop_grace_period.
	defaultGrace = 10 * time.Second
)

// podTemplate renders the pods of a service.
func podTemplate(p compose.Project, svc compose.Service, opt Options) (corev1.PodTemplateSpec, error) {
	uid, gid, err := userOf(svc)
	if err != nil {
		return corev1.PodTemplateSpec{}, err
	}
	annotations := maps.Clone(svc.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[annotationRevision] = strconv.FormatInt(opt.Revision, 10)
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels(p, svc.Name), Annotations: annotations},
		Spec: corev1.PodSpec{
			Containers:                    []corev1.Container{container(svc, opt)},
			TerminationGracePeriodSeconds: pointer(int64(unrouteSeconds + seconds(svc.StopGracePeriod.Or(defaultGrace)))),
			AutomountServiceAccountToken:  new(bool),
			EnableServiceLinks:            new(bool), // variables that Compose does not know
			SecurityContext: &corev1.PodSecurityContext{
				RunAsUser: uid, RunAsGroup: gid, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
		},
	}, nil
}

func container(svc compose.Service, opt Options) corev1.Container {
	c := corev1.Container{
		Name: svc.Name, Image: image(svc, opt), Command: svc.Entrypoint, Args: svc.Command, WorkingDir: svc.WorkingDir,
		Resources:      resources(svc.Deploy.Resources),
		ReadinessProbe: readiness(engine.Probe(svc)),
		Lifecycle:      &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: unrouteSeconds}}},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(bool), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
	if svc.ReadOnly {
		c.SecurityContext.ReadOnlyRootFilesystem = pointer(true)
	}
	for _, name := range slices.Sorted(maps.Keys(svc.Environment)) {
		// Kubernetes expands $(NAME) in values; Compose has expanded what it expands.
		c.Env = append(c.Env, corev1.EnvVar{Name: name, Value: strings.ReplaceAll(svc.Environment[name], "$(", "$$(")})
	}
	for _, p := range servicePorts(svc) {
		c.Ports = append(c.Ports, corev1.ContainerPort{Name: p.Name, ContainerPort: p.Port, Protocol: p.Protocol})
	}
	return c
}

// userOf reads user as "uid[:gid]"; a name means nothing to a cluster.
func userOf(svc compose.Service) (uid, gid *int64, err error) {
	if svc.User == "" {
		return nil, nil, nil
	}
	user, group, grouped := strings.Cut(svc.User, ":")
	u, err := strconv.ParseInt(user, 10, 64)
	if err != nil || u < 0 {
		return nil, nil, fmt.Errorf("%q is a name, which only the image knows; write its number", user)
	}
	if !grouped {
		return &u, nil, nil
	}
	g, err := strconv.ParseInt(group, 10, 64)
	if err != nil || g < 0 {
		return nil, nil, fmt.Errorf("%q is a name, which only the image knows; write its number", group)
	}
	return &u, &g, nil
}

func resources(r compose.Resources) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Limits: amounts(r.Limits), Requests: amounts(r.Reservations)}
}

func amounts(a compose.ResourceAmounts) corev1.ResourceList {
	list := corev1.ResourceList{}
	if a.CPUs > 0 {
		list[corev1.ResourceCPU] = *resource.NewMilliQuantity(int64(math.Ceil(a.CPUs*1000)), resource.DecimalSI)
	}
	if a.Memory > 0 {
		list[corev1.ResourceMemory] = *resource.NewQuantity(a.Memory, resource.BinarySI)
	}
	if len(list) == 0 {
		return nil
	}
	return list
}

// readiness is the probe of a service as Kubernetes asks it. Failures within the start period cost nothing there either:
// a pod that was never ready is not restarted for it.
func readiness(s probe.Spec) *corev1.Probe {
	p := &corev1.Probe{
		PeriodSeconds: seconds(s.Interval), TimeoutSeconds: seconds(s.Timeout), FailureThreshold: int32(s.Retries),
	}
	switch s.Kind {
	case probe.HTTP:
		scheme := corev1.URISchemeHTTP
		if s.TLS {
			scheme = corev1.URISchemeHTTPS
		}
		p.HTTPGet = &corev1.HTTPGetAction{Path: s.Path, Port: intstr.FromInt(s.Port), Scheme: scheme}
	case probe.TCP:
		p.TCPSocket = &corev1.TCPSocketAction{Port: intstr.FromInt(s.Port)}
	case probe.GRPC:
		p.GRPC = &corev1.GRPCAction{Port: int32(s.Port), Service: &s.Path}
	case probe.Exec:
		p.Exec = &corev1.ExecAction{Command: s.Command}
	default:
		return nil
	}
	return p
}

// seconds rounds up: Kubernetes counts in whole seconds, and none would be no time at all.
func seconds(d time.Duration) int32 { return int32((d + time.Second - 1) / time.Second) }
