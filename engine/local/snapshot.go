package local

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
	"trellis/engine/traffic"
	"trellis/proxy"
)

// GatewayListener is the name of the gateway's listener in a snapshot.
const GatewayListener = traffic.Gateway

// SecureListener is the name of the gateway's listener for TLS.
const SecureListener = traffic.SecureGateway

const defaultGateway = ":8080"

// Doors returns the listeners through which a project is reached from outside: the gateway and the published ports.
func Doors(p compose.Project) []proxy.Listener {
	var all []proxy.Listener
	routed, gateway := false, p.Trellis.Gateway
	for _, name := range p.ServiceNames() {
		svc := p.Services[name]
		for _, port := range svc.Ports {
			routed = routed || len(port.Trellis.Routes) > 0
			if l, ok := door(name, svc, port); ok {
				all = append(all, l)
			}
		}
	}
	if routed || gateway != nil && gateway.HTTP != "" {
		address := defaultGateway
		if gateway != nil && gateway.HTTP != "" {
			address = gateway.HTTP
		}
		l := proxy.Listener{Name: GatewayListener, Address: address, Protocol: proxy.HTTP1}
		if gateway != nil {
			l.Proxied, l.Trusted = compose.Balancers(gateway.ProxyProtocol), compose.Balancers(gateway.TrustedProxies)
		}
		all = append(all, l)
	}
	if gateway != nil && gateway.HTTPS != "" {
		all = append(all, proxy.Listener{
			Name: SecureListener, Address: gateway.HTTPS, Protocol: proxy.HTTP1, TLS: true,
			Proxied: compose.Balancers(gateway.ProxyProtocol), Trusted: compose.Balancers(gateway.TrustedProxies),
		})
	}
	return all
}

// door returns the listener of one published port. There is none where the instance holds the port itself, or where
// the gateway alone mounts it.
func door(name string, svc compose.Service, p compose.Port) (proxy.Listener, bool) {
	held := p.Mode == "host" && svc.Trellis.Process != nil // a container's ports are in a network of its own
	if svc.NetworkMode == "host" || held || p.Published == "" && len(p.Trellis.Routes) > 0 {
		return proxy.Listener{}, false
	}
	port := enginePort(p)
	return proxy.Listener{
		Name: PortListener(name, port), Address: net.JoinHostPort(p.HostIP, strconv.Itoa(port.Published)),
		Protocol: traffic.Protocol(p), Service: name, Port: p.Target, Proxied: compose.Balancers(p.Trellis.ProxyProtocol),
	}, true
}

// enginePort returns a port as it is asked for: Published is 0 where any free one is taken, and the first of a range.
func enginePort(p compose.Port) engine.Port {
	low, _, _ := strings.Cut(p.Published, "-")
	published, _ := strconv.Atoi(low) // checked by the loader
	return engine.Port{Target: p.Target, Published: published, HostIP: p.HostIP, Protocol: cmp.Or(p.Protocol, "tcp")}
}

// PortListener names the listener of a published port: "port/HOSTIP:PORT/PROTOCOL", and what it leads to where the port
// is any free one.
func PortListener(service string, p engine.Port) string {
	name := fmt.Sprintf("port/%s/%s", net.JoinHostPort(cmp.Or(p.HostIP, "0.0.0.0"), strconv.Itoa(p.Published)), p.Protocol)
	if p.Published == 0 {
		name += fmt.Sprintf("/%s:%d", service, p.Target)
	}
	return name
}

// snapshot builds what the data plane has to know from what is wanted and what is there. Epoch and version are left to
// the publisher. The caller holds e.mu.
func (e *Engine) snapshot(d *desired, list []driver.Instance) proxy.Snapshot {
	s := proxy.Snapshot{Project: e.cfg.Project}
	if d.deleting {
		return s
	}
	s.Listeners, s.Routes, s.Auth = e.secured(d), d.routes, d.schemes
	if g := d.rev.Project.Trellis.Gateway; g != nil {
		s.AccessLog = g.AccessLog
	}
	byService := map[string][]proxy.Instance{}
	weights := map[string]shares{}
	for name, r := range d.rollouts {
		if svc := d.services[name]; svc != nil {
			weights[name] = weigh(r, svc.hash, list, e.memory.instances)
		}
	}
	for _, inst := range list {
		svc := d.services[inst.Service]
		m := e.memory.instances[inst.ID]
		if svc == nil || m == nil || m.hook > 0 || isOnce(inst.ID) {
			continue
		}
		if p, ok := proxyInstance(svc, inst, m); ok {
			if w, ok := weights[inst.Service]; ok && w != (shares{}) {
				p.Weight, p.WarmFrom = w.old, time.Time{} // the step says how much it gets
				if inst.Hash == svc.hash {
					p.Weight = w.new
				}
			}
			byService[inst.Service] = append(byService[inst.Service], p)
		}
	}
	for _, w := range d.want.services {
		svc := d.services[w.name]
		one := proxy.Service{Name: w.name, Instances: byService[w.name], Probe: svc.probe, HTTP2: traffic.HTTP2(svc.compose)}
		carryLoad(&one, svc.compose)
		one.Mutual = e.mutualOf(svc.compose)
		s.Services = append(s.Services, one)
	}
	if d.shift != nil {
		s.Shift, s.Services = d.shift, append(s.Services, d.elsewhere)
	}
	s.Listeners = append(s.Listeners, e.nameListeners(d)...)
	e.receiver(&s)
	return s
}

func proxyInstance(svc *service, inst driver.Instance, m *known) (proxy.Instance, bool) {
	if inst.State == driver.Exited || inst.Host == "" || !svc.want.routed && len(inst.Listening) == 0 {
		return proxy.Instance{}, false
	}
	p := proxy.Instance{
		ID: string(short(inst.Project, inst.ID)), Host: inst.Host, PortMap: inst.PortMap, Ready: m.ready, Revision: inst.Revision,
		Slot: inst.Slot, WarmFrom: m.readySince,
	}
	if !m.drainSince.IsZero() {
		p.Draining, p.DrainBy = true, m.drainSince.Add(svc.want.grace)
	}
	if !m.ready {
		p.WarmFrom = time.Time{}
	}
	return p, true
}

// input is everything about one instance that a snapshot tells or rests on.
type input struct {
	id       driver.ID
	host     string
	netns    string
	running  bool
	ready    bool
	since    time.Time
	drain    time.Time
	mapped   string
	listens  int
	routed   bool // it listens: what has no port in the file is routed to only then
	revision int64
}

// inputs returns what the next snapshot will rest on, so that nobody builds one that tells nothing new. The caller holds
// e.mu.
func (e *Engine) inputs(list []driver.Instance) []input {
	all := make([]input, 0, len(list))
	listed := make(map[driver.ID]bool, len(list))
	for _, inst := range list {
		listed[inst.ID] = true
		in := input{
			id: inst.ID, host: inst.Host, running: inst.State != driver.Exited, routed: len(inst.Listening) > 0,
			revision: inst.Revision, netns: inst.Netns,
		}
		if p := e.memory.listened[inst.Service]; p != nil {
			in.listens = p.changes
		}
		if len(inst.PortMap) > 0 {
			in.mapped = fmt.Sprint(inst.PortMap) // sorted
		}
		if m := e.memory.instances[inst.ID]; m != nil {
			in.netns, in.ready, in.since, in.drain = m.netns, m.ready, m.readySince, m.drainSince
		}
		all = append(all, in)
	}
	for _, id := range sortedKeys(e.memory.instances) {
		if m := e.memory.instances[id]; !listed[id] && m.netns != "" {
			all = append(all, input{id: id, netns: m.netns})
		}
	}
	return all
}

// offerSnapshot builds a snapshot if it may tell something new, and returns the version of the newest one. The caller
// holds e.mu.
func (e *Engine) offerSnapshot(d *desired, list []driver.Instance) uint64 {
	inputs := e.inputs(list)
	if e.built.d == d && slices.Equal(e.built.inputs, inputs) {
		return e.built.version
	}
	version := e.pub.offer(e.snapshot(d, list))
	e.built = built{d, inputs, version}
	return version
}

// built is what the newest snapshot was built from.
type built struct {
	d       *desired
	inputs  []input
	version uint64
}

// nameListeners returns the listeners behind the names that instances resolve: one in each namespace, to which whatever
// is sent to a name is redirected, also before the first start in it and between two runs; and for all instances that
// have no namespace one for each port. The caller holds e.mu.
func (e *Engine) nameListeners(d *desired) []proxy.Listener {
	var all []proxy.Listener
	byCaller := map[string]map[string]string{} // address to service
	allowed := d.allowed()
	onHost := map[string]bool{}
	for _, id := range sortedKeys(e.memory.instances) {
		m := e.memory.instances[id]
		caller := d.services[m.service]
		if caller == nil {
			continue
		}
		names, done := byCaller[m.service]
		if !done {
			names = d.namesFor(caller, onHost)
			byCaller[m.service] = names
		}
		if m.netns != "" {
			all = append(all, proxy.Listener{
				Name: "name/" + string(short(e.cfg.Project, id)), Address: driver.NamesListener, Protocol: proxy.Detect,
				Names: names, Caller: m.service, Netns: m.netns, Refused: caller.refused(allowed),
			})
		}
	}
	for _, name := range sortedKeys(onHost) {
		for _, port := range e.memory.namePorts(name, d.services[name]) {
			at := d.hostAddress(name) + ":" + strconv.Itoa(port)
			all = append(all, proxy.Listener{Name: "name//" + at, Address: at, Protocol: proxy.Detect, Service: name, Port: port})
		}
	}
	return all
}

// namesFor returns the services that a caller reaches by name, by address. Those of a caller without a namespace go
// into onHost instead.
func (d *desired) namesFor(caller *service, onHost map[string]bool) map[string]string {
	names := map[string]string{}
	for _, s := range caller.callees {
		if caller.spaces {
			names[d.spaceAddress(s.compose.Name)] = s.compose.Name
		} else {
			onHost[s.compose.Name] = true
		}
	}
	return names
}

// namePorts returns the TCP ports of a service: those of the file and those that one of its instances was seen to
// listen on.
func (m *memory) namePorts(name string, s *service) []int {
	all := slices.Clone(s.ports)
	if p := m.listened[name]; p != nil {
		for port := range p.seen {
			if !slices.Contains(all, port) {
				all = append(all, port)
			}
		}
	}
	slices.Sort(all)
	return all
}
