package local

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"trellis/driver"
	"trellis/errdefs"
)

// onceMark is in the ID of an instance that was made for one command.
const onceMark = "-0-run-"

func isOnce(id driver.ID) bool { return strings.Contains(string(id), onceMark) }

// onceGrace is what is left of a one-off instance gets once its command has ended.
const onceGrace = time.Second

// RunOnce runs a command in an instance of a service that is made for it alone: with the service's environment, files and
// names, beside its replicas, without traffic or published ports. It blocks until the command has ended and the
// instance is removed. The command's own failure is no error. Run has to be running. Unknown service: ErrNotFound.
func (e *Engine) RunOnce(ctx context.Context, project, service string, cmd driver.Command) (exitCode int, err error) {
	fail := func(err error) (int, error) { return 0, fmt.Errorf("run in %s: %w", service, err) }
	if err := e.checkProject(project); err != nil {
		return fail(err)
	}
	d, err := e.refresh(ctx)
	if err != nil {
		return fail(err)
	}
	if d == nil || d.services[service] == nil {
		return fail(fmt.Errorf("%w: no such service", errdefs.ErrNotFound))
	}
	svc := d.services[service]
	if svc.want.problem != "" {
		return fail(fmt.Errorf("%w: %s", errdefs.ErrUnsupported, svc.want.problem))
	}
	random := make([]byte, hashLength/2)
	_, _ = rand.Read(random) // never fails
	id := driver.ID(project + "/" + service + onceMark + hex.EncodeToString(random))
	spec := e.place(svc.template.spec, svc.template.process, id, 0, svc.hash, d.rev.Number)
	spec.Command, spec.Ports, spec.PostStart, spec.PreStop = []string{"sleep", "infinity"}, nil, nil, nil
	if spec.Container = aside(spec.Container); spec.Container != nil {
		spec.Container.Idle = true
	}
	spec.Hosts = svc.hosts
	if svc.template.process {
		spec.Env = mergeEnv(svc.extraEnv, spec.Env)
	}
	spec.Env = mergeEnv(append(e.told(d), e.telemetryEnv(svc, spec)...), spec.Env)
	drv := e.cfg.Drivers[svc.driver]
	m := &known{service: service, hash: svc.hash, driver: svc.driver, busy: stepStart}
	e.mu.Lock()
	e.memory.once[id], e.memory.instances[id] = true, m
	e.mu.Unlock()
	defer e.endOnce(ctx, drv, id)
	if err := e.startOnce(ctx, drv, m, spec); err != nil {
		return fail(err)
	}
	return drv.Exec(ctx, id, cmd)
}

// startOnce starts a one-off instance and waits until the names it may ask for are served.
func (e *Engine) startOnce(ctx context.Context, drv driver.Driver, m *known, spec driver.Spec) error {
	defer func() {
		e.mu.Lock()
		m.busy = ""
		e.mu.Unlock()
		e.poke()
	}()
	if err := drv.Start(ctx, spec); err != nil {
		return err
	}
	c, err := e.list(ctx)
	if err != nil {
		return err
	}
	list := c.list
	at := slices.IndexFunc(list, func(inst driver.Instance) bool { return inst.ID == spec.ID })
	switch {
	case at < 0:
		return fmt.Errorf("%w: it is gone already", errdefs.ErrUnavailable)
	case list[at].State == driver.Exited:
		return fmt.Errorf("%w: %s", errdefs.ErrUnavailable, exitWords(list[at].Exit))
	case e.cfg.Plane != nil:
		e.mu.Lock()
		m.netns = list[at].Netns
		version := e.offerSnapshot(e.desired, list)
		e.mu.Unlock()
		e.pub.await(ctx, version, publishLimit)
	}
	e.record(event{kind: "instance.started", service: spec.Service, id: spec.ID, reason: "run", message: "made for one command"})
	return nil
}

// endOnce removes a one-off instance, also when its caller has left.
func (e *Engine) endOnce(ctx context.Context, drv driver.Driver, id driver.ID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err := drv.Stop(ctx, id, onceGrace)
	if err == nil {
		err = drv.Remove(ctx, id)
	}
	if err != nil {
		e.log.Error("one-off instance could not be removed", "instance", string(id), "err", err)
	}
	e.mu.Lock()
	delete(e.memory.once, id)
	e.mu.Unlock()
	e.poke()
}

// sweep removes one-off instances that nobody runs anything in: their caller's control plane was killed, or the project
// is deleted. The caller holds mu.
func (l *loop) sweep(d *desired, c census) {
	for _, inst := range c.list {
		m := l.memory.instances[inst.ID]
		if m == nil || m.busy != "" || c.isAway(inst.ID) || !isOnce(inst.ID) || l.memory.once[inst.ID] && !d.deleting {
			continue
		}
		if inst.State == driver.Exited {
			l.begin(d, step{kind: stepRemove, service: inst.Service, id: inst.ID, reason: "its command has ended"})
		} else {
			l.begin(d, step{kind: stepStop, service: inst.Service, id: inst.ID, reason: "nobody runs a command in it"})
		}
	}
}
