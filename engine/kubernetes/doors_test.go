package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"trellis/compose"
	"trellis/engine"
)

// TestDoors: the gateway is where the load balancer is, else at a port of a node, of which one may be allowed to know nothing.
func TestDoors(t *testing.T) {
	const node = `{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": {"addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.7"}]}}`
	service := func(status string) string {
		return `{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop-gateway", "labels": {"app.kubernetes.io/part-of": "shop"}}, "spec": {"ports": [
			{"name": "http", "port": 80, "nodePort": 30080}, {"name": "https", "port": 443, "nodePort": 30443}]}, "status": {"loadBalancer": {` + status + `}}}`
	}
	for _, test := range []struct {
		name          string
		objects       map[string]string
		forbidden     string
		project       compose.Project
		wantHTTP, tls string
	}{
		{name: "none"},
		{"a name", map[string]string{"services/shop-gateway": service(`"ingress": [{"hostname": "lb.example.org"}]`)}, "", compose.Project{}, "http://lb.example.org:80", "https://lb.example.org:443"},
		{"an address", map[string]string{"services/shop-gateway": service(`"ingress": [{"ip": "2001:db8::1"}]`)}, "", compose.Project{}, "http://[2001:db8::1]:80", "https://[2001:db8::1]:443"},
		{"nothing given yet", map[string]string{"services/shop-gateway": service("")}, "", compose.Project{}, "http://NODE:30080", "https://NODE:30443"},
		{"a node", map[string]string{"services/shop-gateway": service(""), "nodes/n": node}, "", compose.Project{}, "http://10.0.0.7:30080", "https://10.0.0.7:30443"},
		{"a node outside", map[string]string{"services/shop-gateway": service(""), "nodes/n": strings.Replace(node, "]}}", `, {"type": "ExternalIP", "address": "192.0.2.7"}]}}`, 1)}, "", compose.Project{},
			"http://192.0.2.7:30080", "https://192.0.2.7:30443"},
		{"somebody else's", map[string]string{"services/shop-gateway": strings.Replace(service(""), `"shop"}`, `"other"}`, 1)}, "", compose.Project{}, "", ""},
		{"that may not be looked at", map[string]string{"services/shop-gateway": service("")}, "services/", compose.Project{}, "", ""},
		{"a service has its name", map[string]string{"services/shop-gateway": service("")}, "", compose.Project{Services: map[string]compose.Service{"shop-gateway": {}}}, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, c := cluster(t)
			for path, text := range test.objects {
				var fields map[string]any
				if err := json.Unmarshal([]byte(text), &fields); err != nil {
					t.Fatal(err)
				}
				at := "/api/v1/namespaces/shop/" + path
				if strings.HasPrefix(path, "nodes/") {
					at = "/api/v1/" + path
				}
				s.objects[at] = fields
			}
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				if test.forbidden == "" || !strings.Contains(r.URL.Path, test.forbidden) {
					return false
				}
				answer(w, http.StatusForbidden, "Forbidden", "no")
				return true
			}
			test.project.Name = "shop"
			got, err := New("shop", c, slog.New(slog.DiscardHandler)).Doors(t.Context(), test.project)
			if want := (Doors{test.wantHTTP, test.tls}); err != nil || got != want {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		})
	}
}

// TestANode: a cluster that did not answer once, or a caller that went away, makes no node unknown.
func TestANode(t *testing.T) {
	s, c := cluster(t)
	s.objects["/api/v1/nodes/n"] = map[string]any{
		"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": "n"},
		"status": map[string]any{"addresses": []any{map[string]any{"type": "InternalIP", "address": "10.0.0.7"}}},
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if at := c.aNode(gone); at != unknownNode {
		t.Errorf("nobody was asked: %s", at)
	}
	if at := c.aNode(t.Context()); at != "10.0.0.7" {
		t.Errorf("asked again: %s", at)
	}
	c.node.asked = c.node.asked.Add(-2 * aNodeFor)
	if at := c.aNode(gone); at != "10.0.0.7" {
		t.Errorf("without an answer: %s, not what was known", at)
	}
}

// TestAReadyNode: one that is ready is preferred, however many are not, and one that is not is better than none.
func TestAReadyNode(t *testing.T) {
	for _, test := range []struct {
		nodes, ready int // the number of the one that is ready
		want         string
	}{{2, 1, "10.0.0.1"}, {2, 0, "10.0.0.0"}, {fewNodes + 5, fewNodes + 4, "10.0.0.14"}, {2, -1, "10.0.0.0"}} {
		s, c := cluster(t)
		for i := range test.nodes {
			status := "Unknown"
			if i == test.ready {
				status = "True"
			}
			s.objects[fmt.Sprintf("/api/v1/nodes/n%02d", i)] = map[string]any{
				"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": fmt.Sprintf("n%02d", i)},
				"status": map[string]any{
					"addresses":  []any{map[string]any{"type": "InternalIP", "address": fmt.Sprintf("10.0.0.%d", i)}},
					"conditions": []any{map[string]any{"type": "Ready", "status": status}},
				},
			}
		}
		if at := c.aNode(t.Context()); at != test.want {
			t.Errorf("%d nodes, number %d is ready: %s, want %s", test.nodes, test.ready, at, test.want)
		}
	}
}

// TestOpenPorts: the ports of a service are told by where the cluster has opened them, and lead to the file's target even where
// the data plane is in between.
func TestOpenPorts(t *testing.T) {
	web := compose.Service{Name: "web", Ports: []compose.Port{
		{Target: 80, Published: "8080", Protocol: "tcp"}, {Target: 53, Published: "53-60", Protocol: "udp"}, {Target: 9000}, {Target: 7000, Published: "7000"},
	}}
	service := func(kind corev1.ServiceType, of string, ingress ...corev1.LoadBalancerIngress) *corev1.Service {
		s := &corev1.Service{Spec: corev1.ServiceSpec{Type: kind, Ports: []corev1.ServicePort{
			{Port: 8080, NodePort: 30080, TargetPort: intstr.FromInt32(15001), Protocol: corev1.ProtocolTCP},
			{Port: 53, NodePort: 30053, Protocol: corev1.ProtocolUDP}, {Port: 9000, NodePort: 30090, Protocol: corev1.ProtocolTCP},
		}}}
		s.Labels = map[string]string{labelService: of}
		s.Status.LoadBalancer.Ingress = ingress
		return s
	}
	for _, c := range []struct {
		name string
		live []Object
		want []engine.Port
	}{
		{"not open", []Object{service(corev1.ServiceTypeClusterIP, "web")}, nil},
		{"another's", []Object{service(corev1.ServiceTypeNodePort, "api")}, nil},
		{"at every node", []Object{service(corev1.ServiceTypeNodePort, "web")},
			[]engine.Port{{Target: 53, Published: 30053, Protocol: "udp"}, {Target: 80, Published: 30080, Protocol: "tcp"}}},
		{"at a balancer that is not there yet", []Object{service(corev1.ServiceTypeLoadBalancer, "web")},
			[]engine.Port{{Target: 53, Published: 30053, Protocol: "udp"}, {Target: 80, Published: 30080, Protocol: "tcp"}}},
		{"at a balancer", []Object{service(corev1.ServiceTypeLoadBalancer, "web", corev1.LoadBalancerIngress{IP: "192.0.2.7"})},
			[]engine.Port{{Target: 53, Published: 53, HostIP: "192.0.2.7", Protocol: "udp"}, {Target: 80, Published: 8080, HostIP: "192.0.2.7", Protocol: "tcp"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := cmp.Diff(c.want, openPorts(web, opening(c.live)["web"])); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestNamesOfPorts: each is another one, whatever the file calls them.
func TestNamesOfPorts(t *testing.T) {
	var names []string
	for _, p := range ports(compose.Service{Ports: []compose.Port{
		{Name: "tcp-80", Target: 8080, Protocol: "tcp"}, {Target: 80, Protocol: "tcp"}, {Target: 80, Protocol: "udp"}, {Name: "tcp-80", Target: 81, Protocol: "tcp"},
		{Name: "My_Port", Target: 82, Protocol: "tcp"},
	}}) {
		names = append(names, p.name)
	}
	if got, want := strings.Join(names, " "), "tcp-80 tcp-80-2 udp-80 tcp-81 tcp-82"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
