package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
)

// What the drivers list is the truth. The instances of some are another program's, which may be away or hang while they go
// on. Then they are taken for what they were when they were listed last: they keep their routes for as long as they answer,
// nothing is done to them, and everything of the other drivers goes on. See docs/decisions/037.

const (
	// listLimit bounds how long a driver is waited for until it counts as away, returnLimit how long one that is away has to
	// answer until it is asked again.
	listLimit   = 10 * time.Second
	returnLimit = 2 * listLimit
)

// census is what the drivers list, at one time.
type census struct {
	list    []driver.Instance // by ID
	drivers map[driver.ID]string
	away    map[string]*absence // the drivers whose part of list is older
}

// absence says that a driver cannot be asked.
type absence struct {
	since time.Time
	why   error
	known bool // what it listed last
}

// remedied is an error of a driver that says what there is to do about it.
type remedied interface {
	error
	Remedy() string
}

// reason is why, and what there is to do about it where the driver says so.
func (a *absence) reason() (why, remedy string) {
	var r remedied
	if errors.As(a.why, &r) {
		return r.Error(), r.Remedy()
	}
	return a.why.Error(), ""
}

// words say why nothing is known and nothing is done, and what there is to do.
func (a *absence) words() string {
	why, remedy := a.reason()
	if remedy != "" {
		why += "; " + remedy
	}
	return why + "; until then it is left alone"
}

// unknown says so of what is left alone.
func (a *absence) unknown() string {
	return fmt.Sprintf("unknown since %s: %s", a.since.Format("15:04:05"), a.words())
}

// told is what a State says of it; nil of no absence.
func (a *absence) told(name string) *engine.Unknown {
	if a == nil {
		return nil
	}
	why, remedy := a.reason()
	return &engine.Unknown{Driver: name, Since: a.since, Reason: why, Remedy: remedy}
}

// isAway says whether an instance is only known from before.
func (c census) isAway(id driver.ID) bool { return c.away[c.drivers[id]] != nil }

// unknown says of which services it is not known what runs, and why.
func (c census) unknown(d *desired) map[string]string {
	if len(c.away) == 0 {
		return nil
	}
	words := map[string]string{}
	for name, s := range d.services {
		if a := c.away[s.driver]; a != nil {
			words[name] = a.unknown()
		}
	}
	return words
}

// register is what is known of one driver's instances.
type register struct {
	gone chan struct{} // capacity 1: it is to be asked until it answers

	mu       sync.Mutex
	asked    uint64 // how often
	answered uint64 // the newest question that was answered
	known    bool
	list     []driver.Instance // the answer; nobody changes it
	away     *absence          // nil while it answers
	attended bool              // somebody asks it while it is away
}

// last returns what it listed last, and whether it can be asked now.
func (r *register) last() ([]driver.Instance, *absence) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.list, r.away
}

// isAway says whether the driver was away when it was asked last.
func (e *Engine) isAway(name string) bool {
	_, away := e.registers[name].last()
	return away != nil
}

// list asks every driver that is not known to be away. The only error is that of ctx.
func (e *Engine) list(ctx context.Context) (census, error) {
	c := census{drivers: map[driver.ID]string{}}
	for _, name := range sortedKeys(e.cfg.Drivers) {
		r := e.registers[name]
		r.mu.Lock()
		skip := r.away != nil && r.attended
		r.mu.Unlock()
		if !skip {
			if err := e.ask(ctx, name, listLimit); err != nil && ctx.Err() != nil {
				return census{}, ctx.Err()
			}
		}
		list, away := r.last()
		if away != nil {
			if c.away == nil {
				c.away = map[string]*absence{}
			}
			c.away[name] = away
		}
		for _, inst := range list {
			c.drivers[inst.ID] = name
		}
		c.list = append(c.list, list...)
	}
	if len(e.cfg.Drivers) > 1 {
		slices.SortFunc(c.list, func(a, b driver.Instance) int { return strings.Compare(string(a.ID), string(b.ID)) })
	}
	return c, nil
}

// ask asks one driver, and takes down what it says or that it does not.
func (e *Engine) ask(ctx context.Context, name string, limit time.Duration) error {
	r := e.registers[name]
	r.mu.Lock()
	r.asked++
	mine := r.asked
	r.mu.Unlock()
	asking, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	list, err := e.cfg.Drivers[name].List(asking, e.cfg.Project)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case mine < r.answered: // somebody who asked later has its answer already
	case err != nil:
		e.lose(name, r, err)
	default:
		r.answered, r.known, r.list = mine, true, list
		if r.away != nil {
			e.regain(name, r)
		}
	}
	return err
}

// lose takes down that a driver does not answer. The caller holds r.mu.
func (e *Engine) lose(name string, r *register, err error) {
	if r.away != nil {
		return
	}
	r.away = &absence{since: time.Now(), why: err, known: r.known}
	e.log.Warn("a driver does not answer; its instances are left alone", "driver", name, "err", err)
	e.record(event{kind: "driver.away", reason: errdefs.Kind(err), message: r.away.words()})
	select {
	case r.gone <- struct{}{}:
	default:
	}
	e.poke()
}

// regain takes down that a driver answers again. The caller holds r.mu.
func (e *Engine) regain(name string, r *register) {
	e.record(event{kind: "driver.back", reason: "answers", message: fmt.Sprintf("%s answers again after %s; its instances are looked after again",
		name, time.Since(r.away.since).Round(100*time.Millisecond))})
	r.away = nil
	e.poke()
}

// attend asks a driver again and again while it is away.
func (l *loop) attend(name string) {
	r := l.registers[name]
	r.mu.Lock()
	r.attended = true
	r.mu.Unlock()
	for {
		select {
		case <-l.ctx.Done():
			r.mu.Lock()
			r.attended = false
			r.mu.Unlock()
			return
		case <-r.gone:
		}
		for l.isAway(name) && l.ctx.Err() == nil {
			l.sleep(retryAfter)
			_ = l.ask(l.ctx, name, returnLimit) // it is told when it is back
		}
	}
}

// giveTime lets nobody fail for the time in which the driver of its instances was away. The caller holds mu.
func (l *loop) giveTime(d *desired, c census, now time.Time) {
	for name := range l.missed {
		if c.away[name] != nil {
			continue
		}
		l.memory.back[name] = now
		for service, s := range d.services {
			if s.driver != name {
				continue
			}
			if !l.memory.progress[service].IsZero() {
				l.memory.progress[service] = now
			}
		}
		for id, m := range l.memory.instances {
			if m.driver == name {
				delete(l.memory.refused, id)
			}
		}
	}
	l.missed = c.away
}

// valueListed is what drivers listed last whose instances are another program's: a control plane that is started while
// that one is away has to know them.
const valueListed = "engine/listed"

// listed is what the store keeps of a driver's instances. They end with the machine's run.
type listed struct {
	Boot      string            `json:"boot"`
	Instances []driver.Instance `json:"instances"`
}

// recall takes what the loop before saw for what there is, until a driver says else.
func (e *Engine) recall(ctx context.Context) error {
	all := map[string]listed{}
	if err := e.value(ctx, valueListed, &all); err != nil {
		return err
	}
	if len(all) > 0 {
		e.records.lastListed = ""
	}
	for name, was := range all {
		if r := e.registers[name]; r != nil && was.Boot == e.boot {
			r.mu.Lock()
			if !r.known {
				r.known, r.list = true, was.Instances
			}
			r.mu.Unlock()
		}
	}
	return nil
}

// remember queues what recall reads, if it changed.
func (l *loop) remember(c census) {
	all := map[string]listed{}
	for name, d := range l.cfg.Drivers {
		r := l.registers[name]
		if list, _ := r.last(); d.Capabilities().Apart && len(list) > 0 {
			all[name] = listed{l.boot, list}
		}
	}
	text, err := json.Marshal(all)
	if err != nil {
		panic(err) // plain data
	}
	l.records.remember(string(text))
}

// bootID names the machine's present run, where it says so.
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}
