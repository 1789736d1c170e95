package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// versionView is the JSON of version.
type versionView struct {
	Version  string  `json:"version"`
	Commit   *string `json:"commit"` // null: not built from a checkout
	Modified *bool   `json:"modified"`
	Go       string  `json:"go"`
	Platform string  `json:"platform"`
}

func (p *program) versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Long:  `Version says what this program is and how it was built.`,
		Example: `  trellis version
  trellis version --format json`,
		Args: arguments(0, 0),
	}
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(*cobra.Command, []string) error {
		view := thisVersion()
		if format.json() {
			return p.writeJSON(view)
		}
		_, err := fmt.Fprintln(p.stdout, view)
		return err
	}
	return cmd
}

func thisVersion() versionView {
	view := versionView{Version: buildVersion(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				view.Commit = &s.Value
			case "vcs.modified":
				modified := s.Value == "true"
				view.Modified = &modified
			}
		}
	}
	return view
}

// String is the version in a line.
func (v versionView) String() string {
	line := "trellis " + v.Version
	if v.Commit != nil {
		line += " (" + (*v.Commit)[:min(12, len(*v.Commit))]
		if v.Modified != nil && *v.Modified {
			line += ", modified"
		}
		line += ")"
	}
	return line + ", " + v.Go + ", " + v.Platform
}
