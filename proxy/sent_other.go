//go:build !linux

package proxy

import (
	"net"
	"syscall"
	"time"
)

// nothingToRead says whether a socket is open in the reading direction and has nothing to read.
func nothingToRead(fd int) bool {
	var b [1]byte
	_, _, err := syscall.Recvfrom(fd, b[:], syscall.MSG_PEEK)
	return err == syscall.EAGAIN
}

// nothingWillCome says whether a socket's other end has closed it, in one direction at least, and all that it sent
// before was read.
func nothingWillCome(fd int) bool {
	var b [1]byte
	n, _, err := syscall.Recvfrom(fd, b[:], syscall.MSG_PEEK)
	return err == nil && n == 0 || err != nil && err != syscall.EAGAIN && err != syscall.EINTR
}

// giveUpAfter can't be told to the kernel here: its own patience counts.
func giveUpAfter(*net.TCPConn, time.Duration) {}

// neverArrived can't be told here.
func neverArrived(*net.TCPConn, int64) bool { return false }
