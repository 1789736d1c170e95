package shim

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// successor is the run that follows at once where that is allowed, nil if this one is the last. The end of this run is
// visible before anything of the next one is; the disk is waited for in the background.
func (s *supervisor) successor(failure error) *supervisor {
	if failure != nil {
		return nil
	}
	again, err := ReadAgain(s.dir)
	if err != nil || again.Run != s.run.Run {
		return nil
	}
	exit := s.exit(nil)
	if exit.Asked || exit.Error != "" || exit.Code == 0 && !again.Always {
		return nil
	}
	next := newSupervisor(s.place)
	next.former, next.before = s, s.drain
	exit.Before = nil
	next.run = s.run
	next.run.Run, next.run.Program, next.run.StartedAt, next.run.Before = s.run.Run+1, Process{}, exit.Time, &exit
	if !s.giveWay(next) {
		return nil
	}
	if st := s.called(next.run.Run); st != nil {
		next.standby, next.write, next.readers = st, st.write, st.readers
		if st.begins() {
			return next // and is written down as what runs
		}
	}
	if err := Publish(s.dir, RunningFile, next.run); err != nil {
		fmt.Fprintln(os.Stderr, "write the next run:", err)
	}
	return next
}

// giveUp lets go of a run that another one has followed, and writes down how it ended. The number of the next run is written
// before: who looks in between sees an instance that runs, or starts, not one that has ended.
func (s *supervisor) giveUp(exit *Exit) {
	if err := Publish(s.dir, ExitFile, exit); err != nil {
		fmt.Fprintln(os.Stderr, "write the exit:", err)
	}
	s.synced.Go(func() {
		time.Sleep(tidyAfter)
		close(s.replaced)
		s.drained()
		unix.Close(s.mounts)
		unix.Close(s.program)
		if err := persist(s.dir, ExitFile); err != nil {
			fmt.Fprintln(os.Stderr, "make the record of the exit durable:", err)
		}
		s.groups.remove()
	})
}

// tidyAfter is how long after the start of a run that followed at once the one before is reaped, and what was written is made
// durable: until then the processors belong to what starts.
const tidyAfter = 25 * time.Millisecond

// giveWay makes next the run that a wish to stop is for; it says whether there was none before.
func (s *supervisor) giveWay(next *supervisor) bool {
	s.turn.Lock()
	defer s.turn.Unlock()
	if s.stopping {
		return false
	}
	s.now = next
	return true
}
