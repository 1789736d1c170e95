package main

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"trellis/compose"
	"trellis/driver/process"
	"trellis/errdefs"
)

// checkView is the JSON of check.
type checkView struct {
	Errors   []compose.Diagnostic `json:"errors"`
	Warnings []compose.Diagnostic `json:"warnings"`
}

func (p *program) checkCommand() *cobra.Command {
	var strict bool
	on := &choice{value: "local", allowed: []string{"local", "process", "docker", "kubernetes"}}
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say what is wrong with the files, and what an engine does not carry out",
		Long: `Check reads the files and prints every error and every attribute that the engine
does not carry out, or carries out in another way, each with file, line and
column. It contacts nothing and changes nothing. With an error it exits 64.`,
		Example: `  trellis check
  trellis check --on kubernetes   before moving
  trellis check --strict          in CI: a warning is an error`,
		Args: arguments(0, 0),
	}
	cmd.Flags().Var(on, "on", "check for `ENGINE`: local (each service by its own driver), process, docker or kubernetes; without it that of the environment")
	driver := driverFlag(cmd)
	cmd.Flags().BoolVar(&strict, "strict", false, "take warnings for errors")
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		view := checkView{Errors: []compose.Diagnostic{}, Warnings: []compose.Diagnostic{}}
		l, err := p.load(cmd.Context())
		view.Warnings = append(view.Warnings, l.warnings...)
		engine := on.value
		if there := l.project.Trellis.Environments[l.project.Environment].On; there != "" && !cmd.Flags().Changed("on") {
			engine = there // where 'up' brings it
		}
		var broken compose.Diagnostics
		switch {
		case errors.As(err, &broken):
			view.Errors = append(view.Errors, broken...)
		case err != nil:
			return err
		default:
			if l.project, err = driven(l.project, driver.value); err != nil {
				return err
			}
			if view.Warnings, err = p.warnings(l, engine); err != nil {
				return err
			}
			scenarios, err := checkProfiles(l.project)
			if err != nil {
				return err
			}
			rules, err := p.checkRules(l.project)
			if err != nil {
				return err
			}
			view.Errors = append(append(view.Errors, scenarios...), rules...)
			view.Errors = append(view.Errors, p.borrowed(l.project)...)
		}
		if strict {
			view.Errors, view.Warnings = append(view.Errors, view.Warnings...), []compose.Diagnostic{}
		}
		var notes []compose.Diagnostic
		if err == nil {
			var broken []compose.Diagnostic
			if notes, broken, err = p.here(l, engine); err != nil {
				return err
			}
			view.Errors = append(view.Errors, broken...)
		}
		if format.json() {
			view.Warnings = append(view.Warnings, notes...)
			err = p.writeJSON(view)
		} else {
			err = p.writeCheck(view, notes, l.project)
		}
		if err == nil && len(view.Errors) > 0 {
			return exitError(errdefs.ExitUsage)
		}
		return err
	}
	return p.project(cmd)
}

// warnings returns everything that an engine does not carry out as the files say.
func (p *program) warnings(l loaded, engine string) ([]compose.Diagnostic, error) {
	if engine != compose.TargetKubernetes {
		return diagnose(l, engine), nil
	}
	opt, err := p.clusterOptions(l.project, newKubernetesFlags())
	if broken := (compose.Diagnostics{}); errors.As(err, &broken) {
		return append(inCluster(l, opt), broken...), nil // a content that is not here: an apply would need it
	}
	if err != nil {
		return nil, err
	}
	var built []string
	for _, name := range l.project.ServiceNames() {
		if from := originOf(l.project.Services[name], driverAuto, func() bool { return true }); from == fromDocker || from == fromArtifacts {
			built = append(built, name)
		}
	}
	opt.Images = anyImages(built)
	return inCluster(l, opt), nil
}

// here returns what is worth knowing of a project although all of it is carried out, and what this machine lacks for it:
// notes, and errors of what cannot be had as this user.
func (p *program) here(l loaded, engine string) (notes, broken []compose.Diagnostic, err error) {
	notes = compose.Notes(l.project)
	containers := len(contained(l.project, nil))
	processes := len(l.project.Services) - containers
	switch engine {
	case "local":
	case "process":
		processes, containers = len(l.project.Services), 0
	case "docker":
		processes, containers = 0, len(l.project.Services)
	default:
		return notes, nil, nil
	}
	has, err := p.backend.Look(l.location, processes > 0, containers > 0)
	if err != nil {
		return nil, nil, err
	}
	for _, lack := range has.Lacks {
		notes = append(notes, compose.Diagnostic{Path: "this machine", Message: lack})
	}
	if processes == 0 {
		return notes, nil, nil
	}
	return notes, unprivileged(l.project, has), nil
}

// unprivileged returns what of a project's processes cannot be had on this machine as this user. Where no process runs at
// all, its driver says so.
func unprivileged(project compose.Project, has machine) []compose.Diagnostic {
	if !has.Unprivileged || runtime.GOOS != "linux" {
		return nil
	}
	return compose.Unprivileged(project, process.IsSelf)
}

func (p *program) writeCheck(view checkView, notes []compose.Diagnostic, project compose.Project) error {
	s := p.styleOf(p.stdout)
	p.tell(p.stdout, s.red("error:"), view.Errors)
	p.tell(p.stdout, s.yellow("warning:"), view.Warnings)
	p.tell(p.stdout, s.dim("note:"), notes)
	if len(view.Errors)+len(view.Warnings) == 0 {
		_, err := fmt.Fprintf(p.stdout, "%s is well: %s\n", project.Name, plural(len(project.Services), "service"))
		return err
	}
	_, err := fmt.Fprintf(p.stdout, "%s, %s\n", plural(len(view.Errors), "error"), plural(len(view.Warnings), "warning"))
	return err
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
