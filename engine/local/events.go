package local

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"sync"
	"time"

	"trellis/driver"
	"trellis/errdefs"
	"trellis/state"
)

// event is what the loop has to tell.
type event struct {
	kind     string
	service  string
	id       driver.ID
	reason   string
	message  string
	revision int64
	actor    string
	at       time.Time // zero: now
}

// recorder writes events, in order and many at a time, so that no step waits for the disk.
type recorder struct {
	due chan struct{} // capacity 1

	mu                 sync.Mutex
	events             []state.Event
	kept               map[driver.ID]kept // what the next loop has to know, if it changed
	last               map[driver.ID]kept
	listed, lastListed string // what is to be remembered of other programs' instances, as kept and last
}

// maxPending bounds the events that wait for a disk that does not take them; older ones are given up first.
const maxPending = 10000

// flushRetryMax is the longest pause until a disk that took nothing is tried again; it doubles from retryAfter.
const flushRetryMax = 10 * time.Second

// record queues an event.
func (e *Engine) record(ev event) {
	if ev.at.IsZero() {
		ev.at = time.Now()
	}
	if ev.actor == "" {
		ev.actor = "trellis"
	}
	r := &e.records
	r.mu.Lock()
	if len(r.events) >= maxPending {
		r.events = r.events[1:]
	}
	s := state.Event{
		Time: ev.at, Actor: ev.actor, Project: e.cfg.Project, Service: ev.service, Kind: ev.kind, Reason: ev.reason,
		Message: ev.message, Revision: ev.revision,
	}
	if ev.id != "" {
		s.Instance = string(short(e.cfg.Project, ev.id))
	}
	r.events = append(r.events, s)
	r.mu.Unlock()
	r.ring()
}

func (r *recorder) ring() {
	select {
	case r.due <- struct{}{}:
	default:
	}
}

// remember queues what recall reads, if it changed.
func (r *recorder) remember(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if text != r.lastListed {
		r.listed, r.lastListed = text, text
		r.ring()
	}
}

// keep queues what the next loop has to know of instances. The caller holds mu.
func (l *loop) keep(list []driver.Instance) {
	now := make(map[driver.ID]kept, len(list)+len(l.before))
	maps.Copy(now, l.before) // not listed yet
	for _, inst := range list {
		m := l.memory.instances[inst.ID]
		if m == nil {
			continue
		}
		k := kept{Failures: m.failures, Exit: m.told}
		since := m.readySince.Round(0) // without the monotonic clock, as it is read back
		if m.ready || inst.State == driver.Exited {
			k.ReadySince = since
		} else {
			k.WasReady = since
		}
		if k != (kept{}) {
			k.Run = inst.Restarts + 1
			now[inst.ID] = k
		}
	}
	r := &l.records
	r.mu.Lock()
	defer r.mu.Unlock()
	if !maps.Equal(now, r.last) {
		r.kept, r.last = now, now
		r.ring()
	}
}

// recordAll writes what is queued until stop is closed and the queue is empty.
func (e *Engine) recordAll(stop <-chan struct{}) {
	var again <-chan time.Time
	pause := retryAfter
	for {
		select {
		case <-e.records.due:
			if again != nil {
				continue // not with every event that comes meanwhile
			}
		case <-again:
			again = nil
		case <-stop:
			ctx, cancel := context.WithTimeout(context.Background(), flushLimit)
			e.flush(ctx)
			cancel()
			return
		}
		if e.flush(context.Background()) {
			pause = retryAfter
			continue
		}
		again = time.After(pause)
		pause = min(2*pause, flushRetryMax)
	}
}

// flush writes what is queued, and says whether all of it is written. What the disk does not take stays queued.
func (e *Engine) flush(ctx context.Context) bool {
	r := &e.records
	r.mu.Lock()
	events, kept, listed := r.events, r.kept, r.listed
	r.events, r.kept, r.listed = nil, nil, ""
	r.mu.Unlock()
	all := true
	if len(events) > 0 {
		if err := e.cfg.Store.Append(ctx, events...); err != nil {
			all = false
			e.log.Error("events could not be written", "count", len(events), "err", err)
			if !errors.Is(err, errdefs.ErrInvalid) { // that would never be taken
				r.mu.Lock()
				r.events = append(events, r.events...)
				r.events = r.events[max(0, len(r.events)-maxPending):]
				r.mu.Unlock()
			}
		}
	}
	if kept != nil {
		if err := e.cfg.Store.SetValue(ctx, valueKept, kept); err != nil {
			all = false
			e.log.Error("what is known of instances could not be written", "err", err)
			r.mu.Lock()
			if r.kept == nil { // else there is something newer
				r.kept = kept
			}
			r.mu.Unlock()
		}
	}
	if listed != "" {
		if err := e.cfg.Store.SetValue(ctx, valueListed, json.RawMessage(listed)); err != nil {
			all = false
			e.log.Error("what drivers listed could not be written", "err", err)
			r.mu.Lock()
			if r.listed == "" {
				r.listed = listed
			}
			r.mu.Unlock()
		}
	}
	return all
}
