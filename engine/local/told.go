package local

import (
	"fmt"
	"net"
)

// told returns where the project is reached from outside as variables of its instances: TRELLIS_PUBLISHED_<SERVICE>_<PORT>
// for each published port, and TRELLIS_GATEWAY. They are no part of what identifies an instance: an address is given
// once, and another one restarts nobody.
func (e *Engine) told(d *desired) []string {
	plane, ok := e.cfg.Plane.(Told)
	if !ok {
		return nil
	}
	bound := plane.Doors()
	var env []string
	for _, l := range Doors(d.rev.Project) {
		address, open := bound[l.Name]
		if !open {
			continue
		}
		line := fmt.Sprintf("TRELLIS_PUBLISHED_%s_%d=%s", variable(l.Service), l.Port, Reachable(address))
		if l.Name == GatewayListener {
			line = "TRELLIS_GATEWAY=http://" + Reachable(address)
		}
		env = mergeEnv([]string{line}, env) // of two ports to the same one, the first
	}
	return env
}

// Reachable returns the address under which this machine reaches one that is bound: localhost for all addresses.
func Reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}
