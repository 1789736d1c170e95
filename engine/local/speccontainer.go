package local

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"trellis/compose"
	"trellis/driver"
)

// imageOf is what a container of a service is made from: the image that was found when the revision was made, or else
// the reference of the file, or what docker compose calls an image that it builds.
func imageOf(p compose.Project, svc compose.Service) string {
	name := svc.Image
	if name == "" && svc.Build != nil {
		name = p.Name + "-" + svc.Name
	}
	return cmp.Or(svc.Trellis.ImageID, name)
}

// containerOf is what only a container has of a service.
func containerOf(p compose.Project, svc compose.Service) *driver.Container {
	c := &driver.Container{
		Entrypoint: svc.Entrypoint, DNS: svc.DNS, DNSSearch: svc.DNSSearch, DNSOptions: svc.DNSOpt, Domainname: svc.Domainname,
		Labels: svc.Labels, Annotations: svc.Annotations, Platform: svc.Platform, TTY: svc.Tty, OpenStdin: svc.StdinOpen,
		IPC: svc.Ipc, PID: svc.Pid, MemoryReservation: svc.Deploy.Resources.Reservations.Memory, Networks: networksOf(p, svc),
		Runtime: textOf(svc.Other["runtime"]), CPUSet: textOf(svc.Other["cpuset"]), CgroupParent: textOf(svc.Other["cgroup_parent"]),
		CPUShares: numberOf(svc.Other["cpu_shares"]), MemorySwap: numberOf(svc.Other["memswap_limit"]), Volumes: volumesOf(p, svc),
	}
	switch {
	case svc.NetworkMode == "none" || svc.NetworkMode == "bridge":
		c.NetworkMode = svc.NetworkMode
	case svc.NetworkMode != "" && svc.NetworkMode != "host":
		c.NetworkMode = "bridge" // that of another instance is not shared
	}
	for _, option := range svc.SecurityOpt {
		if !strings.HasPrefix(option, "no-new-privileges") {
			c.SecurityOpt = append(c.SecurityOpt, option)
		}
	}
	devices, _ := svc.Other["devices"].([]any)
	for _, d := range devices {
		if m, ok := d.(map[string]any); ok {
			c.Devices = append(c.Devices, strings.Trim(textOf(m["source"])+":"+textOf(m["target"])+":"+textOf(m["permissions"]), ":"))
		}
	}
	return c
}

// aside is c for an instance that runs beside those that others are to find. nil stays nil.
func aside(c *driver.Container) *driver.Container {
	if c == nil {
		return nil
	}
	lone := *c
	lone.Entrypoint, lone.Networks = []string{}, nil
	for _, n := range c.Networks {
		n.Aliases = nil
		lone.Networks = append(lone.Networks, n)
	}
	return &lone
}

// networksOf are the networks that the containers of a service join, in order of key.
func networksOf(p compose.Project, svc compose.Service) []driver.Network {
	var all []driver.Network
	for _, key := range sortedKeys(svc.Networks) {
		n := p.Networks[key]
		all = append(all, driver.Network{
			Name: cmp.Or(n.Name, p.Name+"_"+key), Key: key, Aliases: append([]string{svc.Name}, svc.Networks[key].Aliases...),
			External: n.External, Internal: n.Internal, Driver: n.Driver, Options: n.DriverOpts, Labels: n.Labels,
		})
	}
	return all
}

// volumesOf says more of the named volumes that a service mounts.
func volumesOf(p compose.Project, svc compose.Service) map[string]driver.Volume {
	all := map[string]driver.Volume{}
	for _, m := range svc.Volumes {
		if m.Type != compose.MountVolume || m.Source == "" {
			continue
		}
		v := p.Volumes[m.Source]
		all[volumeName(p, m.Source)] = driver.Volume{
			Key: m.Source, External: v.External, Driver: v.Driver, Options: v.DriverOpts, Labels: v.Labels,
		}
	}
	return all
}

// textOf and numberOf read what the model keeps as the file has it.
func textOf(v any) string {
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

func numberOf(v any) int64 {
	text := textOf(v)
	if n, err := strconv.ParseFloat(text, 64); err == nil {
		return int64(n)
	}
	return bytesOf(text)
}
