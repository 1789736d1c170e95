package server

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// portHolder says who listens on a TCP port of this machine: "nginx (pid 123)", "" where that cannot be told.
func portHolder(port int) string {
	inodes := map[string]string{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		listeningInodes(table, port, inodes)
	}
	if len(inodes) == 0 {
		return ""
	}
	if pid := eldest(holding(inodes)); pid != "" {
		name, _ := os.ReadFile("/proc/" + pid + "/comm")
		return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(name)), pid)
	}
	for _, uid := range inodes { // whose processes cannot be looked into
		if u, err := user.LookupId(uid); err == nil {
			return fmt.Sprintf("a process of user %s (as root, 'ss -ltnp sport = :%d' tells which)", u.Username, port)
		}
	}
	return "a process of another user"
}

// holding returns the processes that have one of these sockets open.
func holding(inodes map[string]string) map[string]bool {
	pids := map[string]bool{}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil || !strings.HasPrefix(target, "socket:[") {
			continue
		}
		if _, ok := inodes[strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")]; ok {
			pids[strings.Split(fd, "/")[2]] = true
		}
	}
	return pids
}

// eldest returns the one that is nobody's child among them: a server's workers have its socket too, and whoever starts a program is
// two processes for a moment.
func eldest(pids map[string]bool) string {
	for _, pid := range slices.Sorted(maps.Keys(pids)) {
		if !pids[parent(pid)] {
			return pid
		}
	}
	return ""
}

// parent returns the pid of a process's parent, "" where there is none.
func parent(pid string) string {
	b, _ := os.ReadFile("/proc/" + pid + "/status")
	_, rest, _ := strings.Cut(string(b), "\nPPid:\t")
	ppid, _, _ := strings.Cut(rest, "\n")
	return ppid
}

// listeningInodes adds the sockets of a table that listen on a port, by inode, with the user id of each.
func listeningInodes(table string, port int, into map[string]string) {
	f, err := os.Open(table)
	if err != nil {
		return
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 10 || fields[3] != "0A" { // TCP_LISTEN
			continue
		}
		_, hex, ok := strings.Cut(fields[1], ":")
		if n, err := strconv.ParseUint(hex, 16, 16); ok && err == nil && int(n) == port {
			into[fields[9]] = fields[7]
		}
	}
}

// refused says in one sentence why a socket could not be opened at an address, and what to do.
func refused(address, why string) string {
	port := portOf(address)
	if port > 0 && port < 1024 && strings.Contains(why, "permission denied") {
		return fmt.Sprintf("%s: permission denied: ports below 1024 are root's; publish a higher one, or allow them with 'sysctl net.ipv4.ip_unprivileged_port_start=%d'", address, port)
	}
	if strings.Contains(why, "cannot assign requested address") {
		return why + ": no interface of this machine has it; publish without an address, or with one of 'ip address'"
	}
	return why
}
