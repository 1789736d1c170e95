package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"trellis/errdefs"
	"trellis/lazyregexp"
	"trellis/state"
)

// commitOf returns the commit that the project directory is at, nil where there is no version control or no git.
// Changes in .trellis do not make it dirty.
func commitOf(ctx context.Context, dir string, environ []string) *state.Commit {
	ctx, cancel := context.WithTimeout(ctx, gitTime)
	defer cancel()
	git := func(args ...string) (string, error) { return git(ctx, dir, environ, args...) }
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

// gitTime is how long git may take over what a command asks it.
const gitTime = 5 * time.Second

// git returns what git prints about the repository that dir is in.
func git(ctx context.Context, dir string, environ []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...)
	cmd.Env = append(append([]string{}, environ...), "GIT_OPTIONAL_LOCKS=0", "LC_ALL=C")
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// branchName makes the branch that is checked out in dir the name of a copy. None is: an error, which says what to do.
func branchName(ctx context.Context, dir, environment string, environ []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, gitTime)
	defer cancel()
	branch, err := git(ctx, dir, environ, "symbolic-ref", "--short", "--quiet", "HEAD")
	name := strings.Trim(notInNames.ReplaceAllString(strings.ToLower(branch), "-"), "-_")
	if err != nil || name == "" {
		return "", withHint(fmt.Errorf("environment %s is one for each branch: %w: no branch is checked out in %s", environment, errdefs.ErrInvalid, dir),
			"name it with --copy NAME")
	}
	return name, nil
}

// notInNames is what a branch may have in its name and a project may not.
var notInNames = lazyregexp.New(`[^a-z0-9_-]+`)
