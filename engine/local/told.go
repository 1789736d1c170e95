package local

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"trellis/driver"
	"trellis/proxy"
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
		if !open || l.TLS {
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

// The receiver of telemetry is a service of Trellis' own: instances in a namespace reach it at an address that no service
// of a project has, through the data plane like every other.
const (
	otlpService = "@otlp"
	otlpAddress = "127.88.255.254"
)

// otlp returns the receiver's address, "" for none.
func (e *Engine) otlp() string {
	if plane, ok := e.cfg.Plane.(Told); ok {
		return plane.OTLP()
	}
	return ""
}

// telemetryEnv returns what an instance is told about where its telemetry goes and what it is called there, by the names
// that OpenTelemetry's SDKs read. Like told it is no part of what identifies an instance.
func (e *Engine) telemetryEnv(s *service, spec driver.Spec) []string {
	_, port, err := net.SplitHostPort(e.otlp())
	if err != nil {
		return nil
	}
	host := "127.0.0.1"
	switch {
	case s.spaces:
		host = otlpAddress
	case spec.Container != nil && !spec.HostNetwork:
		return nil // a container without a namespace of ours does not reach this machine's loopback addresses
	}
	attributes := []string{
		"service.namespace=" + spec.Project, "service.instance.id=" + string(short(spec.Project, spec.ID)),
		"trellis.revision=" + strconv.FormatInt(spec.Revision, 10),
	}
	return []string{
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + net.JoinHostPort(host, port), "OTEL_SERVICE_NAME=" + spec.Service,
		"OTEL_RESOURCE_ATTRIBUTES=" + strings.Join(attributes, ","),
	}
}

// receiver adds the receiver of telemetry to a snapshot, and its name to the listeners inside of namespaces.
func (e *Engine) receiver(s *proxy.Snapshot) {
	host, _, err := net.SplitHostPort(e.otlp())
	if err != nil {
		return
	}
	s.Services = append(s.Services, proxy.Service{
		Name: otlpService, Internal: true, Instances: []proxy.Instance{{ID: otlpService, Host: host, Ready: true}},
	})
	for i := range s.Listeners {
		if names := s.Listeners[i].Names; names != nil {
			names[otlpAddress] = otlpService
		}
	}
}
