package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"trellis/boot"
	"trellis/errdefs"
	"trellis/server"
)

func (p *program) bootCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "boot enable|disable|status",
		Short: "Bring the project back when this machine starts",
		Long: `Boot has systemd bring the project's last healthy revision back when this machine
starts, and stop its services in order when it stops. What comes back is what was
applied, from the state that is kept: not what the files say by then. Services
that were stopped stay stopped, those that were scaled stay scaled, and a project
that was taken down stays down.

For root it is a unit of the machine, otherwise one of your own systemd, which
starts with the machine where 'loginctl enable-linger' was said.`,
		Example: `  trellis boot enable
  trellis boot status     is it enabled, and does it still fit
  trellis boot disable    what runs goes on`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError{"boot: want enable, disable or status", cmd.CommandPath()}
		},
	}
	cmd.DisableFlagsInUseLine = true
	cmd.AddGroup(&cobra.Group{ID: "boot", Title: "Commands:"})
	cmd.AddCommand(p.bootEnableCommand(), p.bootDisableCommand(), p.bootStatusCommand(), p.bootStartCommand(), p.bootStopCommand())
	for _, c := range cmd.Commands() {
		c.GroupID = "boot"
	}
	return cmd
}

func (p *program) bootEnableCommand() *cobra.Command {
	return p.project(&cobra.Command{
		Use:   "enable",
		Short: "Write the unit and enable it",
		Long: `Enable writes a systemd unit for this project and enables it. Saying it again
changes nothing. Where programs and a Docker engine are (PATH, DOCKER_HOST and
their kin) it keeps as you have it now. Where there is no systemd it prints the line of a crontab that
does the same.`,
		Example: `  trellis boot enable`,
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := p.applied(cmd.Context())
			if err != nil {
				return err
			}
			unit, err := p.unit(l)
			if err != nil {
				return err
			}
			if err := p.host.Enable(cmd.Context(), unit); err != nil {
				return p.bootHint(err, unit)
			}
			s, err := p.host.Look(cmd.Context(), unit)
			if err != nil {
				return err
			}
			p.progressf("%s comes back when this machine starts: %s", l.Project, s.File)
			for _, problem := range p.bootProblems(s, unit) {
				p.progressf("%s %s", p.styleOf(p.stderr).yellow("warning:"), problem)
			}
			return nil
		},
	})
}

// bootHint says what else there is where there is no systemd.
func (p *program) bootHint(err error, unit boot.Unit) error {
	if !errors.Is(err, boot.ErrNoSystemd) {
		return err
	}
	line := boot.Cron(unit.Env, unit.Start)
	if line == "" {
		return plain{err}
	}
	return withHint(plain{err}, "with cron, add this line to the crontab that 'crontab -e' opens:\n  %s", line)
}

func (p *program) bootDisableCommand() *cobra.Command {
	return p.project(&cobra.Command{
		Use:     "disable",
		Short:   "Remove the unit that enable has written",
		Long:    `Disable takes back what 'boot enable' has done, and nothing else. What runs goes on.`,
		Example: `  trellis boot disable`,
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := p.find(cmd.Context())
			if err != nil {
				return err
			}
			was, err := p.host.Disable(cmd.Context(), unitName(l))
			if err != nil {
				return err
			}
			if was {
				p.progressf("%s does not come back by itself any more", l.Project)
			} else {
				p.progressf("%s was not enabled", l.Project)
			}
			return nil
		},
	})
}

// bootView is the JSON of boot status.
type bootView struct {
	Project  string   `json:"project"`
	Enabled  bool     `json:"enabled"`
	Unit     *string  `json:"unit"`   // the file; null: there is none
	Active   *string  `json:"active"` // systemd's word
	Problems []string `json:"problems"`
}

func (p *program) bootStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether the project comes back when this machine starts",
		Long: `Status says whether the project's unit is there, enabled, and as it would be
written now.`,
		Example: `  trellis boot status --format json`,
		Args:    arguments(0, 0),
	}
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l, err := p.find(cmd.Context())
		if err != nil {
			return err
		}
		unit, err := p.unit(l)
		if err != nil {
			return err
		}
		s, err := p.host.Look(cmd.Context(), unit)
		if err != nil {
			return err
		}
		v := bootView{Project: l.Project, Enabled: s.Enabled, Problems: p.bootProblems(s, unit)}
		if s.There {
			v.Unit = &s.File
		}
		if s.Active != "" {
			v.Active = &s.Active
		}
		if format.json() {
			return p.writeJSON(v)
		}
		switch {
		case !s.There:
			fmt.Fprintf(p.stdout, "%s does not come back when this machine starts; 'trellis boot enable' makes it\n", l.Project)
		case !s.Enabled:
			fmt.Fprintf(p.stdout, "%s is not enabled: %s\n", l.Project, s.File)
		default:
			fmt.Fprintf(p.stdout, "%s comes back when this machine starts: %s\n", l.Project, s.File)
		}
		for _, problem := range v.Problems {
			p.progressf("%s %s", p.styleOf(p.stderr).yellow("warning:"), problem)
		}
		return nil
	}
	return p.project(cmd)
}

// bootProblems says what keeps an enabled unit from doing what it is for.
func (p *program) bootProblems(s boot.State, unit boot.Unit) []string {
	problems := []string{}
	if !s.There {
		return problems
	}
	if !s.Enabled {
		problems = append(problems, "systemd does not start it; 'trellis boot enable' repairs that")
	}
	if !s.Same {
		problems = append(problems, "it was written for another binary, path or environment; 'trellis boot enable' writes it anew")
	}
	if !s.Lingers {
		problems = append(problems, fmt.Sprintf("it starts when %[1]s logs in, not with the machine; 'sudo loginctl enable-linger %[1]s' changes that", userName()))
	}
	if secretProxy("HTTPS_PROXY", p.getenv("HTTPS_PROXY")) {
		problems = append(problems, "HTTPS_PROXY is not in it, because everybody could read its password there; a proxy that needs none goes along")
	}
	if binary := unit.Start[0]; strings.HasPrefix(binary, filepath.Clean(os.TempDir())+"/") {
		problems = append(problems, fmt.Sprintf("the binary %s lies where a restart may remove it; install it elsewhere and enable again", binary))
	}
	return problems
}

// bootState is a hidden command that a unit runs.
func (p *program) bootState(use, short string, run func(ctx context.Context, stateDir string) error) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: use, Short: short, Args: arguments(0, 0), Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return withHint(usageError{"boot " + use + " needs --state", cmd.CommandPath()}, "'trellis boot enable' writes a unit with the right one")
			}
			return run(cmd.Context(), dir)
		},
	}
	cmd.Flags().StringVar(&dir, "state", "", "the project's state `DIR`")
	return cmd
}

func (p *program) bootStartCommand() *cobra.Command {
	return p.bootState("start", "Bring a project back after the machine was started", func(ctx context.Context, dir string) error {
		done, err := server.Resume(ctx, dir, "boot@"+hostName())
		switch {
		case err != nil:
			return err
		case done.Ran:
			p.progressf("%s runs already, revision %d", done.Project, done.Revision)
		case done.Down:
			p.progressf("%s was taken down and stays down; 'trellis up' starts it", done.Project)
		default:
			p.progressf("%s is brought back: revision %d (%s)", done.Project, done.Revision, done.Cause)
		}
		return nil
	})
}

func (p *program) bootStopCommand() *cobra.Command {
	return p.bootState("stop", "Stop a project for a stop of the machine", server.Halt)
}

// applied finds a project that has state.
func (p *program) applied(ctx context.Context) (location, error) {
	l, err := p.find(ctx)
	if err == nil && !exists(filepath.Join(l.StateDir, "state.db")) {
		err = withHint(plain{fmt.Errorf("%s has no state in %s: %w", l.Project, l.StateDir, errdefs.ErrNotFound)},
			"nothing was applied yet: 'trellis up -d' does it")
	}
	return l, err
}

// unitName names the project's unit: two projects of one name have states of their own.
func unitName(l location) string {
	return "trellis-" + l.Project + "-" + filepath.Base(l.RuntimeDir) + ".service"
}

// unit is what brings a project back.
func (p *program) unit(l location) (boot.Unit, error) {
	binary, err := ownPath()
	if err != nil {
		return boot.Unit{}, err
	}
	u := boot.Unit{
		Name: unitName(l), Description: fmt.Sprintf("Trellis project %s in %s", l.Project, oneLine(l.WorkingDir)),
		Start: []string{binary, "boot", "start", "--state", l.StateDir},
		Stop:  []string{binary, "boot", "stop", "--state", l.StateDir},
		Needs: []string{l.StateDir, l.WorkingDir},
	}
	// What programs, and Trellis, find is what they find now: systemd's own PATH is short, and it knows of no other Docker engine.
	for _, name := range append(server.Inherited(), "XDG_DATA_HOME") { // the last one is where the machine's authority is
		if value := p.getenv(name); value != "" && !secretProxy(name, value) {
			u.Env = append(u.Env, name+"="+value)
		}
	}
	return u, nil
}

// secretProxy says whether a variable names a proxy with its password, which a unit, that everybody can read, cannot keep to itself.
func secretProxy(name, value string) bool {
	return name == "HTTPS_PROXY" && strings.Contains(value, "@")
}

// ownPath returns the path by which this binary was called, links in it kept: where an upgrade changes the link or
// replaces the file, the path leads to the new one.
func ownPath() (string, error) {
	called, err := exec.LookPath(os.Args[0])
	if err == nil {
		called, err = filepath.Abs(called)
	}
	if err != nil {
		if called, err = os.Executable(); err != nil {
			return "", fmt.Errorf("find the running binary: %w", err)
		}
	}
	return called, nil
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprint(os.Geteuid())
}

func hostName() string {
	host, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return host
}

// bootHost is this machine's systemd for this user.
func bootHost() boot.Host {
	config, err := os.UserConfigDir()
	if err != nil {
		config = "/"
	}
	return boot.Machine(os.Geteuid(), userName(), config)
}
