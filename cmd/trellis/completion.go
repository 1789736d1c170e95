package main

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// bareBash makes the script work where the package bash-completion is not installed: words are as bash splits them.
const bareBash = `
if ! declare -F _get_comp_words_by_ref >/dev/null 2>&1; then
    __trellis_init_completion()
    {
        COMPREPLY=()
        words=("${COMP_WORDS[@]}")
        cword=$COMP_CWORD
        cur=${COMP_WORDS[COMP_CWORD]}
        prev=${COMP_WORDS[COMP_CWORD-1]}
    }
fi
`

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
				if err := cmd.Root().GenBashCompletionV2(p.stdout, true); err != nil {
					return err
				}
				_, err := io.WriteString(p.stdout, bareBash)
				return err
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
