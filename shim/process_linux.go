package shim

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrGone says that a process is no more.
var ErrGone = errors.New("process is gone")

// Stat is what /proc/PID/stat says, as far as it is needed.
type Stat struct {
	PID, Parent, Group, Session int
	State                       byte
	// CPU time in clock ticks: the process's own, and that of the children it has waited for.
	Ticks, ChildTicks uint64
	StartTime         uint64
	ResidentPages     int64
}

// ParseStat reads the content of /proc/PID/stat. The name of the program, in the second field, may hold anything.
func ParseStat(b []byte) (Stat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return Stat{}, errors.New("stat: no name")
	}
	fields := strings.Fields(string(b[end+1:]))
	if len(fields) < 22 || len(fields[0]) != 1 || fields[0][0] < 'A' {
		return Stat{}, fmt.Errorf("stat: %d fields, or no state", len(fields))
	}
	var err error
	number := func(text string) int64 {
		n, e := strconv.ParseInt(text, 10, 64)
		if e != nil && err == nil {
			err = fmt.Errorf("stat: %w", e)
		}
		return n
	}
	count := func(text string) uint64 {
		n, e := strconv.ParseUint(text, 10, 64)
		if e != nil && err == nil {
			err = fmt.Errorf("stat: %w", e)
		}
		return n
	}
	s := Stat{
		PID:    int(number(strings.TrimSpace(string(b[:open])))),
		State:  fields[0][0],
		Parent: int(number(fields[1])), Group: int(number(fields[2])), Session: int(number(fields[3])),
		Ticks: count(fields[11]) + count(fields[12]), ChildTicks: count(fields[13]) + count(fields[14]),
		StartTime: count(fields[19]), ResidentPages: number(fields[21]),
	}
	return s, err
}

// ReadStat reads /proc/PID/stat. No such process: ErrGone.
func ReadStat(pid int) (Stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return Stat{}, ErrGone
	}
	if err != nil {
		return Stat{}, err
	}
	return ParseStat(b)
}

// IsStage says whether a process is a second stage that has not become anything yet.
func (s Stat) IsStage() bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(s.PID) + "/cmdline")
	return err == nil && bytes.HasPrefix(b, []byte(stageName+"\x00"))
}

// Identify returns the process that has pid now. None, or a zombie: ErrGone.
func Identify(pid int) (Process, error) {
	s, err := ReadStat(pid)
	if err != nil {
		return Process{}, err
	}
	if s.ended() {
		return Process{}, ErrGone
	}
	return Process{PID: pid, StartTime: s.StartTime}, nil
}

func (s Stat) ended() bool { return s.State == 'Z' || s.State == 'X' || s.State == 'x' }

// Alive says whether p runs: its pid has the same start time and is not a zombie. It does not look at the boot.
func (p Process) Alive() bool {
	if p.PID < 1 {
		return false
	}
	now, err := Identify(p.PID)
	return err == nil && now == p
}

// Open returns a pidfd of p. It is p and nobody else, or ErrGone.
func (p Process) Open() (int, error) {
	if p.PID < 1 {
		return -1, ErrGone
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, ErrGone
	}
	if err != nil {
		return -1, fmt.Errorf("pidfd of %d: %w", p.PID, err)
	}
	// The descriptor is held: from here on the pid cannot come to name another process unseen.
	if !p.Alive() {
		unix.Close(fd)
		return -1, ErrGone
	}
	return fd, nil
}

// Signal sends sig to p, never to another process. p has ended: ErrGone.
func (p Process) Signal(sig unix.Signal) error {
	fd, err := p.Open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.PidfdSendSignal(fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return ErrGone
	}
	return err
}

// BootID returns the name of the machine's present run.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(b)), nil
}

// Held says whether a shim lives in dir: it keeps a lock for as long as it does, whatever ends it.
func Held(dir string) (bool, error) {
	fd, err := unix.Open(filepath.Join(dir, LockFile), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open lock of %s: %w", dir, err)
	}
	defer unix.Close(fd)
	err = unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// ErrBusy says that a directory has a shim, or is about to have one.
var ErrBusy = errors.New("another shim has this directory")

// Lock takes dir for a shim and returns the descriptor that holds it. Taken: ErrBusy, also for the moment in which
// somebody looks whether it is.
func Lock(dir string) (int, error) {
	fd, err := unix.Open(filepath.Join(dir, LockFile), unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return -1, fmt.Errorf("open lock of %s: %w", dir, err)
	}
	err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrBusy
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Processes calls f for every process of the machine until f returns false.
func Processes(f func(Stat) bool) error {
	d, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if s, err := ReadStat(pid); err == nil && !f(s) {
			return nil
		}
	}
	return nil
}

// Descendants returns the live processes below pid, parents before children. It asks the kernel for each thread's children,
// so that it costs what the tree has and not what the machine has, and looks through the whole machine where the kernel
// keeps no such list, or where a process has ended meanwhile: another one can then be missing from the lists
// (proc_pid_task_children(5)).
func Descendants(pid int) ([]Stat, error) {
	if all, ok := descendants(pid); ok {
		return all, nil
	}
	return descendantsOfAll(pid)
}

// descendants returns false where the lists cannot be relied on.
func descendants(pid int) ([]Stat, bool) {
	var all []Stat
	for todo := []int{pid}; len(todo) > 0; todo = todo[1:] {
		below, sure, err := children(todo[0])
		if err != nil || !sure {
			return nil, false
		}
		for _, child := range below {
			s, err := ReadStat(child)
			if err != nil {
				return nil, false
			}
			todo = append(todo, child)
			if !s.ended() {
				all = append(all, s)
			}
		}
	}
	return all, true
}

// children returns the children of a process's threads, with those that have ended and were not waited for. It is not sure
// of all of them where a thread has ended meanwhile, whose children are another one's now.
func children(pid int) (all []int, sure bool, err error) {
	tasks := "/proc/" + strconv.Itoa(pid) + "/task/"
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return nil, false, err
	}
	sure = true
	for _, t := range threads {
		b, err := readProc(tasks + t.Name() + "/children")
		if missing(err) {
			if _, err := os.Stat(tasks + t.Name()); missing(err) {
				sure = false
				continue
			}
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return nil, false, err
		}
		sure = sure && err == nil
		for word := range strings.FieldsSeq(string(b)) {
			if child, err := strconv.Atoi(word); err == nil {
				all = append(all, child)
			}
		}
	}
	return all, sure, nil
}

// readProc reads a file of /proc with as few calls as that takes: whoever looks for children does so on the way from a crash to
// the next run.
func readProc(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var all []byte
	buf := make([]byte, 512)
	for {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n <= 0 || err != nil {
			return all, err
		}
		all = append(all, buf[:n]...)
	}
}

// descendantsOfAll finds them among all processes of the machine.
func descendantsOfAll(pid int) ([]Stat, error) {
	byParent := map[int][]Stat{}
	err := Processes(func(s Stat) bool {
		byParent[s.Parent] = append(byParent[s.Parent], s)
		return true
	})
	if err != nil {
		return nil, err
	}
	var all []Stat
	seen := map[int]bool{pid: true}
	for todo := []int{pid}; len(todo) > 0; todo = todo[1:] {
		for _, s := range byParent[todo[0]] {
			if seen[s.PID] {
				continue
			}
			seen[s.PID] = true
			todo = append(todo, s.PID)
			if !s.ended() {
				all = append(all, s)
			}
		}
	}
	return all, nil
}
