package kubernetes

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"trellis/compose"
	"trellis/engine"
	"trellis/engine/traffic"
	"trellis/errdefs"
	"trellis/probe"
	"trellis/proxy"
)

// trafficPlan is what the pods of the data plane have to know of a project beside its pods: everything about its traffic that its
// file says. It is a Secret, for it holds the hashes of API keys.
type trafficPlan struct {
	// Snapshot has no instances: each pod of the data plane puts in those that it sees.
	Snapshot proxy.Snapshot `json:"snapshot"`
	// Services are the services by the name that their pods have as a label.
	Services map[string]string `json:"services"`
	// Key is Options.Key.
	Key string `json:"key,omitempty"`
}

// keyPlan is where a plan stands in its Secret, as JSON.
const keyPlan = "plan"

func planName(project string) string { return cleaned("trellis-"+project+"-traffic", maxName) }

// plan renders what the data plane has to know.
func (r *renderer) plan() (*corev1.Secret, error) {
	plan := trafficPlan{Snapshot: proxy.Snapshot{Project: r.p.Name, Listeners: r.doors}, Services: map[string]string{}, Key: r.opt.Key}
	s := &plan.Snapshot
	for _, name := range r.p.ServiceNames() {
		svc := r.p.Services[name]
		plan.Services[r.names.of[name]] = name
		one := proxy.Service{Name: name, Probe: asked(svc), HTTP2: traffic.HTTP2(svc)}
		if b := svc.Trellis.Breaker; b != nil {
			one.Concurrency, one.Pending, one.Failures = b.Concurrency, b.Pending, b.Failures
		}
		if most := r.measures(&one, svc); most > 0 && (one.Concurrency == 0 || most < one.Concurrency) {
			one.Concurrency = most
		}
		s.Services = append(s.Services, one)
		if !r.throughPlane(svc) {
			continue
		}
		for _, p := range ports(svc) {
			if number, ok := r.ports[meshPort{name, p.name}]; ok {
				s.Listeners = append(s.Listeners, proxy.Listener{
					Name: "service/" + name + "/" + p.name, Address: meshAddress(number), Protocol: spoken(svc, p), Service: name, Port: int(p.number),
				})
			}
		}
	}
	if r.fronted() {
		s.Routes = traffic.Routes(r.p)
		s.Auth = traffic.Schemes(r.p, func(secret string) (string, error) {
			content, ok := r.opt.Contents["secrets/"+secret]
			if !ok {
				return "", fmt.Errorf("secret %s: %w: it has to come along, a Secret of the cluster is not read", secret, errdefs.ErrNotFound)
			}
			return string(content), nil
		})
		if g := r.p.Trellis.Gateway; g != nil {
			s.AccessLog = g.AccessLog
		}
		r.checkSchemes(s.Auth)
	}
	text, err := json.Marshal(plan)
	if err != nil {
		return nil, err
	}
	m := r.planeMeta()
	m.Name = planName(r.p.Name)
	return &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: m, Type: corev1.SecretTypeOpaque, Data: map[string][]byte{keyPlan: text},
	}, nil
}

// checkSchemes says which routes stay closed because what they rest on is not here.
func (r *renderer) checkSchemes(schemes map[string]proxy.Auth) {
	for name, s := range schemes {
		if s.Problem != "" {
			r.note(compose.JoinPath("x-trellis.auth", name), "is changed: what asks for it stays closed: %s", s.Problem)
		}
	}
}

func meshAddress(port int32) string { return net.JoinHostPort("", strconv.Itoa(int(port))) }

// spoken is what the data plane takes a port of a service to speak.
func spoken(svc compose.Service, p port) string {
	if p.protocol == corev1.ProtocolUDP {
		return proxy.UDP
	}
	for _, one := range svc.Ports {
		if one.Target == int(p.number) && one.Protocol != "udp" {
			return traffic.Protocol(one)
		}
	}
	return proxy.Detect
}

// asked is how the data plane asks an instance itself while the cluster does not say how it is.
func asked(svc compose.Service) probe.Spec {
	s := engine.Probe(svc)
	if tcp := engine.TCPPorts(svc); s.Kind == "" && len(tcp) > 0 && (svc.Healthcheck == nil || !svc.Healthcheck.Disable) {
		return probe.Spec{Kind: probe.TCP, Port: tcp[0]}
	}
	return s
}

// planOf reads the plan in a Secret.
func planOf(text []byte) (plan trafficPlan, err error) {
	if err = json.Unmarshal(text, &plan); err != nil {
		return plan, fmt.Errorf("read the plan of traffic: %w: %w", errdefs.ErrInvalid, err)
	}
	return plan, nil
}

// planAmong returns the plan that is among objects, an empty one where there is none that can be read.
func planAmong(all []Object) trafficPlan {
	for _, o := range all {
		var plain []byte
		switch o := o.(type) {
		case *corev1.Secret:
			plain = o.Data[keyPlan]
		case *unstructured.Unstructured:
			text, _, _ := unstructured.NestedString(o.Object, "data", keyPlan)
			plain, _ = base64.StdEncoding.DecodeString(text)
		}
		if len(plain) == 0 || o.GetLabels()[labelComponent] != dataPlane {
			continue
		}
		if plan, err := planOf(plain); err == nil {
			return plan
		}
	}
	return trafficPlan{}
}
