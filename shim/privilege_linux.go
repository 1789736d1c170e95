package shim

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// capabilities are the kernel's, by number.
var capabilities = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// defaultCapabilities are those that container engines leave to a program: moby's profiles/seccomp and
// oci/caps/defaults.go.
const defaultCapabilities uint64 = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FSETID |
	1<<unix.CAP_FOWNER | 1<<unix.CAP_MKNOD | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID |
	1<<unix.CAP_SETFCAP | 1<<unix.CAP_SETPCAP | 1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_SYS_CHROOT |
	1<<unix.CAP_KILL | 1<<unix.CAP_AUDIT_WRITE

// allCapabilities has every capability this package knows.
const allCapabilities uint64 = 1<<len(capabilities) - 1

// Capability returns the number of a capability by its name, with or without "CAP_"; ALL is -1.
func Capability(name string) (int, error) {
	short := strings.TrimPrefix(strings.ToUpper(name), "CAP_")
	if short == "ALL" {
		return -1, nil
	}
	for i, known := range capabilities {
		if known == short {
			return i, nil
		}
	}
	return 0, fmt.Errorf("capability %q is not known", name)
}

// keep returns the capabilities a program may have.
func keep(s Spec) (uint64, error) {
	set := defaultCapabilities
	if s.Privileged {
		return allCapabilities, nil
	}
	change := func(names []string, apply func(uint64)) error {
		for _, name := range names {
			n, err := Capability(name)
			switch {
			case err != nil:
				return err
			case n < 0:
				apply(allCapabilities)
			default:
				apply(1 << n)
			}
		}
		return nil
	}
	// ALL first, single ones after it, as in drop ALL, add NET_BIND_SERVICE.
	if err := change(only(s.CapAdd, true), func(m uint64) { set |= m }); err != nil {
		return 0, err
	}
	if err := change(only(s.CapDrop, true), func(m uint64) { set &^= m }); err != nil {
		return 0, err
	}
	if err := change(only(s.CapAdd, false), func(m uint64) { set |= m }); err != nil {
		return 0, err
	}
	err := change(only(s.CapDrop, false), func(m uint64) { set &^= m })
	return set, err
}

// only returns the names that are ALL, or those that are not.
func only(names []string, all bool) []string {
	var out []string
	for _, name := range names {
		if n, err := Capability(name); (err == nil && n < 0) == all {
			out = append(out, name)
		}
	}
	return out
}

// confine takes from the calling thread every capability outside set, for good, and becomes a: the thread is the one
// that will execve. The order is the kernel's: the bounding set while SETPCAP is there, groups before users.
func confine(a account, set uint64) error {
	for n := range 64 {
		if set&(1<<n) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(n), 0, 0, 0); err != nil {
			if errors.Is(err, unix.EINVAL) { // past the kernel's last one
				break
			}
			return fmt.Errorf("drop capability %s: %w", capabilities[n], err)
		}
	}
	if err := become(a); err != nil {
		return err
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&hdr, &have[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for i := range have {
		part := uint32(set >> (32 * i))
		have[i].Permitted &= part
		have[i].Effective &= part
		have[i].Inheritable = 0
	}
	if err := unix.Capset(&hdr, &have[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	return nil
}

// become gives the calling thread the account's groups and user. The wrappers of the standard library change every
// thread; only this one will become the program.
func become(a account) error {
	groups := make([]uint32, len(a.groups))
	for i, g := range a.groups {
		groups[i] = uint32(g)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0); e != 0 {
		return fmt.Errorf("set groups: %w", e)
	}
	g, u := uintptr(a.gid), uintptr(a.uid)
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, g, g, g); e != 0 {
		return fmt.Errorf("set group %d: %w", a.gid, e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, u, u, u); e != 0 {
		return fmt.Errorf("set user %d: %w", a.uid, e)
	}
	return nil
}

var limits = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA,
	"fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK,
	"msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE,
	"nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// KnownUlimit says whether name is one of Compose's names of resource limits.
func KnownUlimit(name string) bool {
	_, ok := limits[name]
	return ok
}

// ReadUlimit returns what a resource limit of a process is now.
func ReadUlimit(pid int, name string) (Ulimit, error) {
	resource, ok := limits[name]
	if !ok {
		return Ulimit{}, fmt.Errorf("ulimit %q is not known", name)
	}
	var now unix.Rlimit
	if err := unix.Prlimit(pid, resource, nil, &now); err != nil {
		return Ulimit{}, fmt.Errorf("read ulimit %s of process %d: %w", name, pid, err)
	}
	value := func(n uint64) int64 {
		if n > math.MaxInt64 {
			return -1
		}
		return int64(n)
	}
	return Ulimit{Soft: value(now.Cur), Hard: value(now.Max)}, nil
}

func setUlimits(all map[string]Ulimit) error {
	for name, l := range all {
		resource, ok := limits[name]
		if !ok {
			return fmt.Errorf("ulimit %q is not known", name)
		}
		value := func(n int64) uint64 {
			if n < 0 {
				return math.MaxUint64
			}
			return uint64(n)
		}
		if err := unix.Prlimit(0, resource, &unix.Rlimit{Cur: value(l.Soft), Max: value(l.Hard)}, nil); err != nil {
			return fmt.Errorf("set ulimit %s to %d:%d: %w", name, l.Soft, l.Hard, err)
		}
	}
	return nil
}

// setSysctls writes net.* of the network namespace that the calling thread is in.
func setSysctls(all map[string]string) error {
	for name, value := range all {
		if !strings.HasPrefix(name, "net.") || strings.Contains(name, "/") || strings.Contains(name, "..") {
			return fmt.Errorf("sysctl %s: only net.* belongs to an instance", name)
		}
		path := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("sysctl %s: %w", name, err)
		}
		_, err = f.WriteString(value)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return fmt.Errorf("sysctl %s = %q: %w", name, value, err)
		}
	}
	return nil
}
