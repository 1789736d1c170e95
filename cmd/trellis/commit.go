package main

import (
	"context"
	"os/exec"
	"strings"
	"time"

	"trellis/state"
)

// commitOf returns the commit that the project directory is at, nil where there is no version control or no git.
// Changes in .trellis do not make it dirty.
func commitOf(ctx context.Context, dir string, environ []string) *state.Commit {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...)
		cmd.Env = append(append([]string{}, environ...), "GIT_OPTIONAL_LOCKS=0", "LC_ALL=C")
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	head, err := git("log", "-1", "--format=%H%x00%an <%ae>%x00%cI")
	if err != nil {
		return nil
	}
	fields := strings.Split(head, "\x00")
	if len(fields) != 3 {
		return nil
	}
	at, err := time.Parse(time.RFC3339, fields[2])
	if err != nil {
		return nil
	}
	changes, err := git("status", "--porcelain", "--", ".", ":(exclude,glob)**/.trellis/**")
	return &state.Commit{SHA: fields[0], Author: fields[1], CommittedAt: at, Dirty: err == nil && changes != ""}
}
