package local

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"trellis/driver"
	"trellis/probe"
)

const (
	// firstProbe is the pause between the questions to an instance that has just started, for as long as eagerly; then
	// it doubles until there is an answer. Whatever the pause, an instance is asked at once when it begins to listen. A
	// command costs a process, so it is asked less eagerly.
	firstProbe     = 5 * time.Millisecond
	firstExecProbe = 50 * time.Millisecond
	eagerly        = 100 * time.Millisecond
	// hungAfter is how many times the failures that make an instance unready make it hung.
	hungAfter = 3
	maxAnswer = 1 << 10
)

// probeAll makes sure that each running instance with a probe is asked, and no other. The caller holds mu.
func (l *loop) probeAll(d *desired, list []driver.Instance) {
	for _, inst := range list {
		m, svc := l.memory.instances[inst.ID], d.services[inst.Service]
		if m == nil {
			continue
		}
		wanted := svc != nil && inst.State == driver.Running && inst.Host != "" && m.hook == 0 && !isOnce(inst.ID)
		spec := probe.Spec{}
		if wanted {
			known := false
			if spec, known = probeOf(svc, inst, m); !known {
				continue
			}
			wanted = spec.Kind != probe.None
		}
		if !wanted || m.probing != nil && !reflect.DeepEqual(m.asked, spec) {
			m.stopProbing()
		}
		if !wanted {
			continue
		}
		if m.probing == nil {
			ctx, cancel := context.WithCancel(l.ctx)
			m.probing, m.listens, m.asked, m.fails = cancel, make(chan struct{}), spec, 0
			p := prober{
				loop: l, spec: spec, id: inst.ID, known: m, run: m.run, host: inst.Host,
				port: actualPort(inst, spec.Port), listens: m.listens,
				jitter: jitter(spec.Interval, string(inst.ID), 0) / 2, drv: l.cfg.Drivers[m.driver],
			}
			l.tasks.Go(func() { p.ask(ctx) })
		}
		if m.listens != nil && slices.Contains(inst.Listening, actualPort(inst, spec.Port)) {
			close(m.listens)
			m.listens = nil
		}
	}
}

// probeOf returns what an instance of a service is asked: what the file says now where it is as wanted, else what its own
// definition says, because what is asked of its successor may be nothing that it answers. false: that is yet to be found.
func probeOf(svc *service, inst driver.Instance, m *known) (probe.Spec, bool) {
	switch {
	case inst.Hash == svc.hash:
		return svc.probe, true
	case m.former != nil:
		return m.former.probe, true
	}
	return svc.probe, m.formerDone
}

// actualPort returns the port that an instance really listens on for one of the file.
func actualPort(inst driver.Instance, port int) int {
	if actual, ok := inst.PortMap[port]; ok {
		return actual
	}
	return port
}

// stopProbes ends every probe.
func (l *loop) stopProbes() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.memory.instances {
		m.stopProbing()
	}
}

// prober asks one run of one instance for as long as it lasts.
type prober struct {
	*loop
	spec   probe.Spec
	id     driver.ID
	known  *known
	run    run
	host   string
	port   int
	jitter time.Duration
	drv    driver.Driver
	// listens is closed when the instance is seen to listen where it is asked.
	listens <-chan struct{}
}

func (p prober) ask(ctx context.Context) {
	pause := firstProbe
	if p.spec.Kind == probe.Exec {
		pause = firstExecProbe
	}
	slow := p.spec.Interval
	if p.spec.StartInterval > 0 {
		slow = p.spec.StartInterval
	}
	listens, began := p.listens, time.Now()
	for {
		answer := p.cfg.Probe(ctx, p.spec, p.host, p.port, p.exec)
		void := !answer.Ready && p.spec.Kind == probe.Exec && p.mute(ctx)
		if ctx.Err() != nil {
			return
		}
		wait := p.spec.Interval + p.jitter
		if !void && !p.heard(answer) {
			wait = min(pause, slow)
			if time.Since(began) > eagerly {
				pause = min(2*pause, slow)
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-listens:
			timer.Stop()
			listens = nil // once
		case <-timer.C:
		}
	}
}

// mute says whether a command that failed says nothing of its instance, because the program that had to run it is away.
func (p prober) mute(ctx context.Context) bool {
	name := p.known.driver
	if !p.drv.Capabilities().Apart {
		return false
	}
	p.mu.Lock()
	counts := p.known.wasReady
	p.mu.Unlock()
	if counts && !p.isAway(name) {
		_ = p.Engine.ask(ctx, name, listLimit)
	}
	return p.isAway(name)
}

// heard takes an answer into account and says whether the run was ever ready.
func (p prober) heard(answer probe.Result) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.known
	if m.run != p.run {
		return true // over
	}
	news := answer.Message != m.said.Message && !m.ready
	m.said = answer
	was, hung := m.ready, m.hung
	switch {
	case answer.Ready:
		m.fails, m.hung = 0, false
		p.setReady(p.id, m, true, time.Now())
	case !m.wasReady || time.Since(m.started()) < p.spec.StartPeriod:
		// Failures of the start do not count.
	default:
		m.fails++
		if m.fails >= max(p.spec.Retries, 1) {
			p.setReady(p.id, m, false, time.Now())
		}
		m.hung = m.fails >= hungAfter*max(p.spec.Retries, 1)
	}
	if m.ready != was || m.hung != hung || news {
		p.poke()
	}
	return m.wasReady
}

// exec runs a probe's command inside the instance.
func (p prober) exec(ctx context.Context, command []string) (int, string, error) {
	out := &limited{}
	code, err := p.drv.Exec(ctx, p.id, driver.Command{Args: command, Stdout: out, Stderr: out})
	return code, strings.TrimSpace(out.String()), err
}

// limited keeps the first bytes of what is written to it.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := maxAnswer - l.Len(); room > 0 {
		l.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// portWords returns ports as words: "port 80", "any of the ports 80, 443".
func portWords(ports []int) string {
	if len(ports) == 1 {
		return fmt.Sprintf("port %d", ports[0])
	}
	words := make([]string, len(ports))
	for i, port := range slices.Sorted(slices.Values(ports)) {
		words[i] = strconv.Itoa(port)
	}
	return "any of the ports " + strings.Join(words, ", ")
}
