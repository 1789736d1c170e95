package proxy

import (
	"net"
	"net/netip"
)

// redirected returns where a connection goes that was redirected to l; nil when it was not, or to nothing that l names.
func redirected(l *Listener, conn *net.TCPConn) *Listener {
	to, err := originalDestination(conn)
	if err != nil {
		return nil
	}
	return l.named(to)
}

// named returns the listener that l stands for at the address that a client connected to.
func (l *Listener) named(to netip.AddrPort) *Listener {
	service, ok := l.Names[to.Addr().String()]
	if !ok {
		return nil
	}
	return &Listener{
		Name: l.Name, Address: to.String(), Protocol: l.Protocol, Service: service, Port: int(to.Port()), Caller: l.Caller,
	}
}
