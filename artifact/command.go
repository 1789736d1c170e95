package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// lastLines is how much of a failed build's output its error carries.
	lastLines = 40
	// maxLine bounds a line of it.
	maxLine = 2000
	// killDelay is how long a cancelled build may take to end after SIGTERM, and one that ended may leave its output
	// open in the hands of a process it started.
	killDelay = 5 * time.Second
)

// runCommand runs a shell command line in dir with env alone.
func runCommand(ctx context.Context, dir, command string, env []string, output io.Writer) error {
	tail := &tailWriter{next: output}
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Dir = dir
	cmd.Env = append(append([]string{}, env...), "PWD="+dir)
	cmd.Stdout, cmd.Stderr = tail, tail // the same writer: one pipe, so that lines stay in order
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = killDelay
	err := cmd.Run()
	if ctx.Err() != nil {
		if cmd.Process != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // those that did not listen; their group has its number as long as they are there
		}
		return ctx.Err()
	}
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	if lines := tail.lines(); lines != "" {
		return fmt.Errorf("%q in %s: %w; its last output:\n%s", command, dir, err, lines)
	}
	return fmt.Errorf("%q in %s: %w; it printed nothing", command, dir, err)
}

// tailWriter passes on what is written and keeps the last lines.
type tailWriter struct {
	next io.Writer

	mu   sync.Mutex
	kept []string
	part []byte // of the line that has not ended
}

// Write implements io.Writer. It fails for no reader's sake: a build does not end because nobody watches it.
func (t *tailWriter) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next != nil {
		if _, err := t.next.Write(p); err != nil {
			t.next = nil
		}
	}
	for rest := string(p); rest != ""; {
		line, after, ended := strings.Cut(rest, "\n")
		if room := maxLine - len(t.part); room > 0 {
			t.part = append(t.part, line[:min(len(line), room)]...)
		}
		if ended {
			t.kept = append(t.kept, string(t.part))
			if len(t.kept) > lastLines {
				t.kept = t.kept[1:]
			}
			t.part = t.part[:0]
		}
		rest = after
	}
	return len(p), nil
}

func (t *tailWriter) lines() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.kept
	if len(t.part) > 0 {
		all = append(all[:len(all):len(all)], string(t.part))
	}
	return strings.Join(all[max(0, len(all)-lastLines):], "\n")
}
