//go:build linux

package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/errdefs"
	"trellis/shim"
)

// Exec implements driver.Driver. A command that cannot be found or started has the exit code that shells give it, 127
// or 126, and the reason on Stderr. The command ends with ctx, with the instance, and with the caller.
func (d *Driver) Exec(ctx context.Context, id driver.ID, cmd driver.Command) (int, error) {
	code, err := d.exec(ctx, id, cmd)
	if err != nil {
		return code, fmt.Errorf("exec in %s: %w", id, err)
	}
	return code, nil
}

func (d *Driver) exec(ctx context.Context, id driver.ID, cmd driver.Command) (int, error) {
	if len(cmd.Args) == 0 || cmd.Args[0] == "" {
		return -1, fmt.Errorf("%w: no command", errdefs.ErrInvalid)
	}
	if cmd.User != "" && !d.isolate && !IsSelf(cmd.User) {
		return -1, fmt.Errorf("%w: another user needs privileges", errdefs.ErrUnsupported)
	}
	r, err := d.runs(id)
	if err != nil {
		return -1, err
	}
	req := shim.Request{
		Version: shim.Version, Dir: r.dir, Run: r.running.Run, Join: r.running.Program,
		Beside: &shim.Hook{Command: cmd.Args, Env: cmd.Env, Dir: cmd.Dir, User: cmd.User},
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { // a command does not outlive its instance
		defer close(ended)
		if fd, err := r.running.Shim.Open(); err == nil {
			defer unix.Close(fd)
			if await(ctx, fd) == nil {
				cancel()
			}
		}
	}()
	defer func() { cancel(); <-ended }()
	var failure error
	c := exec.CommandContext(ctx, d.cfg.Shim[0], append(slices.Clone(d.cfg.Shim[1:]), "exec")...)
	c.Env = []string{"GOMAXPROCS=1", "GOGC=off"}
	c.Dir = "/"
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	c.Cancel = func() error { return killSession(c.Process.Pid) }
	if cmd.TTY {
		failure, err = runTTY(c, req, cmd)
	} else {
		failure, err = runPipes(ctx, c, req, cmd)
	}
	var f shim.Failure
	if errors.As(failure, &f) {
		if errors.Is(ctx.Err(), context.Canceled) {
			return -1, ctx.Err()
		}
		w := cmd.Stderr
		if w == nil {
			w = cmd.Stdout
		}
		if w != nil {
			fmt.Fprintln(w, f.Message)
		}
		return f.Code, nil
	}
	if failure != nil {
		return -1, failure
	}
	if ctx.Err() != nil {
		return -1, ctx.Err()
	}
	return exitCode(c.ProcessState, err)
}

// run starts c as a second stage, waits for it, and returns why it did not become the command, and how that ended.
func run(c *exec.Cmd, req shim.Request, started func()) (failure, ended error) {
	body, err := json.Marshal(req)
	if err != nil {
		return err, nil
	}
	requestR, requestW, err := os.Pipe()
	if err != nil {
		return err, nil
	}
	defer requestR.Close()
	failureR, failureW, err := os.Pipe()
	if err != nil {
		requestW.Close()
		return err, nil
	}
	defer failureR.Close()
	c.ExtraFiles = []*os.File{requestR, failureW}
	err = c.Start()
	failureW.Close()
	if err != nil {
		requestW.Close()
		return fmt.Errorf("start %s: %w", c.Path, err), nil
	}
	if started != nil {
		started()
	}
	_, err = requestW.Write(body)
	requestW.Close()
	if err == nil {
		failure = shim.ReadFailure(failureR)
	}
	return failure, c.Wait()
}

// streams are pipes between a command and its caller. Those of os/exec would have it wait for the caller's input to end, and take
// away what a slow caller has not yet read.
type streams struct {
	theirs  []*os.File // the command's ends
	readers []*os.File
	copied  sync.WaitGroup
}

// to returns what the command writes to for w to get it.
func (s *streams) to(w io.Writer) (io.Writer, error) {
	if w == nil {
		return nil, nil
	}
	r, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.theirs, s.readers = append(s.theirs, theirs), append(s.readers, r)
	s.copied.Go(func() {
		defer r.Close()
		if _, err := io.Copy(w, r); !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if rest, err := shim.Rest(r); err == nil {
			_, _ = io.Copy(w, rest)
		}
	})
	return theirs, nil
}

// begun lets go of what is the command's alone.
func (s *streams) begun() {
	for _, f := range s.theirs {
		f.Close()
	}
	s.theirs = nil
}

// drain returns when the caller has all that the command wrote. What goes on in the background keeps it no longer than
// backgroundLimit, and a caller that has left neither.
func (s *streams) drain(ctx context.Context) {
	for _, r := range s.readers {
		_ = r.SetReadDeadline(time.Now().Add(backgroundLimit))
	}
	all := make(chan struct{})
	go func() {
		s.copied.Wait()
		close(all)
	}()
	select {
	case <-all:
		return
	case <-ctx.Done():
	}
	select {
	case <-all:
	case <-time.After(backgroundLimit):
	}
}

// backgroundLimit is how long something that a command leaves behind with its output may keep the caller.
const backgroundLimit = time.Second

// runPipes is run with pipes between the command and the caller.
func runPipes(ctx context.Context, c *exec.Cmd, req shim.Request, cmd driver.Command) (failure, ended error) {
	var s streams
	defer s.drain(ctx)
	defer s.begun() // where it was not started
	var err error
	if c.Stdout, err = s.to(cmd.Stdout); err != nil {
		return err, nil
	}
	if c.Stderr = c.Stdout; !same(cmd.Stderr, cmd.Stdout) { // one writer is never called by two at once
		if c.Stderr, err = s.to(cmd.Stderr); err != nil {
			return err, nil
		}
	}
	if cmd.Stdin == nil {
		return run(c, req, s.begun)
	}
	theirs, in, err := os.Pipe()
	if err != nil {
		return err, nil
	}
	defer in.Close()
	s.theirs, c.Stdin = append(s.theirs, theirs), theirs
	return run(c, req, func() {
		s.begun()
		// It ends with the command, or when the caller's input does: a read of it cannot be broken off.
		go func() {
			_, _ = io.Copy(in, cmd.Stdin)
			in.Close()
		}()
	})
}

// same says whether two writers are one.
func same(a, b io.Writer) bool {
	defer func() { _ = recover() }() // of a type that cannot be compared
	return a == b
}

// runTTY is run with a terminal between the command and the caller.
func runTTY(c *exec.Cmd, req shim.Request, cmd driver.Command) (failure, ended error) {
	terminal, tty, err := pty.Open()
	if err != nil {
		return fmt.Errorf("open a terminal: %w", err), nil
	}
	defer terminal.Close()
	defer tty.Close()
	c.Stdin, c.Stdout, c.Stderr = tty, tty, tty
	c.SysProcAttr.Setctty = true
	copied := make(chan struct{})
	over := make(chan struct{})
	defer close(over)
	started := func() {
		tty.Close() // the command has its own; its end is then the end of the terminal
		if cmd.Stdin != nil {
			// It ends with the terminal, or when the caller's input does: a read of it cannot be broken off.
			go func() { _, _ = io.Copy(terminal, cmd.Stdin) }()
		}
		go func() {
			defer close(copied)
			out := cmd.Stdout
			if out == nil {
				out = io.Discard
			}
			_, _ = io.Copy(out, terminal)
		}()
		if cmd.Resize != nil {
			go resize(terminal, cmd.Resize, over)
		}
	}
	failure, ended = run(c, req, started)
	if c.Process == nil {
		return failure, ended
	}
	select {
	case <-copied:
	case <-time.After(time.Second): // something in the background keeps the terminal
		terminal.Close()
		<-copied
	}
	return failure, ended
}

func resize(terminal *os.File, sizes <-chan driver.WindowSize, over <-chan struct{}) {
	for {
		select {
		case <-over:
			return
		case s, ok := <-sizes:
			if !ok {
				return
			}
			_ = pty.Setsize(terminal, &pty.Winsize{Rows: s.Rows, Cols: s.Cols})
		}
	}
}

// killSession kills the command and what is left in its session. It has not been waited for: its pid is its own.
func killSession(leader int) error {
	var all []shim.Process
	err := shim.Processes(func(s shim.Stat) bool {
		if s.Session == leader || s.PID == leader {
			all = append(all, shim.Process{PID: s.PID, StartTime: s.StartTime})
		}
		return true
	})
	for _, p := range all {
		_ = p.Signal(syscall.SIGKILL)
	}
	return err
}

func exitCode(state *os.ProcessState, err error) (int, error) {
	if state == nil {
		return -1, err
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return state.ExitCode(), nil
}
