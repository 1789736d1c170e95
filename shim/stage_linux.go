package shim

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The descriptors of the second stage beside standard input, output and error: the Request to read, and where a
// failure is written, empty when the program runs.
const (
	requestFD = 3
	failureFD = 4
)

// stageName is how a second stage calls itself until it has become the program.
const stageName = "trellis-shim"

// Request tells the second stage, `exec`, what to become.
type Request struct {
	Version int    `json:"version"`
	Dir     string `json:"dir"` // instance directory
	Run     int    `json:"run"`
	// Parent is the process that has to live for the program to live; 0 lets it go on alone.
	Parent int `json:"parent"`
	// Join is the program whose namespaces are entered; zero makes them.
	Join Process `json:"join,omitzero"`
	// Beside replaces the instance's command.
	Beside *Hook `json:"beside,omitempty"`
	// Standby waits for a word before it becomes the program, with everything made that it needs.
	Standby bool `json:"standby,omitempty"`
}

// Failure is what the second stage could not do.
type Failure struct {
	Code    int    `json:"code"` // as shells have it: 127 not found, 126 not executable or anything else
	Message string `json:"message"`
}

// Error returns the message.
func (f Failure) Error() string { return f.Message }

// ReadFailure reads what a second stage wrote on its failure pipe: nil if it became the program.
func ReadFailure(r io.Reader) error {
	b, err := io.ReadAll(io.LimitReader(r, 64<<10))
	if err != nil {
		return err
	}
	if len(b) == 0 {
		return nil
	}
	var f Failure
	if err := json.Unmarshal(b, &f); err != nil {
		return Failure{Code: 126, Message: "the second stage ended with " + strconv.Quote(string(b))}
	}
	return f
}

// stage is `exec`: it returns only when it fails.
func stage() int {
	runtime.LockOSThread()
	unix.CloseOnExec(failureFD)
	err := enterAndExec()
	f := Failure{Code: 126, Message: err.Error()}
	if errors.Is(err, unix.ENOENT) {
		f.Code = 127
	}
	var own Failure
	if errors.As(err, &own) {
		f = own
	}
	b, _ := json.Marshal(f)
	_, _ = unix.Write(failureFD, b)
	return 125
}

func enterAndExec() error {
	var req Request
	request := os.NewFile(requestFD, "request")
	if err := json.NewDecoder(request).Decode(&req); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	spec, err := ReadSpec(req.Dir)
	if err != nil {
		return err
	}
	enter := func() error { return nil } // a standby is moved, by who made it
	if !req.Standby {
		if enter, err = openGroups(RunGroups(spec.Cgroups, req.Run)); err != nil {
			return err
		}
	}
	if spec.OomScore != 0 {
		if err := writeFile("/proc/self/oom_score_adj", strconv.Itoa(spec.OomScore)); err != nil {
			return fmt.Errorf("set oom_score_adj to %d: %w", spec.OomScore, err)
		}
	}
	var shown []covered
	if req.Join.PID != 0 {
		err = join(spec, req.Join)
	} else {
		shown, err = isolate(spec, req.Dir)
	}
	if err == nil && req.Standby {
		err = standBy(request, standingBy{Covered: shown})
	}
	if err != nil {
		return err
	}
	env, dir := spec.Env, spec.Dir
	command, user := spec.Command, spec.User
	if h := req.Beside; h != nil {
		command, env = h.Command, merge(env, h.Env)
		if h.Dir != "" {
			dir = h.Dir
		}
		if h.User != "" {
			user = h.User
		}
	}
	// Late, so that a low limit on processes or memory does not hit what goes before.
	if err := enter(); err != nil {
		return err
	}
	return execute(spec, req, command, env, dir, user)
}

// join enters the namespaces of a program that runs.
func join(spec Spec, p Process) error {
	fd, err := p.Open()
	if err != nil {
		return fmt.Errorf("join process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if !spec.Isolate && spec.Netns == "" {
		return nil
	}
	var spaces []int
	open := func(path string) error {
		ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			spaces = append(spaces, ns)
		}
		return err
	}
	proc := fmt.Sprintf("/proc/%d/ns/", p.PID)
	if spec.Netns != "" {
		err = open(spec.Netns)
	}
	if spec.Isolate && err == nil {
		if err = open(proc + "uts"); err == nil {
			err = open(proc + "mnt")
		}
	}
	if err != nil {
		return fmt.Errorf("join process %d: %w", p.PID, err)
	}
	if !p.Alive() { // then what was opened may be another's
		return fmt.Errorf("join process %d: %w", p.PID, ErrGone)
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	for _, ns := range spaces {
		if err := unix.Setns(ns, 0); err != nil {
			return fmt.Errorf("join namespace of process %d: %w", p.PID, err)
		}
		unix.Close(ns)
	}
	return nil
}

// isolate makes the instance's own view of the machine, and says which directories of the machine are shown by skeletons.
func isolate(spec Spec, dir string) ([]covered, error) {
	if spec.Netns != "" {
		ns, err := unix.Open(spec.Netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open network namespace %s: %w", spec.Netns, err)
		}
		err = unix.Setns(ns, unix.CLONE_NEWNET)
		unix.Close(ns)
		if err != nil {
			return nil, fmt.Errorf("enter network namespace %s: %w", spec.Netns, err)
		}
		if err := setSysctls(spec.Sysctls); err != nil {
			return nil, err
		}
	}
	if !spec.Isolate {
		return nil, nil
	}
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return nil, fmt.Errorf("make namespaces: %w", err)
	}
	if spec.Hostname != "" {
		if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
			return nil, fmt.Errorf("set hostname %q: %w", spec.Hostname, err)
		}
	}
	return mountAll(spec, dir)
}

// execute drops privileges and becomes the program.
func execute(spec Spec, req Request, command, env []string, dir, user string) error {
	who := account{uid: os.Geteuid(), gid: os.Getegid()}
	var err error
	switch {
	case user != "":
		who, err = lookup(user, spec.GroupAdd)
	case spec.Confine:
		who, err = lookup(strconv.Itoa(who.uid), spec.GroupAdd)
	default:
		who.home = homeOf(who.uid)
	}
	if err != nil {
		return err
	}
	env = withDefaults(env, who.home)
	if err := setUlimits(spec.Ulimits); err != nil {
		return err
	}
	unix.Umask(0o022)
	if dir == "" {
		dir = "/"
	}
	// Before privileges go: a revision's files lie below directories that only their owner may enter.
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("change to directory %s: %w", dir, err)
	}
	if spec.Confine {
		set, err := keep(spec)
		if err != nil {
			return err
		}
		own(who, 1, 2)
		if err := confine(who, set); err != nil {
			return err
		}
	}
	path, err := findProgram(command[0], env, dir)
	if err != nil {
		return err
	}
	if spec.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("set no_new_privs: %w", err)
		}
	}
	if req.Parent != 0 { // again: a change of user has cleared it
		if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
			return fmt.Errorf("set the signal at the parent's end: %w", err)
		}
		if os.Getppid() != req.Parent {
			return errors.New("the parent is gone")
		}
	}
	// The shim's own, which it has from whoever started it, would be inherited.
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(cmp.Or(spec.TimerSlack, kernelSlack)), 0, 0, 0); err != nil {
		return fmt.Errorf("set the timer slack: %w", err)
	}
	defaultSignals()
	_ = unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	if err := unix.Exec(path, command, env); err != nil {
		return fmt.Errorf("exec %s: %w", path, err)
	}
	return nil
}

// kernelSlack is the timer slack that the kernel gives its first process.
const kernelSlack = 50 * time.Microsecond

// own gives standard output and error to the program's user, who may open them again as /dev/stdout.
func own(who account, fds ...int) {
	for _, fd := range fds {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO {
			_ = unix.Fchown(fd, who.uid, who.gid)
		}
	}
}

func homeOf(uid int) string {
	a, err := lookup(strconv.Itoa(uid), nil)
	if err != nil {
		return "/"
	}
	return a.home
}

// merge returns env with more in it; the last of a name counts.
func merge(env, more []string) []string {
	out := slices.Clone(env)
	for _, kv := range more {
		name, _, _ := strings.Cut(kv, "=")
		out = slices.DeleteFunc(out, func(have string) bool { return strings.HasPrefix(have, name+"=") })
		out = append(out, kv)
	}
	return out
}

func withDefaults(env []string, home string) []string {
	if _, ok := value(env, "PATH"); !ok {
		env = append(slices.Clone(env), "PATH="+DefaultPath)
	}
	if _, ok := value(env, "HOME"); !ok {
		env = append(slices.Clone(env), "HOME="+home)
	}
	return env
}

func value(env []string, name string) (string, bool) {
	for i := len(env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(env[i], name+"="); ok {
			return v, true
		}
	}
	return "", false
}

// findProgram returns the path of a program: as it is where it has a slash, else from PATH, else from dir.
func findProgram(name string, env []string, dir string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path, _ := value(env, "PATH")
	denied := false
	for _, d := range append(filepath.SplitList(path), ".") {
		file := filepath.Join(d, name)
		if !filepath.IsAbs(file) { // from the directory of the program, which is the present one
			file = "./" + file
		}
		var st unix.Stat_t
		if unix.Stat(file, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		if unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS) == nil {
			return file, nil
		}
		denied = true
	}
	if denied {
		return "", Failure{Code: 126, Message: fmt.Sprintf("exec %s: permission denied", name)}
	}
	return "", Failure{Code: 127, Message: fmt.Sprintf("exec %s: not found, neither in %s nor in the %d folders of PATH: install it, or name its file", name, dir, len(filepath.SplitList(path)))}
}

// defaultSignals undoes what the shim's own starters ignored: nohup, or a shell's background job.
func defaultSignals() {
	var action struct {
		handler, flags, restorer uintptr
		mask                     uint64
	}
	const ignore = 1 // SIG_IGN
	for sig := 1; sig <= 64; sig++ {
		old := action
		_, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), 0, uintptr(unsafe.Pointer(&old)), 8, 0, 0)
		if e == 0 && old.handler == ignore {
			_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
		}
	}
}

func writeFile(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
