package shim

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// supervisor runs one instance once.
type supervisor struct {
	dir    string
	prefix []string // arguments of this binary before its verb
	spec   Spec
	run    Running
	out    *output
	groups groups
	// The pipes of the program's standard output and error, and what reads them.
	write, readers [2]*os.File
	drain          sync.WaitGroup
	synced         sync.WaitGroup // records on their way to the disk

	held    int // the lock
	program int // pidfd

	mu      sync.Mutex
	waits   map[int]chan unix.WaitStatus // children that somebody waits for
	ended   bool                         // the program was reaped: nothing is started any more
	asked   bool
	killed  bool // by this shim
	trouble string
	status  unix.WaitStatus

	begun    chan struct{}  // closed when program is known, or never will be
	over     chan struct{}  // closed when the program was reaped
	deadline chan time.Time // of a stop, again for each wish
	done     chan struct{}  // closed when no child is left
}

func run(dir string, prefix []string) int {
	s := &supervisor{
		dir: dir, prefix: prefix, program: -1, waits: map[int]chan unix.WaitStatus{},
		begun: make(chan struct{}), over: make(chan struct{}), done: make(chan struct{}), deadline: make(chan time.Time, 8),
	}
	stops := make(chan os.Signal, 8)
	signal.Notify(stops, unix.SIGTERM)
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGPIPE, unix.SIGUSR1, unix.SIGUSR2)
	err := s.begin()
	if errors.Is(err, ErrBusy) {
		fmt.Println(Busy)
		return exitBusy
	}
	if err != nil {
		fmt.Println(err)
		return exitError
	}
	go s.listen(stops)
	failure := s.start()
	close(s.begun)
	s.keepNamespaces()
	if failure == nil {
		s.run.StartedAt = time.Now()
	}
	if failure == nil {
		if err := s.publish(); err != nil {
			s.fail("the record of the start could not be written: %v", err)
		}
		s.tell()
		go s.postStart()
		<-s.over
		s.clear()
	}
	return s.end(failure)
}

// begin takes the directory and writes the first record. Nothing of the instance runs yet.
func (s *supervisor) begin() error {
	if err := os.Chdir("/"); err != nil {
		return err
	}
	_, _ = unix.Setsid() // already done by most starters
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	if err := s.lock(); err != nil {
		return err
	}
	spec, err := ReadSpec(s.dir)
	if err != nil {
		return err
	}
	boot, err := BootID()
	if err != nil {
		return err
	}
	self, err := Identify(os.Getpid())
	if err != nil {
		return err
	}
	s.spec = spec
	s.run = Running{Version: Version, ID: spec.ID, Run: 1, Shim: self, BootID: boot, StartedAt: time.Now()}
	// The number of a run is never used twice, whatever became of the records of the one before.
	if before, err := ReadRunning(s.dir); err == nil {
		s.run.Run = before.Run + 1
	}
	if exit, err := ReadExit(s.dir); err == nil {
		s.run.Run = max(s.run.Run, exit.Run+1)
	}
	if s.out, err = openOutput(s.dir, spec.Log); err != nil {
		return err
	}
	return publish(s.dir, RunningFile, s.run)
}

// publish writes who runs. The disk is waited for in the background: a record that a failing machine loses speaks of
// processes that it has lost too.
func (s *supervisor) publish() error {
	if err := publish(s.dir, RunningFile, s.run); err != nil {
		return err
	}
	s.synced.Go(func() {
		if err := persist(s.dir, RunningFile); err != nil {
			fmt.Fprintln(os.Stderr, "make the record of the start durable:", err)
		}
	})
	return nil
}

// lockFD is where a starter passes the directory's lock, so that the directory is taken before there is a shim.
const lockFD = 3

// lock takes the directory for as long as this process lives: it was passed, or is taken here.
func (s *supervisor) lock() error {
	path := filepath.Join(s.dir, LockFile)
	var passed, there unix.Stat_t
	if unix.Fstat(lockFD, &passed) == nil && unix.Stat(path, &there) == nil && passed.Ino == there.Ino && passed.Dev == there.Dev {
		unix.CloseOnExec(lockFD)
		s.held = lockFD
		closeInherited()
		return unix.Flock(lockFD, unix.LOCK_EX|unix.LOCK_NB)
	}
	closeInherited()
	fd, err := Lock(s.dir)
	s.held = fd
	return err
}

// closeInherited closes what the starter should not have left open: only descriptors of this process close on exec.
func closeInherited() {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range names {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
}

// tell answers the one who started this shim, and lets go of it.
func (s *supervisor) tell() {
	_, _ = os.Stdout.WriteString(Started + "\n")
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		_ = unix.Dup3(null, 1, 0)
		_ = unix.Close(null)
	}
}

// start starts the program. An error is why it does not run.
func (s *supervisor) start() error {
	var err error
	if s.groups, err = makeGroups(RunGroups(s.spec.Cgroups, s.run.Run)); err != nil {
		return err
	}
	var read [2]*os.File
	for i := range read {
		if read[i], s.write[i], err = os.Pipe(); err != nil {
			return err
		}
	}
	s.readers = read
	for i, stream := range []string{"stdout", "stderr"} {
		s.drain.Go(func() { s.out.copy(read[i], stream) })
	}
	result := make(chan error, 1)
	go s.parent(result)
	return <-result
}

// keepNamespaces holds the instance's mount namespace until this process ends: taking it apart would otherwise come
// before the kernel tells of the program's end.
func (s *supervisor) keepNamespaces() {
	if s.spec.Isolate && s.run.Program.PID != 0 {
		_, _ = unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", s.run.Program.PID), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
}

// parent starts the program and waits for all children, on one thread that lives as long as the program does: its end
// is what tells the kernel to kill the program.
func (s *supervisor) parent(result chan<- error) {
	runtime.LockOSThread()
	pid, err := s.spawn(nil)
	if pid > 0 {
		if p, e := Identify(pid); e == nil {
			s.run.Program = p
		}
		var e error
		if s.program, e = unix.PidfdOpen(pid, 0); e != nil && err == nil {
			err = fmt.Errorf("pidfd of the program: %w", e)
			_ = unix.Kill(pid, unix.SIGKILL) // our own child, and not yet waited for
		}
	}
	if err != nil && pid > 0 {
		_, _ = wait(pid)
	}
	result <- err
	if err != nil {
		return
	}
	s.reap(pid)
}

// spawn starts the second stage for the program, or for a hook, and returns when it has become it.
func (s *supervisor) spawn(beside *Hook) (int, error) {
	req, err := json.Marshal(Request{Version: Version, Dir: s.dir, Run: s.run.Run, Parent: os.Getpid(), Beside: beside, Join: s.joins(beside)})
	if err != nil {
		return 0, err
	}
	requestR, requestW, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer requestR.Close()
	failureR, failureW, err := os.Pipe()
	if err != nil {
		requestW.Close()
		return 0, err
	}
	defer failureR.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		requestW.Close()
		failureW.Close()
		return 0, err
	}
	defer null.Close()
	argv := append(append([]string{"trellis-shim"}, s.prefix...), "exec")
	pid, err := syscall.ForkExec("/proc/self/exe", argv, &syscall.ProcAttr{
		Env:   []string{"GOMAXPROCS=1", "GOGC=off"},
		Files: []uintptr{null.Fd(), s.write[0].Fd(), s.write[1].Fd(), requestFD: requestR.Fd(), failureFD: failureW.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL},
	})
	failureW.Close()
	if err != nil {
		requestW.Close()
		return 0, fmt.Errorf("start the second stage: %w", err)
	}
	_, err = requestW.Write(req)
	requestW.Close()
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL) // our own child, and not yet waited for
		return pid, fmt.Errorf("start the second stage: %w", err)
	}
	return pid, ReadFailure(failureR)
}

func (s *supervisor) joins(beside *Hook) Process {
	if beside == nil {
		return Process{}
	}
	return s.run.Program
}

func wait(pid int) (unix.WaitStatus, error) {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &ws, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			return ws, err
		}
	}
}

// reap waits for every child, the program's orphans among them, until the program has ended and nothing is left.
func (s *supervisor) reap(program int) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil: // ECHILD
			s.mu.Lock()
			ended := s.ended
			s.mu.Unlock()
			if ended {
				close(s.done)
				return
			}
			time.Sleep(time.Millisecond) // a hook is about to be started
		case pid == program:
			s.mu.Lock()
			s.status, s.ended = ws, true
			s.mu.Unlock()
			close(s.over)
		default:
			s.mu.Lock()
			if c, ok := s.waits[pid]; ok {
				c <- ws
				delete(s.waits, pid)
			}
			s.mu.Unlock()
		}
	}
}

// end writes down how it went.
func (s *supervisor) end(failure error) int {
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
	exit := s.exit(failure)
	if failure != nil {
		s.out.say("could not be started: %v", failure)
	}
	s.out.close()
	err := publish(s.dir, ExitFile, exit)
	if failure != nil {
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

func (s *supervisor) exit(failure error) Exit {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := Exit{
		Version: Version, ID: s.spec.ID, Run: s.run.Run, PID: s.run.Program.PID, StartTime: s.run.Program.StartTime,
		BootID: s.run.BootID, Time: time.Now(), Asked: s.asked, Error: s.trouble,
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
