package kubernetes

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"trellis/compose"
	"trellis/engine"
	"trellis/probe"
)

const linkerdGroup = "policy.linkerd.io"

var (
	serverKind        = schema.GroupVersionKind{Group: linkerdGroup, Version: "v1beta3", Kind: "Server"}
	linkerdPolicyKind = schema.GroupVersionKind{Group: linkerdGroup, Version: "v1alpha1", Kind: "AuthorizationPolicy"}
	meshTLSKind       = schema.GroupVersionKind{Group: linkerdGroup, Version: "v1alpha1", Kind: "MeshTLSAuthentication"}
	anyNetworkKind    = schema.GroupVersionKind{Group: linkerdGroup, Version: "v1alpha1", Kind: "NetworkAuthentication"}
	linkerdRouteKind  = schema.GroupVersionKind{Group: linkerdGroup, Version: "v1beta3", Kind: "HTTPRoute"}
)

// Whom a Server lets in besides those that policies name.
const (
	letNobody  = "deny"
	letMembers = "all-authenticated"   // who is in the mesh
	letAll     = "all-unauthenticated" // with TLS or without
)

const (
	linkerdInject = "linkerd.io/inject"
	// The former says in versions of since May 2026 what the latter said before, and does still.
	linkerdNative     = "config.linkerd.io/proxy-enable-native-sidecar"
	linkerdNativeWas  = "config.alpha.linkerd.io/proxy-enable-native-sidecar"
	linkerdSkip       = "config.linkerd.io/skip-inbound-ports"
	linkerdComponents = "linkerd.io/control-plane-component"
	grpcHealthCheck   = "/grpc.health.v1.Health/Check"
)

// opaque are the ports that Linkerd itself takes for such whose protocol is not to be found out: on some of them it is the server that speaks first.
var opaque = []int32{25, 587, 3306, 4444, 5432, 6379, 9300, 11211}

func linkerdMesh() mesh {
	return mesh{
		labels: func(bool) map[string]string { return nil },
		annotations: func(joins bool) map[string]string {
			if !joins {
				return map[string]string{linkerdInject: "disabled"}
			}
			return map[string]string{linkerdInject: "enabled", linkerdNative: "true", linkerdNativeWas: "true"} // as with Istio
		},
		bypass: func(ports string) map[string]string { return map[string]string{linkerdSkip: ports} },
		control: metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: linkerdComponents, Operator: metav1.LabelSelectorOpExists},
		}}, ports: []int32{8080, 8086, 8090}, // identities, destinations, policies
		injector: "linkerd-proxy-injector.linkerd.io", render: (*renderer).linkerd,
	}
}

// linkerdServer is the spec of a Server (policy.linkerd.io/v1beta3): one port of some pods.
type linkerdServer struct {
	Pods     metav1.LabelSelector `json:"podSelector"`
	Port     int32                `json:"port"`
	Protocol string               `json:"proxyProtocol,omitempty"`
	Access   string               `json:"accessPolicy"`
}

// linkerdPolicy is the spec of an AuthorizationPolicy (policy.linkerd.io/v1alpha1).
type linkerdPolicy struct {
	Target   linkerdRef   `json:"targetRef"`
	Required []linkerdRef `json:"requiredAuthenticationRefs"`
}

type linkerdRef struct {
	Group string `json:"group,omitempty"` // "": Kubernetes' own
	Kind  string `json:"kind"`
	Name  string `json:"name"`
}

func refTo(kind schema.GroupVersionKind, name string) linkerdRef {
	return linkerdRef{kind.Group, kind.Kind, name}
}

// meshTLS is the spec of a MeshTLSAuthentication (policy.linkerd.io/v1alpha1).
type meshTLS struct {
	Identities []linkerdRef `json:"identityRefs"`
}

// linkerdRoute is the spec of an HTTPRoute (policy.linkerd.io/v1beta3) of a Server.
type linkerdRoute struct {
	Parents []linkerdRef      `json:"parentRefs"`
	Rules   []linkerdRouteSet `json:"rules"`
}

type linkerdRouteSet struct {
	Matches []linkerdMatch `json:"matches"`
}

type linkerdMatch struct {
	Path linkerdPath `json:"path"`
}

type linkerdPath struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// linkerd renders what Linkerd is told.
func (r *renderer) linkerd() {
	everybody := cleaned(r.p.Name+"-everybody", maxName) // whom a kubelet is one of
	asked := false
	for _, name := range r.p.ServiceNames() {
		svc := r.p.Services[name]
		if !joins(svc) || r.image(svc) == "" {
			continue
		}
		open := append(r.outside(svc), r.scrapedAt(svc)...)
		r.checkLinkerd(svc)
		if r.authenticated(r.meta(svc, r.names.of[name]), r.callersOf(svc)) && len(tcp(svc)) == 0 {
			r.note(at(svc, "x-trellis.calls"), "is changed: Linkerd asks who calls at ports that the file names, and it names none of %s: add expose", name)
		}
		for _, p := range tcp(svc) {
			protocol := ""
			if p.appProtocol == nil && slices.Contains(opaque, p.number) {
				protocol = "opaque"
			}
			server := r.server(r.meta(svc, r.names.of[name]), r.selector(name), p.number, protocol, open)
			if r.asksByGRPC(svc, p) {
				asked = true
				r.letKubeletAsk(r.meta(svc, ""), server, everybody)
			}
		}
	}
	if asked {
		r.add(made(anyNetworkKind, r.meta(compose.Service{}, everybody), map[string]any{
			"networks": []any{map[string]string{"cidr": "0.0.0.0/0"}, map[string]string{"cidr": "::/0"}},
		}))
	}
	r.ownServers()
}

// tcp are the TCP ports of a service that its file names.
func tcp(svc compose.Service) []port {
	return slices.DeleteFunc(ports(svc), func(p port) bool { return p.protocol != corev1.ProtocolTCP })
}

// ownServers renders what Linkerd is told of the pods of Trellis itself.
func (r *renderer) ownServers() {
	if r.planned() {
		past := r.ownOutside()
		var all []int32
		for _, name := range r.p.ServiceNames() {
			svc := r.p.Services[name]
			for _, p := range ports(svc) {
				number, given := r.ports[meshPort{name, p.name}]
				if given && r.throughPlane(svc) && p.protocol == corev1.ProtocolTCP && !slices.Contains(past, number) {
					all = append(all, number)
				}
			}
		}
		slices.Sort(all)
		for _, number := range all { // where names lead past it, nobody is named who may come here
			r.add(made(serverKind, r.ownServerMeta(r.planeMeta(), number), linkerdServer{
				Pods: metav1.LabelSelector{MatchLabels: r.planeSelector()}, Port: number, Access: r.access(number, nil),
			}))
		}
	}
	if r.controlled() {
		meta := r.controlMeta(controlName(r.p.Name))
		r.authenticated(meta, r.members())
		r.server(meta, r.controlSelector(), OTLPPort, "", nil)
	}
}

func (r *renderer) ownServerMeta(meta metav1.ObjectMeta, port int32) metav1.ObjectMeta {
	meta.Name = cleaned(fmt.Sprintf("%s-%d", meta.Name, port), maxName)
	return meta
}

// access says whom a port of pods lets in besides those that policies name; open are the ports that who is not in the mesh comes to.
func (r *renderer) access(port int32, open []int32) string {
	switch {
	case r.moving() || slices.Contains(open, port):
		return letAll
	case r.limited:
		return letNobody
	}
	return letMembers
}

// authenticated names those who may reach pods, where not everybody may. false: nobody is named.
func (r *renderer) authenticated(meta metav1.ObjectMeta, accounts []string) bool {
	if !r.limited || r.moving() {
		return false
	}
	var spec meshTLS
	for _, account := range accounts {
		spec.Identities = append(spec.Identities, linkerdRef{Kind: "ServiceAccount", Name: account}) // of this namespace, whatever the trust domain
	}
	r.add(made(meshTLSKind, meta, spec))
	return true
}

// server renders a port of pods, and that those whom the MeshTLSAuthentication of meta's name has are let in there. It returns its name.
func (r *renderer) server(meta metav1.ObjectMeta, pods map[string]string, port int32, protocol string, open []int32) string {
	whom, access := meta.Name, r.access(port, open)
	meta = r.ownServerMeta(meta, port)
	r.add(made(serverKind, meta, linkerdServer{Pods: metav1.LabelSelector{MatchLabels: pods}, Port: port, Protocol: protocol, Access: access}))
	if access == letNobody {
		r.add(made(linkerdPolicyKind, meta, linkerdPolicy{Target: refTo(serverKind, meta.Name), Required: []linkerdRef{refTo(meshTLSKind, whom)}}))
	}
	return meta.Name
}

// asksByGRPC says whether the kubelet asks at a port by gRPC how a program is: it is not in the mesh, and Linkerd knows of itself only what is
// asked by HTTP.
func (r *renderer) asksByGRPC(svc compose.Service, p port) bool {
	s := engine.Probe(svc)
	return s.Kind == probe.GRPC && clamp(s.Port) == p.number && r.kindOf(svc) != job
}

// letKubeletAsk lets everybody ask how a program is, and nothing else: a Server with routes answers nothing that none of them has.
func (r *renderer) letKubeletAsk(meta metav1.ObjectMeta, server, everybody string) {
	route := func(suffix, kind, path string) string {
		m := meta
		m.Name = cleaned(server+suffix, maxName)
		r.add(made(linkerdRouteKind, m, linkerdRoute{
			Parents: []linkerdRef{refTo(serverKind, server)}, Rules: []linkerdRouteSet{{Matches: []linkerdMatch{{linkerdPath{kind, path}}}}},
		}))
		return m.Name
	}
	route("-any", "PathPrefix", "/")
	meta.Name = route("-health", "Exact", grpcHealthCheck)
	r.add(made(linkerdPolicyKind, meta, linkerdPolicy{Target: refTo(linkerdRouteKind, meta.Name), Required: []linkerdRef{refTo(anyNetworkKind, everybody)}}))
}

// checkLinkerd says what a kubelet cannot see through a proxy.
func (r *renderer) checkLinkerd(svc compose.Service) {
	s := engine.Probe(svc)
	implied := s.Kind == "" && len(engine.TCPPorts(svc)) > 0 && (svc.Healthcheck == nil || !svc.Healthcheck.Disable)
	if r.kindOf(svc) != job && (implied || s.Kind == probe.TCP) {
		r.note(at(svc, "x-trellis.probe"), "is changed: whoever connects is taken by Linkerd's proxy, so %s is ready before it listens: write x-trellis.probe with http or grpc, or a healthcheck", svc.Name)
	}
}
