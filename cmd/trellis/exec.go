package main

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"trellis/api"
	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
)

// commandFlags say how a command runs inside an instance.
type commandFlags struct {
	noTTY bool
	env   []string
	user  string
	dir   string
}

func (f *commandFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&f.noTTY, "no-tty", "T", false, "no terminal for the command, even where there is one here")
	cmd.Flags().VarP((*list)(&f.env), "env", "e", "set `KEY=VALUE` for the command; repeatable")
	cmd.Flags().StringVarP(&f.user, "user", "u", "", "run as `USER` (name or uid, :group or gid)")
	cmd.Flags().StringVarP(&f.dir, "workdir", "w", "", "run in `DIR` of the instance")
	cmd.Flags().SetInterspersed(false)
}

func (p *program) execCommand() *cobra.Command {
	var f commandFlags
	var index int
	cmd := &cobra.Command{
		Use:   "exec SERVICE COMMAND [ARG...]",
		Short: "Run a command inside a running instance",
		Long: `Exec runs a command where an instance runs: with its environment, network, files
and user. Of several instances it takes the one with the lowest number; SERVICE
may also be one place, such as web-2. The command's exit code becomes trellis'.`,
		Example: `  trellis exec db psql -U postgres          a session at the terminal
  trellis exec -T db pg_dump shop > dump    a command in a pipe
  trellis exec -e DEBUG=1 web-2 ./bin/check`,
		Args:              arguments(2, -1),
		ValidArgsFunction: p.completeServices,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withControl(cmd.Context(), func(control api.Control, _ location) error {
				req, err := execTarget(cmd.Context(), control, args[0], index)
				if err != nil {
					return err
				}
				return p.inside(cmd.Context(), control, req, f, args[1:])
			})
		},
	}
	f.add(cmd)
	cmd.Flags().IntVar(&index, "index", 0, "the instance with this number `N`")
	return p.project(cmd)
}

// execTarget finds the instance that name and index mean.
func execTarget(ctx context.Context, control api.Control, name string, index int) (api.ExecRequest, error) {
	status, err := control.Status(ctx)
	if err != nil {
		return api.ExecRequest{}, err
	}
	services := serviceNames(status.State)
	if slices.Contains(services, name) {
		if index == 0 {
			return api.ExecRequest{Service: name}, nil
		}
		name = place(name, index)
	}
	in, ok := instanceOf(status.State, name)
	switch {
	case ok && in.PID == 0 && in.State == engine.InstanceExited:
		return api.ExecRequest{}, withHint(fmt.Errorf("%s does not run: %s", in.ID, answerOf(in)), "'trellis logs %s' shows its output", name)
	case ok:
		return api.ExecRequest{Instance: in.ID}, nil
	case index != 0:
		return api.ExecRequest{}, fmt.Errorf("%s: %w", name, errdefs.ErrNotFound)
	}
	return api.ExecRequest{}, known([]string{name}, services)
}

// inside runs a command in an instance with this program's streams and ends with the command's exit code.
func (p *program) inside(ctx context.Context, control api.Control, req api.ExecRequest, f commandFlags, args []string) error {
	command := driver.Command{
		Args: args, Env: f.env, Dir: f.dir, User: f.user, Stdin: p.stdin, Stdout: p.stdout, Stderr: p.stderr,
	}
	if !f.noTTY && terminal(p.stdin) && terminal(p.stdout) {
		restore, err := p.raw(ctx, &command)
		if err != nil {
			return err
		}
		defer restore()
	}
	code, err := control.Exec(ctx, req, command)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	if code != 0 {
		return exitError(code)
	}
	return nil
}

// raw hands the terminal to the command: every key goes to it, and it learns of each change of size.
func (p *program) raw(ctx context.Context, command *driver.Command) (restore func(), err error) {
	in := int(p.stdin.(*os.File).Fd())
	before, err := term.MakeRaw(in)
	if err != nil {
		return nil, fmt.Errorf("prepare the terminal: %w", err)
	}
	command.TTY = true
	if name := p.getenv("TERM"); name != "" {
		command.Env = append([]string{"TERM=" + name}, command.Env...)
	}
	sizes := make(chan driver.WindowSize, 1)
	command.Resize = sizes
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for {
			columns, rows := sizeOf(p.stdout)
			select {
			case sizes <- driver.WindowSize{Rows: uint16(rows), Cols: uint16(columns)}:
			case <-ctx.Done():
				return
			}
			select {
			case <-p.resized:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		_ = term.Restore(in, before)
	}, nil
}
