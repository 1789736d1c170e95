package proxy

import (
	"net"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nothingToRead says whether a socket is open in the reading direction and has nothing to read.
func nothingToRead(fd int) bool {
	_, err := peek(fd)
	return err == unix.EAGAIN
}

// nothingWillCome says whether a socket's other end has closed it, in one direction at least, and all that it sent
// before was read.
func nothingWillCome(fd int) bool {
	n, err := peek(fd)
	return err == 0 && n == 0 || err != 0 && err != unix.EAGAIN
}

// peek looks at the first byte that a socket has to read, without waiting. unix.Recvfrom would allocate an address.
func peek(fd int) (n int, err unix.Errno) {
	var b [1]byte
	for {
		n, _, err := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
		if err != unix.EINTR {
			return int(n), err
		}
	}
}

// acknowledged returns how many bytes the other end's kernel has taken so far.
func acknowledged(c *net.TCPConn) (bytes uint64, reset, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false, false
	}
	var info *unix.TCPInfo
	if cerr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); cerr != nil || err != nil {
		return 0, false, false
	}
	const stateClose = 7 // TCP_CLOSE of include/net/tcp_states.h
	return info.Bytes_acked, info.State == stateClose, true
}

// giveUpAfter has the kernel break c off when the other end acknowledges nothing of what was written for so long; 0 leaves it
// to the kernel, which goes on for a quarter of an hour.
func giveUpAfter(c *net.TCPConn, d time.Duration) {
	if raw, err := c.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
		})
	}
}

// neverArrived says whether it is certain that nothing of a request reached the program behind c, where total bytes
// were written before that request and reading its response ended with a clean end of file.
//
// A program that had closed its end before the request came has its kernel answer it with a reset and acknowledge
// nothing. The order is what proves it: the end of file says that the program closed, with everything read that had
// come until then (else the kernel would have sent a reset in its place), and its segment acknowledges what had come;
// the reset after it says that nobody was there for the rest. A program that only half-closed and goes on to read makes
// no reset, and one that read all of a request has it acknowledged. The reset has to be there already (between sockets
// of one machine it is, before the write returns): one that comes later may be of a program that half-closed first.
func neverArrived(c *net.TCPConn, total int64) bool {
	acked, reset, ok := acknowledged(c)
	return ok && reset && acked <= uint64(total)+1 // Linux counts the acknowledged SYN too
}
