package kubernetes

import (
	"testing"

	"trellis/compose"
)

// TestVolumesOfTheDriver: a volume that its driver mounts for reading is not written by anybody, of whatever kind it is, and what of its
// options a pod cannot ask for is said.
func TestVolumesOfTheDriver(t *testing.T) {
	for name, c := range map[string]struct {
		opts     map[string]string
		readOnly bool
		said     string
	}{
		"a folder of the node":          {map[string]string{"type": "none", "o": "bind", "device": "/srv/data"}, false, ""},
		"a folder of the node, to read": {map[string]string{"type": "none", "o": "bind,ro", "device": "/srv/data"}, true, ""},
		"NFS":                           {map[string]string{"type": "nfs", "o": "addr=10.0.0.9,rw", "device": ":/exports"}, false, ""},
		"NFS, to read":                  {map[string]string{"type": "nfs", "o": "addr=10.0.0.9,ro", "device": ":/exports"}, true, ""},
		"NFS with more than that": {
			map[string]string{"type": "nfs", "o": "addr=10.0.0.9,nfsvers=4,soft", "device": ":/exports"}, false, "is changed: a pod mounts it as its node does, without nfsvers=4, soft"},
		"memory of somebody": {map[string]string{"type": "tmpfs", "o": "size=64m,uid=1000", "device": "tmpfs"}, false, "is changed: a pod mounts it as its node does, without uid=1000"},
	} {
		p := compose.Project{
			Name: "shop", Volumes: map[string]compose.Volume{"data": {DriverOpts: c.opts}},
			Services: map[string]compose.Service{"web": {Image: "web:1", Volumes: []compose.Mount{{Type: compose.MountVolume, Source: "data", Target: "/data"}}}},
		}
		pod := templateOf(workloadObjects(p)["web"]).Spec
		v, readOnly := pod.Volumes[0], pod.Containers[0].VolumeMounts[0].ReadOnly
		if v.NFS != nil {
			readOnly = v.NFS.ReadOnly
		}
		if readOnly != c.readOnly || v.PersistentVolumeClaim != nil {
			t.Errorf("%s: read-only %v, want %v: %+v", name, readOnly, c.readOnly, v)
		}
		said := ""
		for _, d := range Notes(p, Options{}) {
			if d.Path == "volumes.data.driver_opts.o" {
				said += d.Message
			}
		}
		if said != c.said {
			t.Errorf("%s: said is %q, want %q", name, said, c.said)
		}
	}
}
