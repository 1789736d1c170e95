package kubernetes

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"trellis/compose"
)

// port is one port that a service listens on.
type port struct {
	name        string
	number      int32
	protocol    corev1.Protocol
	appProtocol *string
	host        int32 // of the node, with mode: host
	hostIP      string
}

// ports are those of a service as far as its file says, each once for each protocol.
func ports(svc compose.Service) []port {
	var all []port
	add := func(one port) {
		same := func(p port) bool { return p.number == one.number && p.protocol == one.protocol }
		if one.number < 1 || one.number > 65535 || slices.ContainsFunc(all, same) {
			return
		}
		one.name = portName(one, all)
		all = append(all, one)
	}
	for _, p := range svc.Ports {
		one := port{name: p.Name, number: clamp(p.Target), protocol: protocol(p.Protocol), appProtocol: appProtocol(p.AppProtocol)}
		if n, err := strconv.Atoi(p.Published); err == nil && p.Mode == "host" {
			one.host, one.hostIP = clamp(n), p.HostIP
		}
		add(one)
	}
	for _, text := range svc.Expose {
		text, word, _ := strings.Cut(text, "/")
		low, high, ranged := strings.Cut(text, "-")
		if !ranged {
			high = low
		}
		first, err := strconv.ParseUint(low, 10, 16)
		last, err2 := strconv.ParseUint(high, 10, 16)
		for n := first; err == nil && err2 == nil && n <= last; n++ {
			add(port{number: int32(n), protocol: protocol(word)})
		}
	}
	if p := svc.Trellis.Probe; p != nil {
		add(port{number: clamp(p.Port), protocol: corev1.ProtocolTCP})
	}
	if m := svc.Trellis.Metrics; m != nil {
		add(port{number: clamp(m.Port), protocol: corev1.ProtocolTCP})
	}
	return all
}

func protocol(word string) corev1.Protocol {
	return corev1.Protocol(strings.ToUpper(cmp.Or(word, "tcp")))
}

// portName names a port as the file does, where a cluster can have that and no other port has it.
func portName(p port, others []port) string {
	taken := func(o port) bool { return o.name == p.name }
	if p.name != "" && len(validation.IsValidPortName(p.name)) == 0 && !slices.ContainsFunc(others, taken) {
		return p.name
	}
	whole := strings.ToLower(string(p.protocol)) + "-" + strconv.Itoa(int(p.number))
	p.name = whole
	for n := 2; slices.ContainsFunc(others, taken); n++ { // the file calls another one so
		p.name = whole + "-" + strconv.Itoa(n)
	}
	return p.name
}

// appProtocol is Kubernetes' word for a port's app_protocol.
func appProtocol(word string) *string {
	words := map[string]string{"http": "http", "https": "https", "grpc": "kubernetes.io/h2c", "h2c": "kubernetes.io/h2c", "ws": "kubernetes.io/ws", "wss": "kubernetes.io/wss"}
	if known := words[word]; known != "" {
		return &known
	}
	return nil
}

// networking renders what a service is reached by.
func (r *renderer) networking(svc compose.Service) {
	if r.kindOf(svc) == job {
		return
	}
	name := r.names.of[svc.Name]
	list := servicePorts(ports(svc), nil)
	switch {
	case len(list) == 0 || svc.Deploy.EndpointMode == "dnsrr":
		// Without ports in the file a name leads to the pods themselves, and so to every port.
		r.add(r.headless(svc, name, list))
	case r.meshed(svc):
		r.add(r.mesh(svc, name, list), r.headless(svc, r.governing(svc), list))
	default:
		r.add(r.clusterIP(svc, name, list))
		if r.kindOf(svc) == statefulSet {
			r.add(r.headless(svc, r.governing(svc), list))
		}
	}
	for _, alias := range r.aliases(svc) {
		if len(list) == 0 {
			r.add(r.headless(svc, alias, nil))
		} else if r.meshed(svc) {
			r.add(r.mesh(svc, alias, list))
		} else {
			r.add(r.clusterIP(svc, alias, list))
		}
	}
	r.publish(svc)
}

// governing names the headless Service that gives the pods of a StatefulSet their names.
func (r *renderer) governing(svc compose.Service) string {
	name := r.names.of[svc.Name]
	if len(ports(svc)) == 0 || svc.Deploy.EndpointMode == "dnsrr" {
		return name
	}
	if len(name+DirectSuffix) > validation.DNS1035LabelMaxLength || r.isService(name+DirectSuffix) {
		return cleaned(name, maxName-11) + DirectSuffix + "-" + short(name)[:4]
	}
	return name + DirectSuffix
}

func (r *renderer) isService(name string) bool {
	return slices.Contains(slices.Collect(maps.Values(r.names.of)), name)
}

// servicePorts are ports as a Service has them; number chooses where each leads, its own where it is nil.
func servicePorts(all []port, number func(port) int32) []corev1.ServicePort {
	var out []corev1.ServicePort
	for _, p := range all {
		target := p.number
		if number != nil {
			target = number(p)
		}
		out = append(out, corev1.ServicePort{Name: p.name, Port: p.number, Protocol: p.protocol, AppProtocol: p.appProtocol, TargetPort: intstr.FromInt32(target)})
	}
	return out
}

func (r *renderer) clusterIP(svc compose.Service, name string, list []corev1.ServicePort) *corev1.Service {
	return &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: r.meta(svc, name),
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Selector: r.selector(svc.Name), Ports: list},
	}
}

// headless is a Service whose name leads to the pods themselves.
func (r *renderer) headless(svc compose.Service, name string, list []corev1.ServicePort) *corev1.Service {
	s := r.clusterIP(svc, name, list)
	s.Spec.ClusterIP = corev1.ClusterIPNone
	return s
}

// aliases are the other names by which the file has a service reached: of its networks, its container, and of links to it.
func (r *renderer) aliases(svc compose.Service) []string {
	wanted := map[string]string{} // by name, where it stands
	for network, a := range svc.Networks {
		for i, alias := range a.Aliases {
			wanted[alias] = compose.JoinPath(at(svc, "networks"), network) + ".aliases" + index(i)
		}
	}
	if svc.ContainerName != "" {
		wanted[svc.ContainerName] = at(svc, "container_name")
	}
	for alias, where := range r.linked[svc.Name] {
		wanted[alias] = where
	}
	var all []string
	for _, alias := range slices.Sorted(maps.Keys(wanted)) {
		switch {
		case alias == svc.Name || alias == r.names.of[svc.Name]:
		case len(validation.IsDNS1035Label(alias)) > 0:
			r.note(wanted[alias], "has no effect: %q cannot be a name in a cluster, which is a DNS label without dots and underscores: use %s", alias, r.names.of[svc.Name])
		case r.names.taken[alias]:
			r.note(wanted[alias], "has no effect: another service has the name %s", alias)
		default:
			r.names.taken[alias] = true
			all = append(all, alias)
		}
	}
	return all
}

// links returns the other names that links give to services, and where they stand: by service and name.
func links(p compose.Project) map[string]map[string]string {
	all := map[string]map[string]string{}
	for _, name := range p.ServiceNames() {
		for i, link := range p.Services[name].Links {
			if to, alias, named := strings.Cut(link, ":"); named {
				if all[to] == nil {
					all[to] = map[string]string{}
				}
				all[to][alias] = at(p.Services[name], "links") + index(i)
			}
		}
	}
	return all
}

// publish renders how the published ports of a service are opened to the outside.
func (r *renderer) publish(svc compose.Service) {
	var list []corev1.ServicePort
	opened := map[string]bool{}
	for i, p := range svc.Ports {
		path := at(svc, "ports") + index(i)
		if svc.NetworkMode == "host" && p.Published != "" && p.Published != strconv.Itoa(p.Target) {
			r.note(path+".published", "has no effect: %s has the network of its node, where it listens on %d itself", svc.Name, p.Target)
		}
		if p.Mode == "host" || svc.NetworkMode == "host" || p.Published == "" {
			if p.Published == "" && len(p.Trellis.Routes) == 0 {
				r.note(path, "is changed: no port is chosen for it outside of the cluster: write published")
			}
			continue
		}
		if address, err := netip.ParseAddr(p.HostIP); err == nil && address.IsLoopback() {
			r.note(path, "is changed: a cluster has no loopback of yours: kubectl port-forward service/%s %s:%d opens it", r.names.of[svc.Name], p.Published, p.Target)
			continue
		} else if err == nil && !address.IsUnspecified() {
			r.note(path+".host_ip", "has no effect: the cluster chooses the addresses")
		}
		low, _, ranged := strings.Cut(p.Published, "-")
		number, err := strconv.Atoi(low)
		if err != nil || number < 1 || number > 65535 {
			continue
		}
		if ranged {
			r.note(path+".published", "is changed: it is %s, the first of the range", low)
		}
		key := low + p.Protocol
		if opened[key] {
			continue
		}
		opened[key] = true
		list = append(list, corev1.ServicePort{
			Name: strings.ToLower(string(protocol(p.Protocol))) + "-" + low, Port: int32(number), Protocol: protocol(p.Protocol),
			AppProtocol: appProtocol(p.AppProtocol), TargetPort: intstr.FromInt32(clamp(p.Target)),
		})
	}
	if len(list) == 0 || r.opt.Publish == PublishNone {
		return
	}
	s := r.clusterIP(svc, r.names.take(r.names.of[svc.Name]+"-public", svc.Name), list)
	r.open(s)
	switch {
	case r.kindOf(svc) == daemonSet:
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal // each node has its own
	case r.planned() && r.throughPlane(svc):
		r.throughMesh(svc, s)
	}
	r.add(s)
}

// mesh is a Service by a service's name where there is a data plane. It leads to the data plane, on a port of that service's
// port alone, so that the data plane knows from the socket what is meant, and retries and drains hold from service to
// service.
func (r *renderer) mesh(svc compose.Service, name string, list []corev1.ServicePort) *corev1.Service {
	s := r.clusterIP(svc, name, list)
	r.throughMesh(svc, s)
	return s
}

// throughMesh has a Service lead to the data plane instead of to the instances, once that is there.
func (r *renderer) throughMesh(svc compose.Service, s *corev1.Service) {
	if r.opt.Direct {
		s.Annotations = with(s.Annotations, annotationPast, dataPlane)
		return
	}
	s.Spec.Selector = r.planeSelector()
	r.nearby(s)
	s.Spec.Ports = slices.Clone(s.Spec.Ports)
	all := ports(svc)
	for i := range s.Spec.Ports {
		to := &s.Spec.Ports[i]
		for _, p := range all {
			if p.number == to.TargetPort.IntVal && p.protocol == to.Protocol {
				to.TargetPort = intstr.FromInt32(give(r.ports, meshPort{svc.Name, p.name}))
				break
			}
		}
	}
}

// meshPort names one port of one service.
type meshPort struct{ service, port string }

// givenOut reads which ports of the data plane were given out. One that was stays: connections would go astray until the data
// plane has learnt of another.
func givenOut(live []Object) map[meshPort]int32 {
	given := map[meshPort]int32{}
	for _, l := range planAmong(live).Snapshot.Listeners {
		kind, rest, _ := strings.Cut(l.Name, "/")
		service, port, _ := strings.Cut(rest, "/")
		if n, err := strconv.Atoi(strings.TrimPrefix(l.Address, ":")); err == nil && kind == "service" {
			given[meshPort{service, port}] = clamp(n)
		}
	}
	return given
}

// give returns the port of the data plane for p, the lowest free one if it has none.
func give(given map[meshPort]int32, p meshPort) int32 {
	if port, ok := given[p]; ok {
		return port
	}
	taken := map[int32]bool{}
	for _, port := range given {
		taken[port] = true
	}
	port := int32(firstMeshPort)
	for taken[port] {
		port++
	}
	given[p] = port
	return port
}
