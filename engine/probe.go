package engine

import (
	"time"

	"trellis/compose"
	"trellis/probe"
)

// The timings of a probe that the file does not give: Compose's own for its health check, shorter ones for Trellis'
// probes, which cost the instance no process.
const (
	composeInterval = 30 * time.Second
	composeTimeout  = 30 * time.Second
	probeInterval   = 2 * time.Second
	probeTimeout    = time.Second
	probeRetries    = 3
)

// Probe returns the readiness probe of a service: x-trellis.probe, else the command of its health check, else none.
// The timings of the health check hold for both.
func Probe(svc compose.Service) probe.Spec {
	s := probe.Spec{Interval: probeInterval, Timeout: probeTimeout, Retries: probeRetries}
	hc := svc.Healthcheck
	switch p := svc.Trellis.Probe; {
	case p != nil:
		s.Port, s.TLS = p.Port, p.Scheme == "https"
		if ports := TCPPorts(svc); s.Port == 0 && len(ports) > 0 {
			s.Port = ports[0]
		}
		switch {
		case p.HTTP != "":
			s.Kind, s.Path = probe.HTTP, p.HTTP
		case p.GRPC != "":
			s.Kind, s.Path = probe.GRPC, p.GRPC
			if p.GRPC == "-" {
				s.Path = ""
			}
		default:
			s.Kind = probe.TCP
		}
	case hc == nil || hc.Disable || len(hc.Test) == 0 || hc.Test[0] == "NONE":
		return probe.Spec{}
	default:
		s.Kind, s.Interval, s.Timeout = probe.Exec, composeInterval, composeTimeout
		s.Command = hc.Test[1:]
		if hc.Test[0] == "CMD-SHELL" && len(hc.Test) > 1 {
			s.Command = []string{"/bin/sh", "-c", hc.Test[1]}
		}
	}
	if hc != nil {
		s.Interval, s.Timeout = hc.Interval.Or(s.Interval), hc.Timeout.Or(s.Timeout)
		s.StartPeriod, s.StartInterval = hc.StartPeriod.Or(0), hc.StartInterval.Or(0)
		if hc.Retries != nil && *hc.Retries > 0 {
			s.Retries = *hc.Retries
		}
	}
	return s
}
