package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/archive"
	"trellis/errdefs"
	"trellis/server"
)

type restoreFlags struct {
	force, noStart, quiet bool
	timeout               span
}

func (p *program) restoreCommand() *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Put a project back from its backup",
		Long: `Restore puts back what 'trellis backup' has written: state, secrets, artefacts and
volumes, beside the checkout that it is called in, and starts the project as it was
(--no-start leaves that to 'trellis up'). The whole file is checked before anything
is written, and where something is wrong with it nothing is. What runs are the
programs of the backup: nothing is built, and no secret has to be at hand.

Data that a service's own command has saved (x-trellis.backup) is handed to its
restore command while nothing runs but that service and what it depends on.

A project that has state here is not overwritten; --force moves that state, with
its volumes, aside.`,
		Example: `  git clone https://git.example.org/shop && cd shop
  trellis restore /mnt/shop-20261126-180000.tar.zst`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.restore(cmd.Context(), args[0], f)
		},
	}
	f.timeout = span(defaultWait)
	cmd.Flags().BoolVar(&f.force, "force", false, "move what is there aside")
	cmd.Flags().BoolVar(&f.noStart, "no-start", false, "start nothing")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "say nothing but errors")
	cmd.Flags().Var(&f.timeout, "timeout", "give up waiting for health after this `DURATION` (90s, 5m; 0: never)")
	return p.project(cmd)
}

func (p *program) restore(ctx context.Context, path string, f restoreFlags) error {
	begin := time.Now()
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the backup: %w", err)
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && !info.Mode().IsRegular() {
		return plain{fmt.Errorf("%s is not a regular file, and a backup is read twice: %w", path, errdefs.ErrInvalid)}
	}
	head, err := archive.ReadHead(file)
	if err != nil {
		return restoreHint(fmt.Errorf("%s: %w", path, err))
	}
	l, err := p.restoreTo(ctx, head)
	if err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	defer p.steadfast()() // services would stay stopped, and data be put back in part
	done, err := server.Restore(ctx, l, file, server.RestoreOptions{Force: f.force, Actor: p.actor()})
	if err != nil {
		return restoreHint(err)
	}
	tell := p.progressf
	if f.quiet {
		tell = func(string, ...any) {}
	}
	if done.Aside != "" {
		tell("what was there is in %s", done.Aside)
	}
	tell("%s is restored: revision %d, as of %s on %s  %s", done.Project, done.Revision.Number,
		head.Created.Local().Format(time.DateTime), head.Host, shortly(time.Since(begin)))
	if f.noStart {
		for _, name := range done.Dumps {
			p.progressf("the data of %s is in %s and has to be put back", name, l.DumpFile(name))
		}
		return nil
	}
	return p.startRestored(ctx, l, done, f, tell)
}

// startRestored starts what was restored, with the data that services take back themselves first.
func (p *program) startRestored(ctx context.Context, l location, done server.Restored, f restoreFlags, tell func(string, ...any)) error {
	left, err := server.PutBack(ctx, l, done.Dumps, p.actor(), tell)
	for _, name := range left {
		p.progressf("%s the data of %s is in %s: the file does not say how it is put back (x-trellis.backup.restore)",
			p.styleOf(p.stderr).yellow("warning:"), name, l.DumpFile(name))
	}
	if err != nil {
		return withHint(err, "everything else is in place; 'trellis ps' shows what runs; once the data is back, 'trellis start' starts the others")
	}
	resumed, err := server.Resume(ctx, l.StateDir, p.actor())
	if err != nil {
		return err
	}
	if resumed.Down {
		tell("%s was down when it was backed up; 'trellis up -d' starts it", done.Project)
		return nil
	}
	control, closer, err := p.backend.Connect(ctx, l)
	if err != nil {
		return err
	}
	defer closer.Close()
	status, _, err := p.arrive(ctx, control, done.Project, deployFlags{quiet: f.quiet, timeout: f.timeout},
		func(s api.Status) (bool, error) { return s.Revision > 0 && wellCount(s) == len(s.Services), nil }, nil)
	if err == nil && !f.quiet {
		p.addresses(status, done.Revision.Project)
	}
	return err
}

// restoreTo returns where a backup belongs: to the project of the files here, or without any to a place with its name.
func (p *program) restoreTo(ctx context.Context, head archive.Head) (location, error) {
	l, err := p.load(ctx)
	if err == nil {
		if l.project.Name != head.Project {
			return location{}, withHint(plain{fmt.Errorf("the backup is of %s, and the files here are of %s: %w", head.Project, l.project.Name, errdefs.ErrConflict)},
				"call it in the checkout of %s, or name the project with -p %s", head.Project, head.Project)
		}
		return l.location, nil
	}
	if p.flags.state == "" {
		return location{}, withHint(err, "restore belongs into the project's checkout; without one, --state says where the state goes")
	}
	dir := p.flags.directory
	if dir == "" {
		dir = "."
	}
	return locate(head.Project, dir, p.flags.state)
}

func restoreHint(err error) error {
	switch {
	case errors.Is(err, archive.ErrDamaged):
		return withHint(err, "nothing was changed; copy the backup again, or take an earlier one")
	case strings.Contains(err.Error(), "--force"):
		return plain{err}
	}
	return err
}
