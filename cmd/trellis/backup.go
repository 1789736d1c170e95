package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"trellis/errdefs"
	"trellis/server"
)

func (p *program) backupCommand() *cobra.Command {
	var stop, quiet bool
	cmd := &cobra.Command{
		Use:   "backup FILE|DIR|-",
		Short: "Write all there is of the project to one file",
		Long: `Backup writes one file that holds the project: its revisions, overrides and events,
the contents of its secrets and configs, the artefacts that kept revisions need,
and the data of its volumes. With the checkout it is enough to serve again on
another machine ('trellis restore'). Secrets lie in it in clear: it can be read
by its owner alone, keep it so.

A volume is copied while nothing that runs writes to it. For a service that runs
the file says how its data is saved, with x-trellis.backup: a command that runs
inside an instance and prints the data, and one that takes it back. Where it does
not say, the service has to be stopped, or --stop does that for as long as the
backup takes.

In a directory the file gets a name with project and time; - is standard output.`,
		Example: `  trellis backup /var/backups
  trellis backup --stop shop.tar.zst
  trellis backup - | ssh backup.example.org 'cat >shop.tar.zst'`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.backup(cmd.Context(), args[0], stop, quiet)
		},
	}
	cmd.Flags().BoolVar(&stop, "stop", false, "stop services whose volumes could not be saved otherwise, and start them again")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "say nothing but errors")
	return p.project(cmd)
}

func (p *program) backup(ctx context.Context, to string, stop, quiet bool) error {
	l, err := p.applied(ctx)
	if err != nil {
		return err
	}
	defer p.steadfast()() // services that are stopped for the backup would stay so
	opt := server.BackupOptions{Connect: p.backend.Connect, Stop: stop, Actor: p.actor(), Host: hostName()}
	if !quiet {
		opt.Tell = p.progressf
	}
	if to == "-" {
		if terminal(p.stdout) {
			return withHint(plain{fmt.Errorf("a backup is not written to a terminal: %w", errdefs.ErrInvalid)}, "name a file, or pipe it into a program")
		}
		report, err := server.MakeBackup(ctx, l, opt, p.stdout)
		return p.backedUp(report, "standard output", quiet, err)
	}
	if info, err := os.Stat(to); err == nil && info.IsDir() {
		to = filepath.Join(to, fmt.Sprintf("%s-%s.tar.zst", l.Project, p.now().UTC().Format("20060102-150405")))
	} else if err == nil && !info.Mode().IsRegular() {
		return plain{fmt.Errorf("write the backup to %s: it is not a regular file; write it to - to pipe it: %w", to, errdefs.ErrInvalid)}
	}
	var report server.Backup
	err = whole(to, func(w io.Writer) (err error) {
		report, err = server.MakeBackup(ctx, l, opt, w)
		return err
	})
	return p.backedUp(report, to, quiet, err)
}

// whole writes a file that gets its name when all of it is on disk, 0600.
func whole(to string, write func(io.Writer) error) error {
	dir := filepath.Dir(to)
	f, err := os.CreateTemp(dir, "."+filepath.Base(to)+".*") // 0600
	if err != nil {
		return err
	}
	if err = write(f); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), to)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// backedUp says what a backup holds.
func (p *program) backedUp(b server.Backup, to string, quiet bool, err error) error {
	if err != nil {
		return err
	}
	for _, left := range b.LeftOut {
		p.progressf("%s not in the backup: %s", p.styleOf(p.stderr).yellow("warning:"), left)
	}
	if quiet {
		return nil
	}
	size := ""
	if info, err := os.Stat(to); err == nil {
		size = ", " + bytesOf(info.Size())
	}
	parts := []string{counted(b.Revisions, "revision")}
	if b.Artifacts > 0 {
		parts = append(parts, counted(b.Artifacts, "artefact"))
	}
	secrets := ""
	if b.Contents > 0 {
		parts, secrets = append(parts, counted(b.Contents, "content")+" of secrets and configs"), "; secrets lie in it in clear"
	}
	if len(b.Volumes) > 0 {
		parts = append(parts, counted(len(b.Volumes), "volume")+" ("+strings.Join(b.Volumes, ", ")+")")
	}
	if len(b.Dumps) > 0 {
		parts = append(parts, "the data of "+strings.Join(b.Dumps, ", ")+" by its own command")
	}
	p.progressf("%s is backed up to %s%s: %s%s", b.Project, to, size, strings.Join(parts, ", "), secrets)
	return nil
}

// counted is a number of things: "1 volume", "3 volumes".
func counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
