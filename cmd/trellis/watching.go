package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"trellis/api"
	"trellis/artifact"
	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
	"trellis/engine/local"
	"trellis/errdefs"
	"trellis/state"
	"trellis/watch"
)

// watching carries out develop.watch for the project of a session.
type watching struct {
	u      *session
	loaded loaded
	store  *artifact.Store
	rules  []watchedRule
	built  map[string]string  // by service: the digest of its last build; what that left behind is no change
	follow context.CancelFunc // of the revision that is under way, nil where none is
}

// watch prepares to watch: what of it cannot be carried out is told, nothing at all to watch is an error.
func (p *program) watch(u *session, l loaded, names []string) (*watching, error) {
	store, err := artifact.Open(l.location.Artifacts())
	if err != nil {
		return nil, err
	}
	w := &watching{u: u, loaded: l, store: store, built: map[string]string{}}
	w.note(u.ready.project)
	for _, r := range watchRules(l.project, names) {
		if why := uncarried(r, l.project.Services[r.service]); why != "" {
			p.progressf("%s %s: %s", p.styleOf(p.stderr).yellow("warning:"), r.at, why)
			continue
		}
		w.rules = append(w.rules, r)
	}
	if len(w.rules) == 0 {
		return nil, withHint(plain{fmt.Errorf("there is nothing to watch: %w", errdefs.ErrInvalid)},
			"a service is watched that has develop.watch, or x-trellis.process with build or artifacts")
	}
	return w, nil
}

// writable returns project with the services that files are synced to working in copies of their artefacts, which are
// made, or made anew where they are another's.
func (w *watching) writable(project compose.Project) (compose.Project, error) {
	project.Services = maps.Clone(project.Services)
	for _, r := range w.rules {
		svc := project.Services[r.service]
		process := svc.Trellis.Process
		if !r.syncs() || process == nil || process.Artifact == "" || process.Watched {
			continue
		}
		if err := w.store.CopyTo(process.Artifact, w.copyOf(r.service, process.Artifact)); err != nil {
			return project, err
		}
		watched := *process
		watched.Watched = true
		svc.Trellis.Process = &watched
		project.Services[r.service] = svc
	}
	return project, nil
}

// note remembers what was built.
func (w *watching) note(project compose.Project) {
	for name, svc := range project.Services {
		if process := svc.Trellis.Process; process != nil && process.Artifact != "" {
			w.built[name] = process.Artifact
		}
	}
}

func (w *watching) copyOf(service, digest string) string {
	return local.WatchedCopy(w.loaded.location.Watched(), service, digest)
}

// beside watches while show runs, and ends it where nothing can be watched any more.
func (w *watching) beside(ctx context.Context, show func(context.Context) error) error {
	showing, stop := context.WithCancel(ctx)
	watched := make(chan error, 1)
	go func() {
		err := w.run(showing)
		watched <- err
		if err != nil {
			stop()
		}
	}()
	err := show(showing)
	stop()
	if werr := <-watched; werr != nil {
		return werr
	}
	return err
}

// run watches until ctx is done. An error is that nothing is watched any more.
func (w *watching) run(ctx context.Context) error {
	p := w.u.program
	var rules []watch.Rule
	for _, r := range w.rules {
		rules = append(rules, watch.Rule{
			Path: r.Path, Ignore: r.Ignore, Include: r.Include, Skip: skips(r, w.loaded.project.Services[r.service]),
		})
	}
	watcher, err := watch.New(watch.Config{
		Rules: rules, Warn: func(s string) { p.progressf("%s %s", p.styleOf(p.stderr).yellow("warning:"), s) },
	})
	if err != nil {
		return err
	}
	ready := make(chan struct{})
	go func() {
		select {
		case <-ready:
			p.progressf("watching %s", strings.Join(w.services(), ", "))
		case <-ctx.Done():
		}
	}()
	defer func() {
		if w.follow != nil {
			w.follow()
		}
	}()
	return watcher.Run(ctx, ready, func(changes []watch.Change) { w.carry(ctx, changes) })
}

// services returns what is watched.
func (w *watching) services() []string {
	var names []string
	for _, r := range w.rules {
		if !slices.Contains(names, r.service) {
			names = append(names, r.service)
		}
	}
	return names
}

// carry carries out what the rules say of changes, service by service. What goes wrong is told, and watching goes on.
func (w *watching) carry(ctx context.Context, changes []watch.Change) {
	byRule := map[int][]watch.Change{}
	for _, c := range changes {
		if !w.left(c) {
			byRule[c.Rule] = append(byRule[c.Rule], c)
		}
	}
	rebuild := map[string][]watch.Change{}
	for i, r := range w.rules {
		if len(byRule[i]) > 0 && r.Action == actionRebuild {
			rebuild[r.service] = append(rebuild[r.service], byRule[i]...)
		}
	}
	restarted := map[string]bool{}
	for i, r := range w.rules {
		if _, rebuilt := rebuild[r.service]; rebuilt || len(byRule[i]) == 0 {
			continue // a rebuild brings everything else
		}
		if err := w.act(ctx, r, byRule[i], restarted); err != nil {
			w.tell(ctx, r.service, err)
		}
	}
	if len(rebuild) > 0 {
		names := slices.Sorted(maps.Keys(rebuild))
		for _, name := range names {
			w.say(name, rebuild[name], "rebuilding")
		}
		if err := w.rebuild(ctx, names); err != nil {
			w.tell(ctx, strings.Join(names, ", "), err)
		}
	}
}

// left says whether a change is what the service's last build left behind.
func (w *watching) left(c watch.Change) bool {
	r := w.rules[c.Rule]
	process := w.loaded.project.Services[r.service].Trellis.Process
	if r.Action != actionRebuild || process == nil || process.Build == "" {
		return false
	}
	rel, err := filepath.Rel(process.Dir, c.Path)
	return err == nil && w.store.Holds(w.built[r.service], filepath.ToSlash(rel), c.Path)
}

// tell says what went wrong and that watching goes on.
func (w *watching) tell(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	p := w.u.program
	p.report(err)
	p.progressf("%s goes on as it is; the next save tries again", what)
}

// say says which files were changed and what comes of it.
func (w *watching) say(service string, changes []watch.Change, what string) {
	if w.u.flags.quiet {
		return
	}
	dir := w.loaded.project.WorkingDir
	first := strings.Join(relative([]string{changes[0].Path}, dir), "")
	if n := len(changes); n > 1 {
		first = fmt.Sprintf("%s and %d more", first, n-1)
	}
	w.u.program.progressf("%s: %s changed, %s", service, first, what)
}

// act carries out one rule that is no rebuild.
func (w *watching) act(ctx context.Context, r watchedRule, changes []watch.Change, restarted map[string]bool) error {
	w.say(r.service, changes, map[string]string{
		actionRestart: "restarting", actionSync: "synced", actionSyncRestart: "synced, restarting",
		actionSyncExec: "synced, running the command",
	}[r.Action])
	if r.syncs() {
		if err := w.sync(ctx, r.service, changes); err != nil {
			return fmt.Errorf("sync %s: %w", r.service, err)
		}
	}
	switch r.Action {
	case actionRestart, actionSyncRestart:
		if restarted[r.service] {
			return nil
		}
		restarted[r.service] = true
		return w.u.control.Override(ctx, api.OverrideRequest{Service: r.service, Restart: true, Actor: w.u.program.actor()})
	case actionSyncExec:
		return w.exec(ctx, r)
	}
	return nil
}

// sync copies changes to where the instances of a service work: the copy of its artefacts. One without artefacts works in
// the folder of its sources and has them already.
func (w *watching) sync(ctx context.Context, service string, changes []watch.Change) error {
	last, err := appliedLast(ctx, w.u.control)
	if err != nil || last == nil {
		return err
	}
	process := last.Services[service].Trellis.Process
	if process == nil || !process.Watched {
		return nil
	}
	dir := w.copyOf(service, process.Artifact)
	for _, c := range changes {
		rel, err := filepath.Rel(process.Dir, c.Path)
		if err != nil || !filepath.IsLocal(rel) || !artifact.IsArtifact(process.Artifacts, filepath.ToSlash(rel)) {
			continue
		}
		if c.Gone {
			err = os.RemoveAll(filepath.Join(dir, rel))
		} else if err = artifact.CopyFile(c.Path, filepath.Join(dir, rel)); errors.Is(err, os.ErrNotExist) {
			err = nil // gone since, which will be told
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// exec runs the command of a rule in every instance of its service that runs.
func (w *watching) exec(ctx context.Context, r watchedRule) error {
	status, err := w.u.control.Status(ctx)
	if err != nil || r.Exec == nil {
		return err
	}
	p := w.u.program
	var failed error
	for _, svc := range status.Services {
		for _, in := range svc.Instances {
			if svc.Name != r.service || in.PID == 0 || in.State == engine.InstanceExited {
				continue
			}
			var env []string
			for _, name := range slices.Sorted(maps.Keys(r.Exec.Environment)) {
				env = append(env, name+"="+r.Exec.Environment[name])
			}
			code, err := w.u.control.Exec(ctx, api.ExecRequest{Instance: in.ID, Service: r.service}, driver.Command{
				Args: r.Exec.Command, Env: env, User: r.Exec.User, Dir: r.Exec.WorkingDir, Stdout: p.stderr, Stderr: p.stderr,
			})
			if err == nil && code != 0 {
				err = fmt.Errorf("%s ended with exit code %d", strings.Join(r.Exec.Command, " "), code)
			}
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", in.ID, err))
			}
		}
	}
	return failed
}

// rebuild builds services and rolls them out where that made another artefact, everything else as it was applied last. It
// returns when they are applied; whoever is interested hears of the rest.
func (w *watching) rebuild(ctx context.Context, names []string) error {
	p := w.u.program
	built, err := p.buildAll(ctx, w.loaded, names, false, w.u.flags.quiet)
	if err != nil {
		return err
	}
	w.note(built)
	last, err := appliedLast(ctx, w.u.control)
	if err != nil || last == nil {
		return err
	}
	want := *last
	want.Services = maps.Clone(last.Services)
	for _, name := range names {
		want.Services[name] = built.Services[name]
	}
	if want, err = w.writable(want); err != nil {
		return err
	}
	before, err := w.u.control.Status(ctx)
	if err != nil {
		return err
	}
	begin := p.now()
	rev, changes, err := p.deploy(ctx, w.u.control, api.ApplyRequest{
		Project: want, Contents: w.u.ready.contents, Commit: commitOf(ctx, want.WorkingDir, p.environ), Cause: api.CauseWatch,
		Actor: p.actor(),
	}, w.u.flags)
	if err != nil || len(changes) == 0 {
		return err
	}
	w.tidy(want)
	if w.follow != nil {
		w.follow() // the one before is in nobody's way any more
	}
	following, stop := context.WithCancel(ctx)
	w.follow = stop
	go w.arrive(following, before, rev, names, len(changes), begin)
	return nil
}

// arrive says how a rollout ended.
func (w *watching) arrive(ctx context.Context, before api.Status, rev state.Revision, names []string, changes int, begin time.Time) {
	p := w.u.program
	title := fmt.Sprintf("%s r%d", w.u.ready.project.Name, rev.Number)
	flags := w.u.flags
	flags.quiet = true // the output of the services is what is shown
	after, took, err := p.arrive(ctx, w.u.control, title, flags, settled(ctx, w.u.control, rev.Number), nil)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		w.tell(ctx, strings.Join(names, ", "), err)
	case !w.u.flags.quiet:
		p.summary(before, after, changes, passageTimes{p.now().Sub(begin), took})
	}
}

// tidy removes the copies that neither the project nor an instance that is about to go works in: of each service all but
// the newest two.
func (w *watching) tidy(project compose.Project) {
	for _, name := range w.services() {
		process := project.Services[name].Trellis.Process
		if process == nil || !process.Watched {
			continue
		}
		now := w.copyOf(name, process.Artifact)
		watched := w.loaded.location.Watched()
		copies, _ := fs.Glob(os.DirFS(watched), name+"-*")
		for i := range copies {
			copies[i] = filepath.Join(watched, copies[i])
		}
		slices.SortFunc(copies, func(a, b string) int { return changedAt(a).Compare(changedAt(b)) })
		copies = slices.DeleteFunc(copies, func(path string) bool { return path == now || len(filepath.Base(path)) != len(filepath.Base(now)) })
		for _, old := range copies[:max(len(copies)-1, 0)] {
			_ = os.RemoveAll(old) // the next time
		}
	}
}

func changedAt(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
