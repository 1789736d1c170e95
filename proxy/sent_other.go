//go:build !linux

package proxy

import (
	"net"
	"syscall"
)

// nothingToRead says whether a socket is open in the reading direction and has nothing to read.
func nothingToRead(fd int) bool {
	var b [1]byte
	_, _, err := syscall.Recvfrom(fd, b[:], syscall.MSG_PEEK)
	return err == syscall.EAGAIN
}

// neverArrived can't be told here.
func neverArrived(*net.TCPConn, int64) bool { return false }
