package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"trellis/boot"
)

// program is one invocation of the command line: its streams, its environment and what its commands work with.
type program struct {
	stdin   io.Reader
	stdout  io.Writer
	stderr  io.Writer
	environ []string
	backend backend
	host    boot.Host // where boot writes its unit
	now     func() time.Time

	again   <-chan struct{}  // closed by the second signal; the first one cancels the context
	resized <-chan os.Signal // the terminal has another size
	outlive func() func()    // see steadfast; nil: nothing is done about it

	flags projectFlags
}

func newProgram(b backend) *program {
	return &program{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, environ: os.Environ(), backend: b, now: time.Now,
		host: bootHost(),
	}
}

// signalled is the cause of a context that a signal has cancelled.
type signalled struct{ os.Signal }

func (s signalled) Error() string { return "stopped by " + s.String() }

// The groups of commands, in the order of help.
const (
	groupRun    = "run"
	groupDeploy = "deploy"
	groupSee    = "see"
	groupProve  = "prove"
	groupSetUp  = "set-up"
)

// execute runs the command that args name.
func (p *program) execute(ctx context.Context, args []string) error {
	cobra.EnableCommandSorting = false // the order in which root adds them
	root := p.root()
	root.SetArgs(joinCopy(root, args))
	return root.ExecuteContext(ctx)
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "trellis",
		Short: "Run a Compose project so that it scales, heals and deploys without losing a request",
		Long: `Trellis reads the compose.yaml you have and runs it on this machine: supervised,
probed, behind a gateway, deployed without losing a request. No daemon, no account.`,
		Example: `  trellis up -d       start everything and wait until it is healthy
  trellis ps          see what runs
  trellis up -d       after a change: only what changed is rolled, under traffic
  trellis rollback    go back to the revision before
  trellis down        stop and remove everything but the volumes`,
		Args:              noSuchCommand,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors:     true,
		SilenceUsage:      true,
		TraverseChildren:  true,
		DisableAutoGenTag: true,
	}
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Run:"},
		&cobra.Group{ID: groupDeploy, Title: "Deploy:"},
		&cobra.Group{ID: groupSee, Title: "See:"},
		&cobra.Group{ID: groupProve, Title: "Prove:"},
		&cobra.Group{ID: groupSetUp, Title: "Set up and leave:"},
	)
	root.SetHelpCommandGroupID(groupSetUp)
	root.Version = thisVersion().String()
	root.SetVersionTemplate("{{.Version}}\n")
	root.Flags().Bool("version", false, "print the version of this program, as 'trellis version' does")
	root.SetFlagErrorFunc(flagError)
	root.SetUsageFunc(p.usage)
	p.flags.add(root.Flags(), true)
	for _, group := range []struct {
		id       string
		commands []*cobra.Command
	}{
		{groupRun, []*cobra.Command{
			p.upCommand(), p.downCommand(), p.psCommand(), p.logsCommand(), p.execCommand(), p.runCommand(),
			p.watchCommand(), p.startCommand(), p.stopCommand(), p.restartCommand(), p.scaleCommand(), p.buildCommand(), p.pullCommand(),
			p.configCommand(), p.lsCommand(), p.eventsCommand(), p.topCommand(),
		}},
		{groupDeploy, []*cobra.Command{p.planCommand(), p.applyCommand(), p.historyCommand(), p.rollbackCommand(), p.rolloutCommand(), p.driftCommand(), p.diffCommand()}},
		{groupSee, []*cobra.Command{
			p.routesCommand(), p.metricsCommand(), p.tracesCommand(), p.alertsCommand(), p.whyCommand(), p.consoleCommand(),
		}},
		{groupProve, []*cobra.Command{p.checkCommand(), p.loadCommand()}},
		{groupSetUp, []*cobra.Command{p.initCommand(), p.keyCommand(), p.certCommand(), p.bootCommand(), p.exportCommand(), p.backupCommand(), p.restoreCommand(), p.serveCommand(), p.proxyCommand(), p.registryCommand(), p.versionCommand(), p.completionCommand()}},
	} {
		for _, cmd := range group.commands {
			cmd.GroupID = group.id
			root.AddCommand(cmd)
		}
	}
	return root
}

// noSuchCommand checks the arguments of a command that does nothing itself: it only ever sees those that name none of its commands.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	name := strings.TrimPrefix(cmd.CommandPath()+" "+args[0], cmd.Root().Name()+" ")
	return usageError{fmt.Sprintf("unknown command %q%s", name, didYouMean(args[0], names)), cmd.CommandPath()}
}

// getenv returns the last value of an environment variable, "" where it is not set.
func (p *program) getenv(name string) string {
	value := ""
	for _, entry := range p.environ {
		if v, ok := strings.CutPrefix(entry, name+"="); ok {
			value = v
		}
	}
	return value
}

// steadfast has a reader that goes away be an error of what is written to it, and not the end of the program, until the function that it
// returns is called: for what must not end in the middle.
func (p *program) steadfast() (dies func()) {
	if p.outlive == nil {
		return func() {}
	}
	return p.outlive()
}

// progressf writes one line for people, never for programs.
func (p *program) progressf(format string, args ...any) {
	fmt.Fprintf(p.stderr, format+"\n", args...)
}
