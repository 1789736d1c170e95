package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"trellis/api"
	"trellis/archive"
	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
	"trellis/engine/local"
	"trellis/errdefs"
	"trellis/state"
)

// The parts of a backup, in their order in the archive.
const (
	partArtifacts = "artifacts" // a directory for each digest
	partContents  = "contents"  // the key and a file for each ref
	partDumps     = "dumps"     // a directory of numbered pieces for each service that says how it is saved
	partState     = "state.db"
	partVolumes   = "volumes" // a directory for each volume
)

// BackupOptions say how a backup is made.
type BackupOptions struct {
	// Connect returns the project's control plane, ErrNotFound where none runs.
	Connect func(ctx context.Context, l Location) (api.Control, io.Closer, error)
	// Stop stops services for the time of the backup that would not let it happen, and starts them again.
	Stop  bool
	Actor string
	Host  string
	// Tell is told what is being done; nil: nobody is.
	Tell func(format string, args ...any)
}

// Backup is what a backup holds.
type Backup struct {
	Project   string   `json:"project"`
	Revisions int      `json:"revisions"` // that can be rolled back to
	Artifacts int      `json:"artifacts"`
	Contents  int      `json:"contents"`
	Volumes   []string `json:"volumes"`
	Dumps     []string `json:"dumps"` // services whose command has saved their data
	// LeftOut are the sockets, pipes and devices in volumes, and what kept revisions miss.
	LeftOut []string `json:"left_out"`
}

// MakeBackup writes what there is of a project to w: its state, the contents and artefacts that kept revisions need, and
// the data of its volumes. The data of a service that runs is saved by its own command; a volume that a running service
// writes to and nobody says how to save: ErrConflict, before anything is written. Nothing was ever applied: ErrNotFound.
// On an error what was written is torn.
func MakeBackup(ctx context.Context, l Location, opt BackupOptions, w io.Writer) (Backup, error) {
	b := &backup{location: l, opt: opt}
	if b.opt.Tell == nil {
		b.opt.Tell = func(string, ...any) {}
	}
	err := b.run(ctx, w)
	if err != nil {
		err = fmt.Errorf("back up %s: %w", l.Project, err)
	}
	return b.report, err
}

// backup is one backup being made.
type backup struct {
	location Location
	opt      BackupOptions
	control  api.Control // nil: none runs
	newest   state.Revision
	volumes  []string // to be copied
	dumps    []string // services
	stop     []string // services to be stopped meanwhile
	report   Backup
}

func (b *backup) run(ctx context.Context, w io.Writer) (err error) {
	if b.newest, err = applied(ctx, b.location.StateDir); err != nil {
		return err
	}
	control, closer, err := b.opt.Connect(ctx, b.location)
	switch {
	case err == nil:
		b.control = control
		defer closer.Close()
	case !errors.Is(err, errdefs.ErrNotFound):
		return err
	}
	if err := b.plan(ctx); err != nil {
		return err
	}
	// Before anything is stopped: what is stopped for the backup is not stopped in it.
	snapshot := filepath.Join(b.location.StateDir, fmt.Sprintf(".backup-%d.db", os.Getpid()))
	if err := state.Snapshot(ctx, filepath.Join(b.location.StateDir, "state.db"), snapshot); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(snapshot)) }()
	start, err := b.halt(ctx)
	defer func() { err = errors.Join(err, start()) }()
	if err != nil {
		return err
	}
	out, err := archive.NewWriter(w, archive.Head{
		Trellis: Version, Project: b.location.Project, WorkingDir: b.newest.Project.WorkingDir, Host: b.opt.Host,
		Created: time.Now().UTC().Truncate(time.Second),
	})
	if err != nil {
		return err
	}
	err = b.write(ctx, out, snapshot)
	return errors.Join(err, out.Close(err != nil))
}

// plan decides how each volume is saved.
func (b *backup) plan(ctx context.Context) error {
	running, err := b.running(ctx)
	if err != nil {
		return err
	}
	how := func(name string) *compose.Backup { return b.newest.Project.Services[name].Trellis.Backup }
	for name := range running {
		if how(name) != nil {
			b.dumps = append(b.dumps, name)
		}
	}
	slices.Sort(b.dumps)
	volumes, err := b.volumesThere()
	if err != nil {
		return err
	}
	var refused []string
	for _, volume := range volumes {
		writers := slices.DeleteFunc(local.Writers(b.newest.Project, volume), func(name string) bool { return !running[name] })
		switch {
		case len(writers) == 0:
			b.volumes = append(b.volumes, volume)
		case slices.ContainsFunc(writers, func(name string) bool { return how(name) != nil }):
			// its data is in that service's dump
		case b.opt.Stop:
			b.volumes, b.stop = append(b.volumes, volume), append(b.stop, writers...)
		default:
			refused = append(refused, fmt.Sprintf("service %s runs and writes to the volume %s", strings.Join(writers, " and "), volume))
		}
	}
	for _, name := range b.newest.Project.ServiceNames() {
		svc := b.newest.Project.Services[name]
		if svc.Trellis.Process != nil || slices.Contains(b.dumps, name) {
			continue
		}
		for _, m := range svc.Volumes {
			if m.Type == compose.MountVolume {
				b.report.LeftOut = append(b.report.LeftOut, fmt.Sprintf("the volume of %s at %s belongs to Docker: say how it is saved (x-trellis.backup)", name, m.Target))
			}
		}
	}
	slices.Sort(b.stop)
	b.stop = slices.Compact(b.stop)
	if len(refused) > 0 {
		return fmt.Errorf("%w: %s: a copy made now would be torn; stop it (`trellis stop`, or --stop for as long as the backup takes), or say in the file how it is saved (x-trellis.backup of the service)",
			errdefs.ErrConflict, strings.Join(refused, "; "))
	}
	return nil
}

// running returns the services of which something runs.
func (b *backup) running(ctx context.Context) (map[string]bool, error) {
	running := map[string]bool{}
	if b.control != nil {
		s, err := b.control.Status(ctx)
		if err != nil {
			return nil, err
		}
		for _, svc := range s.Services {
			if slices.ContainsFunc(svc.Instances, func(in engine.Instance) bool { return in.State != engine.InstanceExited }) {
				running[svc.Name] = true
			}
		}
		return running, nil
	}
	list, err := instances(ctx, b.location)
	for _, inst := range list {
		running[inst.Service] = true
	}
	if len(list) > 0 && err == nil && b.opt.Stop {
		err = fmt.Errorf("%w: its services run and Trellis does not: start it with `trellis up -d` first", errdefs.ErrUnavailable)
	}
	return running, err
}

// volumesThere returns the full names of the volumes, in order.
func (b *backup) volumesThere() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(b.location.StateDir, partVolumes))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") { // half made
			names = append(names, e.Name())
		}
	}
	return names, err
}

// haltWait is how long a service that is stopped for a backup may take, beyond its grace period.
const haltWait = 30 * time.Second

// halt stops what has to be stopped. start, never nil, starts it again.
func (b *backup) halt(ctx context.Context) (start func() error, err error) {
	var stopped []string
	wish := func(ctx context.Context, name string, stop bool) error {
		return b.control.Override(ctx, api.OverrideRequest{Service: name, Stopped: &stop, Actor: b.opt.Actor})
	}
	start = func() error {
		var errs []error
		for _, name := range stopped {
			b.opt.Tell("starting %s again", name)
			if err := wish(context.WithoutCancel(ctx), name, false); err != nil {
				errs = append(errs, fmt.Errorf("%s stays stopped, 'trellis start %s' starts it: %w", name, name, err))
			}
		}
		stopped = nil
		return errors.Join(errs...)
	}
	wait := haltWait
	for _, name := range b.stop {
		b.opt.Tell("stopping %s for the time of the backup", name)
		stopped = append(stopped, name)
		if err := wish(ctx, name, true); err != nil {
			return start, err
		}
		wait = max(wait, haltWait+b.newest.Project.Services[name].StopGracePeriod.Or(0))
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		running, err := b.running(ctx)
		if err != nil {
			return start, err
		}
		left := slices.DeleteFunc(slices.Clone(b.stop), func(name string) bool { return !running[name] })
		if len(left) == 0 {
			return start, nil
		}
		select {
		case <-ctx.Done():
			return start, fmt.Errorf("stop %s: %w", strings.Join(left, ", "), ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// write writes the parts in their order.
func (b *backup) write(ctx context.Context, out *archive.Writer, snapshot string) error {
	refs, digests, err := b.wanted(ctx)
	if err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Second)
	if err := out.Folder(partArtifacts, 0o755, now); err != nil {
		return err
	}
	if err := b.copy(ctx, out, partArtifacts, b.location.Artifacts(), digests); err != nil {
		return err
	}
	b.report.Artifacts = len(digests)
	if err := out.Folder(partContents, 0o700, now); err != nil {
		return err
	}
	b.report.Contents = len(refs)
	if err := b.copy(ctx, out, partContents, b.location.contents(), append(refs, "key")); err != nil {
		return err
	}
	if err := out.Folder(partDumps, 0o700, now); err != nil {
		return err
	}
	for _, name := range b.dumps {
		b.opt.Tell("saving the data of %s by its own command", name)
		if err := b.dump(ctx, out, name, now); err != nil {
			return err
		}
	}
	b.report.Dumps = b.dumps
	if _, err := out.Tree(ctx, partState, snapshot); err != nil {
		return err
	}
	if err := out.Folder(partVolumes, 0o755, now); err != nil {
		return err
	}
	if err := b.copy(ctx, out, partVolumes, filepath.Join(b.location.StateDir, partVolumes), b.volumes); err != nil {
		return err
	}
	b.report.Volumes = b.volumes
	return b.stillStopped(ctx)
}

// wanted returns what the kept revisions need, in order of name.
func (b *backup) wanted(ctx context.Context) (refs, digests []string, err error) {
	store, err := state.Open(filepath.Join(b.location.StateDir, "state.db"))
	if err != nil {
		return nil, nil, err
	}
	all, err := store.History(ctx, 0)
	if err = errors.Join(err, store.Close()); err != nil {
		return nil, nil, err
	}
	keep := kept(all, nil, time.Now())
	byRef, byDigest := needs(keep)
	b.report.Project, b.report.Revisions = b.location.Project, len(keep)
	there := func(dir, what string, names map[string]bool) []string {
		var found []string
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if _, err := os.Stat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
				b.report.LeftOut = append(b.report.LeftOut, fmt.Sprintf("%s %s is missing", what, name))
				continue
			}
			found = append(found, name)
		}
		return found
	}
	return there(b.location.contents(), "content", byRef), there(b.location.Artifacts(), "artefact", byDigest), nil
}

// copy copies the named entries of dir into part.
func (b *backup) copy(ctx context.Context, out *archive.Writer, part, dir string, names []string) error {
	for _, name := range names {
		left, err := out.Tree(ctx, part+"/"+name, filepath.Join(dir, name))
		if err != nil {
			return err
		}
		for _, name := range left {
			b.report.LeftOut = append(b.report.LeftOut, name+" is neither file, directory nor link")
		}
	}
	return nil
}

// dump runs a service's backup command and saves what it prints.
func (b *backup) dump(ctx context.Context, out *archive.Writer, name string, now time.Time) error {
	r, w := io.Pipe()
	go func() {
		w.CloseWithError(command(ctx, b.control, name, b.newest.Project.Services[name].Trellis.Backup.Command, nil, w))
	}()
	err := out.Stream(partDumps+"/"+name, r, now)
	r.CloseWithError(err) // whoever still writes is told
	return err
}

// command runs a command in an instance of a service; one that fails is an error with what it said last.
func command(ctx context.Context, control api.Control, service string, args []string, in io.Reader, out io.Writer) error {
	if control == nil {
		return fmt.Errorf("run the backup command of %s: %w: its services run and Trellis does not: start it with `trellis up -d` first",
			service, errdefs.ErrUnavailable)
	}
	said := &tail{}
	code, err := control.Exec(ctx, api.ExecRequest{Service: service}, driver.Command{Args: args, Stdin: in, Stdout: out, Stderr: said})
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d: %s", code, bytes.TrimSpace(said.text))
	}
	if err != nil {
		return fmt.Errorf("run %q in %s: %w", strings.Join(args, " "), service, err)
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct{ text []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-2048):]
	return len(p), nil
}

// stillStopped looks that nobody has begun to write to what was copied.
func (b *backup) stillStopped(ctx context.Context) error {
	running, err := b.running(ctx)
	if err != nil {
		return err
	}
	for _, volume := range b.volumes {
		for _, name := range local.Writers(b.newest.Project, volume) {
			if running[name] {
				return fmt.Errorf("%w: %s was started while the volume %s was copied: make the backup again", errdefs.ErrConflict, name, volume)
			}
		}
	}
	return nil
}
