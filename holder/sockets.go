package holder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// sockets keeps the listening sockets. opening serialises what changes them; mu is held for looks and swaps only, so
// that a follower or an info never waits for a bind.
type sockets struct {
	opening sync.Mutex

	mu     sync.Mutex
	byName map[string]*kept
	serial uint64 // of the newest kept
}

// kept is one listening socket.
type kept struct {
	Socket
	serial uint64
	bound  string
	fd     int
	netns  nsID

	shared  int  // how many let others bind beside it just now; guarded by opening, as the next
	dropped bool // fd is closed, and may be another's
}

// nsID tells network namespaces apart; an open socket keeps its namespace, so the number is not given anew.
type nsID struct{ dev, ino uint64 }

func newSockets() *sockets { return &sockets{byName: map[string]*kept{}} }

// open opens what is asked for and says whether anything changed.
func (s *sockets) open(asked []Socket) (answers []Opened, changed bool) {
	s.opening.Lock()
	defer s.opening.Unlock()
	for _, a := range asked {
		answer, c := s.openOne(a)
		answers = append(answers, answer)
		changed = changed || c
	}
	return answers, changed
}

func (s *sockets) openOne(a Socket) (Opened, bool) {
	lenders := a.Lenders
	a.Lenders = 0
	answer := Opened{Name: a.Name}
	fail := func(err error) Opened {
		answer.Error, answer.InUse = err.Error(), errors.Is(err, unix.EADDRINUSE)
		return answer
	}
	if a.Name == "" || len(a.Name) > 1024 {
		return fail(errors.New("a socket needs a name of 1 to 1024 bytes")), false
	}
	ns, err := namespaceOf(a.Netns)
	s.mu.Lock()
	old := s.byName[a.Name]
	s.mu.Unlock()
	if old != nil && err == nil && old.Socket == a && old.netns == ns {
		answer.Address = old.bound
		return answer, false
	}
	var before *kept
	if old != nil {
		before = old
		s.drop(old)
	}
	if err != nil {
		return fail(err), old != nil
	}
	fd, bound, err := listen(a, before)
	if errors.Is(err, unix.EADDRINUSE) {
		if others, err2 := s.beside(a, ns); err2 == nil && len(others)+lenders > 0 {
			fd, bound, err = listenBeside(a, others)
		}
	}
	if err != nil {
		return fail(err), old != nil
	}
	answer.Address = bound
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	s.byName[a.Name] = &kept{Socket: a, serial: s.serial, bound: bound, fd: fd, netns: ns}
	return answer, true
}

// close closes what is named and says whether anything changed.
func (s *sockets) close(names []string) bool {
	s.opening.Lock()
	defer s.opening.Unlock()
	changed := false
	for _, name := range names {
		s.mu.Lock()
		k := s.byName[name]
		s.mu.Unlock()
		if k != nil {
			s.drop(k)
			changed = true
		}
	}
	return changed
}

// drop ends listening, also for the copies of the descriptor that data planes have: a port that is given up is free
// for others, and for a socket of another address.
func (s *sockets) drop(k *kept) {
	s.mu.Lock()
	delete(s.byName, k.Name)
	s.mu.Unlock()
	if k.Network == "udp" {
		// A UDP socket cannot be made to give up its port while copies are open; with this set on both, the next one
		// may bind beside it.
		_ = unix.SetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	k.dropped = true
	_ = unix.Shutdown(k.fd, unix.SHUT_RDWR) // ENOTCONN for UDP, which wakes its readers all the same
	_ = unix.Close(k.fd)
}

func (s *sockets) all() []Opened {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Opened, 0, len(s.byName))
	for name, k := range s.byName {
		list = append(list, Opened{Name: name, Address: k.bound})
	}
	return list
}

// namespaceOf returns the identity of the network namespace at path.
func namespaceOf(path string) (nsID, error) {
	if path == "" {
		return nsID{}, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nsID{}, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return nsID{uint64(st.Dev), st.Ino}, nil
}

// listen opens a socket. replaced is the one of the same name that was just dropped.
func listen(a Socket, replaced *kept) (fd int, bound string, err error) {
	network, err := family(a)
	if err != nil {
		return -1, "", err
	}
	try := func(option int) error {
		return inNamespace(a.Netns, func() (err error) {
			fd, bound, err = bind(network, a.Address, option)
			return err
		})
	}
	err = try(0)
	if errors.Is(err, unix.EADDRINUSE) && replaced != nil && a.Network == "udp" {
		err = try(unix.SO_REUSEADDR)
	}
	if err != nil {
		return -1, "", fmt.Errorf("listen on %s: %w", a.Address, err)
	}
	return fd, bound, nil
}

// family makes the address family exact: Go alone would listen on IPv6 too where 0.0.0.0 is asked for.
func family(a Socket) (string, error) {
	if a.Network != "tcp" && a.Network != "udp" {
		return "", fmt.Errorf("listen on %s: network %q is neither tcp nor udp", a.Address, a.Network)
	}
	host, _, err := net.SplitHostPort(a.Address)
	if err != nil {
		return "", fmt.Errorf("listen on %q: %w", a.Address, err)
	}
	if host == "" {
		return a.Network, nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return "", fmt.Errorf("listen on %q: the host has to be an IP address", a.Address)
	}
	if ip.Unmap().Is4() {
		return a.Network + "4", nil
	}
	return a.Network + "6", nil
}

// bind opens the socket in this thread's network namespace and returns a plain descriptor, which no runtime polls. option
// is a further one of the socket, 0 none.
func bind(network, address string, option int) (fd int, bound string, err error) {
	config := net.ListenConfig{}
	// A listener of Multipath TCP cannot be shut down and bound anew like others, and costs TCP callers time.
	config.SetMultipathTCP(false)
	if option != 0 {
		config.Control = func(_, _ string, c syscall.RawConn) (err error) {
			ctlErr := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, 1)
			})
			return errors.Join(ctlErr, err)
		}
	}
	var socket interface {
		SyscallConn() (syscall.RawConn, error)
		Close() error
	}
	if network[:3] == "udp" {
		c, err := config.ListenPacket(context.Background(), network, address)
		if err != nil {
			return -1, "", bare(err)
		}
		socket, bound = c.(*net.UDPConn), c.LocalAddr().String()
	} else {
		l, err := config.Listen(context.Background(), network, address)
		if err != nil {
			return -1, "", bare(err)
		}
		socket, bound = l.(*net.TCPListener), l.Addr().String()
	}
	defer socket.Close()
	raw, err := socket.SyscallConn()
	if err != nil {
		return -1, "", err
	}
	ctlErr := raw.Control(func(from uintptr) { fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 3) })
	if err = errors.Join(ctlErr, err); err != nil {
		return -1, "", err
	}
	return fd, bound, nil
}

// bare takes off the operation and address that net puts before the cause.
func bare(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	return err
}
