package local

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"trellis/compose"
)

// Names are virtual: each service has one loopback address for as long as the project exists, the same in every
// namespace, and the data plane listens there on the service's ports. An instance that has no namespace of its own
// reaches the same service at another loopback address, which depends on the project too, because every project on the
// machine shares that namespace.

// allocate gives every service a number; it returns whether one was new.
func (d *desired) allocate() bool {
	taken := 0
	for _, n := range d.addresses {
		taken = max(taken, n)
	}
	grown := false
	for _, name := range d.rev.Project.ServiceNames() {
		if _, ok := d.addresses[name]; !ok {
			taken++
			d.addresses[name] = taken
			grown = true
		}
	}
	return grown
}

// perBlock is how many numbers share the first three parts of an address: .0 and .255 are left out.
const perBlock = 254

// spaceAddress is the address of a service inside a namespace of its own.
func (d *desired) spaceAddress(service string) string {
	n := d.addresses[service] - 1
	return fmt.Sprintf("127.88.%d.%d", n/perBlock%256, n%perBlock+1)
}

// Blocks is how many blocks of loopback addresses there are for the names of projects in the machine's own namespace: one
// for each project that runs beside others.
const Blocks = 20 * 256

// BlockOf returns the block that a project has unless another has it already.
func BlockOf(project string) int {
	sum := sha256.Sum256([]byte(project))
	return int(sum[0]%20)*256 + int(sum[1])
}

// hostAddress is the address of a service in the machine's own namespace.
func (d *desired) hostAddress(service string) string {
	n := d.addresses[service] - 1
	return fmt.Sprintf("127.%d.%d.%d", 64+d.block/256, (d.block+n/perBlock)%256, n%perBlock+1)
}

// address is where a caller reaches a service.
func (d *desired) address(caller *service, service string) string {
	if caller.spaces {
		return d.spaceAddress(service)
	}
	return d.hostAddress(service)
}

// calleesOf returns the services that a caller reaches by name: those that share a network with it; one on the machine's
// own network reaches all.
func (d *desired) calleesOf(caller *service) []*service {
	var all []*service
	for _, w := range d.want.services {
		if s := d.services[w.name]; caller.compose.NetworkMode == "host" || shareNetwork(caller.compose, s.compose) {
			all = append(all, s)
		}
	}
	return all
}

func shareNetwork(a, b compose.Service) bool {
	for name := range a.Networks {
		if _, ok := b.Networks[name]; ok {
			return true
		}
	}
	return false
}

// hostsOf returns the names that the instances of a caller resolve.
func (d *desired) hostsOf(caller *service) map[string]string {
	hosts := map[string]string{}
	add := func(name, address string) {
		if _, taken := hosts[name]; name != "" && !taken {
			hosts[name] = address
		}
	}
	for _, s := range caller.callees {
		add(s.compose.Name, d.address(caller, s.compose.Name))
	}
	for _, link := range caller.compose.Links {
		name, alias, _ := strings.Cut(link, ":")
		if _, ok := d.services[name]; ok {
			add(alias, d.address(caller, name))
		}
	}
	for _, s := range caller.callees {
		for _, network := range sortedKeys(s.compose.Networks) {
			if _, shared := caller.compose.Networks[network]; shared || caller.compose.NetworkMode == "host" {
				for _, alias := range s.compose.Networks[network].Aliases {
					add(alias, d.address(caller, s.compose.Name))
				}
			}
		}
		add(s.compose.ContainerName, d.address(caller, s.compose.Name))
	}
	for _, name := range sortedKeys(caller.compose.ExtraHosts) {
		for _, address := range caller.compose.ExtraHosts[name] {
			// host-gateway is for the driver's network to say.
			if net.ParseIP(address) != nil || address == "host-gateway" && caller.template.spec.Container != nil {
				hosts[name] = address
			}
		}
	}
	return hosts
}

// endpointsOf returns <SERVICE>_URL, _HOST and _PORT for a caller without a namespace, where names do not resolve.
func (d *desired) endpointsOf(caller *service) []string {
	if caller.spaces {
		return nil
	}
	var env []string
	for _, s := range caller.callees {
		if len(s.ports) == 0 || s == caller {
			continue
		}
		name, host, port := variable(s.compose.Name), d.hostAddress(s.compose.Name), strconv.Itoa(s.ports[0])
		env = append(env, name+"_HOST="+host, name+"_PORT="+port,
			name+"_URL="+cmp.Or(scheme(s.compose, s.ports[0]), "http")+"://"+net.JoinHostPort(host, port))
	}
	slices.Sort(env)
	return env
}

// variable returns a service's name as the beginning of a variable's.
func variable(service string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(service))
}

// scheme returns the scheme of a URL to a port, "" where the file does not say.
func scheme(svc compose.Service, target int) string {
	for _, p := range svc.Ports {
		if p.Target == target && p.AppProtocol == "tcp" {
			return "tcp"
		}
	}
	return ""
}
