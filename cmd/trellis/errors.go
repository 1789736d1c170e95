package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"trellis/compose"
	"trellis/errdefs"
)

// usageError is a wrong command line.
type usageError struct {
	message string
	command string // whose help explains it: "trellis up"
}

func (e usageError) Error() string { return e.message }

// Invalid tells package errdefs the kind of e.
func (e usageError) Invalid() bool { return true }

// exitError ends the program with a code and without a word: everything was said.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// hinted is an error with what to do next.
type hinted struct {
	error
	hint string
}

func (e hinted) Unwrap() error { return e.error }

func withHint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return hinted{err, fmt.Sprintf(format, args...)}
}

func exitCode(err error) int {
	var code exitError
	if errors.As(err, &code) {
		return int(code)
	}
	return errdefs.ExitCode(err)
}

// report writes err to standard error: what is wrong, where, and what to do next.
func (p *program) report(err error) {
	var code exitError
	if err == nil || errors.As(err, &code) {
		return
	}
	red := p.styleOf(p.stderr).red
	var diagnostics compose.Diagnostics
	if errors.As(err, &diagnostics) {
		p.tell(p.stderr, red("error:"), diagnostics)
		return
	}
	p.progressf("%s %s", red("error:"), printable(p.stderr, err.Error()))
	var usage usageError
	if errors.As(err, &usage) {
		p.progressf("  '%s --help' shows how it is used", usage.command)
	}
	var hint hinted
	if errors.As(err, &hint) {
		p.progressf("  %s", hint.hint)
	} else if remedy := remedyOf(err); remedy != "" {
		p.progressf("  %s", remedy)
	}
}

// remedyOf says what to do about a file that the machine refused, "" about anything else.
func remedyOf(err error) string {
	var at *fs.PathError
	if !errors.As(err, &at) {
		return ""
	}
	folder := filepath.Dir(at.Path)
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Sprintf("'df -h %s' shows how full it is; free some and repeat: what runs already goes on", folder)
	case errors.Is(err, syscall.EROFS):
		return fmt.Sprintf("%s is read-only; keep the state in another folder with --state DIR", folder)
	case errors.Is(err, fs.ErrPermission) && strings.Contains(at.Path, "/.trellis"):
		return fmt.Sprintf("%s is for this user to write ('ls -ld %s'), or keep the state in another folder with --state DIR", folder, folder)
	}
	return ""
}

// flagError explains a flag that the command does not have, or that has a wrong value.
func flagError(cmd *cobra.Command, err error) error {
	message := err.Error()
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() == "" {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		name := unknown.GetSpecifiedName()
		message = fmt.Sprintf("unknown flag --%s%s", name, strings.Replace(didYouMean(name, names), `"`, `"--`, 1))
	}
	return usageError{message, cmd.CommandPath()}
}

// arguments checks the number of arguments; max -1 is any number.
func arguments(min, max int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < min:
			return usageError{fmt.Sprintf("%s: needs %s", cmd.CommandPath(), cmd.Use[len(cmd.Name())+1:]), cmd.CommandPath()}
		case max >= 0 && len(args) > max:
			return usageError{fmt.Sprintf("%s: %q is one argument too many", cmd.CommandPath(), args[max]), cmd.CommandPath()}
		}
		return nil
	}
}

// didYouMean returns "; did you mean X?" for the candidate nearest to name, "" where none is near.
func didYouMean(name string, candidates []string) string {
	best, distance := "", len(name)/2+1
	for _, c := range candidates {
		d := editDistance(name, c)
		if strings.HasPrefix(c, name) && len(name) > 1 {
			d = 1
		}
		if d < distance && d <= 3 {
			best, distance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// editDistance is the number of runes to insert, delete, replace or swap with the next one (optimal string alignment).
func editDistance(a, b string) int {
	x, y := []rune(a), []rune(b)
	rows := make([][]int, len(x)+1)
	for i := range rows {
		rows[i] = make([]int, len(y)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(x); i++ {
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(x)][len(y)]
}
