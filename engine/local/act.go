package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"syscall"
	"time"

	"trellis/driver"
	"trellis/errdefs"
)

const (
	// publishLimit bounds how long a start waits for the names its instance will ask for.
	publishLimit = 2 * time.Second
	keptLogLines = 50
	// stepLimit bounds a removal, and a stop beyond its grace period: then they are tried again.
	stepLimit = 10 * time.Second
	// The pause after a start that the driver refused for a reason that may pass, doubling.
	refusedRetry    = 500 * time.Millisecond
	refusedRetryMax = 30 * time.Second
)

// begin sets one step going in the background. The caller holds mu.
func (l *loop) begin(d *desired, st step) {
	m := l.memory.instances[st.id]
	if m == nil {
		svc := d.services[st.service]
		if svc == nil || st.kind != stepStart && st.kind != stepHook {
			return
		}
		m = &known{service: st.service, slot: st.slot, hash: svc.hash, hook: st.hook + 1, driver: svc.driver}
		if st.hash != "" && !l.likeOthers(m, st.hash) {
			return
		}
		l.memory.instances[st.id] = m
	}
	if m.busy != "" {
		return
	}
	var act func() error
	switch st.kind {
	case stepStart, stepHook:
		spec, ok := l.specFor(d, st, m)
		if !ok {
			return
		}
		act = func() error { return l.start(d, st, m, spec) }
	case stepRecord:
		act = func() error { return l.recordHook(hookKey(st.service, st.slot, st.hook), m.hash) }
	case stepStop:
		m.replace = m.hung
		grace := defaultGrace
		if svc := d.services[st.service]; svc != nil {
			grace = svc.want.grace
		}
		act = func() error { return l.stop(st, m.driver, grace) }
	case stepRemove:
		act = func() error { return l.remove(st, m.driver) }
	default:
		return
	}
	m.busy = st.kind
	l.tasks.Go(func() {
		err := act()
		if err != nil && l.ctx.Err() == nil {
			l.log.Error("step failed", "step", string(st.kind), "service", st.service, "instance", string(st.id), "err", err)
			if st.kind != stepStart && st.kind != stepHook {
				l.sleep(refusedRetry) // the next round tries again
			}
		}
		l.mu.Lock()
		m.ended, m.trouble = true, ""
		if err != nil {
			m.trouble = err.Error()
		}
		l.mu.Unlock()
		l.poke()
	})
}

// likeOthers gives a new instance the definition that others of its service have, of which none may be left. The caller holds mu.
func (l *loop) likeOthers(m *known, hash string) bool {
	for _, other := range l.memory.instances {
		if other.service == m.service && other.hash == hash && other.former != nil {
			m.hash, m.driver = hash, other.driver
			m.former, m.formerOf, m.formerDone = other.former, other.formerOf, true
			return true
		}
	}
	return false
}

// recordHook writes down that a hook is done. Only then it is: nothing is started on it, and its instance is not removed,
// before the next loop would know.
func (l *loop) recordHook(key, hash string) error {
	select {
	case l.hooks <- struct{}{}:
		defer func() { <-l.hooks }()
	case <-l.ctx.Done():
		return l.ctx.Err()
	}
	l.mu.Lock()
	done := maps.Clone(l.memory.hooksDone)
	l.mu.Unlock()
	done[key] = hash
	if err := l.cfg.Store.SetValue(l.ctx, valueHooks, done); err != nil {
		return fmt.Errorf("record the hook %s: %w", key, err)
	}
	l.mu.Lock()
	l.memory.hooksDone[key] = hash
	l.mu.Unlock()
	return nil
}

// specFor returns the spec that a start needs: of the wanted definition, or of the one that the instance had.
func (l *loop) specFor(d *desired, st step, m *known) (driver.Spec, bool) {
	svc := d.services[st.service]
	if svc == nil {
		return driver.Spec{}, false
	}
	t, revision := svc.template, d.rev.Number
	if m.hash != svc.hash {
		if m.former == nil {
			return driver.Spec{}, false
		}
		t, revision = *m.former, m.formerOf
	}
	spec := t.spec
	if st.kind == stepHook {
		if st.hook >= len(t.hooks) {
			return driver.Spec{}, false
		}
		spec = t.hooks[st.hook].spec
	}
	spec = l.place(spec, t.process, st.id, st.slot, m.hash, revision)
	spec.Hosts = svc.hosts
	if t.process {
		spec.Env = mergeEnv(svc.extraEnv, spec.Env)
	}
	spec.Env = mergeEnv(append(l.told(d), l.telemetryEnv(svc, spec)...), spec.Env)
	return spec, true
}

// start starts an instance when there is a seat, and when the names it will ask for are served.
func (l *loop) start(d *desired, st step, m *known, spec driver.Spec) error {
	drv := l.cfg.Drivers[m.driver]
	if err := l.prepareNames(drv, m, spec); err != nil {
		return l.refuse(st, d, err)
	}
	if err := l.seated(m.driver, func() error { return drv.Start(l.ctx, spec) }); err != nil {
		return l.refuse(st, d, err)
	}
	l.mu.Lock()
	delete(l.memory.refused, st.id)
	m.hosts = spec.Hosts
	l.mu.Unlock()
	l.record(event{
		kind: "instance.started", service: st.service, id: st.id, reason: string(st.kind), message: st.reason, revision: spec.Revision,
	})
	return nil
}

// seated runs f when fewer than the allowed number of others run at a driver.
func (l *loop) seated(name string, f func() error) error {
	seats := l.seats[name]
	select {
	case seats <- struct{}{}:
		defer func() { <-seats }()
		return f()
	case <-l.ctx.Done():
		return l.ctx.Err()
	}
}

// prepareNames makes the namespace of an instance that had none yet, where its driver can, and waits until the names in
// it are served. No seat is held meanwhile: the namespaces of all that start together are served by one snapshot.
func (l *loop) prepareNames(drv driver.Driver, m *known, spec driver.Spec) error {
	l.mu.Lock()
	named := m.netns != "" // the names are served since the run before
	l.mu.Unlock()
	p, ok := drv.(Preparer)
	if !ok || named || l.cfg.Plane == nil || len(spec.Hosts) == 0 {
		return nil
	}
	var netns string
	err := l.seated(m.driver, func() (err error) {
		netns, err = p.Prepare(l.ctx, spec)
		return err
	})
	if err == nil {
		l.serveNames(m, netns)
	}
	return err
}

// serveNames waits until the names in a namespace that was just made are served: with the next round's snapshot.
func (l *loop) serveNames(m *known, netns string) {
	if netns == "" {
		return
	}
	next := make(chan uint64, 1)
	l.mu.Lock()
	m.netns = netns
	l.waiting = append(l.waiting, next)
	l.mu.Unlock()
	l.poke()
	select {
	case version := <-next:
		l.pub.await(l.ctx, version, publishLimit)
	case <-l.ctx.Done():
	}
}

// refuse remembers a start that the driver refused, so that the planner knows.
func (l *loop) refuse(st step, d *desired, err error) error {
	if l.ctx.Err() != nil {
		return nil
	}
	final := errors.Is(err, errdefs.ErrInvalid) || errors.Is(err, errdefs.ErrUnsupported)
	l.mu.Lock()
	before := l.memory.refused[st.id]
	pause := refusedRetry
	if before.revision == d.rev.Number && before.pause > 0 {
		pause = min(2*before.pause, refusedRetryMax)
	}
	l.memory.refused[st.id] = refusal{
		revision: d.rev.Number, reason: err.Error(), final: final, retryAt: time.Now().Add(pause), pause: pause,
		vain: errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, errdefs.ErrNotFound),
	}
	l.mu.Unlock()
	l.record(event{kind: "instance.refused", service: st.service, id: st.id, reason: errdefs.Kind(err), message: err.Error()})
	return err
}

func (l *loop) stop(st step, name string, grace time.Duration) error {
	l.record(event{kind: "instance.stopping", service: st.service, id: st.id, reason: "stop", message: st.reason})
	ctx, cancel := context.WithTimeout(l.ctx, grace+stepLimit)
	defer cancel()
	if err := l.cfg.Drivers[name].Stop(ctx, st.id, grace); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}

func (l *loop) remove(st step, name string) error {
	ctx, cancel := context.WithTimeout(l.ctx, stepLimit)
	defer cancel()
	if err := l.cfg.Drivers[name].Remove(ctx, st.id); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	l.record(event{kind: "instance.removed", service: st.service, id: st.id, reason: "remove", message: st.reason})
	return nil
}

// setHosts brings the names that running instances resolve up to date, where their driver can.
func (l *loop) setHosts(d *desired, c census) {
	for _, inst := range c.list {
		svc, m := d.services[inst.Service], l.memory.instances[inst.ID]
		if svc == nil || m == nil || inst.State != driver.Running || m.busy != "" || c.isAway(inst.ID) || m.hostsOf == d || m.naming {
			continue
		}
		setter, ok := l.cfg.Drivers[m.driver].(HostSetter)
		if !ok {
			continue
		}
		hosts := svc.hosts
		if maps.Equal(hosts, m.hosts) {
			m.hostsOf = d
			continue
		}
		m.naming = true // one at a time, or older names could replace newer ones
		l.tasks.Go(func() {
			err := setter.SetHosts(inst.ID, hosts)
			again := err != nil && !errors.Is(err, errdefs.ErrInvalid) && !errors.Is(err, errdefs.ErrUnsupported)
			if err != nil && l.ctx.Err() == nil {
				l.log.Warn("names could not be set", "service", inst.Service, "instance", string(inst.ID), "err", err)
			}
			if again {
				l.sleep(retryAfter)
			}
			l.mu.Lock()
			m.naming = false
			if !again {
				m.hosts = hosts
			}
			l.mu.Unlock()
			l.poke()
		})
	}
}

// keepLog keeps the last lines of an instance that failed, before it is started again or removed.
func (l *loop) keepLog(inst driver.Instance, exit driver.Exit) {
	drv := l.cfg.Drivers[l.memory.instances[inst.ID].driver]
	l.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, flushLimit)
		defer cancel()
		lines := tail(ctx, drv, inst.ID)
		if exit.Error != "" {
			lines = append(lines, exit.Error)
		}
		l.mu.Lock()
		l.memory.lastLog[inst.Service] = lines[max(0, len(lines)-keptLogLines):]
		l.mu.Unlock()
		l.poke()
	})
}

// tail returns the last lines of an instance's output; what cannot be read is left out.
func tail(ctx context.Context, drv driver.Driver, id driver.ID) []string {
	r, err := drv.Logs(ctx, id, driver.LogOptions{Tail: keptLogLines})
	if err != nil {
		return nil
	}
	defer r.Close()
	var lines []string
	for from := json.NewDecoder(r); ; {
		var line driver.LogLine
		if from.Decode(&line) != nil {
			return lines
		}
		lines = append(lines, line.Text)
	}
}
