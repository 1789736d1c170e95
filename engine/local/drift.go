package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// examineAtOnce bounds how many instances are looked at at a time.
const examineAtOnce = 8

// Drift implements engine.Engine. What it finds is told as an event, once.
func (e *Engine) Drift(ctx context.Context, project string) ([]engine.Drift, error) {
	all, err := e.drift(ctx, project)
	if err == nil {
		err = e.drifts.tell(ctx, e, all)
	}
	if err != nil {
		return nil, fmt.Errorf("compare %s with its revision: %w", project, err)
	}
	return all, nil
}

func (e *Engine) drift(ctx context.Context, project string) ([]engine.Drift, error) {
	if err := e.checkProject(project); err != nil {
		return nil, err
	}
	d, err := e.refresh(ctx)
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, fmt.Errorf("%w: nothing was ever applied", errdefs.ErrNotFound)
	}
	all := []engine.Drift{}
	if d.deleting {
		return all, nil
	}
	c, err := e.list(ctx)
	if err != nil {
		return nil, err
	}
	unknown := c.unknown(d)
	for _, name := range sortedKeys(unknown) {
		return nil, fmt.Errorf("%w: %s is %s", errdefs.ErrUnavailable, name, unknown[name])
	}
	list := c.list
	e.mu.Lock()
	verdicts := e.decide(d, c)
	var look []driver.Instance
	for _, w := range d.want.services {
		s := d.services[w.name]
		mine := instancesOf(e.cfg.Project, s, list)
		all = append(all, s.overridden()...)
		if !d.want.pending { // what is on its way is not missing
			all = append(all, s.missing(mine, verdicts[w.name])...)
		}
		for _, inst := range mine {
			if inst.State == driver.Running && inst.Hash == s.hash {
				look = append(look, inst)
			}
		}
	}
	e.mu.Unlock()
	all = append(all, takenPorts(d, e.pub.taken())...)
	changed, err := e.examineAll(ctx, d, look)
	if err != nil {
		return nil, err
	}
	all = append(all, changed...)
	slices.SortStableFunc(all, func(a, b engine.Drift) int { return strings.Compare(a.Path, b.Path) })
	return all, nil
}

// instancesOf returns the instances of a service that stand for its replicas.
func instancesOf(project string, s *service, list []driver.Instance) []driver.Instance {
	var mine []driver.Instance
	for _, inst := range list {
		if _, hook := hookIndex(inst.ID, project, inst.Service, inst.Slot); inst.Service == s.compose.Name && !hook && !isOnce(inst.ID) {
			mine = append(mine, inst)
		}
	}
	return mine
}

// overridden tells the wishes beside the file that hold.
func (s *service) overridden() []engine.Drift {
	replicas := engine.Replicas(s.compose)
	one := engine.Drift{
		Change: engine.Change{
			Path: compose.JoinPath("services", s.compose.Name) + ".deploy.replicas", Action: engine.Modify, From: replicas, Effect: engine.EffectInPlace,
		},
		Service: s.compose.Name, Adoptable: true,
	}
	switch {
	case s.want.stopped && replicas > 0:
		one.Kind, one.To, one.Reason = engine.DriftStopped, 0, "the service was stopped ('trellis stop')"
	case !s.want.stopped && s.scaling == nil && s.want.replicas != replicas:
		one.Kind, one.To, one.Reason = engine.DriftScaled, s.want.replicas, "another number was asked for ('trellis scale')"
	default:
		return nil
	}
	return []engine.Drift{one}
}

// missing tells that fewer instances run than are wanted. Those of an earlier definition count: they are being replaced.
func (s *service) missing(mine []driver.Instance, v verdict) []engine.Drift {
	if s.want.stopped || v.state == engine.ServiceCompleted || v.state == engine.ServiceStopped {
		return nil
	}
	running := 0
	var ended []string
	for _, inst := range mine {
		switch {
		case inst.State != driver.Exited:
			running++
		case inst.Exit != nil:
			ended = append(ended, fmt.Sprintf("%s %s", short(inst.Project, inst.ID), exitWords(inst.Exit)))
		}
	}
	if running >= s.want.replicas {
		return nil
	}
	reason := strings.Join(ended, "; ")
	switch {
	case v.state == engine.ServiceFailed && v.reason != "":
		reason = v.reason
	case reason == "":
		reason = "what ran is not there any more"
	}
	return []engine.Drift{{
		Change: engine.Change{
			Path: compose.JoinPath("services", s.compose.Name) + ".deploy.replicas", Action: engine.Modify, From: s.want.replicas, To: running,
			Effect: engine.EffectInPlace,
		},
		Kind: engine.DriftGone, Service: s.compose.Name, Reason: reason, Heals: v.state != engine.ServiceFailed,
	}}
}

// takenPorts tells the published ports that somebody else has, as the data plane says it.
func takenPorts(d *desired, problem string) []engine.Drift {
	var all []engine.Drift
	for _, w := range d.want.services {
		for i, port := range d.services[w.name].compose.Ports {
			if port.Published == "" || !namesPort(problem, port.Published) {
				continue
			}
			all = append(all, engine.Drift{
				Change: engine.Change{
					Path: fmt.Sprintf("%s.ports[%d].published", compose.JoinPath("services", w.name), i), Action: engine.Remove, From: port.Published,
					Effect: engine.EffectInPlace,
				},
				Kind: engine.DriftPort, Service: w.name, Reason: problem, Heals: true,
			})
		}
	}
	return all
}

// namesPort says whether a text names an address with a port.
func namesPort(text, port string) bool {
	for at := strings.Index(text, ":"+port); at >= 0; {
		rest := text[at+1+len(port):]
		if rest == "" || rest[0] < '0' || rest[0] > '9' {
			return true
		}
		next := strings.Index(rest, ":"+port)
		if next < 0 {
			return false
		}
		at += 1 + len(port) + next
	}
	return false
}

// examineAll asks the drivers what became of running instances.
func (e *Engine) examineAll(ctx context.Context, d *desired, look []driver.Instance) ([]engine.Drift, error) {
	found := make([][]engine.Drift, len(look))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(examineAtOnce)
	for i, inst := range look {
		s := d.services[inst.Service]
		examiner, ok := e.cfg.Drivers[s.driver].(driver.Examiner)
		if !ok {
			continue
		}
		g.Go(func() error {
			spec := e.place(s.template.spec, s.template.process, inst.ID, inst.Slot, inst.Hash, inst.Revision)
			// What Trellis adds may have become another since.
			spec.Env = mergeEnv(s.template.spec.Env, identityOf(spec.Env))
			deviations, err := examiner.Examine(ctx, spec)
			if errors.Is(err, errdefs.ErrNotFound) {
				return nil // it has ended meanwhile
			}
			for _, dev := range deviations {
				found[i] = append(found[i], driftOf(d.rev.Project, s.compose, inst, dev))
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(found...), nil
}

// Revert implements engine.Engine. Instances that were changed are replaced as a restart does it: the new ones are by
// their making what the revision says, and nothing is lost on the way.
func (e *Engine) Revert(ctx context.Context, project string, services []string, actor string) ([]engine.Drift, error) {
	fail := func(err error) ([]engine.Drift, error) { return nil, fmt.Errorf("revert %s: %w", project, err) }
	all, err := e.Drift(ctx, project)
	if err != nil {
		return fail(err)
	}
	all = slices.DeleteFunc(all, func(one engine.Drift) bool {
		return one.Heals || len(services) > 0 && !slices.Contains(services, one.Service)
	})
	e.writes.Lock()
	defer e.writes.Unlock()
	overrides, err := e.cfg.Store.Overrides(ctx)
	if err != nil {
		return fail(err)
	}
	defer e.touch() // also where it is not known whether the store took it
	for _, name := range driftedIn(all) {
		o := state.Override{Service: name}
		for _, have := range overrides {
			if have.Service == name {
				o = have
			}
		}
		var words []string
		replace := false
		for _, one := range all {
			if one.Service != name {
				continue
			}
			words = append(words, one.Path)
			switch one.Kind {
			case engine.DriftScaled:
				o.Replicas = nil
			case engine.DriftStopped:
				o.Stopped = false
			default:
				replace = true
			}
		}
		if replace {
			o.Restart++
		}
		if err := e.cfg.Store.SetOverride(ctx, o); err != nil {
			return fail(err)
		}
		e.record(event{kind: engine.EventDriftReverted, service: name, reason: "asked", message: "brought back: " + strings.Join(slices.Compact(words), ", "), actor: actor})
	}
	return all, nil
}

func driftedIn(all []engine.Drift) []string {
	names := map[string]bool{}
	for _, one := range all {
		names[one.Service] = true
	}
	return sortedKeys(names)
}

// driftEvery is how often the world is compared with the revision in force without being asked, driftAgain how soon after a
// difference was found: it may have been brought back.
const (
	driftEvery = 5 * time.Minute
	driftAgain = 30 * time.Second
)

// watchDrift compares the world with the revision in force, again and again.
func (l *loop) watchDrift() {
	for l.ctx.Err() == nil {
		pause := driftEvery
		if len(l.Drifted()) > 0 {
			pause = driftAgain
		}
		l.sleep(pause)
		_, err := l.Drift(l.ctx, l.cfg.Project)
		if err != nil && l.ctx.Err() == nil && !errors.Is(err, errdefs.ErrNotFound) && !errors.Is(err, errdefs.ErrUnavailable) {
			l.log.Warn("the world could not be compared with the revision in force", "err", err)
		}
	}
}
