//go:build !linux

package proxy

import (
	"errors"
	"net"
	"net/netip"
)

// originalDestination is for Linux: elsewhere there are no namespaces, and nothing is redirected.
func originalDestination(*net.TCPConn) (netip.AddrPort, error) {
	return netip.AddrPort{}, errors.ErrUnsupported
}
