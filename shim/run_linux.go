package shim

import (
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

// place is what outlives a run: the directory, taken, and what all runs write to.
type place struct {
	dir    string
	prefix []string // arguments of this binary before its verb
	spec   Spec
	out    *output
	synced sync.WaitGroup // records on their way to the disk
	held   int            // the lock
	first  int            // the run that this shim was started for
	bench  bench

	turn     sync.Mutex
	now      *supervisor // whom a wish to stop is for
	stopping bool        // there was one: no run follows any more
}

// supervisor runs one instance once.
type supervisor struct {
	*place
	run    Running
	groups groups
	// The pipes of the program's standard output and error, and what reads them.
	write, readers [2]*os.File
	drain          *sync.WaitGroup
	before         *sync.WaitGroup // drain of the run before, whose last words come first; nil: there was none
	former         *supervisor     // of the run before, until this one has begun; nil: there was none
	standby        *standby        // that becomes the program; nil: a second stage is started for it

	program int // pidfd
	mounts  int // descriptor of the program's mount namespace

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
	left     chan struct{}  // closed when a child is left then
	replaced chan struct{}  // closed a while after the next run has begun, or when there is none
	buried   chan struct{}  // closed when every child was reaped
	done     chan struct{}  // closed when no child is left
}

func newSupervisor(p *place) *supervisor {
	return &supervisor{
		place: p, drain: new(sync.WaitGroup), program: -1, mounts: -1, waits: map[int]chan unix.WaitStatus{},
		begun: make(chan struct{}), over: make(chan struct{}), left: make(chan struct{}), replaced: make(chan struct{}), buried: make(chan struct{}), done: make(chan struct{}), deadline: make(chan time.Time, 8),
	}
}

func run(dir string, prefix []string) int {
	p := &place{dir: dir, prefix: prefix}
	s := newSupervisor(p)
	stops, permissions := make(chan os.Signal, 8), make(chan os.Signal, 8)
	signal.Notify(stops, unix.SIGTERM, Hurry)
	signal.Notify(permissions, unix.SIGUSR1)
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGPIPE)
	err := s.begin()
	if errors.Is(err, ErrBusy) {
		fmt.Println(Busy)
		return exitBusy
	}
	if err != nil {
		fmt.Println(err)
		return exitError
	}
	p.now, p.first = s, s.run.Run
	go p.listen(stops)
	go p.keepStandby(permissions)
	for {
		failure := s.live()
		next := s.successor(failure)
		if next == nil {
			close(s.replaced)
			if st := p.bench.swap(nil); st != nil {
				p.dismiss(st)
			}
			return s.end(failure)
		}
		s = next
	}
}

// live starts the program and returns when nothing of the run is left. An error is why the program does not run.
func (s *supervisor) live() error {
	failure := s.start()
	close(s.begun)
	s.keepNamespaces()
	if failure == nil {
		s.run.StartedAt = time.Now()
		if err := s.publish(); err != nil {
			s.fail("the record of the start could not be written: %v", err)
		}
	}
	if s.former != nil {
		s.former.giveUp(s.run.Before)
		s.former = nil
	}
	if failure != nil {
		return failure
	}
	if s.run.Run == s.first {
		s.tell()
	}
	go s.postStart()
	<-s.over
	s.clear()
	return nil
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
	return Publish(s.dir, RunningFile, s.run)
}

// publish writes who runs. The disk is waited for in the background: a record that a failing machine loses speaks of
// processes that it has lost too.
func (s *supervisor) publish() error {
	if err := Publish(s.dir, RunningFile, s.run); err != nil {
		return err
	}
	follows := s.former != nil
	s.synced.Go(func() {
		if follows {
			time.Sleep(tidyAfter)
		}
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
	if st := s.standby; st != nil {
		return s.follow(st)
	}
	if s.groups, err = makeGroups(RunGroups(s.spec.Cgroups, s.run.Run)); err != nil {
		return err
	}
	for i := range s.write {
		if s.readers[i], s.write[i], err = os.Pipe(); err != nil {
			return err
		}
	}
	s.read()
	result := make(chan error, 1)
	go s.parent(result)
	return <-result
}

// read begins to take what the program prints.
func (s *supervisor) read() {
	for i, stream := range []string{"stdout", "stderr"} {
		s.drain.Go(func() {
			if s.before != nil {
				s.before.Wait()
			}
			s.out.copy(s.readers[i], stream)
		})
	}
}

// follow waits until a standby that was woken has become the program. An error is why it does not run.
func (s *supervisor) follow(st *standby) error {
	s.program, s.groups, s.run.Program = st.pidfd, st.groups, st.process
	s.read()
	err := ReadFailure(st.answer)
	st.failure.Close()
	if err != nil {
		_, _ = wait(st.process.PID)
		return err
	}
	go s.reap(st.process.PID)
	return nil
}

// keepNamespaces holds the run's mount namespace until its end is written down: taking it apart would otherwise come
// before the kernel tells of the program's end.
func (s *supervisor) keepNamespaces() {
	if s.spec.Isolate && s.run.Program.PID != 0 {
		s.mounts, _ = unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", s.run.Program.PID), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
}

// parent starts the program and waits for all children, on one thread that lives as long as the program does: its end
// is what tells the kernel to kill the program.
func (s *supervisor) parent(result chan<- error) {
	runtime.LockOSThread()
	pid, err := s.spawn()
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

// spawn starts the second stage for the program and returns when it has become it.
func (s *supervisor) spawn() (int, error) {
	pid, failure, err := s.secondStage(nil)
	if err == nil {
		err = readFailure(failure)
	}
	return pid, err
}

// secondStage starts it for the program, or for a hook; readFailure waits until it has become it. With a pid it has to
// be waited for whatever the error.
func (s *supervisor) secondStage(beside *Hook) (pid int, failure *os.File, err error) {
	req := Request{Version: Version, Dir: s.dir, Run: s.run.Run, Parent: os.Getpid(), Beside: beside, Join: s.joins(beside)}
	var request *os.File
	if pid, err = s.fork(req, s.write, &request, &failure); err == nil {
		request.Close()
	}
	return pid, failure, err
}

// readFailure is ReadFailure of a pipe that nobody needs afterwards.
func readFailure(failure *os.File) error {
	defer failure.Close()
	return ReadFailure(failure)
}

// fork starts the second stage and gives it its request. What it says comes out of failure; more can be told it through
// request. With a pid it has to be waited for whatever the error.
func (p *place) fork(req Request, output [2]*os.File, request, failure **os.File) (pid int, err error) {
	b, err := json.Marshal(req)
	if err != nil {
		return 0, err
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		return 0, err
	}
	defer null.Close()
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
	defer failureW.Close()
	argv := append(append([]string{stageName}, p.prefix...), "exec")
	pid, err = syscall.ForkExec("/proc/self/exe", argv, &syscall.ProcAttr{
		Env:   []string{"GOMAXPROCS=1", "GOGC=off"},
		Files: []uintptr{null.Fd(), output[0].Fd(), output[1].Fd(), requestFD: requestR.Fd(), failureFD: failureW.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL},
	})
	if err == nil {
		if _, err = requestW.Write(b); err != nil {
			_ = unix.Kill(pid, unix.SIGKILL) // our own child, and not yet waited for
		}
	}
	if err != nil {
		requestW.Close()
		failureR.Close()
		return pid, fmt.Errorf("start the second stage: %w", err)
	}
	*request, *failure = requestW, failureR
	return pid, nil
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
