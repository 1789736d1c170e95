package kubernetes

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"trellis/compose"
	"trellis/engine"
)

// network sets how a pod is called, and how it finds others.
func (r *renderer) network(svc compose.Service, spec *corev1.PodSpec) {
	spec.HostNetwork = svc.NetworkMode == "host"
	if spec.HostNetwork {
		spec.DNSPolicy = corev1.DNSClusterFirstWithHostNet
	}
	if svc.Hostname != "" {
		if len(validation.IsDNS1123Label(svc.Hostname)) > 0 {
			r.note(at(svc, "hostname"), "has no effect: %q cannot be the name of a pod, which is a DNS label", svc.Hostname)
		} else {
			spec.Hostname = svc.Hostname
		}
		if r.kindOf(svc) == statefulSet {
			r.note(at(svc, "hostname"), "is changed: a pod with a volume of its own is called by its number: %s-0", r.names.of[svc.Name])
		}
	}
	for _, host := range slices.Sorted(maps.Keys(svc.ExtraHosts)) {
		for _, address := range svc.ExtraHosts[host] {
			path := compose.JoinPath(at(svc, "extra_hosts"), host)
			ip, err := netip.ParseAddr(strings.Trim(address, "[]"))
			if err != nil || ip.Zone() != "" || len(validation.IsDNS1123Subdomain(host)) > 0 {
				r.note(path, "has no effect: no pod knows %q by the name %s: write an address, and a name in small letters that stands for itself", address, host)
				continue
			}
			i := slices.IndexFunc(spec.HostAliases, func(a corev1.HostAlias) bool { return a.IP == ip.String() })
			if i < 0 { // an address is there once, with all of its names
				i, spec.HostAliases = len(spec.HostAliases), append(spec.HostAliases, corev1.HostAlias{IP: ip.String()})
			}
			if names := &spec.HostAliases[i].Hostnames; !slices.Contains(*names, host) {
				*names = append(*names, host)
			}
		}
	}
	r.resolver(svc, spec)
}

// resolver sets whom a pod asks for names besides the cluster.
func (r *renderer) resolver(svc compose.Service, spec *corev1.PodSpec) {
	c := &corev1.PodDNSConfig{}
	for i, server := range svc.DNS {
		if ip, err := netip.ParseAddr(server); err != nil || ip.Zone() != "" || i > 1 {
			r.note(at(svc, "dns")+index(i), "has no effect: two addresses may be asked besides the cluster's own")
			continue
		}
		c.Nameservers = append(c.Nameservers, server)
	}
	for i, domain := range svc.DNSSearch {
		if len(validation.IsDNS1123Subdomain(strings.TrimSuffix(domain, "."))) > 0 || i > 20 {
			r.note(at(svc, "dns_search")+index(i), "has no effect: %q is no domain", domain)
			continue
		}
		c.Searches = append(c.Searches, domain)
	}
	for _, option := range svc.DNSOpt {
		name, value, has := strings.Cut(option, ":")
		o := corev1.PodDNSConfigOption{Name: name}
		if has {
			o.Value = &value
		}
		if name != "" {
			c.Options = append(c.Options, o)
		}
	}
	if len(c.Nameservers)+len(c.Searches)+len(c.Options) > 0 {
		spec.DNSConfig = c
	}
}

// policies render who may reach whom, once the file says anything about it: by calls, or by networks that not all share.
func (r *renderer) policies() {
	all, calls := r.p.ServiceNames(), r.calls()
	for _, name := range all {
		svc := r.p.Services[name]
		if svc.Provided() || r.image(svc) == "" || svc.NetworkMode == "host" {
			continue
		}
		closed := svc.NetworkMode == "none"
		if r.limited || closed {
			var callers []string
			for _, caller := range all {
				if r.mayReach(caller, name, calls) {
					callers = append(callers, caller)
				}
			}
			r.add(r.ingress(svc, callers))
		}
		if closed || r.inside(svc) {
			r.add(r.egress(svc, closed, "-inside", r.selector(name)))
			if r.jobs[name+"/"+preparation] != "" {
				r.add(r.egress(svc, closed, "-"+preparation, r.preparing(name)))
			}
		}
	}
	if r.limited && r.planned() && !turning(r.out, r.live) {
		r.add(r.doorsOnly())
	}
}

// doorsOnly lets nobody reach a port of the data plane that no Service leads to: each leads to a service, and whom the data plane
// calls for the policy of that could not tell.
func (r *renderer) doorsOnly() *networkingv1.NetworkPolicy {
	open := []networkingv1.NetworkPolicyPort{{Protocol: pointer(corev1.ProtocolTCP), Port: pointer(intstr.FromInt32(HealthPort))}}
	for _, s := range objectsOf[*corev1.Service](r.out) {
		if !leadsToPlane(s) {
			continue
		}
		for _, p := range s.Spec.Ports {
			one := networkingv1.NetworkPolicyPort{Protocol: pointer(p.Protocol), Port: pointer(p.TargetPort)}
			if !slices.ContainsFunc(open, func(o networkingv1.NetworkPolicyPort) bool {
				return *o.Protocol == *one.Protocol && *o.Port == *one.Port
			}) {
				open = append(open, one)
			}
		}
	}
	return &networkingv1.NetworkPolicy{
		TypeMeta: metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"}, ObjectMeta: r.planeMeta(),
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: r.planeSelector()}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{Ports: open}},
		},
	}
}

func leadsToPlane(s *corev1.Service) bool { return s.Spec.Selector[labelComponent] == dataPlane }

// turning says whether a Service of live leads to the data plane that is to lead past it: until it does its port stays open.
func turning(objects, live []Object) bool {
	for _, now := range objectsOf[*corev1.Service](live) {
		if leadsToPlane(now) && slices.ContainsFunc(objectsOf[*corev1.Service](objects), func(s *corev1.Service) bool {
			return s.Name == now.Name && !leadsToPlane(s)
		}) {
			return true
		}
	}
	return false
}

// calls says whether a service of the project says whom it calls.
func (r *renderer) calls() bool {
	for _, svc := range r.p.Services {
		if len(svc.Trellis.Calls) > 0 {
			return true
		}
	}
	return false
}

// limits says whether there is a service that not everyone in the project may reach.
func (r *renderer) limits() bool {
	if r.calls() {
		return true
	}
	// Two services of the same networks stand for all of them: a project has far fewer sorts than services.
	var all []string
	sorts := map[string]int{}
	for _, name := range r.p.ServiceNames() {
		svc := r.p.Services[name]
		sort := svc.NetworkMode + "\x00" + strings.Join(slices.Sorted(maps.Keys(svc.Networks)), "\x00")
		if sorts[sort]++; sorts[sort] <= 2 {
			all = append(all, name)
		}
	}
	for _, callee := range all {
		for _, caller := range all {
			if !r.mayReach(caller, callee, false) {
				return true
			}
		}
	}
	return false
}

// mayReach says whether the file lets a service reach another: they share a network, and no list of calls leaves it out.
func (r *renderer) mayReach(caller, callee string, calls bool) bool {
	from, to := r.p.Services[caller], r.p.Services[callee]
	if caller == callee {
		return from.NetworkMode != "none"
	}
	if from.NetworkMode == "none" || to.NetworkMode == "none" {
		return false
	}
	if calls && !slices.Contains(engine.MayCall(from), callee) {
		return false
	}
	if from.NetworkMode != "" || to.NetworkMode != "" {
		return true // the machine's own network, of which nobody can be kept
	}
	for network := range from.Networks {
		if _, ok := to.Networks[network]; ok {
			return true
		}
	}
	return false
}

// inside says whether all networks of a service are internal, so that it reaches nothing outside.
func (r *renderer) inside(svc compose.Service) bool {
	for network := range svc.Networks {
		if !r.p.Networks[network].Internal {
			return false
		}
	}
	return len(svc.Networks) > 0
}

// ingress lets callers reach a service, and everyone its published ports and those with routes or a part in the routes of others.
func (r *renderer) ingress(svc compose.Service, callers []string) *networkingv1.NetworkPolicy {
	p := r.policy(svc, r.names.of[svc.Name], networkingv1.PolicyTypeIngress)
	var peers []networkingv1.NetworkPolicyPeer
	for _, caller := range callers {
		peers = append(peers, networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: r.selector(caller)}})
		if r.jobs[caller+"/"+preparation] != "" {
			peers = append(peers, networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: r.preparing(caller)}})
		}
	}
	if r.planned() && svc.NetworkMode != "none" { // the gateway, which asks services of their own accord too
		peers = append(peers, networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: r.planeSelector()}})
		if r.controlled() { // which asks for their metrics
			peers = append(peers, networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: r.controlSelector()}})
		}
	}
	if len(peers) > 0 {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: peers})
	}
	var open []networkingv1.NetworkPolicyPort
	for _, port := range svc.Ports {
		address, err := netip.ParseAddr(port.HostIP)
		if svc.NetworkMode == "none" || (port.Published == "" || err == nil && address.IsLoopback()) && len(port.Trellis.Routes) == 0 {
			continue
		}
		open = append(open, networkingv1.NetworkPolicyPort{Protocol: pointer(protocol(port.Protocol)), Port: pointer(intstr.FromInt32(clamp(port.Target)))})
	}
	if svc.NetworkMode != "none" {
		for _, port := range r.partOf(svc.Name) {
			one := networkingv1.NetworkPolicyPort{Protocol: pointer(corev1.ProtocolTCP), Port: pointer(intstr.FromInt32(clamp(port)))}
			if !slices.ContainsFunc(open, func(o networkingv1.NetworkPolicyPort) bool {
				return *o.Protocol == *one.Protocol && *o.Port == *one.Port
			}) {
				open = append(open, one)
			}
		}
	}
	if len(open) > 0 {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{Ports: open})
	}
	p.Spec.Ingress = append(p.Spec.Ingress, r.scraped(svc)...)
	return p
}

// egress keeps a service inside of the project: it reaches the project's pods, and whoever resolves names.
func (r *renderer) egress(svc compose.Service, closed bool, suffix string, pods map[string]string) *networkingv1.NetworkPolicy {
	p := r.policy(svc, cleaned(r.names.of[svc.Name]+suffix, 63), networkingv1.PolicyTypeEgress)
	p.Spec.PodSelector.MatchLabels = pods
	if closed {
		return p
	}
	var dns []networkingv1.NetworkPolicyPort
	for _, protocol := range []corev1.Protocol{corev1.ProtocolUDP, corev1.ProtocolTCP} {
		dns = append(dns, networkingv1.NetworkPolicyPort{Protocol: pointer(protocol), Port: pointer(intstr.FromInt32(53))})
	}
	p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{
		{To: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{labelProject: labelValue(r.p.Name)}}}}},
		{Ports: dns},
	}
	p.Spec.Egress = append(p.Spec.Egress, r.toMesh()...)
	return p
}

func (r *renderer) policy(svc compose.Service, name string, kind networkingv1.PolicyType) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		TypeMeta: metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"}, ObjectMeta: r.meta(svc, name),
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: r.selector(svc.Name)}, PolicyTypes: []networkingv1.PolicyType{kind},
		},
	}
}
