package holder

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Where there are no network namespaces, the names of services have loopback addresses of the machine's own network, and
// a published port may be one that a service is called at: all addresses at 8080, and 127.75.3.2 at 8080. The kernel gives
// a connection to the socket with the more exact address, but lets two of them listen only if both have SO_REUSEPORT. They
// have it here for as long as it takes to bind the second one: nobody else can join them afterwards, and a port that is
// taken stays taken. The holder of another project lends its port in the same way.

// lent is how long a port is lent: long enough for a bind on a busy machine.
const lent = 3 * time.Second

// errSame says that a socket of this holder has the very address that is asked for.
var errSame = errors.New("the address is taken")

// beside returns the sockets that keep a from its address although it may listen beside them: they are for all addresses
// and it is not, or the other way round.
func (s *sockets) beside(a Socket, ns nsID) ([]*kept, error) {
	want, err := netip.ParseAddrPort(withHost(a.Address))
	if err != nil || a.Network != "tcp" || want.Port() == 0 {
		return nil, errSame
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var others []*kept
	for _, k := range s.byName {
		has, err := netip.ParseAddrPort(k.bound)
		switch {
		case err != nil || k.Network != "tcp" || k.netns != ns || has.Port() != want.Port():
		case equal(has.Addr(), want.Addr()):
			return nil, errSame
		case everywhere(has.Addr()) || everywhere(want.Addr()):
			others = append(others, k)
		}
	}
	return others, nil
}

func everywhere(a netip.Addr) bool { return a.Unmap().IsUnspecified() }

func equal(a, b netip.Addr) bool { return a.Unmap() == b.Unmap() || everywhere(a) && everywhere(b) }

// withHost fills in what net takes an address without a host for.
func withHost(address string) string {
	if address != "" && address[0] == ':' {
		return "[::]" + address
	}
	return address
}

// listenBeside opens a socket beside others. Whoever else has its address keeps it from doing so.
func listenBeside(a Socket, others []*kept) (fd int, bound string, err error) {
	fail := func(err error) (int, string, error) { return -1, "", fmt.Errorf("listen on %s: %w", a.Address, err) }
	network, err := family(a)
	if err != nil {
		return -1, "", err
	}
	want, err := netip.ParseAddrPort(withHost(a.Address))
	if err != nil {
		return fail(err)
	}
	defer unshare(others)
	if err := share(others); err != nil {
		return fail(err)
	}
	err = inNamespace(a.Netns, func() (err error) {
		for _, l := range listening(want.Port()) {
			if equal(l, want.Addr()) { // somebody who shares it with everybody
				return unix.EADDRINUSE
			}
		}
		fd, bound, err = bind(network, a.Address, unix.SO_REUSEPORT)
		return err
	})
	if err != nil {
		return fail(err)
	}
	return fd, bound, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 0)
}

// share lets others bind beside sockets until unshare, which follows in any case. Both are called with opening held.
func share(all []*kept) error {
	var failed error
	for _, k := range all {
		if k.shared++; k.shared == 1 {
			failed = errors.Join(failed, unix.SetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
		}
	}
	return failed
}

func unshare(all []*kept) {
	for _, k := range all {
		if k.shared--; k.shared == 0 && !k.dropped {
			_ = unix.SetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 0)
		}
	}
}

// lend lets another holder of this user bind a, for a moment, beside what this one has on that port; ended waits for the
// end of it and has to be called. It refuses where this one has the address itself.
func (s *sockets) lend(a Socket) (ended func(), err error) {
	s.opening.Lock()
	defer s.opening.Unlock()
	others, err := s.beside(a, nsID{})
	if err != nil {
		return nil, fmt.Errorf("lend %s: %w", a.Address, err)
	}
	if err := share(others); err != nil {
		unshare(others)
		return nil, fmt.Errorf("lend %s: %w", a.Address, err)
	}
	return func() {
		time.Sleep(lent)
		s.opening.Lock()
		defer s.opening.Unlock()
		unshare(others)
	}, nil
}
