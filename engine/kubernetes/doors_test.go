package kubernetes

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"trellis/compose"
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
