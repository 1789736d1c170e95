package kubernetes

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// TestConstraints: what a file asks of nodes in Swarm's words finds the nodes of a cluster that it means, which are known by others.
func TestConstraints(t *testing.T) {
	for text, want := range map[string]corev1.NodeSelectorRequirement{
		"node.hostname == one":            {Key: "kubernetes.io/hostname", Operator: corev1.NodeSelectorOpIn, Values: []string{"one"}},
		"node.labels.disk!=hdd":           {Key: "disk", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"hdd"}},
		"node.platform.os==linux":         {Key: "kubernetes.io/os", Operator: corev1.NodeSelectorOpIn, Values: []string{"linux"}},
		"node.platform.arch==x86_64":      {Key: "kubernetes.io/arch", Operator: corev1.NodeSelectorOpIn, Values: []string{"amd64"}},
		"node.platform.arch == aarch64":   {Key: "kubernetes.io/arch", Operator: corev1.NodeSelectorOpIn, Values: []string{"arm64"}},
		"node.platform.arch != armv7l":    {Key: "kubernetes.io/arch", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"arm"}},
		"node.platform.arch == s390x":     {Key: "kubernetes.io/arch", Operator: corev1.NodeSelectorOpIn, Values: []string{"s390x"}},
		"node.labels.arch == x86_64":      {Key: "arch", Operator: corev1.NodeSelectorOpIn, Values: []string{"x86_64"}},
		"node.role == worker":             {Key: "node-role.kubernetes.io/control-plane", Operator: corev1.NodeSelectorOpDoesNotExist},
		"engine.labels.operatingsystem=x": {},
	} {
		got, ok := constraint(text)
		if d := cmp.Diff(want, got); d != "" || ok != (want.Key != "") {
			t.Errorf("%s: %v (-want +got):\n%s", text, ok, d)
		}
	}
}
