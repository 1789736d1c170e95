package shim

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// standby is the second stage of a run that may follow, made while the run before it lives: it has its namespaces, its
// mounts and its output, and waits for a word to become the program. A crash then waits for the program's own start alone.
type standby struct {
	run     int // that it is for
	process Process
	pidfd   int
	// The pipes of its standard output and error.
	write, readers [2]*os.File
	request        *os.File // a byte is the word; closed: there is nothing to become
	failure        *os.File
	answer         *bufio.Reader // of failure
	footing        string
	covered        []covered
	groups         groups // of the run that it is for; it is in them
}

// standingBy is what a second stage says when it waits.
type standingBy struct {
	Covered []covered `json:"covered,omitempty"`
}

// covered is a directory of the machine that a skeleton shows, as it was when its entries were read.
type covered struct {
	Path     string `json:"path"`
	Device   uint64 `json:"device"`
	Inode    uint64 `json:"inode"`
	Modified int64  `json:"modified"` // ns since 1970
}

const (
	// standbyAfter is how long after the permission a standby is made: until then the machine belongs to what starts.
	standbyAfter = 500 * time.Millisecond
	// beginLimit bounds how long a standby that was woken has the processor to itself: records wait for it no longer.
	beginLimit = 20 * time.Millisecond
	// dismissLimit bounds how long is waited for the end of a standby that was killed.
	dismissLimit = time.Second
)

// bench is where standbys wait. They are children of this process, and no part of the run that lives.
type bench struct {
	mu      sync.Mutex
	now     *standby
	sitting map[int]bool // pids of all that were made and neither woken nor dismissed
}

func (b *bench) sit(pid int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sitting == nil {
		b.sitting = map[int]bool{}
	}
	b.sitting[pid] = true
}

func (b *bench) leave(pid int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sitting, pid)
}

func (b *bench) has(pid int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sitting[pid]
}

func (b *bench) empty() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.sitting) == 0
}

// swap puts another standby in the place of the one that is ready, which is returned.
func (b *bench) swap(next *standby) *standby {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.now
	b.now = next
	return before
}

// keepStandby makes and dismisses standbys as AgainFile says, each time that somebody says that it has changed. They are
// children of one thread that lives as long as this process does: its end is what tells the kernel to kill them.
func (p *place) keepStandby(changes <-chan os.Signal) {
	runtime.LockOSThread()
	for range changes {
		time.Sleep(standbyAfter)
		for len(changes) > 0 {
			<-changes
		}
		if err := p.renewStandby(); err != nil {
			fmt.Fprintln(os.Stderr, "make a standby:", err)
		}
	}
}

// renewStandby has a standby where the present run may be followed by another one, and none elsewhere.
func (p *place) renewStandby() error {
	p.turn.Lock()
	s, stopping := p.now, p.stopping
	p.turn.Unlock()
	again, err := ReadAgain(p.dir)
	wanted := err == nil && again.Run == s.run.Run && !stopping
	st := p.bench.swap(nil)
	if st != nil && (!wanted || st.run != again.Run+1 || !st.stands(p.spec)) {
		p.dismiss(st)
		st = nil
	}
	if !wanted {
		return nil
	}
	if st == nil {
		if st, err = p.makeStandby(again.Run + 1); err != nil {
			return err
		}
		if !st.stands(p.spec) { // what it shows was replaced meanwhile
			p.dismiss(st)
			return nil
		}
	}
	p.turn.Lock()
	over := p.stopping || p.now != s || !s.isRunning()
	if !over {
		p.bench.swap(st)
	}
	p.turn.Unlock()
	if over {
		p.dismiss(st)
	}
	return nil
}

// makeStandby starts a second stage and returns when it waits.
func (p *place) makeStandby(run int) (*standby, error) {
	st := &standby{run: run, pidfd: -1, footing: footing(p.spec)}
	if err := p.seat(st); err != nil {
		p.dismiss(st)
		return nil, err
	}
	return st, nil
}

func (p *place) seat(st *standby) (err error) {
	for i := range st.write {
		if st.readers[i], st.write[i], err = os.Pipe(); err != nil {
			return err
		}
	}
	req := Request{Version: Version, Dir: p.dir, Run: st.run, Parent: os.Getpid(), Standby: true}
	pid, err := p.fork(req, st.write, &st.request, &st.failure)
	if pid > 0 {
		p.bench.sit(pid)
		st.process.PID = pid
	}
	if err != nil {
		return err
	}
	if st.pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
		return err
	}
	if st.process, err = Identify(pid); err != nil {
		return err
	}
	if mine, _, err := children(os.Getpid()); err != nil || !slices.Contains(mine, pid) {
		return fmt.Errorf("it could not be told from the program's processes: %w", err)
	}
	st.answer = bufio.NewReader(st.failure)
	line, err := st.answer.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("the second stage ended: %s", line)
	}
	var said standingBy
	if err := json.Unmarshal(line, &said); err != nil {
		return err
	}
	st.covered = said.Covered
	// Entering a control group waits for every processor, which a crash should not. What it took to come here is not counted.
	if st.groups, err = makeGroups(RunGroups(p.spec.Cgroups, st.run)); err != nil {
		return err
	}
	return st.groups.take(pid)
}

// stands says whether somebody still waits, in a view that would be the same if it were made now.
func (st *standby) stands(spec Spec) bool {
	if ended(st.pidfd, 0) {
		return false
	}
	for _, was := range st.covered {
		var now unix.Stat_t
		if unix.Lstat(was.Path, &now) != nil || cover(was.Path, now) != was {
			return false
		}
	}
	return footing(spec) == st.footing
}

// wake lets it become the program; how that went is in its answer.
func (p *place) wake(st *standby) error {
	_, err := st.request.Write([]byte{'\n'})
	if err == nil {
		st.request.Close()
		p.bench.leave(st.process.PID)
	}
	return err
}

// begins waits a little for it to become the program, and says whether it has.
func (st *standby) begins() bool {
	if err := st.failure.SetReadDeadline(time.Now().Add(beginLimit)); err != nil {
		return false
	}
	_, err := st.answer.Peek(1)
	_ = st.failure.SetReadDeadline(time.Time{})
	return errors.Is(err, io.EOF)
}

// dismiss ends it, and leaves nothing of it.
func (p *place) dismiss(st *standby) {
	if pid := st.process.PID; pid > 0 {
		// Our own child: its pid stays its own until it is waited for here, or by who waits for all.
		if st.pidfd >= 0 {
			_ = unix.PidfdSendSignal(st.pidfd, unix.SIGKILL, nil, 0)
			ended(st.pidfd, dismissLimit)
			_ = unix.Waitid(unix.P_PIDFD, st.pidfd, nil, unix.WEXITED|unix.WNOHANG, nil)
			unix.Close(st.pidfd)
		}
		p.bench.leave(pid)
	}
	for _, f := range slices.Concat([]*os.File{st.request, st.failure}, st.write[:], st.readers[:]) {
		if f != nil {
			f.Close()
		}
	}
	p.turn.Lock()
	defer p.turn.Unlock()
	if p.now.run.Run < st.run { // else they are those of the run that goes on
		st.groups.remove()
	}
}

// ended says whether the process of a pidfd has ended, and waits for that no longer than limit.
func ended(pidfd int, limit time.Duration) bool {
	for deadline := time.Now().Add(limit); ; {
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(max(time.Until(deadline), 0).Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// called returns the standby of a run, awake, or nil where there is none that would do.
func (p *place) called(run int) *standby {
	st := p.bench.swap(nil)
	if st == nil {
		return nil
	}
	err := errors.New("it is another run's, or shows what is no more")
	if st.run == run && st.stands(p.spec) {
		err = p.wake(st)
	}
	if err != nil { // whatever it is, a new second stage meets it too, or does better
		p.dismiss(st)
		return nil
	}
	return st
}

// footing is what an instance's view rests on: which files and directories it shows, as they are now.
func footing(spec Spec) string {
	var b strings.Builder
	for _, m := range spec.Mounts {
		if m.Kind != Tmpfs {
			var st unix.Stat_t
			err := unix.Stat(filepath.Join(m.Source, m.Subpath), &st)
			fmt.Fprintf(&b, "%d:%d:%v ", st.Dev, st.Ino, err)
		}
	}
	for _, f := range spec.Files { // their content is copied
		var st unix.Stat_t
		err := unix.Stat(f.Source, &st)
		fmt.Fprintf(&b, "%d:%d:%d:%d:%v ", st.Dev, st.Ino, st.Size, st.Mtim.Nano(), err)
	}
	return b.String()
}

func cover(path string, st unix.Stat_t) covered {
	return covered{Path: path, Device: st.Dev, Inode: st.Ino, Modified: st.Mtim.Nano()}
}

// standBy waits, in the second stage, until there is something to become. Where nothing is it does not return.
func standBy(request io.Reader, said standingBy) error {
	b, err := json.Marshal(said)
	if err != nil {
		return err
	}
	if _, err := unix.Write(failureFD, append(b, '\n')); err != nil {
		return fmt.Errorf("say that it waits: %w", err)
	}
	if _, err := io.ReadFull(request, make([]byte, 1)); err != nil {
		os.Exit(exitDone) // nobody calls any more
	}
	return nil
}

// alone says whether nothing is left below this process but standbys, and a program that has ended.
func (p *place) alone(program int) bool {
	if p.bench.empty() {
		return false // waiting for children says so
	}
	mine, _, err := children(os.Getpid())
	return err == nil && !slices.ContainsFunc(mine, func(pid int) bool { return pid != program && !p.bench.has(pid) })
}
