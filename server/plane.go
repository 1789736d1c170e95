package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
	"trellis/engine/local"
	"trellis/errdefs"
	"trellis/holder"
	"trellis/proxy"
)

// plane is the way from the engine to the data plane: sockets are opened by the holder, snapshots go through it, and
// what is in use is asked of every data plane that still serves.
type plane struct {
	holder *holder.Client
	dir    string // the runtime directory
	log    *slog.Logger

	mu    sync.Mutex
	bound map[string]string // listener name to address as bound
	last  proxy.Snapshot
}

var _ local.Plane = (*plane)(nil)

// Publish implements local.Plane. A socket that cannot be opened does not keep the others from being served: it is
// reported in the error, after the snapshot is on its way.
func (p *plane) Publish(ctx context.Context, s proxy.Snapshot) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	wanted, gone := p.sockets(s.Listeners)
	failed, err := p.open(ctx, wanted)
	if err != nil {
		return err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("publish snapshot: %w", err)
	}
	if err := p.holder.Publish(ctx, b, s.Epoch, s.Version); err != nil {
		return fmt.Errorf("publish snapshot: %w", err)
	}
	p.last = s
	if len(gone) > 0 {
		if err := p.holder.CloseSockets(ctx, gone...); err != nil {
			return fmt.Errorf("close sockets: %w", err)
		}
		for _, name := range gone {
			delete(p.bound, name)
		}
	}
	return failed
}

// sockets returns the sockets that listeners need and are not open, and the names of those no longer needed.
func (p *plane) sockets(listeners []proxy.Listener) (wanted []holder.Socket, gone []string) {
	named := make(map[string]bool, len(listeners))
	for _, l := range listeners {
		named[l.Name] = true
		if _, open := p.bound[l.Name]; !open {
			wanted = append(wanted, socketOf(l))
		}
	}
	for name := range p.bound {
		if !named[name] {
			gone = append(gone, name)
		}
	}
	return wanted, gone
}

func socketOf(l proxy.Listener) holder.Socket {
	network := "tcp"
	if l.Protocol == proxy.UDP {
		network = "udp"
	}
	return holder.Socket{Name: l.Name, Network: network, Address: l.Address, Netns: l.Netns}
}

// open asks the holder for sockets; failed joins what is wrong with single ones, err is that it could not be asked.
func (p *plane) open(ctx context.Context, wanted []holder.Socket) (failed, err error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	opened, err := p.holder.Open(ctx, wanted)
	if err != nil {
		return nil, fmt.Errorf("open sockets: %w", err)
	}
	addresses := map[string]string{}
	for _, w := range wanted {
		addresses[w.Name] = w.Address
	}
	for _, o := range opened {
		switch {
		case o.Error == "":
			p.bound[o.Name] = o.Address
		case o.InUse:
			failed = errors.Join(failed, fmt.Errorf("%w: %s", errdefs.ErrConflict, taken(addresses[o.Name])))
		default:
			failed = errors.Join(failed, fmt.Errorf("%w: %s", errdefs.ErrUnavailable, refused(addresses[o.Name], o.Error)))
		}
	}
	return failed, nil
}

// reserve opens the addresses that a project publishes before it is applied, so that a taken one is told to whoever
// deploys and changes nothing. Those of an apply that then fails are closed by the next Publish.
func (p *plane) reserve(ctx context.Context, project compose.Project) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var wanted []holder.Socket
	for _, l := range local.Doors(project) {
		if _, open := p.bound[l.Name]; !open {
			wanted = append(wanted, socketOf(l))
		}
	}
	failed, err := p.open(ctx, wanted)
	if err != nil {
		return err
	}
	if failed != nil {
		var gone []string
		for _, w := range wanted {
			if _, open := p.bound[w.Name]; open {
				gone = append(gone, w.Name)
				delete(p.bound, w.Name)
			}
		}
		if len(gone) > 0 {
			_ = p.holder.CloseSockets(ctx, gone...) // the reason to tell is the taken address
		}
		return fmt.Errorf("publish ports: %w", failed)
	}
	return nil
}

// InUse implements local.Plane: what is in flight at each instance, summed over every data plane that still serves, and
// the oldest version among those that take new connections.
func (p *plane) InUse(ctx context.Context) (map[string]int, uint64, error) {
	statuses, err := p.statuses(ctx)
	if err != nil {
		return nil, 0, err
	}
	p.mu.Lock()
	epoch := p.last.Epoch
	p.mu.Unlock()
	sum, version, seen := map[string]int{}, uint64(0), false
	for _, s := range statuses {
		for id, n := range s.InUse {
			sum[id] += n
		}
		if s.Epoch < epoch {
			s.Version = 0
		}
		if !seen || s.Version < version {
			version, seen = s.Version, true
		}
	}
	if !seen {
		return nil, 0, fmt.Errorf("ask the data plane: %w: none answers", errdefs.ErrUnavailable)
	}
	return sum, version, nil
}

// statuses asks every data plane of the project.
func (p *plane) statuses(ctx context.Context) ([]proxy.Status, error) {
	sockets, err := filepath.Glob(filepath.Join(p.dir, "proxy-*.sock"))
	if err != nil {
		return nil, err
	}
	var all []proxy.Status
	for _, socket := range sockets {
		if s, err := statusOf(ctx, socket); err == nil {
			all = append(all, s)
		} else if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return all, nil
}

func statusOf(ctx context.Context, socket string) (proxy.Status, error) {
	var s proxy.Status
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://proxy/status", nil)
	if err != nil {
		return s, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// describe fills in what the holder and the data plane know: pids, the gateway's address, ports as bound, traffic.
func (p *plane) describe(ctx context.Context, s *api.Status) {
	if info, err := p.holder.Info(ctx); err == nil {
		s.Holder.PID, s.Proxy.PID = info.PID, info.DataPlane.PID
	}
	p.mu.Lock()
	for name, address := range p.bound {
		if name == local.GatewayListener {
			url := "http://" + reachable(address)
			s.Gateway.HTTP = &url
		}
	}
	for i := range s.Services {
		p.bindPorts(&s.Services[i])
	}
	p.mu.Unlock()
	statuses, err := p.statuses(ctx)
	if err != nil {
		return
	}
	for _, one := range statuses {
		if one.PID == s.Proxy.PID {
			s.Traffic = one.Counters
		}
	}
}

// bindPorts replaces port 0 by what was bound.
func (p *plane) bindPorts(svc *engine.Service) {
	for i := range svc.Ports {
		port := &svc.Ports[i]
		if port.Published != 0 {
			continue
		}
		if _, bound, err := net.SplitHostPort(p.bound[local.PortListener(svc.Name, *port)]); err == nil {
			port.Published, _ = strconv.Atoi(bound)
		}
	}
}

// reachable replaces the unspecified address by one that a browser takes.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return strings.TrimSuffix(net.JoinHostPort(host, port), ":80")
}

// routes returns the gateway's routes in force.
func (p *plane) routes() []api.Route {
	p.mu.Lock()
	defer p.mu.Unlock()
	address := reachable(p.bound[local.GatewayListener])
	routes := []api.Route{}
	for _, r := range p.last.Routes {
		methods := r.Methods
		if methods == nil {
			methods = []string{}
		}
		routes = append(routes, api.Route{
			Host: r.Host, Path: r.Path, Methods: methods, Service: r.Service, Port: r.Port, Auth: r.Auth, Source: r.Source,
			Address: address,
		})
	}
	return routes
}
