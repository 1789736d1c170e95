package engine

import "trellis/compose"

// Replicas returns how many instances a service's file asks for.
func Replicas(svc compose.Service) int {
	switch {
	case svc.Deploy.Mode == "global": // one machine: one instance
		return 1
	case svc.Deploy.Replicas == nil:
		return 1
	}
	return *svc.Deploy.Replicas
}

// StopFirst says whether the instances of a service are stopped before their replacements start, and why: because the
// file says so, because one replica owns a volume that two must not write, or because it holds the machine's own ports.
// A file that says start-first is obeyed.
func StopFirst(svc compose.Service, replicas int) (bool, string) {
	if u := svc.Deploy.UpdateConfig; u != nil && u.Order != "" {
		return u.Order == compose.StopFirst, "deploy.update_config.order is " + u.Order
	}
	if svc.NetworkMode == "host" {
		return true, "network_mode is host"
	}
	for _, p := range svc.Ports {
		if p.Mode == "host" {
			return true, "a port has mode host"
		}
	}
	if replicas > 1 {
		return false, ""
	}
	for _, m := range svc.Volumes {
		if m.Type == compose.MountVolume && m.Source != "" && !m.ReadOnly {
			return true, "its single replica owns the volume " + m.Source
		}
	}
	return false, ""
}
