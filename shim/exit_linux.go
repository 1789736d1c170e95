package shim

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// end writes down how it went.
func (s *supervisor) end(failure error) int {
	if failure == nil {
		<-s.buried
	}
	s.drained()
	exit := s.exit(failure)
	if failure != nil {
		s.out.say("could not be started: %v", failure)
	}
	s.out.close()
	err := Publish(s.dir, ExitFile, exit)
	if failure != nil && s.run.Run == s.first {
		s.tell()
	}
	unix.Close(s.held) // the next run need not wait for the disk
	if err == nil {
		err = persist(s.dir, ExitFile)
	}
	s.synced.Wait()
	s.groups.remove()
	if err != nil {
		fmt.Fprintln(os.Stderr, "write the exit:", err)
		return exitError
	}
	return exitDone
}

// drained returns when the run's output is written.
func (s *supervisor) drained() {
	for _, w := range s.write {
		if w != nil {
			w.Close()
		}
	}
	// The tree is gone; a descriptor that was passed elsewhere must not keep this waiting.
	for _, r := range s.readers {
		if r != nil {
			_ = r.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		}
	}
	s.drain.Wait()
}

func (s *supervisor) exit(failure error) Exit {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := Exit{
		Version: Version, ID: s.spec.ID, Run: s.run.Run, PID: s.run.Program.PID, StartTime: s.run.Program.StartTime,
		BootID: s.run.BootID, Time: time.Now(), Asked: s.asked, Error: s.trouble,
		Before: s.run.Before,
	}
	var f Failure
	switch {
	case errors.As(failure, &f):
		e.Code, e.Error = f.Code, f.Message
	case failure != nil:
		e.Code, e.Error = 126, failure.Error()
	case s.status.Signaled():
		e.Code, e.Signal = 128+int(s.status.Signal()), SignalName(s.status.Signal())
		e.OOM = s.status.Signal() == unix.SIGKILL && !s.killed && s.groups.outOfMemory()
	default:
		e.Code = s.status.ExitStatus()
	}
	return e
}

// SignalName returns "SIGKILL" for 9, and "SIG40" for a signal that has no name.
func SignalName(sig unix.Signal) string {
	return cmp.Or(unix.SignalName(sig), fmt.Sprintf("SIG%d", int(sig)))
}

// SignalNumber returns the number of a signal by its name, with or without "SIG", or by its number; 0 if there is none.
func SignalNumber(name string) unix.Signal {
	var n int
	if _, err := fmt.Sscanf(name, "%d", &n); err == nil && n > 0 && n < 65 && fmt.Sprint(n) == name {
		return unix.Signal(n)
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig
	}
	return unix.SignalNum("SIG" + name)
}
