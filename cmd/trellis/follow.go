package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"trellis/api"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

const (
	redraw      = 100 * time.Millisecond
	defaultWait = 5 * time.Minute
	// chatter is how often plain lines say of a service that is still in the same state why.
	chatter = 5 * time.Second
	// patience is how long a service may crash or stand failed without a verdict of the engine until nobody waits for
	// it any more. A verdict takes three crashes: seconds on one machine, but a kubelet makes a pause of 10 s before the
	// last of them and one of 20 s after it, and may be late.
	patience = 30 * time.Second
)

// follower shows a project on its way until it has arrived.
type follower struct {
	program  *program
	control  api.Control
	title    string
	quiet    bool
	services []string // of interest; nil: all
	timeout  time.Duration
	// done says whether a Status is the end of the way, and how it ended.
	done func(api.Status) (bool, error)

	passage passage
	last    api.Status
	seen    bool
	// worst remembers each service as it was when it was not well last, rather failing than on its way: a later Status
	// may have forgotten why.
	worst map[string]unwell
}

// unwell is a service that was not well in a revision.
type unwell struct {
	engine.Service
	revision int64
}

func (u unwell) failing() bool {
	return u.State == engine.ServiceDegraded || u.State == engine.ServiceCrashLooping || u.State == engine.ServiceFailed
}

var errTimeout = errors.New("not there in time")

// run blocks until done says so, the time is over or ctx is done, and returns the last Status.
func (f *follower) run(ctx context.Context) (api.Status, error) {
	p := f.program
	f.passage = passage{started: p.now()}
	f.worst = map[string]unwell{}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	if f.timeout > 0 {
		watching, stop = context.WithTimeoutCause(watching, f.timeout, errTimeout)
		defer stop()
	}
	statuses, ended := statuses(watching, f.control)
	live := !f.quiet && terminal(p.stderr) && p.getenv("TERM") != "dumb"
	canvas := &screen{w: p.stderr, size: func() (int, int) { return sizeOf(p.stderr) }}
	tick := time.NewTicker(redraw)
	defer tick.Stop()
	for frame := 0; ; frame++ {
		select {
		case status := <-statuses:
			f.observe(status, live)
		case err := <-ended:
			f.draw(canvas, live, frame)
			if watching.Err() != nil {
				return f.last, context.Cause(watching)
			}
			return f.last, err
		case <-tick.C:
		case <-p.resized:
		}
		f.draw(canvas, live, frame)
		if !f.seen {
			continue
		}
		if finished, err := f.finished(); finished {
			canvas.clear() // what follows says how it went
			return f.last, err
		}
	}
}

// finished says whether nobody has to wait any longer.
func (f *follower) finished() (bool, error) {
	if finished, err := f.done(f.last); finished {
		return true, err
	}
	if name := f.passage.hopeless(f.program.now()); name != "" {
		return true, fmt.Errorf("%s does not come up", name)
	}
	return false, nil
}

func (f *follower) observe(s api.Status, live bool) {
	f.last, f.seen = s, true
	if f.services != nil {
		f.last.Services = nil
		for _, svc := range s.Services {
			for _, name := range f.services {
				if svc.Name == name {
					f.last.Services = append(f.last.Services, svc)
				}
			}
		}
	}
	for _, svc := range f.last.Services {
		if now := (unwell{svc, s.Revision}); !settledWell(svc) && (now.failing() || !f.worst[svc.Name].failing()) {
			f.worst[svc.Name] = now
		}
	}
	lines := f.passage.observe(f.last.Services, f.program.now())
	if !live && !f.quiet {
		for _, line := range lines {
			f.program.progressf("%s", line)
		}
	}
}

func (f *follower) draw(canvas *screen, live bool, frame int) {
	if !live || !f.seen {
		return
	}
	width, height := canvas.size()
	now := f.program.now()
	view := treeView{
		Title: f.title, Elapsed: now.Sub(f.passage.started), Frame: frame, Services: f.last.Services, Took: f.passage.took(now),
	}
	canvas.draw(view.lines(fitting{width, height - 1, f.program.styleOf(f.program.stderr)}))
}

// passage remembers how each service got where it is, which a single Status does not tell.
type passage struct {
	started  time.Time
	services map[string]leg
}

// leg is one service's part of a passage.
type leg struct {
	shown   string    // what the last plain line about it said
	note    string    // and why
	told    time.Time // when
	well    time.Time // since when it is where it is wanted; zero while it is not
	failing time.Time // since when it crashes or has failed; zero while it does not
}

// observe takes in what the services are now and returns a plain line for each one that is another than before.
func (g *passage) observe(services []engine.Service, now time.Time) []string {
	if g.services == nil {
		g.services = map[string]leg{}
	}
	var lines []string
	for _, svc := range services {
		l := g.services[svc.Name]
		bad := svc.State == engine.ServiceCrashLooping || svc.State == engine.ServiceFailed
		l.well = since(settledWell(svc), l.well, now)
		l.failing = since(bad, l.failing, now)
		state, note := fmt.Sprintf("%s: %s %d/%d", svc.Name, svc.State, svc.Ready, svc.Want), ""
		if !settledWell(svc) {
			note = noteOf(svc)
		}
		if state != l.shown || note != l.note && now.Sub(l.told) >= chatter {
			line := state
			if note != "" {
				line += ": " + note
			}
			lines = append(lines, style{}.fit(fmt.Sprintf("%6s  %s", shortly(now.Sub(g.started)), line), 200))
			l.shown, l.note, l.told = state, note, now
		}
		g.services[svc.Name] = l
	}
	return lines
}

// since returns the time from which something holds without a break, zero while it does not.
func since(holds bool, before, now time.Time) time.Time {
	switch {
	case !holds:
		return time.Time{}
	case before.IsZero():
		return now
	}
	return before
}

// took returns how long each service took, or has been on its way.
func (g *passage) took(now time.Time) map[string]time.Duration {
	all := make(map[string]time.Duration, len(g.services))
	for name, l := range g.services {
		end := l.well
		if end.IsZero() {
			end = now
		}
		all[name] = end.Sub(g.started)
	}
	return all
}

// hopeless returns a service that has been failing for longer than patience, "" if there is none.
func (g *passage) hopeless(now time.Time) string {
	worst := ""
	for name, l := range g.services {
		if !l.failing.IsZero() && now.Sub(l.failing) > patience && (worst == "" || name < worst) {
			worst = name
		}
	}
	return worst
}

// settled returns the end of the way of a revision.
func settled(ctx context.Context, control api.Control, number int64) func(api.Status) (bool, error) {
	return func(s api.Status) (bool, error) {
		switch {
		case s.Revision < number || s.Revision == number && !s.Settled:
			return pausedIn(s, number)
		case s.Revision == number && s.Outcome == state.Healthy:
			return true, nil
		case s.Revision == number && s.Outcome == state.RolledBack:
			return false, nil // until the one before is there again, as a new revision
		case s.Revision == number && s.Outcome != state.Pending && s.Outcome != "":
			return true, errors.New(outcomeWords(s.Outcome) + causeOf(s, number))
		case s.Revision == number:
			return false, nil
		}
		revisions, err := control.History(ctx, 0)
		if err != nil {
			return true, err
		}
		for _, rev := range revisions {
			if rev.Number != number {
				continue
			}
			switch rev.Outcome {
			case state.Healthy:
				return true, nil
			case state.Pending:
				return false, nil
			case state.RolledBack:
				if revisions[0].Undoes == number && !s.Settled {
					return false, nil // until the one before serves again
				}
				return true, errors.New(outcomeWords(rev.Outcome) + causeOf(s, number))
			}
			return true, fmt.Errorf("%s; revision %d (%s by %s) is in its place",
				outcomeWords(rev.Outcome), revisions[0].Number, revisions[0].Cause, revisions[0].Actor)
		}
		return true, fmt.Errorf("revision %d: %w", number, errdefs.ErrNotFound)
	}
}

// pausedIn ends the wait for a revision with a rollout that waits itself, for somebody to decide.
func pausedIn(s api.Status, number int64) (bool, error) {
	for _, r := range s.Rollouts {
		if r.Revision == number && r.Phase == state.Paused {
			err := fmt.Errorf("the rollout of %s is paused: %s", r.Service, r.Reason)
			return true, withHint(err, "'trellis rollout promote' goes on with it, 'trellis rollout abort' goes back")
		}
	}
	return false, nil
}

// causeOf says what made a revision go back.
func causeOf(s api.Status, number int64) string {
	for _, r := range s.Rollouts {
		if r.Revision == number && r.Phase == state.TakenBack {
			return fmt.Sprintf(": %s: %s", r.Service, r.Reason)
		}
	}
	return ""
}

func outcomeWords(outcome string) string {
	switch outcome {
	case state.RolledBack:
		return "failed and was rolled back"
	case state.Superseded:
		return "was superseded"
	}
	return outcome
}

// explain writes why services did not come up: the reason, the last answer, the last lines of output, where there are
// more.
func (f *follower) explain() {
	p := f.program
	s := p.styleOf(p.stderr)
	told := map[string]bool{}
	for _, r := range f.last.Rollouts {
		if r.Failure != nil && r.Phase != state.Promoted {
			p.explainRollout(r)
			told[r.Service] = true
		}
	}
	for _, svc := range f.last.Services {
		if told[svc.Name] {
			continue
		}
		if settledWell(svc) {
			was, ok := f.worst[svc.Name]
			if !ok || f.last.Outcome == state.Healthy && (was.revision == f.last.Revision || !was.failing()) {
				continue
			}
			svc = was.Service
		}
		p.progressf("%s %s is %s, %d of %d ready", s.red(s.glyph("✘", "x")), s.bold(svc.Name), svc.State, svc.Ready, svc.Want)
		say := func(what, text string) { p.progressf("  %s %s", s.dim(pad(what, 12)), text) }
		if svc.Reason != "" {
			say("reason", s.fit(oneLine(svc.Reason), 500))
		}
		for _, in := range svc.Instances {
			if answer := answerOf(in); answer != "" && !in.Ready {
				say("last answer", s.fit(string(in.ID)+"  "+answer, 500))
			}
		}
		for i, line := range tail(folded(svc.LastLog), 20) {
			what := ""
			if i == 0 {
				what = "last output"
			}
			say(what, printable(p.stderr, strings.TrimRight(line, "\r\n")))
		}
		say("all output", "trellis logs "+svc.Name)
	}
}

// folded returns lines with those that repeat the one before counted instead of written again.
func folded(lines []string) []string {
	var out []string
	times := 1
	for i, line := range lines {
		line = strings.TrimRight(line, "\r\n")
		if i > 0 && line == strings.TrimRight(lines[i-1], "\r\n") {
			times++
			out[len(out)-1] = fmt.Sprintf("%s (%d times)", line, times)
			continue
		}
		times = 1
		out = append(out, line)
	}
	return out
}

// tail returns the last n lines.
func tail(lines []string, n int) []string { return lines[max(len(lines)-n, 0):] }
