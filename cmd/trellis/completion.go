package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

func (p *program) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print the shell's completion script",
		Long:  `Completion prints a script that completes commands, flags and services.`,
		Example: `  source <(trellis completion bash)                                  this shell
  trellis completion bash > /etc/bash_completion.d/trellis           every shell
  trellis completion zsh > "${fpath[1]}/_trellis"
  trellis completion fish > ~/.config/fish/completions/trellis.fish`,
		Args:      arguments(1, 1),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(p.stdout, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(p.stdout)
			case "fish":
				return cmd.Root().GenFishCompletion(p.stdout, true)
			}
			return usageError{"shell " + args[0] + ": want bash, zsh or fish" + didYouMean(args[0], cmd.ValidArgs), cmd.CommandPath()}
		},
	}
}

// completeServices offers the services of the file.
func (p *program) completeServices(cmd *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(given) > 0 && (cmd.Name() == "exec" || cmd.Name() == "run") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	l, err := p.load(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return l.project.ServiceNames(), cobra.ShellCompDirectiveNoFileComp
}
