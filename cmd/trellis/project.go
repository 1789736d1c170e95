package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
)

// loaded is a project as its files say.
type loaded struct {
	project  compose.Project
	warnings []compose.Diagnostic
	location location
}

// load reads the project that the flags mean.
func (p *program) load(ctx context.Context) (loaded, error) {
	return p.loadAs(ctx, p.flags.environment)
}

// commandGarbage is how much garbage a command has, in percent of what it uses, unless the user says how much.
const commandGarbage = 400

// shortLived has garbage be collected less often: a command that reads a project is over soon. BenchmarkGarbage has the gain.
var shortLived = sync.OnceFunc(func() { collect(commandGarbage) })

// manyObjects has garbage be collected as Go does by itself again: what a cluster says of hundreds of services is read over and over, and
// five times as much as is used of it at a time would be hundreds of MB.
var manyObjects = sync.OnceFunc(func() { collect(100) })

// collect says how much garbage there may be, in percent of what is used, unless the user has said so.
func collect(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

// loadAs is load with another environment than that of the flags, "" for none.
func (p *program) loadAs(ctx context.Context, environment string) (loaded, error) {
	shortLived()
	dir, err := os.Getwd()
	if err != nil {
		return loaded{}, fmt.Errorf("find the working directory: %w", err)
	}
	opt := compose.Options{
		Files: p.flags.files, ProjectDirectory: p.flags.directory, Name: p.flags.name, Profiles: p.flags.profiles,
		EnvFiles: p.flags.envFiles, Environ: p.environ, Environment: environment, Copy: p.flags.copy,
		WorkingDir: dir,
	}
	project, warnings, err := compose.Load(ctx, opt)
	if err == nil && project.Trellis.Environments[environment].PerBranch && opt.Copy == "" && opt.Name == "" {
		if opt.Copy, err = branchName(ctx, project.WorkingDir, environment, p.environ); err != nil {
			return loaded{}, err
		}
		project, warnings, err = compose.Load(ctx, opt) // its name is that of variables in the file too
	}
	if err != nil {
		return loaded{warnings: warnings}, err
	}
	l, err := locate(project.Name, project.WorkingDir, p.flags.state)
	if err != nil {
		return loaded{}, err
	}
	l.Files, l.Copy, l.Environment = project.Files, opt.Copy, environment
	if _, l.Cluster, err = target(project, p.flags, environment); err != nil {
		return loaded{}, err
	}
	if l.Cluster != nil {
		manyObjects()
	}
	return loaded{project, warnings, l}, nil
}

// read is load for a command that shows what there is to say about the files: where they cannot be loaded, the warnings
// come with the errors.
func (p *program) read(ctx context.Context) (loaded, error) {
	l, err := p.load(ctx)
	if err != nil {
		p.warn(l.warnings)
	}
	return l, err
}

// readFor is read for a command that is about one engine, whatever the project runs on.
func (p *program) readFor(ctx context.Context, engine string) (loaded, error) {
	p.flags.on = engine
	return p.read(ctx)
}

// diagnose returns everything that an engine does not carry out as written, and what else there was to warn of.
func diagnose(l loaded, engine string) []compose.Diagnostic {
	warnings := append([]compose.Diagnostic{}, l.warnings...)
	for _, w := range compose.Check(l.project, engine) {
		if !slices.Contains(warnings, w) {
			warnings = append(warnings, w)
		}
	}
	return warnings
}

// find returns where the project that the flags mean keeps its state. Its files need not be valid, and with a name
// given there need be none: then it is the project of that name that runs on this machine.
func (p *program) find(ctx context.Context) (location, error) {
	l, err := p.load(ctx)
	if err == nil && (p.flags.name == "" || l.location.Cluster != nil || exists(l.location.StateDir)) {
		return l.location, nil
	}
	if p.flags.name != "" {
		l, ok, perr := p.named(ctx)
		if ok || perr != nil {
			return l, perr
		}
	}
	if err == nil {
		return l.location, nil
	}
	return p.guess(err)
}

// named returns the project of the name given that runs on this machine; two checkouts of one are two to choose from.
func (p *program) named(ctx context.Context) (location, bool, error) {
	all, err := p.backend.Projects(ctx, false)
	if err != nil {
		return location{}, false, err
	}
	name := p.flags.name
	if p.flags.copy != "" {
		name += "-" + p.flags.copy
	}
	all = slices.DeleteFunc(all, func(r running) bool {
		return r.Project != name || p.flags.state != "" && !sameFile(r.StateDir, p.flags.state)
	})
	switch len(all) {
	case 0:
		return location{}, false, nil
	case 1:
		return all[0].Location, true, nil
	}
	var dirs []string
	for _, r := range all {
		dirs = append(dirs, r.WorkingDir)
	}
	return location{}, false, withHint(plain{fmt.Errorf("%d copies of %s run here: %w", len(all), name, errdefs.ErrInvalid)},
		"say which with --project-directory: %s", strings.Join(dirs, ", "))
}

// guess finds the one project that keeps its state here, for files that cannot be read any more; cause is why.
func (p *program) guess(cause error) (location, error) {
	dir := p.flags.directory
	if dir == "" {
		dir = "."
	}
	entries, err := os.ReadDir(dir + "/.trellis")
	if err != nil {
		return location{}, cause
	}
	var names []string
	for _, e := range entries {
		// No project has a dot in its name; what a restore moved aside has.
		if e.IsDir() && !strings.Contains(e.Name(), ".") && (p.flags.name == "" || p.flags.name == e.Name()) {
			names = append(names, e.Name())
		}
	}
	if len(names) != 1 {
		return location{}, cause
	}
	return locate(names[0], dir, p.flags.state)
}

// sameFile says whether two paths lead to the same file.
func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// connect reaches the control plane of the project that the flags mean.
func (p *program) connect(ctx context.Context) (api.Control, io.Closer, location, error) {
	l, err := p.find(ctx)
	if err != nil {
		return nil, nil, location{}, err
	}
	control, closer, err := p.backend.Connect(ctx, l)
	if errors.Is(err, errdefs.ErrNotFound) {
		hint := "start it with 'trellis up -d'; 'trellis ls' shows what runs on this machine"
		if l.Cluster != nil {
			hint = "start it with 'trellis up --on kubernetes'"
		}
		err = withHint(notRunning{l.Project, err}, "%s", hint)
	}
	return control, closer, l, err
}

// notRunning says that a project has no control plane.
type notRunning struct {
	project string
	cause   error
}

func (e notRunning) Error() string { return e.project + " is not running" }
func (e notRunning) Unwrap() error { return e.cause }

// withControl connects, calls fn and disconnects.
func (p *program) withControl(ctx context.Context, fn func(api.Control, location) error) error {
	control, closer, l, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer closer.Close()
	return fn(control, l)
}

// warn writes warnings to standard error.
func (p *program) warn(warnings []compose.Diagnostic) {
	p.tell(p.stderr, p.styleOf(p.stderr).yellow("warning:"), warnings)
}

const (
	// several is from how many of the same message on diagnostics are written together.
	several = 3
	// mostPlaces are how many places of one message are written: who has mended those sees the next.
	mostPlaces = 20
)

// tell writes diagnostics. Several that say the same are one message and the places it is said of.
func (p *program) tell(w io.Writer, what string, all []compose.Diagnostic) {
	places := map[string][]compose.Diagnostic{}
	for _, d := range all {
		places[d.Message] = append(places[d.Message], d)
	}
	for _, d := range all {
		same := places[d.Message]
		switch {
		case len(same) < several:
			fmt.Fprintf(w, "%s %s\n", what, d)
		case same[0] == d:
			fmt.Fprintf(w, "%s %s\n", what, d.Message)
			for _, at := range same[:min(len(same), mostPlaces)] {
				at.Message = ""
				fmt.Fprintf(w, "  %s\n", strings.TrimSuffix(at.String(), ": "))
			}
			if more := len(same) - mostPlaces; more > 0 {
				fmt.Fprintf(w, "  and %d more\n", more)
			}
		}
	}
}

// known fails on the first name that is no service of the project.
func known(names []string, services []string) error {
	for _, name := range names {
		if !slices.Contains(services, name) {
			err := fmt.Errorf("no such service %q%s: %w", name, didYouMean(name, services), errdefs.ErrInvalid)
			return withHint(plain{err}, "the services are %s", strings.Join(services, ", "))
		}
	}
	return nil
}

// active is known for the services of a file: of one that is there and left out it says what brings it in.
func active(names []string, p compose.Project) error {
	for _, name := range names {
		if slices.Contains(p.DisabledServices, name) {
			err := fmt.Errorf("no profile of service %q is active: %w", name, errdefs.ErrInvalid)
			return withHint(plain{err}, "activate one of those that its 'profiles' in the file names, with --profile NAME or in COMPOSE_PROFILES")
		}
	}
	return known(names, p.ServiceNames())
}

// plain shows an error without the name of its kind at the end.
type plain struct{ error }

func (e plain) Error() string {
	text := e.error.Error()
	for _, kind := range []error{errdefs.ErrInvalid, errdefs.ErrNotFound, errdefs.ErrConflict, errdefs.ErrUnsupported} {
		text = strings.TrimSuffix(text, ": "+kind.Error())
	}
	return text
}
func (e plain) Unwrap() error { return e.error }

// serviceNames returns the names of the services that are there.
func serviceNames(s engine.State) []string {
	names := make([]string, len(s.Services))
	for i, svc := range s.Services {
		names[i] = svc.Name
	}
	return names
}

// actor names who asks: user@host.
func (p *program) actor() string {
	name := p.getenv("USER")
	if name == "" {
		name = p.getenv("LOGNAME")
	}
	if u, err := user.Current(); name == "" && err == nil {
		name = u.Username
	}
	if name == "" {
		name = fmt.Sprintf("uid%d", os.Geteuid())
	}
	return name + "@" + hostName()
}
