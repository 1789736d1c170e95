package compose

import (
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// deploy converts the deploy section and folds the older keys of a service into it. Where both are set and differ,
// check says so.
func (l *loading) deploy(name string, s types.ServiceConfig) Deploy {
	d := Deploy{Trellis: l.deploys[name]}
	if from := s.Deploy; from != nil {
		d.Mode, d.EndpointMode, d.Labels = from.Mode, from.EndpointMode, strMap(from.Labels)
		d.Replicas = clonePtr(from.Replicas)
		d.Resources = Resources{Limits: amounts(from.Resources.Limits), Reservations: amounts(from.Resources.Reservations)}
		at := l.root.at("services", name, "deploy")
		d.UpdateConfig = updateConfig(from.UpdateConfig, at.at("update_config", "monitor") != nil)
		d.RollbackConfig = updateConfig(from.RollbackConfig, at.at("rollback_config", "monitor") != nil)
		d.Placement = rest(from.Placement, nil)
		if r := from.RestartPolicy; r != nil {
			d.RestartPolicy = &RestartPolicy{Condition: r.Condition, Delay: duration(r.Delay),
				MaxAttempts: intPtr(r.MaxAttempts), Window: duration(r.Window)}
		}
	}
	if s.Scale != nil && d.Replicas == nil {
		d.Replicas = clonePtr(s.Scale)
	}
	limits, reservations := &d.Resources.Limits, &d.Resources.Reservations
	if limits.CPUs == 0 {
		limits.CPUs = decimal(float32(s.CPUS))
	}
	if limits.Memory == 0 {
		limits.Memory = int64(s.MemLimit)
	}
	if limits.Pids == 0 && s.PidsLimit > 0 {
		limits.Pids = s.PidsLimit
	}
	if reservations.Memory == 0 {
		reservations.Memory = int64(s.MemReservation)
	}
	return d
}

func clonePtr[T any](v *T) *T {
	if v == nil {
		return nil
	}
	c := *v
	return &c
}

// decimal keeps what the file says: 0.1, not 0.10000000149.
func decimal(f float32) float64 {
	v, _ := strconv.ParseFloat(strconv.FormatFloat(float64(f), 'g', -1, 32), 64)
	return v
}

func amounts(r *types.Resource) ResourceAmounts {
	if r == nil {
		return ResourceAmounts{}
	}
	return ResourceAmounts{CPUs: decimal(r.NanoCPUs.Value()), Memory: int64(r.MemoryBytes), Pids: max(r.Pids, 0),
		Other: rest(map[string]any{"devices": r.Devices, "generic_resources": r.GenericResources}, nil)}
}

// updateConfig converts a section. compose-go does not tell a monitor of 0s from none: monitored says that there is one.
func updateConfig(u *types.UpdateConfig, monitored bool) *UpdateConfig {
	if u == nil {
		return nil
	}
	out := &UpdateConfig{Parallelism: intPtr(u.Parallelism), FailureAction: u.FailureAction,
		MaxFailureRatio: decimal(u.MaxFailureRatio), Order: u.Order}
	if u.Delay != 0 {
		out.Delay = duration(&u.Delay)
	}
	if u.Monitor != 0 || monitored {
		out.Monitor = duration(&u.Monitor)
	}
	return out
}

// servicePorts converts ports. The x-trellis of each is found by what makes a port the same one.
func (l *loading) servicePorts(name string, ports []types.ServicePortConfig) []Port {
	marks := l.portMarks(name)
	var out []Port
	for _, p := range ports {
		port := Port{Name: p.Name, Target: int(p.Target), Published: published(p.Published), HostIP: p.HostIP,
			Protocol: strings.ToLower(p.Protocol), AppProtocol: p.AppProtocol, Mode: p.Mode}
		if port.Protocol == "" {
			port.Protocol = "tcp"
		}
		if m := marks[modelPortKey(port)]; m != nil {
			port.Trellis = l.ports[m]
		}
		out = append(out, port)
	}
	return out
}

// published is a published port as the model has it: 0 is any free one, as where there is none.
func published(port string) string {
	if port == "0" {
		return ""
	}
	return port
}

// portMarks returns the marks of a service's ports by what makes a port the same one.
func (l *loading) portMarks(service string) map[string]*mark {
	if marks, ok := l.portsOf[service]; ok {
		return marks
	}
	marks, parts := map[string]*mark{}, map[string][]int{}
	if list := l.root.at("services", service, "ports"); list != nil {
		for i, m := range list.items {
			key := markedPortKey(m)
			marks[key] = m
			parts[key] = append(parts[key], i)
			l.portAt[m] = i
		}
	}
	l.portsOf[service], l.portParts[service] = marks, parts
	return marks
}

func modelPortKey(p Port) string {
	host := p.HostIP
	if host == "" {
		host = "0.0.0.0"
	}
	return host + ":" + p.Published + ":" + strconv.Itoa(p.Target) + "/" + p.Protocol
}

// markedPortKey is modelPortKey of a port as the files write it: TCP is tcp, and what is empty is as if it was not there.
func markedPortKey(m *mark) string {
	if m.kind != mappingMark {
		return m.text()
	}
	p := Port{HostIP: m.at("host_ip").text(), Published: published(m.at("published").text()), Protocol: strings.ToLower(m.at("protocol").text())}
	if p.Protocol == "" {
		p.Protocol = "tcp"
	}
	p.Target, _ = strconv.Atoi(m.at("target").text()) // what is no number is an error elsewhere
	return modelPortKey(p)
}

// joinPorts joins a port of an override that names only its target to the one port below it with the same target and
// protocol, so that routes can be added to a port without repeating where it is published.
func (l *loading) joinPorts(p Project) {
	for name, s := range p.Services {
		marks := l.portMarks(name)
		published := map[string][]int{} // by target and protocol
		for i, port := range s.Ports {
			if port.Published != "" || port.HostIP != "" {
				key := strconv.Itoa(port.Target) + "/" + port.Protocol
				published[key] = append(published[key], i)
			}
		}
		gone := map[int]bool{}
		for i, port := range s.Ports {
			m := marks[modelPortKey(port)]
			if m == nil || m.list == nil || port.Published != "" || port.HostIP != "" || m.at("published").text() == "0" {
				continue
			}
			var bases []int
			for _, j := range published[strconv.Itoa(port.Target)+"/"+port.Protocol] {
				if b := marks[modelPortKey(s.Ports[j])]; b != nil && b.list != m.list {
					bases = append(bases, j)
				}
			}
			switch len(bases) {
			case 0:
			case 1:
				s.Ports[bases[0]] = joined(s.Ports[bases[0]], port, m)
				gone[i] = true
			default:
				line, col := m.place()
				l.warnAt(m.file(), line, col, indexPath(JoinPath("services", name)+".ports", i),
					"%d ports below have the target %d: this one is a port of its own; write published to say which one is meant", len(bases), port.Target)
			}
		}
		if len(gone) == 0 {
			continue
		}
		var kept []Port
		for i, port := range s.Ports {
			if !gone[i] {
				kept = append(kept, port)
			}
		}
		s.Ports = kept
		p.Services[name] = s
	}
}

func joined(base, over Port, m *mark) Port {
	if over.Name != "" {
		base.Name = over.Name
	}
	if over.AppProtocol != "" {
		base.AppProtocol = over.AppProtocol
	}
	if m.fields["mode"] != nil {
		base.Mode = over.Mode
	}
	base.Trellis.Routes = append(slices.Clone(base.Trellis.Routes), over.Trellis.Routes...)
	base.Trellis.ProxyProtocol = append(slices.Clone(base.Trellis.ProxyProtocol), over.Trellis.ProxyProtocol...)
	if over.Trellis.TLS != "" {
		base.Trellis.TLS = over.Trellis.TLS
	}
	return base
}
