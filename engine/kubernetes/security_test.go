package kubernetes

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"trellis/compose"
)

// TestCapabilities: what is dropped is dropped whatever else is added, also where that is everything.
func TestCapabilities(t *testing.T) {
	for _, test := range []struct {
		user        string
		add, drop   []string
		wants, lost []corev1.Capability
	}{
		{add: []string{"ALL"}, wants: []corev1.Capability{"ALL"}},
		{
			add: []string{"ALL"}, drop: []string{"SYS_ADMIN", "cap_net_admin", "NET_ADMIN"},
			wants: []corev1.Capability{"ALL"}, lost: []corev1.Capability{"NET_ADMIN", "SYS_ADMIN"},
		},
		{user: "1000", add: []string{"all"}, drop: []string{"NET_RAW"}, wants: []corev1.Capability{"ALL"}, lost: []corev1.Capability{"NET_RAW"}},
		{add: []string{"ALL"}, drop: []string{"ALL", "NET_RAW"}, lost: []corev1.Capability{"ALL"}},
		{drop: []string{"ALL"}, add: []string{"CHOWN"}, wants: []corev1.Capability{"CHOWN"}, lost: []corev1.Capability{"ALL"}},
		{user: "1000", add: []string{"NET_ADMIN"}, wants: []corev1.Capability{"NET_ADMIN"}, lost: []corev1.Capability{"ALL"}},
	} {
		p := compose.Project{Name: "shop", Services: map[string]compose.Service{"web": {Image: "web:1", User: test.user, CapAdd: test.add, CapDrop: test.drop}}}
		objects, err := Render(p, nil, Options{Revision: 1})
		if err != nil {
			t.Fatal(err)
		}
		valid(t, objects)
		caps := deployments(objects)[0].Spec.Template.Spec.Containers[0].SecurityContext.Capabilities
		if !slices.Equal(caps.Add, test.wants) || !slices.Equal(caps.Drop, test.lost) {
			t.Errorf("user %q, add %v, drop %v: adds %v and drops %v", test.user, test.add, test.drop, caps.Add, caps.Drop)
		}
	}
}
