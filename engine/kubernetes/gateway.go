package kubernetes

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"trellis/compose"
)

const (
	listenHTTP  = "http"
	listenHTTPS = "https"
	defaultHTTP = 8080 // where the file mounts routes and names no address
)

// gatewayClass is the class of the Gateway that routes are mounted on: what whoever renders says, else the environment.
func (r *renderer) gatewayClass() string {
	return cmp.Or(r.opt.GatewayClass, GatewayClass(r.p))
}

// gateway renders the Gateway of a project with routes.
func (r *renderer) gateway() {
	g := r.p.Trellis.Gateway
	if g == nil {
		g = &compose.Gateway{}
	}
	if !r.routed() || r.gatewayClass() == "" {
		return
	}
	out := &gatewayv1.Gateway{
		TypeMeta: metav1.TypeMeta{APIVersion: gatewayv1.GroupVersion.String(), Kind: "Gateway"}, ObjectMeta: r.meta(compose.Service{}, r.gatewayName()),
		Spec: gatewayv1.GatewaySpec{
			GatewayClassName: gatewayv1.ObjectName(r.gatewayClass()),
			Listeners:        []gatewayv1.Listener{{Name: listenHTTP, Protocol: gatewayv1.HTTPProtocolType, Port: listenPort(g.HTTP, defaultHTTP)}},
		},
	}
	for key, address := range map[string]string{"http": g.HTTP, "https": g.HTTPS} {
		if host, _, err := net.SplitHostPort(address); err == nil && onLoopback(host) {
			r.note("x-trellis.gateway."+key, "is changed: a cluster's gateway has no loopback of yours: whoever reaches it reaches the routes")
		}
	}
	if refs := r.certificates(*g); len(refs) > 0 {
		port := listenPort(g.HTTPS, 8443)
		if port == out.Spec.Listeners[0].Port {
			r.note("x-trellis.gateway.https", "has no effect: http has the same port")
		} else {
			out.Spec.Listeners = append(out.Spec.Listeners, gatewayv1.Listener{
				Name: listenHTTPS, Protocol: gatewayv1.HTTPSProtocolType, Port: port,
				TLS: &gatewayv1.ListenerTLSConfig{Mode: pointer(gatewayv1.TLSModeTerminate), CertificateRefs: refs},
			})
		}
	}
	r.secure = len(out.Spec.Listeners) > 1
	r.add(out)
	if g.RedirectHTTPS && r.secure {
		to := &gatewayv1.HTTPRequestRedirectFilter{Scheme: pointer("https"), Port: pointer(out.Spec.Listeners[1].Port), StatusCode: pointer(308)}
		route := r.httpRoute(compose.Service{}, r.redirectName(), listenHTTP, nil)
		route.Spec.Rules = []gatewayv1.HTTPRouteRule{{Filters: []gatewayv1.HTTPRouteFilter{{Type: gatewayv1.HTTPRouteFilterRequestRedirect, RequestRedirect: to}}}}
		r.add(route)
	}
}

// onLoopback says whether a host is the machine itself alone.
func onLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.IsLoopback()
}

func (r *renderer) gatewayName() string { return cleaned(r.p.Name, maxName) }

// listenPort is the port of a listen address such as ":8080".
func listenPort(address string, otherwise int) gatewayv1.PortNumber {
	if _, port, err := net.SplitHostPort(address); err == nil {
		if n, err := strconv.Atoi(port); err == nil && n > 0 && n < 65536 {
			return gatewayv1.PortNumber(n)
		}
	}
	return gatewayv1.PortNumber(otherwise)
}

// certificates renders the certificates of the gateway, each with its key as one Secret.
func (r *renderer) certificates(g compose.Gateway) []gatewayv1.SecretObjectReference {
	var refs []gatewayv1.SecretObjectReference
	if g.HTTPS != "" && len(g.Certificates) == 0 {
		r.note("x-trellis.gateway.https", "has no effect: the authority of this machine issues nothing for a cluster: name certificates")
	}
	for i, c := range g.Certificates {
		data := map[string][]byte{
			corev1.TLSCertKey: r.opt.Contents["secrets/"+c.Certificate], corev1.TLSPrivateKeyKey: r.opt.Contents["secrets/"+c.Key],
		}
		name := cleaned(c.Certificate, maxName)
		if len(bytes.TrimSpace(data[corev1.TLSCertKey])) == 0 || len(bytes.TrimSpace(data[corev1.TLSPrivateKeyKey])) == 0 {
			r.note(fmt.Sprintf("x-trellis.gateway.certificates[%d]", i), "is changed: its content is not here: the namespace has to have a Secret %s of the type kubernetes.io/tls", name)
		} else if name = hashed(name, data); !r.rendered["secrets/"+name] {
			r.rendered["secrets/"+name] = true
			r.add(&corev1.Secret{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: r.meta(compose.Service{}, name),
				Type: corev1.SecretTypeTLS, Immutable: pointer(true), Data: data,
			})
		}
		refs = append(refs, gatewayv1.SecretObjectReference{Name: gatewayv1.ObjectName(name)})
	}
	return refs
}

// route renders a route; nil where a gateway cannot have it, which closes it.
func (r *renderer) route(x *routing) Object {
	r.checkRoute(*x)
	if x.grpc {
		return r.grpcRoute(*x)
	}
	matches, ok := r.matches(x)
	if !ok {
		return nil
	}
	filters, ok := r.filters(x)
	if !ok {
		return nil
	}
	o := r.httpRoute(x.svc, x.name, r.section(), x.hosts)
	rule := gatewayv1.HTTPRouteRule{Matches: matches, Filters: filters}
	if x.route.TryTimeout != nil {
		r.note(x.path+".try_timeout", "has no effect: the cluster's gateway asks no other instance")
	}
	if x.route.Timeout != nil {
		r.note(x.path+".timeout", "is changed: the Gateway API bounds a response as a whole, not its headers alone")
		rule.Timeouts = &gatewayv1.HTTPRouteTimeouts{BackendRequest: pointer(durationOf(x.route.Timeout.Or(0)))}
	}
	if x.route.Redirect == nil {
		rule.BackendRefs = r.backends(*x)
		for _, one := range r.splits(*x, rule) {
			o.Spec.Rules = append(o.Spec.Rules, apart(one)...)
		}
	}
	o.Spec.Rules = append(o.Spec.Rules, apart(rule)...)
	if len(o.Spec.Rules) > maxRules {
		r.close(x, x.path, "with its methods and its rewrite it takes %d rules, and a gateway has %d", len(o.Spec.Rules), maxRules)
		return nil
	}
	return o
}

// durationOf writes a duration as the Gateway API does: parts of at most five digits, and no fractions.
func durationOf(d time.Duration) gatewayv1.Duration {
	d = min(max(d.Round(time.Millisecond), time.Millisecond), 99999*time.Hour)
	out := ""
	for _, part := range []struct {
		unit time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}} {
		if n := d / part.unit; n > 0 {
			out += fmt.Sprint(int64(n)) + part.name
			d -= n * part.unit
		}
	}
	return gatewayv1.Duration(out)
}

// checkRoute says what of a route no gateway of a cluster knows.
func (r *renderer) checkRoute(x routing) {
	for key, set := range map[string]bool{
		"rate_limit": cmp.Or(x.route.RateLimit, x.policy.RateLimit) != nil, "limits": cmp.Or(x.route.Limits, x.policy.Limits) != nil,
		"compress":         x.route.Compress != nil && *x.route.Compress || x.route.Compress == nil && x.policy.Compress,
		"security_headers": x.route.SecurityHeaders != nil && *x.route.SecurityHeaders || x.route.SecurityHeaders == nil && x.policy.SecurityHeaders,
		"require":          len(x.route.Require) > 0, "idempotent": x.route.Idempotent,
	} {
		if set {
			r.note(x.path+"."+key, "has no effect: the cluster's gateway has no such thing")
		}
	}
}

func (r *renderer) httpRoute(svc compose.Service, name, section string, hosts []string) *gatewayv1.HTTPRoute {
	o := &gatewayv1.HTTPRoute{
		TypeMeta: metav1.TypeMeta{APIVersion: gatewayv1.GroupVersion.String(), Kind: "HTTPRoute"}, ObjectMeta: r.meta(svc, name),
	}
	o.Spec.ParentRefs, o.Spec.Hostnames = r.mounted(section, hosts)
	return o
}

// mounted is where a route is mounted: at a listener of the gateway ("" for all), under its names.
func (r *renderer) mounted(section string, hosts []string) ([]gatewayv1.ParentReference, []gatewayv1.Hostname) {
	parent := gatewayv1.ParentReference{Name: gatewayv1.ObjectName(r.gatewayName())}
	if section != "" {
		parent.SectionName = pointer(gatewayv1.SectionName(section))
	}
	var names []gatewayv1.Hostname
	for _, h := range hosts {
		names = append(names, gatewayv1.Hostname(h))
	}
	return []gatewayv1.ParentReference{parent}, names
}

// section is the listener that routes are mounted at: that of TLS alone where everyone is sent there.
func (r *renderer) section() string {
	switch {
	case !r.secure:
		return listenHTTP
	case r.p.Trellis.Gateway.RedirectHTTPS:
		return listenHTTPS
	}
	return ""
}

// backend is a service as a route leads to it.
func (r *renderer) backend(service string, port int) gatewayv1.BackendObjectReference {
	number := int32(port)
	if number == 0 {
		number = firstTCP(r.p.Services[service])
	}
	return gatewayv1.BackendObjectReference{Name: gatewayv1.ObjectName(r.names.of[service]), Port: pointer(gatewayv1.PortNumber(number))}
}

// backends are the services that a route's requests go to, by their parts.
func (r *renderer) backends(x routing) []gatewayv1.HTTPBackendRef {
	var all []gatewayv1.HTTPBackendRef
	left := 1.0
	for _, s := range x.route.Split {
		if s.Share <= 0 {
			continue
		}
		weight := int32(left * float64(s.Share) * 10000)
		left *= 1 - float64(s.Share)
		all = append(all, gatewayv1.HTTPBackendRef{BackendRef: gatewayv1.BackendRef{BackendObjectReference: r.backend(s.Service, s.Port), Weight: &weight}})
	}
	own := gatewayv1.HTTPBackendRef{BackendRef: gatewayv1.BackendRef{BackendObjectReference: r.backend(x.svc.Name, x.port.Target)}}
	if len(all) > 0 {
		own.Weight = pointer(int32(left * 10000))
	}
	return append([]gatewayv1.HTTPBackendRef{own}, all...)
}

// grpcRoute renders a route for which callsGRPC.
func (r *renderer) grpcRoute(x routing) Object {
	o := &gatewayv1.GRPCRoute{
		TypeMeta: metav1.TypeMeta{APIVersion: gatewayv1.GroupVersion.String(), Kind: "GRPCRoute"}, ObjectMeta: r.meta(x.svc, x.name),
	}
	o.Spec.ParentRefs, o.Spec.Hostnames = r.mounted(r.section(), x.hosts)
	rule := gatewayv1.GRPCRouteRule{BackendRefs: []gatewayv1.GRPCBackendRef{{BackendRef: gatewayv1.BackendRef{BackendObjectReference: r.backend(x.svc.Name, x.port.Target)}}}}
	if m, _ := methodOf(x.route.Path); m != nil {
		rule.Matches = []gatewayv1.GRPCRouteMatch{{Method: m}}
	}
	if x.route.Timeout != nil {
		r.note(x.path+".timeout", "has no effect: a GRPCRoute has none")
	}
	if x.route.TryTimeout != nil {
		r.note(x.path+".try_timeout", "has no effect: a GRPCRoute has none")
	}
	o.Spec.Rules = []gatewayv1.GRPCRouteRule{rule}
	return o
}
