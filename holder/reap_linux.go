package holder

import "golang.org/x/sys/unix"

// awaitExit returns when the child pid has ended, and leaves it unreaped, so that its number stays its own.
func awaitExit(pid int) {
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}
