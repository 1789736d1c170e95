package kubernetes

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"

	"trellis/compose"
	"trellis/proxy"
)

// Mesh returns the mesh of the cluster that a project is a part of, "" for none.
func Mesh(p compose.Project) string { return p.Trellis.Environments[p.Environment].Mesh }

// inMesh returns the mesh that the project is a part of: what whoever renders says, else the environment.
func (r *renderer) inMesh() string { return cmp.Or(r.opt.Mesh, Mesh(r.p)) }

// joins says whether the pods of a service are in the mesh: a mesh has no part in the network of a node, and nothing to do where there is none.
func joins(svc compose.Service) bool {
	return !svc.Provided() && svc.NetworkMode != "host" && svc.NetworkMode != "none"
}

// memberOf has pods get the proxy of the mesh from the cluster, or keeps them from it. What the file says itself holds.
func (r *renderer) memberOf(m *metav1.ObjectMeta, joins bool) { member(m, r.inMesh(), joins) }

func member(m *metav1.ObjectMeta, mesh string, joins bool) {
	if in, ok := meshNamed(mesh); ok {
		for key, value := range in.labels(joins) {
			m.Labels = with(m.Labels, key, value)
		}
		for key, value := range in.annotations(joins) {
			if _, said := m.Annotations[key]; !said {
				m.Annotations = with(m.Annotations, key, value)
			}
		}
	}
}

// joined is memberOf for the pods of a Job of a service, whose name follows from them. What has run to its end in another mesh, or in none, stays
// as it was: a migration is not run once more for the proxy that it would have beside it.
func (r *renderer) joined(svc compose.Service, t corev1.PodTemplateSpec, name func(corev1.PodTemplateSpec) string) corev1.PodTemplateSpec {
	as := func(mesh string) corev1.PodTemplateSpec {
		one := t
		one.ObjectMeta = *t.ObjectMeta.DeepCopy()
		member(&one.ObjectMeta, mesh, joins(svc))
		return one
	}
	there := map[string]*batchv1.Job{}
	for _, job := range objectsOf[*batchv1.Job](r.live) {
		there[job.Name] = job
	}
	now := as(r.inMesh())
	if there[name(now)] != nil {
		return now
	}
	for _, mesh := range []string{"", compose.Istio, compose.Linkerd} {
		was := as(mesh)
		if job := there[name(was)]; job != nil && jobHas(job, batchv1.JobComplete) {
			return was
		}
	}
	return now
}

// mesh is how a mesh is told things.
type mesh struct {
	labels, annotations func(joins bool) map[string]string
	// bypass are annotations with which ports lead past the proxy.
	bypass func(ports string) map[string]string
	// control are the pods that a proxy has to reach before it does anything, and at which ports.
	control metav1.LabelSelector
	ports   []int32
	// injector ends the names of the webhooks that give pods their proxy.
	injector string
	render   func(r *renderer)
}

// meshNamed returns a mesh, as an environment calls it.
func meshNamed(word string) (m mesh, ok bool) {
	switch word {
	case compose.Istio:
		return istioMesh(), true
	case compose.Linkerd:
		return linkerdMesh(), true
	}
	return mesh{}, false
}

var webhookKind = schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "MutatingWebhookConfiguration"}

// noteInjector says that nothing in the cluster gives pods the proxy of the mesh that the project is to be a part of, as with a mesh that has none:
// they run all the same, and nobody is asked who calls. Who may not look at webhooks, or gets no answer, hears nothing.
func (e *Engine) noteInjector(ctx context.Context, p compose.Project) {
	in, ok := meshNamed(Mesh(p))
	if !ok {
		return
	}
	r, err := e.client.resource(webhookKind)
	if err != nil {
		return
	}
	list, err := r.List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	for _, o := range list.Items {
		webhooks, _, _ := unstructured.NestedSlice(o.Object, "webhooks")
		for _, w := range webhooks {
			one, _ := w.(map[string]any)
			if name, _ := one["name"].(string); strings.HasSuffix(name, in.injector) {
				return
			}
		}
	}
	e.log.WarnContext(ctx, "nothing in the cluster gives pods the proxy of the mesh: they are not in it, calls have no TLS, and nobody is asked who calls; "+
		"install the mesh with its sidecar injector, or leave the mesh out of the environment", "project", e.project, "mesh", Mesh(p), "webhook", in.injector)
}

// membership renders what the mesh of the cluster is told.
func (r *renderer) membership() {
	in, ok := meshNamed(r.inMesh())
	if !ok {
		return
	}
	for _, name := range r.p.ServiceNames() {
		if svc := r.p.Services[name]; svc.NetworkMode == "host" && !svc.Provided() {
			r.note(at(svc, "network_mode"), "is changed: a pod with the network of its node is not in the mesh: it reaches no service that is, and nobody knows who it is")
		}
	}
	in.render(r)
}

// behindPlane says whether who comes from outside reaches the published ports of a service through the data plane.
func (r *renderer) behindPlane(svc compose.Service) bool {
	return r.planned() && !r.opt.Direct && r.throughPlane(svc) && r.kindOf(svc) != daemonSet
}

func onLoopbackOnly(p compose.Port) bool {
	address, err := netip.ParseAddr(p.HostIP)
	return err == nil && address.IsLoopback()
}

// outside are the TCP ports of a service's pods that are reached from outside of the mesh: published ones that lead there, and those that a
// gateway of the cluster leads to, which may not be in the mesh.
func (r *renderer) outside(svc compose.Service) []int32 {
	var all []int32
	for _, p := range svc.Ports {
		published := p.Published != "" && !onLoopbackOnly(p) && (p.Mode == "host" || !r.behindPlane(svc) && r.opt.Publish != PublishNone)
		if p.Protocol != "udp" && (published || len(p.Trellis.Routes) > 0 && r.gatewayClass() != "") {
			all = append(all, clamp(p.Target))
		}
	}
	for _, port := range r.partOf(svc.Name) {
		all = append(all, clamp(port))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// ownOutside are the TCP ports of the data plane's pods that are reached from outside of the mesh: those of the gateway, of published ports, and
// the one at which whoever has the key asks how it is.
func (r *renderer) ownOutside() []int32 {
	all := []int32{HealthPort}
	for _, door := range r.doors {
		all = append(all, portOf(door))
	}
	for _, name := range r.p.ServiceNames() {
		svc := r.p.Services[name]
		if !r.behindPlane(svc) || r.opt.Publish == PublishNone {
			continue
		}
		for _, p := range svc.Ports {
			if p.Published == "" || onLoopbackOnly(p) || p.Mode == "host" || p.Protocol == "udp" {
				continue
			}
			for _, one := range ports(svc) {
				if number, given := r.ports[meshPort{name, one.name}]; given && one.number == clamp(p.Target) && one.protocol == corev1.ProtocolTCP {
					all = append(all, number)
				}
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func portOf(l proxy.Listener) int32 {
	_, port, _ := net.SplitHostPort(l.Address)
	n, _ := strconv.Atoi(port) // of our own making
	return clamp(n)
}

// callersOf are the accounts of those that may reach a service, as NetworkPolicies have it.
func (r *renderer) callersOf(svc compose.Service) []string {
	var all []string
	calls := r.calls()
	for _, caller := range r.p.ServiceNames() {
		if joins(r.p.Services[caller]) && r.mayReach(caller, svc.Name, calls) {
			all = append(all, r.names.of[caller])
		}
	}
	return append(all, r.ownAccounts()...)
}

// ownAccounts are those of the data plane and of the control plane, which ask every service.
func (r *renderer) ownAccounts() []string {
	var all []string
	if r.planned() {
		all = append(all, planeName(r.p.Name))
	}
	if r.controlled() {
		all = append(all, controlName(r.p.Name))
	}
	return all
}

// members are the accounts of all services that are in the mesh.
func (r *renderer) members() []string {
	var all []string
	for _, name := range r.p.ServiceNames() {
		if joins(r.p.Services[name]) {
			all = append(all, r.names.of[name])
		}
	}
	return all
}

// moving says whether pods of the project run that are not in the mesh yet. As long as there are any, nobody is asked who they are: they could
// not say.
func (r *renderer) moving() bool { return outsiders(r.p, r.inMesh(), r.live) }

func outsiders(p compose.Project, in string, live []Object) bool {
	m, ok := meshNamed(in)
	if !ok {
		return false
	}
	return slices.ContainsFunc(objectsOf[*corev1.Pod](live), func(pod *corev1.Pod) bool {
		svc, known := p.Services[serviceOf(pod)]
		own := slices.Contains([]string{dataPlane, controlPlane}, pod.Labels[labelComponent])
		if !own && (!known || !joins(svc)) || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || forsaken(*pod) {
			return false
		}
		for key, value := range m.labels(true) {
			if pod.Labels[key] != value {
				return true
			}
		}
		for key := range m.annotations(true) {
			if pod.Annotations[key] == "" {
				return true
			}
		}
		return false
	})
}

// toMesh lets pods that are kept inside of the project reach what their proxy has to.
func (r *renderer) toMesh() []networkingv1.NetworkPolicyEgressRule {
	m, ok := meshNamed(r.inMesh())
	if !ok {
		return nil
	}
	rule := networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{}, PodSelector: &m.control}}}
	for _, port := range m.ports {
		rule.Ports = append(rule.Ports, networkingv1.NetworkPolicyPort{Protocol: pointer(corev1.ProtocolTCP), Port: pointer(intstr.FromInt32(port))})
	}
	return []networkingv1.NetworkPolicyEgressRule{rule}
}

// listed are ports as annotations have them.
func listed(all []int32) string {
	out := ""
	for i, port := range all {
		if i > 0 {
			out += ","
		}
		out += strconv.Itoa(int(port))
	}
	return out
}
