package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

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
	holder   *holder.Client
	location Location
	log      *slog.Logger

	mu     sync.Mutex
	chosen *addresses
	asked  map[string]spot   // listener name to where its open socket was asked for
	bound  map[string]string // and to its address, as bound
	last   proxy.Snapshot

	traffic traffic // what Measures has heard
	sight   *sight  // where telemetry is received

	doors atomic.Pointer[map[string]string] // of bound, those that lead in from outside: read without mu
}

// spot is where a socket is asked for. The same address is another one in the namespace of an instance that was made anew.
type spot struct{ address, netns string }

func spotOf(s holder.Socket) spot { return spot{s.Address, s.Netns} }

var _ local.Plane = (*plane)(nil)

// Publish implements local.Plane. A socket that cannot be opened does not keep the others from being served: it is
// reported in the error, after the snapshot is on its way.
func (p *plane) Publish(ctx context.Context, s proxy.Snapshot) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	wanted, gone := p.sockets(s.Listeners)
	left, err := p.open(ctx, wanted)
	if err != nil {
		return err
	}
	var failed error
	for _, r := range left {
		failed = errors.Join(failed, p.refusal(ctx, r))
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
		p.closed(gone)
	}
	return failed
}

// sockets returns the sockets that listeners need and are not open, and the names of those no longer needed.
func (p *plane) sockets(listeners []proxy.Listener) (wanted []holder.Socket, gone []string) {
	named := make(map[string]bool, len(listeners))
	for _, l := range listeners {
		named[l.Name] = true
		if s := p.chosen.socketOf(l); p.asked[l.Name] != spotOf(s) {
			wanted = append(wanted, s)
		}
	}
	for name := range p.bound {
		if !named[name] {
			gone = append(gone, name)
		}
	}
	return wanted, gone
}

// unopened is a socket that could not be opened.
type unopened struct {
	holder.Socket
	why holder.Opened
}

// open asks the holder for sockets and returns those that could not be opened; err is that it could not be asked.
func (p *plane) open(ctx context.Context, wanted []holder.Socket) ([]unopened, error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	opened, err := p.holder.Open(ctx, wanted)
	if err != nil {
		return nil, fmt.Errorf("open sockets: %w", err)
	}
	var failed []unopened
	for i, o := range opened {
		if o.InUse {
			if o, err = p.borrow(ctx, wanted[i], o); err != nil {
				return nil, err
			}
		}
		if o.Error != "" {
			failed = append(failed, unopened{wanted[i], o})
			p.closed([]string{o.Name}) // what the name stood for before is closed by then
			continue
		}
		p.asked[o.Name], p.bound[o.Name] = spotOf(wanted[i]), o.Address
	}
	p.noteDoors()
	return failed, nil
}

// borrow opens a socket whose port other projects of this user listen on, at other addresses: all of one's, or one of
// names. It returns o where nobody lends the port.
func (p *plane) borrow(ctx context.Context, s holder.Socket, o holder.Opened) (holder.Opened, error) {
	if s.Network != "tcp" || s.Netns != "" {
		return o, nil
	}
	if s.Lenders = lenders(ctx, p.location, s); s.Lenders == 0 {
		return o, nil
	}
	again, err := p.holder.Open(ctx, []holder.Socket{s})
	if err != nil {
		return o, fmt.Errorf("open sockets: %w", err)
	}
	return again[0], nil
}

// closed forgets sockets that are open no more.
func (p *plane) closed(names []string) {
	for _, name := range names {
		delete(p.asked, name)
		delete(p.bound, name)
	}
	p.noteDoors()
}

// noteDoors keeps the addresses that instances are told.
func (p *plane) noteDoors() {
	doors := map[string]string{}
	for name, address := range p.bound {
		if !strings.HasPrefix(name, "name/") {
			doors[name] = address
		}
	}
	p.doors.Store(&doors)
}

// refusal says why a socket could not be opened.
func (p *plane) refusal(ctx context.Context, r unopened) error {
	if r.why.InUse {
		return fmt.Errorf("%w: %s", errdefs.ErrConflict, taken(ctx, p.location, r.Socket))
	}
	return fmt.Errorf("%w: %s", errdefs.ErrUnavailable, refused(r.Address, r.why.Error))
}

// reserve opens the addresses that a project publishes before it is applied, so that a taken one is told to whoever
// deploys and changes nothing. What the file leaves open, and what another copy of the project has, gets another port
// here. Those of an apply that then fails are closed by the next Publish.
func (p *plane) reserve(ctx context.Context, project compose.Project) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var wanted []proxy.Listener
	for _, l := range local.Doors(project) {
		if _, open := p.bound[l.Name]; !open {
			wanted = append(wanted, l)
		}
	}
	err := p.take(ctx, wanted)
	if err == nil {
		return nil
	}
	var gone []string
	for _, l := range wanted {
		if _, open := p.bound[l.Name]; open {
			gone = append(gone, l.Name)
		}
	}
	if len(gone) > 0 {
		_ = p.holder.CloseSockets(ctx, gone...) // the reason to tell is the taken address
		p.closed(gone)
	}
	return fmt.Errorf("publish ports: %w", err)
}

// take opens what is wanted; elsewhere, where the file leaves the port open or another copy of the project was first.
func (p *plane) take(ctx context.Context, wanted []proxy.Listener) error {
	byName := map[string]proxy.Listener{}
	var fixed []holder.Socket
	var free []proxy.Listener
	for _, l := range wanted {
		byName[l.Name] = l
		if s := p.chosen.socketOf(l); portOf(s.Address) == 0 {
			free = append(free, l)
		} else {
			fixed = append(fixed, s)
		}
	}
	left, err := p.open(ctx, fixed)
	if err != nil {
		return err
	}
	var failed error
	for _, r := range left {
		if p.yields(ctx, byName[r.Name], r) {
			free = append(free, byName[r.Name])
			continue
		}
		again, err := p.open(ctx, []holder.Socket{r.Socket}) // whoever had it may be gone by now
		if err != nil {
			return err
		}
		if len(again) > 0 {
			failed = errors.Join(failed, p.refusal(ctx, again[0]))
		}
	}
	if failed != nil || len(free) == 0 {
		return failed
	}
	for _, l := range free {
		if err := p.choose(ctx, l); err != nil {
			return err
		}
	}
	return p.chosen.save()
}

// yields says whether a listener whose address is taken may have another one: that of a copy, that of an environment beside
// others of the same project, and one that was chosen before and has been taken meanwhile.
func (p *plane) yields(ctx context.Context, l proxy.Listener, r unopened) bool {
	if _, chosen := p.chosen.Ports[choiceOf(l)]; !r.why.InUse || chosen || p.location.Copy != "" {
		return r.why.InUse
	}
	other, pid := neighbour(ctx, p.location, r.Network, portOf(r.Address))
	return pid != 0 && (copies(p.location, other) || p.location.beside(other))
}

// choose opens a listener at a port that is free.
func (p *plane) choose(ctx context.Context, l proxy.Listener) error {
	s := p.chosen.socketOf(l)
	return p.chosen.candidates(choiceOf(l), func(port int) (bool, error) {
		s.Address = atPort(l.Address, port)
		left, err := p.open(ctx, []holder.Socket{s})
		switch {
		case err != nil:
			return false, err
		case len(left) == 0:
			p.chosen.Ports[choiceOf(l)] = port
			return true, nil
		case left[0].why.InUse:
			return false, nil
		}
		return false, p.refusal(ctx, left[0])
	})
}

// forget gives up the chosen ports, of a project that is down for good.
func (p *plane) forget() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.chosen.forget()
}

// Doors implements local.Told.
func (p *plane) Doors() map[string]string {
	if doors := p.doors.Load(); doors != nil {
		return *doors
	}
	return nil
}

// OTLP implements local.Told.
func (p *plane) OTLP() string {
	if p.sight == nil {
		return ""
	}
	if address := p.sight.otlp.address.Load(); address != nil {
		return *address
	}
	return ""
}

// Epoch implements local.Plane.
func (p *plane) Epoch(ctx context.Context) (uint64, error) {
	info, err := p.holder.Info(ctx)
	return info.Epoch, err
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

// statuses asks every data plane of the project. Of one that is there and does not answer nothing is known, which is an error beside what
// the others say.
func (p *plane) statuses(ctx context.Context) ([]proxy.Status, error) {
	sockets, err := p.location.dataPlanes()
	if err != nil {
		return nil, err
	}
	var all []proxy.Status
	var failed error
	for _, socket := range sockets {
		s, err := statusOf(ctx, socket)
		switch {
		case err == nil:
			all = append(all, s)
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			failed = fmt.Errorf("ask the data plane at %s: %w: no answer within %s", socket, errdefs.ErrUnavailable, planeAnswers)
		}
	}
	return all, failed
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
		if name == local.SecureListener {
			url := "https://" + strings.TrimSuffix(local.Reachable(address), ":443")
			s.Gateway.HTTPS = &url
		}
	}
	for i := range s.Services {
		p.bindPorts(&s.Services[i])
	}
	p.mu.Unlock()
	statuses, _ := p.statuses(ctx) // of those that answer
	for _, one := range statuses {
		if one.PID == s.Proxy.PID {
			s.Traffic = one.Counters
		}
	}
}

// bindPorts replaces the ports that were asked for by those that were bound.
func (p *plane) bindPorts(svc *engine.Service) {
	for i := range svc.Ports {
		port := &svc.Ports[i]
		if _, bound, err := net.SplitHostPort(p.bound[local.PortListener(svc.Name, *port)]); err == nil {
			port.Published, _ = strconv.Atoi(bound)
		}
	}
}

// reachable is what a browser takes for an address.
func reachable(address string) string { return strings.TrimSuffix(local.Reachable(address), ":80") }

// routes returns the gateway's routes in force.
func (p *plane) routes() []api.Route {
	p.mu.Lock()
	defer p.mu.Unlock()
	return routesIn(p.last, reachable(p.bound[local.GatewayListener]))
}

// routesIn returns the routes of a snapshot, for a gateway that is reached at an address.
func routesIn(s proxy.Snapshot, address string) []api.Route {
	routes := []api.Route{}
	for _, r := range s.Routes {
		methods := r.Methods
		if methods == nil {
			methods = []string{}
		}
		rules := r.Rules()
		if s.Shift != nil {
			rules = append(rules, fmt.Sprintf("%.4g%% shifted to %s", 100*s.Shift.Share, s.Shift.Service))
		}
		routes = append(routes, api.Route{
			Host: r.Host, Path: r.Path, Methods: methods, Service: r.Service, Port: r.Port, Auth: r.Auth, Source: r.Source,
			Address: address, Rules: rules, Closed: cmp.Or(r.Problem, s.Auth[r.Auth].Problem),
		})
	}
	return routes
}
