package shim

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// defaultGrace is the time of a stop that nobody gave a time: a machine that shuts down sends SIGTERM to everybody.
// It is Compose's default of stop_grace_period.
const defaultGrace = 10 * time.Second

// Hurry is the signal that says to a shim which was asked to stop that its time is over. It is for a deadline that could
// not be written down, or no nearer one; before a stop it means nothing.
const Hurry = unix.SIGUSR2

// listen takes wishes to stop: SIGTERM, with the deadline in StopFile, and Hurry.
func (p *place) listen(signals <-chan os.Signal) {
	for sig := range signals {
		p.turn.Lock()
		s, again := p.now, p.stopping
		p.stopping = again || sig != Hurry // no run follows this one
		p.turn.Unlock()
		if sig == Hurry {
			if again {
				s.until(time.Now())
			}
			continue
		}
		if st := p.bench.swap(nil); st != nil {
			p.dismiss(st)
		}
		deadline := time.Now().Add(defaultGrace)
		// Whoever wished may have seen the run before: this shim began it too.
		if wish, err := ReadStop(p.dir); err == nil && wish.Run >= p.first && wish.Run <= s.run.Run {
			deadline = wish.Deadline
		}
		s.mu.Lock()
		s.asked = s.asked || !s.ended
		s.mu.Unlock()
		s.until(deadline)
		if !again {
			go s.stop(deadline)
		}
	}
}

// until has the whole tree killed at the deadline, or at an earlier one that was told.
func (s *supervisor) until(deadline time.Time) {
	select {
	case s.deadline <- deadline:
	default: // as many wishes are waiting as anybody can mean
	}
}

// stop ends the program: hooks, the stop signal, and at the deadline SIGKILL to the whole tree.
func (s *supervisor) stop(deadline time.Time) {
	go s.killAt(deadline)
	<-s.begun
	for _, h := range s.spec.PreStop {
		if !s.isRunning() || !time.Now().Before(deadline) {
			break
		}
		if err := s.hook(h, time.Until(deadline)); err != nil {
			s.out.say("pre_stop hook: %v", err)
		}
	}
	sig := SignalNumber(s.spec.StopSignal)
	if sig == 0 {
		sig = unix.SIGTERM
	}
	s.signal(sig)
}

// killAt kills the whole tree at the deadline, which later wishes may bring nearer.
func (s *supervisor) killAt(deadline time.Time) {
	for {
		select {
		case <-s.done:
			return
		case d := <-s.deadline:
			if d.Before(deadline) {
				deadline = d
			}
		case <-time.After(time.Until(deadline)):
			s.mu.Lock()
			s.killed = s.killed || !s.ended
			s.mu.Unlock()
			s.signal(unix.SIGKILL)
			s.killTree()
			return
		}
	}
}

func (s *supervisor) isRunning() bool {
	select {
	case <-s.over:
		return false
	default:
		return true
	}
}

// signal sends sig to the program if it runs.
func (s *supervisor) signal(sig unix.Signal) {
	select {
	case <-s.begun:
	default:
		return
	}
	if s.program >= 0 {
		_ = unix.PidfdSendSignal(s.program, sig, nil, 0)
	}
}

// clear ends what the program left behind. After a crash at once, so that nothing stands in its replacement's way;
// within a stop the rest of the tree has until the deadline too.
func (s *supervisor) clear() {
	select {
	case <-s.done: // nothing was left: the common case
		if s.groups.empty() {
			return
		}
	case <-s.left:
	}
	s.mu.Lock()
	asked := s.asked
	s.mu.Unlock()
	if asked {
		s.each(func(p Process) { _ = p.Signal(unix.SIGTERM) })
		<-s.done
		s.groups.kill()
		return
	}
	s.killTree()
	<-s.done
}

// killTree kills every process of the instance until none is left. Processes that fork while they are killed are
// stopped first, round by round.
func (s *supervisor) killTree() {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		s.killOnce()
		select {
		case <-s.done:
			if s.groups.empty() {
				return
			}
		case <-time.After(pause):
		}
	}
}

// killOnce is one round of killTree. No child is between fork and exec meanwhile: its parent thread waits there in a
// way that the runtime cannot interrupt, and one that is stopped then would stop the whole shim with it, for good.
func (s *supervisor) killOnce() {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	for range 8 {
		stopped := 0
		s.each(func(p Process) {
			if st, err := ReadStat(p.PID); err == nil && st.State != 'T' {
				if p.Signal(unix.SIGSTOP) == nil {
					stopped++
				}
			}
		})
		if stopped == 0 {
			break
		}
	}
	s.each(func(p Process) { _ = p.Signal(unix.SIGKILL) })
	s.groups.kill()
}

// each calls f for every live descendant of this shim that is the run's.
func (s *supervisor) each(f func(Process)) {
	all, err := Descendants(os.Getpid())
	if err != nil {
		return
	}
	for _, st := range all {
		if s.bench.has(st.PID) {
			continue
		}
		f(Process{PID: st.PID, StartTime: st.StartTime})
	}
}

// postStart runs the PostStart hooks; one that fails stops the instance.
func (s *supervisor) postStart() {
	for _, h := range s.spec.PostStart {
		if !s.isRunning() {
			return
		}
		if err := s.hook(h, 0); err != nil {
			if s.isRunning() {
				s.fail("post_start hook: %v", err)
			}
			return
		}
	}
}

// fail ends the program for a reason of the shim's own.
func (s *supervisor) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.out.say("%s", text)
	s.mu.Lock()
	if s.trouble == "" {
		s.trouble = text
	}
	s.mu.Unlock()
	deadline := time.Now().Add(defaultGrace)
	go s.stop(deadline)
}

// hook runs h beside the program and waits for it, at most limit if that is not 0. Its output is the instance's.
func (s *supervisor) hook(h Hook, limit time.Duration) error {
	type started struct {
		pid int
		err error
	}
	begun, status, gone := make(chan started, 1), make(chan unix.WaitStatus, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread() // this thread is the hook's parent: it ends with it, not before
		s.mu.Lock()
		if s.ended {
			s.mu.Unlock()
			begun <- started{err: ErrGone}
			return
		}
		pid, failure, err := s.secondStage(&h)
		if pid > 0 {
			s.waits[pid] = status
		}
		s.mu.Unlock() // what it becomes may take for ever, and the end of the program may not
		if err == nil {
			err = readFailure(failure)
		}
		begun <- started{pid, err}
		if pid > 0 {
			<-gone
		}
	}()
	b := <-begun
	if b.pid == 0 {
		return b.err
	}
	defer close(gone)
	var timeout <-chan time.Time
	if limit > 0 {
		timeout = time.After(limit)
	}
	select {
	case ws := <-status:
		switch {
		case b.err != nil:
			return b.err
		case ws.Signaled():
			return fmt.Errorf("%s: %s", h.Command[0], SignalName(ws.Signal()))
		case ws.ExitStatus() != 0:
			return fmt.Errorf("%s: exit status %d", h.Command[0], ws.ExitStatus())
		}
		return nil
	case <-timeout:
		return fmt.Errorf("%s: did not end within the grace period", h.Command[0])
	}
}
