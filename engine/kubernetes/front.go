package kubernetes

import (
	"cmp"
	"net"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"trellis/compose"
	"trellis/engine/traffic"
	"trellis/proxy"
)

// fronted says whether the data plane is the project's gateway: it has one, and no gateway of the cluster is named for it.
func (r *renderer) fronted() bool {
	if !r.planned() || r.gatewayClass() != "" {
		return false
	}
	g := r.p.Trellis.Gateway
	return r.routed() || g != nil && (g.HTTP != "" || g.HTTPS != "")
}

// routed says whether a service of the project has routes.
func (r *renderer) routed() bool {
	for _, svc := range r.p.Services {
		for _, p := range svc.Ports {
			if len(p.Trellis.Routes) > 0 {
				return true
			}
		}
	}
	return false
}

// frontDoor renders the Service that leads to the gateway in the data plane. It returns the names of the Secrets with the
// gateway's certificates, and sets what the gateway listens at.
func (r *renderer) frontDoor() (certificates []string) {
	if !r.fronted() {
		return nil
	}
	g := cmp.Or(r.p.Trellis.Gateway, &compose.Gateway{})
	proxied, trusted := compose.Balancers(g.ProxyProtocol), compose.Balancers(g.TrustedProxies)
	r.doors = []proxy.Listener{{Name: traffic.Gateway, Address: meshAddress(gatewayPort), Protocol: proxy.HTTP1, Proxied: proxied, Trusted: trusted}}
	list := []corev1.ServicePort{{
		Name: listenHTTP, Port: int32(listenPort(g.HTTP, defaultHTTP)), Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(gatewayPort),
	}}
	if g.HTTPS != "" {
		for _, ref := range r.certificates(*g) {
			certificates = append(certificates, string(ref.Name))
		}
	}
	if len(certificates) > 0 {
		port := int32(listenPort(g.HTTPS, 8443))
		secure := proxy.Listener{
			Name: traffic.SecureGateway, Address: meshAddress(securePort), Protocol: proxy.HTTP1, TLS: true,
			RequireClientCertificate: g.ClientCertificates == "required", Proxied: proxied, Trusted: trusted,
		}
		for _, name := range certificates {
			dir := certificatesPath + "/" + name + "/"
			secure.Certificates = append(secure.Certificates, proxy.Certificate{Chain: dir + corev1.TLSCertKey, Key: dir + corev1.TLSPrivateKeyKey})
		}
		if g.RedirectHTTPS {
			r.doors[0].Upgrade = int(port)
		}
		r.doors = append(r.doors, secure)
		list = append(list, corev1.ServicePort{Name: listenHTTPS, Port: port, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(securePort)})
	}
	r.checkLimits(*g)
	s := r.clusterIP(compose.Service{}, gatewayService(r.names, r.p.Name), list)
	s.Spec.Selector = r.planeSelector()
	r.nearby(s)
	r.open(s)
	if host, _, err := net.SplitHostPort(g.HTTP); err == nil {
		if onLoopback(host) {
			r.note("x-trellis.gateway.http", "is changed: a cluster has no loopback of yours: kubectl port-forward service/%s %d:%[2]d opens it", s.Name, list[0].Port)
			s.Spec.Type = corev1.ServiceTypeClusterIP
		}
	}
	r.add(s)
	return certificates
}

// gatewayService gives the gateway's Service its name.
func gatewayService(n names, project string) string {
	return n.take(cleaned(project+"-gateway", maxName), project)
}

// open makes a Service one that is reached from outside, as whoever renders says.
func (r *renderer) open(s *corev1.Service) {
	switch r.opt.Publish {
	case PublishNone:
	case PublishNodePort:
		s.Spec.Type = corev1.ServiceTypeNodePort
	default:
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
	}
}

// checkLimits says what a limit by client counts.
func (r *renderer) checkLimits(g compose.Gateway) {
	perClient := func(l *compose.RateLimit) bool { return l != nil && cmp.Or(l.Per, "client") == "client" }
	const what = "is changed: clients are told apart by the address that arrives in the pod, which for many clusters is that of a node; and each pod of the data plane counts by itself"
	if g.Policy != nil && perClient(g.Policy.RateLimit) {
		r.note("x-trellis.gateway.policy.rate_limit", what)
	}
	for _, name := range r.p.ServiceNames() {
		svc := r.p.Services[name]
		for i, p := range svc.Ports {
			for j, route := range p.Trellis.Routes {
				path := at(svc, "ports") + index(i) + ".x-trellis.routes" + index(j) + ".rate_limit"
				switch l := route.RateLimit; {
				case perClient(l):
					r.note(path, what)
				case l != nil:
					r.note(path, "is changed: each pod of the data plane counts by itself")
				}
			}
		}
	}
}

// checkGateway says what only the data plane carries out, where there is none, or where it is not the gateway.
func (r *renderer) checkGateway() {
	for name, svc := range r.p.Services {
		if svc.Trellis.Breaker != nil && !r.meshed(svc) {
			r.note(at(r.p.Services[name], "x-trellis.breaker"), "has no effect between services: only the data plane bounds what is asked, and they do not call %s through it", name)
		}
	}
	if r.fronted() {
		return
	}
	g := cmp.Or(r.p.Trellis.Gateway, &compose.Gateway{})
	for path, set := range map[string]bool{
		"x-trellis.gateway.access_log": g.AccessLog > 0, "x-trellis.gateway.client_certificates": g.ClientCertificates != "",
		"x-trellis.auth": len(r.p.Trellis.Auth) > 0, "x-trellis.gateway.proxy_protocol": len(g.ProxyProtocol) > 0,
		"x-trellis.gateway.trusted_proxies": len(g.TrustedProxies) > 0,
	} {
		if set {
			r.note(path, "has no effect: only the gateway in the data plane carries it out, and there is none")
		}
	}
}
