package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// id stands for everything about a project that a decision to change it may rest on: what is wanted, not how it is
// doing.
func (d *desired) id() engine.StateID {
	if d == nil {
		return "none"
	}
	text, err := json.Marshal(struct {
		Revision  int64
		Deleting  bool
		Overrides []state.Override
	}{d.rev.Number, d.deleting, d.overrides})
	if err != nil {
		panic(err) // plain data
	}
	sum := sha256.Sum256(text)
	return engine.StateID(hex.EncodeToString(sum[:8]))
}

// Observe implements engine.Engine.
func (e *Engine) Observe(ctx context.Context, project string) (engine.State, error) {
	if err := e.checkProject(project); err != nil {
		return engine.State{}, fmt.Errorf("observe: %w", err)
	}
	d, err := e.refresh(ctx)
	if err != nil {
		return engine.State{}, fmt.Errorf("observe %s: %w", project, err)
	}
	if d == nil {
		return engine.State{}, fmt.Errorf("observe %s: %w: nothing was ever applied", project, errdefs.ErrNotFound)
	}
	c, err := e.list(ctx)
	if err != nil {
		return engine.State{}, fmt.Errorf("observe %s: %w", project, err)
	}
	problem := e.pub.taken()
	e.mu.Lock()
	defer e.mu.Unlock()
	s := engine.State{
		Project: project, Revision: d.rev.Number, Engine: "local", Services: []engine.Service{}, ID: d.id(),
		Outcome: d.rev.Outcome, Settled: d.rev.Outcome != state.Pending, Rollouts: slices.Clone(d.told),
	}
	if !d.deleting {
		s.Desired = &d.rev.Project // what was deleted is there to be added again
	}
	for i, r := range s.Rollouts {
		if !r.Over() {
			s.Rollouts[i].Ledger = e.ledger(r)
		}
	}
	dec := e.decide(d, c)
	byService := map[string][]driver.Instance{}
	for _, inst := range c.list {
		byService[inst.Service] = append(byService[inst.Service], inst)
	}
	for _, w := range d.want.services {
		svc := e.serviceState(d, d.services[w.name], byService[w.name], c.drivers)
		svc.Unknown = c.away[d.services[w.name].driver].told(d.services[w.name].driver)
		if v, ok := dec[w.name]; ok {
			svc.State, svc.Reason = v.state, v.reason
		}
		if svc.Want == 0 && svc.Autoscale != nil && !w.stopped && svc.Reason == "" {
			svc.Reason = "asleep: the first request wakes it"
		}
		if problem != "" && len(svc.Ports) > 0 && svc.Reason == "" {
			svc.Reason = problem
		}
		if svc.State != engine.ServiceHealthy && svc.State != engine.ServiceCompleted && svc.State != engine.ServiceStopped {
			svc.LastLog = slices.Clone(e.memory.lastLog[w.name])
		}
		s.Services = append(s.Services, svc)
	}
	return s, nil
}

// decide asks the planner how every service is doing.
func (e *Engine) decide(d *desired, c census) map[string]verdict {
	verdicts := map[string]verdict{}
	for _, v := range plan(d.want, e.have(d, c, e.verdictsOfWindows()), time.Now()).services {
		verdicts[v.name] = v
	}
	return verdicts
}

func (e *Engine) serviceState(d *desired, s *service, list []driver.Instance, drivers map[driver.ID]string) engine.Service {
	out := engine.Service{
		Name: s.compose.Name, State: engine.ServiceStopped, Want: s.want.replicas, Revision: d.rev.Number,
		Ports: []engine.Port{}, Instances: []engine.Instance{},
	}
	if s.want.stopped || d.deleting {
		out.Want = 0
	}
	out.Autoscale = s.shown(decided(d.scaled, s.compose.Name))
	for _, p := range s.compose.Ports {
		if _, ok := door(s.compose.Name, s.compose, p); ok || s.compose.NetworkMode == "host" || p.Mode == "host" {
			out.Ports = append(out.Ports, enginePort(p))
		}
	}
	newest := int64(0)
	for _, inst := range list {
		m := e.memory.instances[inst.ID]
		if _, hook := hookIndex(inst.ID, e.cfg.Project, inst.Service, inst.Slot); hook || isOnce(inst.ID) {
			continue
		}
		one := e.instanceState(d, s, inst, m, drivers[inst.ID])
		if one.Ready && one.State == engine.InstanceReady {
			out.Ready++
		}
		newest = max(newest, inst.Revision)
		out.Instances = append(out.Instances, one)
	}
	if newest > 0 {
		out.Revision = newest
	}
	slices.SortStableFunc(out.Instances, func(a, b engine.Instance) int { return a.Slot - b.Slot })
	return out
}

func (e *Engine) instanceState(d *desired, s *service, inst driver.Instance, m *known, name string) engine.Instance {
	seen := e.seen(d, inst, m)
	out := engine.Instance{
		ID: short(inst.Project, inst.ID), Slot: inst.Slot, Driver: name, PID: inst.PID, Container: inst.Container,
		Ready: seen.ready, Restarts: inst.Restarts, Revision: inst.Revision, StartedAt: inst.StartedAt, Probe: seen.said,
		Address: inst.Host,
	}
	if len(s.ports) > 0 && inst.Host != "" {
		port := s.ports[0]
		if actual, ok := inst.PortMap[port]; ok {
			port = actual
		}
		out.Address = net.JoinHostPort(inst.Host, strconv.Itoa(port))
	}
	switch {
	case inst.State == driver.Exited:
		out.State = engine.InstanceExited
	case seen.draining():
		out.State = engine.InstanceDraining
	case seen.ready:
		out.State = engine.InstanceReady
	case seen.wasReady:
		out.State = engine.InstanceUnready
	case inst.State == driver.Starting:
		out.State = engine.InstancePending
	default:
		out.State = engine.InstanceStarting
	}
	if x := inst.Exit; x != nil {
		out.Exit = &engine.ExitStatus{Code: x.Code, Signal: x.Signal, OOM: x.OOM, Time: x.Time, Error: x.Error}
	}
	return out
}
