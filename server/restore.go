package server

import (
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

	"golang.org/x/sys/unix"

	"trellis/archive"
	"trellis/errdefs"
	"trellis/lazyregexp"
	"trellis/state"
)

// RestoreOptions say how a backup is restored.
type RestoreOptions struct {
	Force bool // move aside what is there
	Actor string
}

// Restored is what a restore has put in place.
type Restored struct {
	Project  string
	Head     archive.Head
	Revision state.Revision // the newest
	Aside    string         // where what was there is now; "" there was nothing
	// Dumps are the services whose data is in a file each (DumpFile) and has to be put back by their own command.
	Dumps []string
}

// Restore puts the project of an archive in place at l: state, contents, artefacts and volumes. It starts nothing. The
// whole archive is checked before anything is written, and what is written gets its name only when all of it is there:
// on an error everything is as it was. A project that has state there: ErrConflict, or with Force that state is moved
// aside. One that runs: ErrConflict. Paths in revisions follow where the project directory was another one.
func Restore(ctx context.Context, l Location, file io.ReadSeeker, opt RestoreOptions) (Restored, error) {
	done, err := restore(ctx, l, file, opt)
	if err != nil {
		return done, fmt.Errorf("restore %s: %w", l.Project, err)
	}
	return done, nil
}

func restore(ctx context.Context, l Location, file io.ReadSeeker, opt RestoreOptions) (done Restored, err error) {
	if err := vacant(ctx, l, opt.Force); err != nil {
		return done, err
	}
	parent := filepath.Dir(l.StateDir)
	limits, err := room(parent)
	if err != nil {
		return done, err
	}
	if done.Head, err = archive.Check(ctx, file, layout, limits); err != nil {
		return done, err
	}
	if done.Head.Project != l.Project {
		return done, fmt.Errorf("%w: the backup is of %s", errdefs.ErrConflict, done.Head.Project)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return done, err
	}
	_, missing := os.Stat(parent)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return done, err
	}
	staged, err := os.MkdirTemp(parent, ".restore-")
	if err != nil {
		return done, err
	}
	defer func() {
		if err == nil {
			return
		}
		err = errors.Join(err, removeAll(staged))
		if missing != nil {
			_ = os.Remove(parent) // made here, and empty
		}
	}()
	if _, err := archive.Extract(ctx, file, staged, layout, limits); err != nil {
		return done, err
	}
	if done.Revision, err = settleState(ctx, l, staged, done.Head, opt.Actor); err != nil {
		return done, err
	}
	if done.Dumps, err = joinDumps(filepath.Join(staged, partDumps)); err != nil {
		return done, err
	}
	done.Project = l.Project
	if err := ignored(l); err != nil {
		return done, err
	}
	// All of that takes minutes, and somebody may have brought the project up meanwhile.
	if err := vacant(ctx, l, opt.Force); err != nil {
		return done, err
	}
	done.Aside, err = install(staged, l.StateDir)
	return done, err
}

// vacant refuses a place where a project runs or, without force, has state.
func vacant(ctx context.Context, l Location, force bool) error {
	if held(ctx, l) {
		return fmt.Errorf("%w: it runs here: stop it with `trellis down` first", errdefs.ErrConflict)
	}
	entries, err := os.ReadDir(l.StateDir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	list, err := instances(ctx, l)
	switch {
	case err != nil:
		return err
	case len(list) > 0:
		return fmt.Errorf("%w: %d of its instances run here, though Trellis does not: `trellis up -d` and `trellis down` first", errdefs.ErrConflict, len(list))
	case !force:
		return fmt.Errorf("%w: it has state in %s: nothing is overwritten; --force moves that aside", errdefs.ErrConflict, l.StateDir)
	}
	return nil
}

// room returns what fits on the file system of dir, which need not be there yet.
func room(dir string) (archive.Limits, error) {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	for errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		err = unix.Statfs(dir, &st)
	}
	if err != nil {
		return archive.Limits{}, fmt.Errorf("ask how much room there is in %s: %w", dir, err)
	}
	// Some file systems have no number of files.
	return archive.Limits{Bytes: max(int64(st.Bavail)*int64(st.Bsize), 1), Members: int64(st.Ffree)}, nil
}

var (
	hexName    = lazyregexp.New(`^[0-9a-f]{64}$`)
	pieceName  = lazyregexp.New(`^[0-9]{8}$`)
	volumeName = lazyregexp.New(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
)

// layout is the archive.Rule of a backup: nothing but its parts is in it. Owners are kept in volumes.
func layout(m archive.Member) (owner bool, err error) {
	part, rest, nested := strings.Cut(m.Name, "/")
	name, below, deep := strings.Cut(rest, "/")
	ok := false
	switch {
	case m.Name == partState:
		ok = m.Kind == archive.File
	case !nested:
		ok = m.Kind == archive.Dir && slices.Contains([]string{partArtifacts, partContents, partDumps, partVolumes}, part)
	case part == partVolumes:
		ok = volumeName.MatchString(name) && (deep || m.Kind == archive.Dir)
		owner = true
	case part == partArtifacts:
		ok = hexName.MatchString(name) && (deep || m.Kind == archive.Dir)
	case part == partContents:
		ok = !deep && m.Kind == archive.File && (hexName.MatchString(name) || name == "key")
	case part == partDumps && !deep:
		ok = m.Kind == archive.Dir && volumeName.MatchString(name)
	case part == partDumps:
		ok = m.Kind == archive.File && pieceName.MatchString(below)
	}
	if !ok {
		return false, fmt.Errorf("%w: %.80q has no place in a backup", errdefs.ErrInvalid, m.Name)
	}
	return owner, nil
}

// settleState checks the state that was extracted and makes it that of l.
func settleState(ctx context.Context, l Location, staged string, head archive.Head, actor string) (state.Revision, error) {
	file := filepath.Join(staged, partState)
	newest, err := applied(ctx, staged) // brings an older schema up to date
	if err != nil {
		return newest, err
	}
	if newest.Project.Name != l.Project {
		return newest, fmt.Errorf("%w: its state is of %s", errdefs.ErrConflict, newest.Project.Name)
	}
	if from := newest.Project.WorkingDir; from != "" && from != l.WorkingDir {
		if err := state.Relocate(ctx, file, from, l.WorkingDir); err != nil {
			return newest, err
		}
	}
	store, err := state.Open(file)
	if err != nil {
		return newest, err
	}
	err = store.Append(ctx, state.Event{
		Actor: actor, Project: l.Project, Kind: "project.restored", Reason: "restore", Revision: newest.Number,
		Message: fmt.Sprintf("restored from a backup of %s, made on %s", head.Created.Format(time.RFC3339), head.Host),
	})
	all, herr := store.History(ctx, 0)
	if err = errors.Join(err, herr, store.Close()); err != nil {
		return newest, err
	}
	contents, err := state.OpenContents(filepath.Join(staged, partContents))
	if err != nil {
		return newest, err
	}
	// Each content is verified against its ref; what the backup said was missing is no more than that.
	refs, _ := needs(kept(all, nil, time.Now()))
	for _, ref := range slices.Sorted(maps.Keys(refs)) {
		if _, err := contents.Get(ref); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			return newest, err
		}
	}
	return all[0], nil
}

// DumpFile is where the data of a service lies until its own command has put it back.
func (l Location) DumpFile(service string) string {
	return filepath.Join(l.StateDir, partDumps, service)
}

// joinDumps makes one file of the pieces of each dump and returns the services. No dumps: the folder goes.
func joinDumps(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, os.Remove(dir)
	}
	var names []string
	for _, e := range entries {
		pieces := filepath.Join(dir, e.Name())
		if err := joinPieces(pieces, pieces+".joined"); err != nil {
			return nil, fmt.Errorf("put the data of %s together: %w", e.Name(), err)
		}
		if err := errors.Join(os.RemoveAll(pieces), os.Rename(pieces+".joined", pieces)); err != nil {
			return nil, err
		}
		names = append(names, e.Name())
	}
	return names, nil
}

func joinPieces(from, to string) error {
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	pieces, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, piece := range pieces {
		in, err := os.Open(filepath.Join(from, piece.Name()))
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		// Removed at once: the whole is never there twice.
		if err = errors.Join(err, in.Close(), os.Remove(in.Name())); err != nil {
			return err
		}
	}
	return out.Close()
}

// install gives what was staged its name, on disk when it returns. What had the name is moved aside.
func install(staged, to string) (aside string, err error) {
	if err := syncFilesystem(staged); err != nil {
		return "", err
	}
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) { // an empty one goes
		aside = fmt.Sprintf("%s.before-restore-%s", to, time.Now().UTC().Format("20060102-150405"))
		if err := os.Rename(to, aside); err != nil {
			return "", err
		}
	}
	if err := os.Rename(staged, to); err != nil {
		if aside != "" {
			err = errors.Join(err, os.Rename(aside, to))
		}
		return "", err
	}
	return aside, syncDirectory(filepath.Dir(to))
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// removeAll removes a tree in which directories may be read-only.
func removeAll(dir string) error {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
