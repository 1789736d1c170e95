package shim

import (
	"errors"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reap waits for every child, the program's orphans among them, until the program has ended and nothing is left.
func (s *supervisor) reap(program int) {
	for {
		pid, ws, err := zombie()
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil: // ECHILD
			time.Sleep(time.Millisecond) // a hook is about to be started
		case pid == program:
			s.mu.Lock()
			s.status, s.ended = ws, true
			s.mu.Unlock()
			close(s.over)
			s.bury(program)
			return
		default:
			_, _ = wait(pid)
			s.hand(pid, ws)
		}
	}
}

// bury waits for what the program left behind. Where that is nothing, the next run begins before the kernel is let take the
// program's entries out of /proc: for that it waits, turning, for each of the program's threads, and these for a processor.
func (s *supervisor) bury(program int) {
	defer close(s.buried)
	if s.alone(program) {
		close(s.done)
		<-s.replaced
		_, _ = wait(program)
		return
	}
	_, _ = wait(program)
	left, pause := false, leftoverPause
	for {
		var ws unix.WaitStatus
		options := unix.WNOHANG
		if left && s.bench.empty() { // else waiting would not return, for standbys
			options = 0
		}
		pid, err := unix.Wait4(-1, &ws, options, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil, pid == 0 && s.alone(program):
			close(s.done)
			return
		case pid == 0 && !left:
			left = true
			close(s.left)
		case pid == 0:
			time.Sleep(pause)
			pause = min(pause+pause/2, leftoverPauseMax)
		default:
			s.hand(pid, ws)
		}
	}
}

// hand tells who waits for a child how that ended.
func (s *supervisor) hand(pid int, ws unix.WaitStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.waits[pid]; ok {
		c <- ws
		delete(s.waits, pid)
	}
}

// ending is what waitid(2) writes, a siginfo_t of 64-bit machines.
type ending struct {
	_       [2]int32
	code, _ int32
	pid, _  int32
	status  int32
	_       [100]byte
}

// Of asm-generic/siginfo.h.
const (
	exited = 1 // CLD_EXITED
	dumped = 3 // CLD_DUMPED
)

// zombie waits for the end of a child and returns how that was, without reaping it.
func zombie() (pid int, ws unix.WaitStatus, err error) {
	var e ending
	_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_ALL, 0, uintptr(unsafe.Pointer(&e)), unix.WEXITED|unix.WNOWAIT, 0, 0)
	if errno != 0 {
		return 0, 0, errno
	}
	return int(e.pid), e.wait(), nil
}

// wait is e as wait4(2) has it.
func (e ending) wait() unix.WaitStatus {
	switch e.code {
	case exited:
		return unix.WaitStatus(e.status << 8)
	case dumped:
		return unix.WaitStatus(e.status | 0x80)
	}
	return unix.WaitStatus(e.status)
}

// The pause between two looks at what a program left behind, growing: it is being killed.
const (
	leftoverPause    = 100 * time.Microsecond
	leftoverPauseMax = 5 * time.Millisecond
)
