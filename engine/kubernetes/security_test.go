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

// TestWhatNoPodMayAskFor: a cluster refuses a pod that would set what is its node's, and one that knows an address by a name for many. Both are
// left out, and said.
func TestWhatNoPodMayAskFor(t *testing.T) {
	for name, c := range map[string]struct {
		svc  compose.Service
		said string // "": it is carried out
	}{
		"its own network":    {compose.Service{Sysctls: map[string]string{"net.ipv4.tcp_syncookies": "1"}}, ""},
		"the node's network": {compose.Service{Sysctls: map[string]string{"net.ipv4.tcp_syncookies": "1"}, NetworkMode: "host"}, `services.web.sysctls."net.ipv4.tcp_syncookies"`},
		"its own memory":     {compose.Service{Sysctls: map[string]string{"kernel.shm_rmid_forced": "1"}, NetworkMode: "host"}, ""},
		"the node's memory":  {compose.Service{Sysctls: map[string]string{"kernel.shm_rmid_forced": "1"}, Ipc: "host"}, `services.web.sysctls."kernel.shm_rmid_forced"`},
		"a name":             {compose.Service{ExtraHosts: map[string][]string{"db.example.org": {"10.0.0.1"}}}, ""},
		"a name for many":    {compose.Service{ExtraHosts: map[string][]string{"*.example.org": {"10.0.0.1"}}}, `services.web.extra_hosts."*.example.org"`},
	} {
		c.svc.Image = "web:1"
		p := compose.Project{Name: "shop", Services: map[string]compose.Service{"web": c.svc}}
		objects := renderAs(t, p, nil, 1)
		t.Run(name, func(t *testing.T) { valid(t, objects) })
		pod := deployments(objects)[0].Spec.Template.Spec
		if left := len(pod.HostAliases)+len(pod.SecurityContext.Sysctls) == 0; left != (c.said != "") {
			t.Errorf("%s: left out %v", name, left)
		}
		said := ""
		for _, d := range Notes(p, Options{}) {
			if d.Path != "services.web.image" {
				said += d.Path
			}
		}
		if said != c.said {
			t.Errorf("%s: said of %q, want %q", name, said, c.said)
		}
	}
}
