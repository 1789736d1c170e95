package holder

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"
)

// timing is how long the holder waits for its programs. One that ended is started again at once the first time, then
// after firstDelay, doubling to maxDelay; one that lived for livedLong counts as the first again.
type timing struct {
	firstDelay, maxDelay, livedLong time.Duration
	// grace is how long a program may take to end after SIGTERM before it and its process group are killed.
	grace time.Duration
	// ready is how long a new data plane may take until it serves.
	ready time.Duration
	// look is how often the holder looks whether it can be found.
	look time.Duration
}

func defaultTiming() timing {
	return timing{
		firstDelay: 100 * time.Millisecond, maxDelay: 5 * time.Second, livedLong: 10 * time.Second,
		grace: 10 * time.Second, ready: 30 * time.Second, look: 10 * time.Second,
	}
}

// child keeps one of the two programs running.
type child struct {
	role    string
	env     []string
	times   timing
	output  *os.File
	log     *slog.Logger
	replace chan replacement
	stop    chan struct{} // closed: end everything
	ended   chan struct{} // closed: everything has ended

	mu       sync.Mutex
	command  []string
	current  *process
	next     *process   // a data plane that is not ready yet
	draining []*process // data planes that were replaced
	info     Child
}

// process is one run of a program.
type process struct {
	cmd       *exec.Cmd
	started   time.Time
	ready     chan struct{} // closed: it serves
	readyOnce sync.Once
	done      chan struct{} // closed: it was reaped
	err       error         // how it ended, once done

	mu     sync.Mutex
	reaped bool // or about to be: its number is no longer to be used
}

type replacement struct {
	command []string
	answer  chan error
}

func newChild(role string, command, env []string, times timing, output *os.File, log *slog.Logger) *child {
	return &child{
		role: role, command: command, env: env, times: times, output: output, log: log.With("role", role),
		replace: make(chan replacement), stop: make(chan struct{}), ended: make(chan struct{}),
	}
}

// run keeps the program running until stop is closed, and returns when all of its processes have ended.
func (c *child) run() {
	defer close(c.ended)
	defer c.endDraining()
	var delay time.Duration
	for {
		p, err := c.start(c.command, &c.current)
		if err != nil {
			c.failed(err)
		} else {
			c.mu.Lock()
			c.current, c.info.PID, c.info.Started = p, p.cmd.Process.Pid, p.started
			c.mu.Unlock()
			if p = c.attend(p); p == nil {
				return
			}
			c.failed(p.err)
			if time.Since(p.started) >= c.times.livedLong {
				delay = 0
			}
		}
		if stopped := c.pause(delay); stopped {
			return
		}
		delay = min(max(2*delay, c.times.firstDelay), c.times.maxDelay)
	}
}

// attend carries out what is asked of a running program. It returns the process that ended by itself, nil after stop.
func (c *child) attend(p *process) *process {
	for {
		select {
		case <-p.done:
			return p
		case <-c.stop:
			p.end(c.times.grace)
			return nil
		case r := <-c.replace:
			var err error
			if p, err = c.carryOut(p, r.command); err == nil {
				c.mu.Lock()
				c.command, c.current, c.info.PID, c.info.Started = r.command, p, p.cmd.Process.Pid, p.started
				c.mu.Unlock()
			}
			r.answer <- err
		}
	}
}

// carryOut replaces old by a process of command, and returns the one that runs afterwards.
func (c *child) carryOut(old *process, command []string) (*process, error) {
	if c.role == RoleDataPlane {
		return c.overlap(old, command)
	}
	if _, err := exec.LookPath(command[0]); err != nil { // noticed before anything is stopped
		return old, fmt.Errorf("start %s: %w", c.role, err)
	}
	old.end(c.times.grace)
	p, err := c.start(command, &c.current)
	if err != nil {
		return old, err // it has ended: the loop starts the old command again
	}
	return p, nil
}

// overlap starts a new data plane beside the old one, and lets the old one drain once the new one serves.
func (c *child) overlap(old *process, command []string) (*process, error) {
	p, err := c.start(command, &c.next)
	if err != nil {
		return old, err
	}
	defer func() {
		c.mu.Lock()
		c.next = nil
		c.mu.Unlock()
	}()
	timeout := time.NewTimer(c.times.ready)
	defer timeout.Stop()
	select {
	case <-p.ready:
		c.drain(old)
		return p, nil
	case <-p.done:
		return old, fmt.Errorf("the new %s ended before it was ready: %w", c.role, p.err)
	case <-timeout.C:
		err = fmt.Errorf("the new %s was not ready within %v", c.role, c.times.ready)
	case <-c.stop:
		err = ErrStopping
	}
	p.end(c.times.grace)
	return old, err
}

// drain tells a replaced data plane to end when what is in flight has ended.
func (c *child) drain(p *process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.signal(syscall.SIGTERM)
	c.draining = slices.DeleteFunc(append(c.draining, p), func(p *process) bool { return p.hasEnded() })
}

func (c *child) endDraining() {
	c.mu.Lock()
	draining := c.draining
	c.mu.Unlock()
	var all sync.WaitGroup
	for _, p := range draining {
		all.Go(func() { p.end(c.times.grace) })
	}
	all.Wait()
}

// failed writes down how the program ended or why it did not start.
func (c *child) failed(err error) {
	if err == nil {
		err = errors.New("exit status 0")
	}
	c.log.Error("program ended", "err", err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current, c.info.PID = nil, 0
	c.info.Restarts++
	c.info.Failed = err.Error()
}

// pause waits before the next start; a replacement ends it with its command.
func (c *child) pause(delay time.Duration) (stopped bool) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		select {
		case <-c.stop:
			return true
		default:
			return false
		}
	case <-c.stop:
		return true
	case r := <-c.replace:
		_, err := exec.LookPath(r.command[0])
		if err == nil {
			c.mu.Lock()
			c.command = r.command
			c.mu.Unlock()
		}
		r.answer <- err
		return false
	}
}

// start starts a process in a group of its own, so that what is typed at a terminal reaches it through nobody, and keeps it in
// where: whoever is asked about it waits until it is there, since it may say that it is ready before start has returned.
func (c *child) start(command []string, where **process) (*process, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append([]string{}, c.env...) // not nil: that would be this process's own
	cmd.Stdout, cmd.Stderr = c.output, c.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := loosely(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.role, err)
	}
	p := &process{cmd: cmd, started: time.Now(), ready: make(chan struct{}), done: make(chan struct{})}
	*where = p
	go func() {
		awaitExit(cmd.Process.Pid)
		p.mu.Lock()
		p.reaped = true
		p.mu.Unlock()
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// isReady notes that the process pid serves.
func (c *child) isReady(pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range []*process{c.current, c.next} {
		if p != nil && p.cmd.Process.Pid == pid {
			p.readyOnce.Do(func() { close(p.ready) })
		}
	}
}

// runs says whether pid is a process of this program.
func (c *child) runs(pid int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range append([]*process{c.current, c.next}, c.draining...) {
		if p != nil && p.cmd.Process.Pid == pid {
			return true
		}
	}
	return false
}

func (c *child) describe() Child {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.info
}

// ask hands a replacement to the loop and waits for its end.
func (c *child) ask(command []string) error {
	if len(command) == 0 || command[0] == "" {
		return fmt.Errorf("%w: the command is empty", ErrProtocol)
	}
	r := replacement{command: command, answer: make(chan error, 1)}
	select {
	case c.replace <- r:
	case <-c.stop:
		return ErrStopping
	}
	return <-r.answer
}

// again replaces the program by itself.
func (c *child) again() {
	c.mu.Lock()
	command := c.command
	c.mu.Unlock()
	if err := c.ask(command); err != nil && !errors.Is(err, ErrStopping) {
		c.log.Error("program is not started anew", "err", err)
	}
}

func (p *process) hasEnded() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// signal signals the process; one that was reaped is left alone by os.Process.
func (p *process) signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

// end asks the process to end and kills it with its group when it has not within grace.
func (p *process) end(grace time.Duration) {
	p.signal(syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.mu.Lock()
		if !p.reaped {
			_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		}
		p.mu.Unlock()
		<-p.done
	}
}
