package kubernetes

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"trellis/compose"
)

var (
	peerKind        = schema.GroupVersionKind{Group: "security.istio.io", Version: "v1", Kind: "PeerAuthentication"}
	istioPolicyKind = schema.GroupVersionKind{Group: "security.istio.io", Version: "v1", Kind: "AuthorizationPolicy"}
	destinationKind = schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1", Kind: "DestinationRule"}
)

// How traffic is taken.
const (
	mtlsStrict     = "STRICT"
	mtlsPermissive = "PERMISSIVE" // with TLS or without
	mtlsDisable    = "DISABLE"    // without
)

const (
	istioInject  = "sidecar.istio.io/inject"
	istioNative  = "sidecar.istio.io/nativeSidecar"
	istioExclude = "traffic.sidecar.istio.io/excludeInboundPorts"
)

func istioMesh() mesh {
	return mesh{
		labels: func(joins bool) map[string]string { return map[string]string{istioInject: strconv.FormatBool(joins)} },
		annotations: func(joins bool) map[string]string {
			if !joins {
				return nil
			}
			return map[string]string{istioNative: "true"} // so that Jobs end, and what is in flight is carried to the end of the program
		},
		bypass:  func(ports string) map[string]string { return map[string]string{istioExclude: ports} },
		control: metav1.LabelSelector{MatchLabels: map[string]string{"app": "istiod"}}, ports: []int32{15012},
		injector: "sidecar-injector.istio.io", render: (*renderer).istio,
	}
}

// peerAuthentication is the spec of a PeerAuthentication (security.istio.io/v1).
type peerAuthentication struct {
	Selector metav1.LabelSelector `json:"selector"`
	MTLS     mtls                 `json:"mtls"`
	Ports    map[string]mtls      `json:"portLevelMtls,omitempty"`
}

type mtls struct {
	Mode string `json:"mode"`
}

// istioPolicy is the spec of an AuthorizationPolicy (security.istio.io/v1). One without rules lets nobody in.
type istioPolicy struct {
	Selector metav1.LabelSelector `json:"selector"`
	Action   string               `json:"action"`
	Rules    []istioRule          `json:"rules,omitempty"`
}

type istioRule struct {
	From []istioFrom `json:"from,omitempty"` // none: everybody
	To   []istioTo   `json:"to,omitempty"`   // none: everywhere
}

type istioFrom struct {
	Source istioSource `json:"source"`
}

type istioSource struct {
	Principals []string `json:"principals"`
}

type istioTo struct {
	Operation istioOperation `json:"operation"`
}

type istioOperation struct {
	Ports   []string `json:"ports,omitempty"`
	Methods []string `json:"methods,omitempty"`
	Paths   []string `json:"paths,omitempty"`
}

// destination is the spec of a DestinationRule (networking.istio.io/v1).
type destination struct {
	Host   string            `json:"host"`
	Policy destinationPolicy `json:"trafficPolicy"`
}

type destinationPolicy struct {
	TLS mtls `json:"tls"`
}

// istio renders what Istio is told. Of the policies that name a pod the oldest alone would hold, so there is one for each service, and none for
// the project.
func (r *renderer) istio() {
	for _, name := range r.p.ServiceNames() {
		svc := r.p.Services[name]
		if !joins(svc) || r.image(svc) == "" {
			continue
		}
		open, meta, pods := r.outside(svc), r.meta(svc, r.names.of[name]), metav1.LabelSelector{MatchLabels: r.selector(name)}
		r.add(r.peers(meta, pods, append(open, r.scrapedAt(svc)...), mtlsPermissive))
		if r.limited && !r.moving() {
			rules := []istioRule{{From: r.principals(r.callersOf(svc))}}
			if len(open) > 0 {
				rules = append(rules, istioRule{To: []istioTo{{istioOperation{Ports: words(open)}}}})
			}
			r.add(made(istioPolicyKind, meta, istioPolicy{Selector: pods, Action: "ALLOW", Rules: append(rules, r.scrapeRule(svc)...)}))
		}
		r.direct(svc)
	}
	if r.planned() {
		pods := metav1.LabelSelector{MatchLabels: r.planeSelector()}
		r.add(r.peers(r.planeMeta(), pods, r.ownOutside(), mtlsDisable))
		if r.limited && !r.moving() { // names lead past it: nobody in the mesh has to reach a service through it
			r.add(made(istioPolicyKind, r.planeMeta(), istioPolicy{Selector: pods, Action: "ALLOW"}))
		}
	}
	if r.controlled() {
		meta, pods := r.controlMeta(controlName(r.p.Name)), metav1.LabelSelector{MatchLabels: r.controlSelector()}
		r.add(r.peers(meta, pods, []int32{HealthPort}, mtlsDisable))
		if r.limited && !r.moving() {
			r.add(made(istioPolicyKind, meta, istioPolicy{Selector: pods, Action: "ALLOW", Rules: []istioRule{{
				From: r.principals(r.members()), To: []istioTo{{istioOperation{Ports: words([]int32{OTLPPort})}}},
			}}}))
		}
	}
}

// peers has pods be reached with mutual TLS alone, but for ports that are taken otherwise. While there are pods that are not in the mesh yet,
// everything is taken either way.
func (r *renderer) peers(meta metav1.ObjectMeta, pods metav1.LabelSelector, but []int32, otherwise string) Object {
	spec := peerAuthentication{Selector: pods, MTLS: mtls{mtlsStrict}}
	if r.moving() {
		spec.MTLS.Mode = mtlsPermissive
	}
	for _, port := range but {
		if spec.Ports == nil {
			spec.Ports = map[string]mtls{}
		}
		spec.Ports[strconv.Itoa(int(port))] = mtls{otherwise}
	}
	return made(peerKind, meta, spec)
}

// principals are accounts of the project's namespace, of whatever trust domain the cluster's mesh is.
func (r *renderer) principals(accounts []string) []istioFrom {
	var all []string
	for _, account := range accounts {
		all = append(all, "*/ns/"+r.opt.Namespace+"/sa/"+account)
	}
	return []istioFrom{{istioSource{all}}}
}

func words(all []int32) []string {
	var out []string
	for _, n := range all {
		out = append(out, strconv.Itoa(int(n)))
	}
	return out
}

// scrapedAt is the port at which a Prometheus of the cluster, which may not be in the mesh, asks for the metrics of a service.
func (r *renderer) scrapedAt(svc compose.Service) []int32 {
	if !r.monitored() || svc.Trellis.Metrics == nil {
		return nil
	}
	port, ok := metricsPort(svc)
	if !ok || port.protocol != corev1.ProtocolTCP {
		return nil
	}
	return []int32{port.number}
}

// scrapeRule lets everybody ask for the metrics of a service, and nothing else where the port is known to speak HTTP; who may reach the port at
// all is said by the NetworkPolicy.
func (r *renderer) scrapeRule(svc compose.Service) []istioRule {
	at := r.scrapedAt(svc)
	if len(at) == 0 {
		return nil
	}
	to := istioOperation{Ports: words(at)}
	if port, _ := metricsPort(svc); port.appProtocol != nil && *port.appProtocol == "http" {
		to.Methods, to.Paths = []string{"GET"}, []string{exposedBy(svc)}
	}
	return []istioRule{{To: []istioTo{{to}}}}
}

// direct has pods of Trellis itself, which call the pods of a service by their addresses, be taken for who they are: the proxy of a caller knows an
// address by the headless Service that it is of, as long as that says nothing but TCP, and speaks TLS to it where a rule says so.
func (r *renderer) direct(svc compose.Service) {
	if !r.planned() || !r.throughPlane(svc) && svc.Deploy.EndpointMode != "dnsrr" || len(ports(svc)) == 0 || r.kindOf(svc) == job {
		return
	}
	name := r.governing(svc)
	var there *corev1.Service
	for _, s := range objectsOf[*corev1.Service](r.out) {
		if s.Name == name {
			there = s
		}
	}
	if there == nil {
		there = r.headless(svc, name, servicePorts(ports(svc), nil))
		r.add(there)
	}
	for i := range there.Spec.Ports {
		if p := &there.Spec.Ports[i]; p.Protocol == corev1.ProtocolTCP {
			p.AppProtocol = pointer("tcp")
		}
	}
	r.add(made(destinationKind, r.meta(svc, name), destination{Host: name, Policy: destinationPolicy{mtls{"ISTIO_MUTUAL"}}}))
}
