// Package cli calls the trellis command: a method for each of the commands that the provider needs, and their JSON as Go
// values. It keeps nothing between two calls, and is safe for concurrent use.
package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// grace is how long a command that is no longer wanted has to let go of what it follows. What it has begun goes on
// without it.
const grace = 20 * time.Second

// exitUsage is the exit code of trellis for a wrong command line or an invalid file.
const exitUsage = 64

// Command is the trellis command of this machine.
type Command struct {
	Path string   // as exec.LookPath takes it
	Env  []string // beside the caller's environment
	// Line is called with each line of progress; it may be nil.
	Line func(ctx context.Context, line string)
}

// Project says which project is meant, as the flags of trellis do.
type Project struct {
	Files       []string
	Directory   string
	Name        string
	Environment string
	Profiles    []string
	EnvFiles    []string
	StateDir    string
	Engine      string // "": as the files say
	Context     string
	Namespace   string
	Variables   map[string]string
}

// flags returns the project as arguments of trellis.
func (p Project) flags() []string {
	var args []string
	add := func(flag string, values ...string) {
		for _, v := range values {
			if v != "" {
				args = append(args, flag+"="+v)
			}
		}
	}
	add("--file", p.Files...)
	add("--project-directory", p.Directory)
	add("--project-name", p.Name)
	add("--environment", p.Environment)
	add("--profile", p.Profiles...)
	add("--env-file", p.EnvFiles...)
	add("--state", p.StateDir)
	add("--on", p.Engine)
	add("--context", p.Context)
	add("--namespace", p.Namespace)
	return args
}

// Failed is a command that ended with another exit code than 0.
type Failed struct {
	Args   []string
	Code   int    // -1: it was ended by a signal
	Output string // what it said on standard error
}

func (e *Failed) Error() string {
	if text := strings.TrimSpace(e.Output); text != "" {
		return text
	}
	return fmt.Sprintf("trellis %s ended with exit code %d and without a word", e.Args[0], e.Code)
}

// Invalid says that the files or the command line can never succeed as they are.
func (e *Failed) Invalid() bool { return e.Code == exitUsage }

// run runs a command for a project and returns its standard output. ctx ends: the command lets go of what it follows,
// which goes on.
func (c *Command) run(ctx context.Context, p Project, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.Path, slices.Concat(args, p.flags())...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = grace
	cmd.Env = slices.Concat(os.Environ(), c.Env, []string{"NO_COLOR=1"})
	for name, value := range p.Variables {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var stdout bytes.Buffer
	stderr := &lines{ctx: ctx, line: c.Line}
	cmd.Stdout, cmd.Stderr = &stdout, stderr
	err := cmd.Run()
	if err == nil {
		return stdout.Bytes(), nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("trellis %s: %w", args[0], context.Cause(ctx))
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return stdout.Bytes(), &Failed{Args: args, Code: exit.ExitCode(), Output: stderr.all.String()}
	}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no program %q: install trellis on the machine where Terraform runs, or say where it is with the provider's attribute command", c.Path)
	}
	return nil, fmt.Errorf("run trellis %s: %w", args[0], err)
}

// lines keeps what is written to it and passes it on line by line.
type lines struct {
	ctx  context.Context
	line func(context.Context, string)
	all  bytes.Buffer
	done int // of all: passed on
}

func (l *lines) Write(b []byte) (int, error) {
	l.all.Write(b)
	for {
		text, _, whole := bytes.Cut(l.all.Bytes()[l.done:], []byte("\n"))
		if !whole {
			return len(b), nil
		}
		l.done += len(text) + 1
		if l.line != nil && len(text) > 0 {
			l.line(l.ctx, string(text))
		}
	}
}

// decode runs a command with --format json and decodes what it prints.
func decode[T any](ctx context.Context, c *Command, p Project, args ...string) (T, error) {
	var v T
	out, err := c.run(ctx, p, append(args, "--format=json")...)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(out, &v); err != nil {
		return v, fmt.Errorf("trellis %s answers what this provider does not understand (%w): is it of the same version?", args[0], err)
	}
	return v, nil
}
