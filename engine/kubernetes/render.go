package kubernetes

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
)

// leaseSeconds is how long the cluster's control plane may be silent until another one takes over; client-go's default.
const leaseSeconds = 15

// Render returns the objects of a project, in the order in which they are applied. It is pure. live are the objects that are there: what was once given out (the
// ports of the data plane, the revision of a pod that does not change) is taken over from them. A service that cannot
// run in a cluster as its file says: ErrUnsupported, all of them at once.
func Render(p compose.Project, live []Object, opt Options) ([]Object, error) {
	var out []Object
	var refused error
	ports := givenOut(live)
	for _, name := range p.ServiceNames() {
		svc := p.Services[name]
		svc.Name = name
		if err := refuse(svc, opt); err != nil {
			refused = errors.Join(refused, err)
			continue
		}
		d, err := deployment(p, svc, live, opt)
		if err != nil {
			return nil, err
		}
		if len(engine.Ports(svc)) > 0 {
			out = append(out, mesh(p, svc, ports, opt), direct(p, svc, opt))
		}
		out = append(out, d)
	}
	if refused != nil {
		return nil, fmt.Errorf("render %s for kubernetes: %w", p.Name, refused)
	}
	return append(out, lease(p, opt)), nil
}

// rendered are the attributes of a service that this slice carries out, or that mean nothing in a cluster.
var rendered = []string{
	"annotations", "build", "command", "container_name", "deploy", "entrypoint", "environment", "expose", "healthcheck",
	"image", "labels", "networks", "ports", "profiles", "pull_policy", "read_only", "restart", "stop_grace_period", "user",
	"working_dir", "x-trellis", "develop",
}

// refuse says what of a service this slice cannot carry out: it drops nothing unseen.
func refuse(svc compose.Service, opt Options) error {
	var all error
	no := func(path, why string) {
		all = errors.Join(all, fmt.Errorf("services.%s%s: %w: %s", svc.Name, path, errdefs.ErrUnsupported, why))
	}
	text, err := json.Marshal(svc)
	if err != nil {
		return err
	}
	var set map[string]json.RawMessage
	if err := json.Unmarshal(text, &set); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(set)) {
		if !slices.Contains(rendered, key) {
			no("."+key, "is not rendered")
		}
	}
	if problems := validation.IsDNS1035Label(svc.Name + DirectSuffix); len(problems) > 0 {
		no("", "its name cannot be a name in a cluster: "+problems[0])
	}
	if image(svc, opt) == "" {
		no(".image", "there is none, and no build has made one")
	}
	if _, _, err := userOf(svc); err != nil {
		no(".user", err.Error())
	}
	if svc.Deploy.Mode == "global" {
		no(".deploy.mode", "is not rendered")
	}
	return all
}

func image(svc compose.Service, opt Options) string { return cmp.Or(opt.Images[svc.Name], svc.Image) }

// deployment renders the Deployment of a service.
func deployment(p compose.Project, svc compose.Service, live []Object, opt Options) (*appsv1.Deployment, error) {
	template, err := podTemplate(p, svc, opt)
	if err != nil {
		return nil, err
	}
	keepRevision(&template, svc.Name, live)
	d := &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: meta(p, svc.Name, svc.Name, opt),
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: selector(p, svc.Name)}, Template: template, Strategy: strategy(svc),
			RevisionHistoryLimit: new(int32), // revisions are Trellis' own, with secrets and configs
		},
	}
	if svc.Deploy.Trellis.Autoscale == nil { // two owners of one number would undo each other
		d.Spec.Replicas = pointer(int32(engine.Replicas(svc)))
	}
	if u := svc.Deploy.UpdateConfig; u != nil {
		d.Spec.MinReadySeconds = seconds(u.Monitor.Or(0))
	}
	probe := engine.Probe(svc)
	patience := seconds(probe.StartPeriod) + int32(probe.Retries)*seconds(probe.Interval) + progressSeconds
	d.Spec.ProgressDeadlineSeconds = pointer(patience + d.Spec.MinReadySeconds)
	return d, nil
}

// progressSeconds is what a rollout gets beyond its probes until it has failed, as the local engine gives it.
const progressSeconds = 60

// keepRevision marks a pod template with its hash, and with the revision of the live one if that is the same.
func keepRevision(t *corev1.PodTemplateSpec, service string, live []Object) {
	sum := sha256.Sum256(mustJSON(t.Spec))
	hash := hex.EncodeToString(sum[:8])
	for _, d := range objectsOf[*appsv1.Deployment](live) {
		was := d.Spec.Template.Annotations
		if d.Labels[labelService] == service && was[annotationHash] == hash {
			t.Annotations[annotationRevision] = was[annotationRevision]
		}
	}
	t.Annotations[annotationHash] = hash
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain data
	}
	return b
}

// strategy is deploy.update_config as far as Kubernetes knows it. Start-first never takes an available pod away.
func strategy(svc compose.Service) appsv1.DeploymentStrategy {
	replicas := engine.Replicas(svc)
	step := intstr.FromInt32(1)
	if u := svc.Deploy.UpdateConfig; u != nil && u.Parallelism != nil {
		step = intstr.FromInt32(int32(*u.Parallelism))
		if *u.Parallelism == 0 {
			step = intstr.FromString("100%")
		}
	}
	none := intstr.FromInt32(0)
	stopFirst, _ := engine.StopFirst(svc, replicas)
	switch {
	case stopFirst && replicas <= 1:
		return appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	case stopFirst:
		return appsv1.DeploymentStrategy{
			Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &none, MaxUnavailable: &step},
		}
	}
	return appsv1.DeploymentStrategy{
		Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &step, MaxUnavailable: &none},
	}
}

// direct is the headless Service of a service: where the data plane finds its instances.
func direct(p compose.Project, svc compose.Service, opt Options) *corev1.Service {
	s := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: meta(p, svc.Name, svc.Name+DirectSuffix, opt),
		Spec:       corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: selector(p, svc.Name)},
	}
	for _, port := range servicePorts(svc) {
		port.TargetPort = intstr.FromInt32(port.Port)
		s.Spec.Ports = append(s.Spec.Ports, port)
	}
	return s
}

// mesh is the Service of a service's own name. Standalone it leads to the instances; otherwise to the data plane, on a port of that service's port alone, so that
// the data plane knows from the socket what is meant, and retries and drains hold from service to service.
func mesh(p compose.Project, svc compose.Service, given map[meshPort]int32, opt Options) *corev1.Service {
	s := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: meta(p, svc.Name, svc.Name, opt),
		Spec:       corev1.ServiceSpec{Selector: map[string]string{labelProject: p.Name, labelComponent: dataPlane}},
	}
	if opt.Standalone {
		s.Spec.Selector = selector(p, svc.Name)
	}
	for _, port := range servicePorts(svc) {
		port.TargetPort = intstr.FromInt32(port.Port)
		if !opt.Standalone {
			port.TargetPort = intstr.FromInt32(give(given, meshPort{svc.Name, port.Name}))
		}
		s.Spec.Ports = append(s.Spec.Ports, port)
	}
	return s
}

// meshPort names one port of one service.
type meshPort struct{ service, port string }

// givenOut reads which ports of the data plane live Services lead to. One that was given out stays: connections would go
// astray until the data plane has learnt of another.
func givenOut(live []Object) map[meshPort]int32 {
	given := map[meshPort]int32{}
	for _, s := range objectsOf[*corev1.Service](live) {
		for _, p := range s.Spec.Ports {
			if s.Spec.Selector[labelComponent] == dataPlane {
				given[meshPort{s.Labels[labelService], p.Name}] = p.TargetPort.IntVal
			}
		}
	}
	return given
}

// give returns the port of the data plane for p, the lowest free one if it has none.
func give(given map[meshPort]int32, p meshPort) int32 {
	if port, ok := given[p]; ok {
		return port
	}
	taken := slices.Collect(maps.Values(given))
	port := int32(firstMeshPort)
	for slices.Contains(taken, port) {
		port++
	}
	given[p] = port
	return port
}

// servicePorts are the ports of a service without their targets.
func servicePorts(svc compose.Service) []corev1.ServicePort {
	tcp := engine.TCPPorts(svc)
	var all []corev1.ServicePort
	for _, n := range engine.Ports(svc) {
		protocol := corev1.ProtocolTCP
		if !slices.Contains(tcp, n) {
			protocol = corev1.ProtocolUDP
		}
		all = append(all, corev1.ServicePort{Name: portName(n, protocol), Port: int32(n), Protocol: protocol, AppProtocol: appProtocol(svc, n)})
	}
	return all
}

func portName(n int, protocol corev1.Protocol) string {
	if protocol == corev1.ProtocolUDP {
		return "udp-" + strconv.Itoa(n)
	}
	return "tcp-" + strconv.Itoa(n)
}

// appProtocol is Kubernetes' word for a port's app_protocol.
func appProtocol(svc compose.Service, target int) *string {
	words := map[string]string{"http": "http", "https": "https", "grpc": "kubernetes.io/h2c", "h2c": "kubernetes.io/h2c", "ws": "kubernetes.io/ws"}
	for _, p := range svc.Ports {
		if word := words[p.AppProtocol]; p.Target == target && word != "" {
			return &word
		}
	}
	return nil
}

// lease is what the control plane holds while it serves; its holder is the election's, not ours.
func lease(p compose.Project, opt Options) *coordinationv1.Lease {
	return &coordinationv1.Lease{
		TypeMeta: metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"},
		ObjectMeta: metav1.ObjectMeta{
			Name: "trellis-" + p.Name, Namespace: opt.Namespace,
			Labels: map[string]string{labelProject: p.Name, labelComponent: controlPlane, labelManagedBy: managedBy},
		},
		Spec: coordinationv1.LeaseSpec{LeaseDurationSeconds: pointer(int32(leaseSeconds))},
	}
}

func pointer[T any](v T) *T { return &v }
