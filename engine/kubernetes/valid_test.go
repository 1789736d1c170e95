package kubernetes

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// strict decodes only what the API's own types have.
func strict(t testing.TB) runtime.Decoder {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, autoscalingv2.AddToScheme, policyv1.AddToScheme,
		networkingv1.AddToScheme, rbacv1.AddToScheme, coordinationv1.AddToScheme, gatewayv1.Install,
	} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	return serializer.NewCodecFactory(s, serializer.EnableStrict).UniversalDeserializer()
}

// valid holds objects against the rules of the API server that can be written down without one, and against what is asked
// of everything that is rendered.
func valid(t testing.TB, objects []Object) {
	t.Helper()
	decoder, seen := strict(t), map[string]bool{}
	for _, o := range objects {
		kind := o.GetObjectKind().GroupVersionKind().Kind
		id := kind + " " + o.GetName()
		wrong := func(format string, args ...any) { t.Helper(); t.Errorf(id+": "+format, args...) }
		if seen[id] {
			wrong("is there twice")
		}
		seen[id] = true
		again, _, err := decoder.Decode(text(t, o), nil, nil)
		if _, foreign := foreignOf(o.GetObjectKind().GroupVersionKind().GroupKind()); foreign {
			validForeign(wrong, o)
		} else if err != nil {
			wrong("%v", err)
		} else if d := cmp.Diff(string(text(t, o)), string(text(t, again.(Object)))); d != "" {
			wrong("is another when it is read again:\n%s", d)
		}
		named := apivalidation.NameIsDNSSubdomain
		switch o.(type) {
		case *corev1.Service:
			named = apivalidation.NameIsDNS1035Label
		case *appsv1.Deployment, *appsv1.StatefulSet, *appsv1.DaemonSet, *batchv1.Job:
			named = apivalidation.NameIsDNSLabel
		}
		for _, problem := range named(o.GetName(), false) {
			wrong("its name: %s", problem)
		}
		for _, e := range metavalidation.ValidateLabels(o.GetLabels(), field.NewPath("labels")) {
			wrong("%v", e)
		}
		for _, e := range apivalidation.ValidateAnnotations(o.GetAnnotations(), field.NewPath("annotations")) {
			wrong("%v", e)
		}
		for _, label := range []string{labelProject, labelManagedBy} {
			if o.GetLabels()[label] == "" {
				wrong("has no label %s", label)
			}
		}
		if s, ok := o.(*corev1.Service); ok {
			validPorts(wrong, s)
		}
		if template := templateOf(o); template != nil {
			claimed := map[string]bool{}
			if set, ok := o.(*appsv1.StatefulSet); ok {
				for _, claim := range set.Spec.VolumeClaimTemplates {
					claimed[claim.Name] = true
				}
			}
			validPod(wrong, *template, claimed, objects)
		}
	}
}

// validForeign holds an object of which there is no type here against what is asked of all of them: it can be copied, listed and applied.
func validForeign(wrong func(string, ...any), o Object) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		wrong("is of a type of its own")
		return
	}
	if kind := o.GetObjectKind().GroupVersionKind().Kind; resources[kind] == "" {
		wrong("nobody is given the right to it")
	}
	plain, err := plainObject(u) // which copies it, and fails for what is no JSON
	if err != nil || !cmp.Equal(plain.Object, u.Object) {
		wrong("is applied as something else: %v", err)
	}
}

func validPorts(wrong func(string, ...any), s *corev1.Service) {
	names := map[string]bool{}
	for _, p := range s.Spec.Ports {
		for _, problem := range validation.IsDNS1123Label(p.Name) {
			wrong("port %s: %s", p.Name, problem)
		}
		number := fmt.Sprint(p.Port, p.Protocol)
		if names[p.Name] || names[number] || p.Port < 1 || p.Port > 65535 || p.TargetPort.IntVal < 1 {
			wrong("port %+v", p)
		}
		names[p.Name], names[number] = true, true
	}
	if len(s.Spec.Ports) == 0 && s.Spec.ClusterIP != corev1.ClusterIPNone {
		wrong("has no ports, and is not headless")
	}
}

// validPod holds a pod against the API's rules, and what it refers to against the objects that are there, and the volumes that are claimed
// for it.
func validPod(wrong func(string, ...any), t corev1.PodTemplateSpec, claimed map[string]bool, objects []Object) {
	has := func(want func(Object) bool) bool { return slices.ContainsFunc(objects, want) }
	for _, c := range t.Spec.Containers {
		if l, grace := c.Lifecycle, t.Spec.TerminationGracePeriodSeconds; l != nil && l.PreStop != nil && l.PreStop.Sleep != nil && l.PreStop.Sleep.Seconds > *grace {
			wrong("%s waits for %d of %d s before it is asked to end", c.Name, l.PreStop.Sleep.Seconds, *grace)
		}
	}
	for _, e := range metavalidation.ValidateLabels(t.Labels, field.NewPath("pod", "labels")) {
		wrong("%v", e)
	}
	for _, e := range apivalidation.ValidateAnnotations(t.Annotations, field.NewPath("pod", "annotations")) {
		wrong("%v", e)
	}
	if t.Spec.AutomountServiceAccountToken == nil || *t.Spec.AutomountServiceAccountToken {
		wrong("its pods have a token")
	}
	volumes := maps.Clone(claimed)
	for _, v := range t.Spec.Volumes {
		if volumes[v.Name] || len(validation.IsDNS1123Label(v.Name)) > 0 {
			wrong("volume %s", v.Name)
		}
		volumes[v.Name] = true
		validVolume(wrong, v, has)
	}
	aliases := map[string]bool{}
	for _, a := range t.Spec.HostAliases { // a list that the API keeps by address
		if aliases[a.IP] {
			wrong("address %s has two lists of names", a.IP)
		}
		aliases[a.IP] = true
		for _, name := range a.Hostnames {
			for _, problem := range validation.IsDNS1123Subdomain(name) {
				wrong("%s by the name %s: %s", a.IP, name, problem)
			}
		}
	}
	if s := t.Spec.SecurityContext; s != nil {
		for _, one := range s.Sysctls {
			if t.Spec.HostNetwork && strings.HasPrefix(one.Name, "net.") || t.Spec.HostIPC && strings.HasPrefix(one.Name, "kernel.shm") {
				wrong("sets %s of its node", one.Name)
			}
		}
	}
	containers := map[string]bool{}
	for _, c := range slices.Concat(t.Spec.InitContainers, t.Spec.Containers) {
		if containers[c.Name] || len(validation.IsDNS1123Label(c.Name)) > 0 {
			wrong("container %s", c.Name)
		}
		containers[c.Name] = true
		validContainer(wrong, c, t.Spec, volumes, has)
	}
}

func validVolume(wrong func(string, ...any), v corev1.Volume, has func(func(Object) bool) bool) {
	one := func(name string, kind string) {
		if !has(func(o Object) bool { return o.GetName() == name && o.GetObjectKind().GroupVersionKind().Kind == kind }) {
			wrong("volume %s: there is no %s %s", v.Name, kind, name)
		}
	}
	switch {
	case v.PersistentVolumeClaim != nil:
		one(v.PersistentVolumeClaim.ClaimName, "PersistentVolumeClaim")
	case v.ConfigMap != nil:
		one(v.ConfigMap.Name, "ConfigMap")
		keys := map[string]bool{}
		for _, item := range v.ConfigMap.Items {
			if keys[item.Key] || len(validation.IsConfigMapKey(item.Key)) > 0 || path.IsAbs(item.Path) || strings.Contains(item.Path, "..") {
				wrong("volume %s: item %+v", v.Name, item)
			}
			keys[item.Key] = true
		}
	case v.Secret != nil:
		one(v.Secret.SecretName, "Secret")
	}
}

func validContainer(wrong func(string, ...any), c corev1.Container, pod corev1.PodSpec, volumes map[string]bool, has func(func(Object) bool) bool) {
	at := func(format string, args ...any) { wrong("container "+c.Name+": "+format, args...) }
	if c.Image == "" {
		at("has no image")
	}
	names := map[string]bool{}
	for _, e := range c.Env {
		if names[e.Name] || len(validation.IsEnvVarName(e.Name)) > 0 {
			at("variable %s", e.Name)
		}
		names[e.Name] = true
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && !has(func(o Object) bool {
			s, ok := o.(*corev1.Secret)
			return ok && s.Name == e.ValueFrom.SecretKeyRef.Name && s.Data[e.ValueFrom.SecretKeyRef.Key] != nil
		}) {
			at("variable %s refers to nothing", e.Name)
		}
	}
	paths := map[string]bool{}
	for _, m := range c.VolumeMounts {
		if paths[m.MountPath] || !volumes[m.Name] || m.MountPath == "" || strings.Contains(m.MountPath, ":") || path.IsAbs(m.SubPath) {
			at("mount %+v", m)
		}
		paths[m.MountPath] = true
	}
	ports := map[string]bool{}
	for _, p := range c.Ports {
		if ports[p.Name] || len(validation.IsValidPortName(p.Name)) > 0 || p.ContainerPort < 1 || p.ContainerPort > 65535 {
			at("port %+v", p)
		}
		ports[p.Name] = true
	}
	for name, request := range c.Resources.Requests {
		if limit, ok := c.Resources.Limits[name]; ok && request.Cmp(limit) > 0 {
			at("requests more %s than its limit", name)
		}
	}
	for name, p := range map[string]*corev1.Probe{"readiness": c.ReadinessProbe, "startup": c.StartupProbe, "liveness": c.LivenessProbe} {
		if p != nil && (p.PeriodSeconds < 1 || p.TimeoutSeconds < 1 || p.FailureThreshold < 1) {
			at("%s probe %+v", name, p)
		}
	}
	// What a check of manifests looks for.
	s := c.SecurityContext
	privileged := s.Privileged != nil && *s.Privileged
	if s == nil || !privileged && (s.Capabilities == nil || s.AllowPrivilegeEscalation == nil && !slices.Contains(s.Capabilities.Add, "SYS_ADMIN") && !slices.Contains(s.Capabilities.Add, "ALL")) {
		at("security context %+v", s)
	}
	if pod.SecurityContext == nil && !slices.Contains([]string{"wait", "ask"}, c.Name) {
		at("the pod has no security context")
	}
	main := c.Name == pod.Containers[0].Name && pod.RestartPolicy == ""
	if tcp := slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Protocol == corev1.ProtocolTCP }); main && tcp && c.ReadinessProbe == nil {
		at("listens, and nothing asks whether it is ready")
	}
	if main && c.Name != controlPlane && (c.Lifecycle == nil || c.Lifecycle.PreStop == nil) { // who sends telemetry sends it again
		at("is stopped before nothing is sent to it any more")
	}
}
