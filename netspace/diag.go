//go:build linux

package netspace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Of linux/sock_diag.h and linux/inet_diag.h.
const (
	sockDiagByFamily = 20
	tcpListen        = 10 // the number of the state
	diagHeader       = unix.SizeofNlMsghdr
	diagRequestSize  = 56 // inet_diag_req_v2
	diagMessageSize  = 72 // inet_diag_msg
	diagPort         = 4  // offsets in an inet_diag_msg
	diagSource       = 8
	diagInode        = 68
)

var errDiag = errors.New("this is no answer of sock_diag")

// Listeners returns the listening sockets of the network namespace of /proc/<who>, none if there is no such process.
// The kernel is asked for them alone: /proc/net/tcp makes it walk the table of all connections of the machine.
func Listeners(who string) ([]Listener, error) {
	list, err := diagListeners(who)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil { // a kernel without it, or one that does not let this user load it
		return procListeners(who)
	}
	return list, nil
}

func diagListeners(who string) ([]Listener, error) {
	ask := func() ([]Listener, error) {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
		if err != nil {
			return nil, fmt.Errorf("open sock_diag: %w", err)
		}
		defer unix.Close(fd)
		all, err := dumpListeners(fd, unix.AF_INET)
		if err != nil {
			return nil, err
		}
		six, err := dumpListeners(fd, unix.AF_INET6)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) {
			err = nil // no IPv6
		}
		return append(all, six...), err
	}
	if who == OwnThread {
		return ask()
	}
	ns, err := unix.Open("/proc/"+who+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(ns)
	var all []Listener
	err = inside(ns, func() (err error) {
		all, err = ask()
		return err
	})
	return all, err
}

// At calls f on a thread that is in the network namespace whose file is at path.
func At(path string, f func() error) error {
	ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the network namespace %s: %w", path, err)
	}
	defer unix.Close(ns)
	return inside(ns, f)
}

// Here returns the listening sockets of the calling process's own network namespace.
func Here() ([]Listener, error) { return Listeners(OwnThread) }

// ListenersAt returns the listening sockets of the network namespace whose file is at path.
func ListenersAt(path string) ([]Listener, error) {
	var all []Listener
	err := At(path, func() (err error) {
		all, err = Listeners(OwnThread)
		return err
	})
	return all, err
}

// inside calls f on a thread that is in the network namespace ns.
func inside(ns int, f func() error) error {
	return OnThread(func() error {
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace: %w", err)
		}
		return nil
	}, f)
}

// OnThread calls f on a thread that enter has moved to another network namespace, and takes the thread back afterwards:
// the first thread of a process cannot be ended, and what it is in is what /proc shows of the process.
func OnThread(enter, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		defer unix.Close(own)
		if err := enter(); err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		err = f()
		if back := unix.Setns(own, unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		} else if err == nil { // the thread stays locked, and ends with this function
			err = fmt.Errorf("leave the network namespace: %w", back)
		}
		result <- err
	}()
	return <-result
}

// dumpListeners asks for the listening TCP sockets of one address family.
func dumpListeners(fd int, family uint8) ([]Listener, error) {
	req := make([]byte, diagHeader+diagRequestSize)
	binary.NativeEndian.PutUint32(req, uint32(len(req)))
	binary.NativeEndian.PutUint16(req[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	req[diagHeader], req[diagHeader+1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(req[diagHeader+4:], 1<<tcpListen)
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("ask sock_diag: %w", err)
	}
	var all []Listener
	buf := make([]byte, 32<<10) // the most that the kernel sends at once
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read from sock_diag: %w", err)
		}
		some, done, err := parseDiag(buf[:n])
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
		if done {
			return all, nil
		}
	}
}

// parseDiag reads the messages of one answer; done says that it was the last.
func parseDiag(b []byte) (all []Listener, done bool, err error) {
	for len(b) > 0 {
		if len(b) < diagHeader {
			return nil, false, errDiag
		}
		size := int(binary.NativeEndian.Uint32(b))
		if size < diagHeader || size > len(b) {
			return nil, false, errDiag
		}
		body := b[diagHeader:size]
		switch binary.NativeEndian.Uint16(b[4:]) {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR: // both begin with an error's negative number
			if len(body) >= 4 {
				if code := int32(binary.NativeEndian.Uint32(body)); code < 0 {
					return nil, false, fmt.Errorf("ask sock_diag: %w", unix.Errno(-code))
				}
			}
			return all, true, nil
		case sockDiagByFamily:
			l, err := diagListener(body)
			if err != nil {
				return nil, false, err
			}
			all = append(all, l)
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return all, false, nil
}

func diagListener(body []byte) (Listener, error) {
	if len(body) < diagMessageSize {
		return Listener{}, errDiag
	}
	address := body[diagSource : diagSource+4]
	if body[0] == unix.AF_INET6 {
		address = body[diagSource : diagSource+16]
	}
	return Listener{
		Port: int(binary.BigEndian.Uint16(body[diagPort:])), Loopback: net.IP(address).IsLoopback(),
		Inode: uint64(binary.NativeEndian.Uint32(body[diagInode:])),
	}, nil
}
