package kubernetes

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestWhoseEvent: what a cluster tells of an object is told of the service whose it is, also where the name of another service begins that
// one's, and what comes after it could have been made by the cluster.
func TestWhoseEvent(t *testing.T) {
	of := owners{
		pods: map[string]corev1.Pod{"api-x": {ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{labelService: "web"}}}},
		workloads: []workload{
			{service: "api", name: "api"}, {service: "api-proxy", name: "api-proxy"}, {service: "api-2", name: "api-2"}, {service: "my_job", name: "my-job-0123456789"},
		},
	}
	for name, want := range map[string]string{
		"api": "api", "api-proxy": "api-proxy", "api-2": "api-2", "api-7d9f8b6c5": "api", "api-7d9f8b6c5-abcde": "api", "api-0": "api",
		"api-proxy-7d9f8b6c5-abcde": "api-proxy", "api-2-0": "api-2", "my-job-0123456789-abcde": "my_job", "api-x": "web", "api-gateway": "", "other": "",
	} {
		if got := of.service(name); got != want {
			t.Errorf("%s is of %q, want %q", name, got, want)
		}
	}
}
