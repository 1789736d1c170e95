package holder

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// listening returns the addresses in this thread's network namespace at which somebody listens on a TCP port.
func listening(port uint16) []netip.Addr {
	const listen = "0A" // TCP_LISTEN, include/net/tcp_states.h
	var all []netip.Addr
	for _, table := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			continue // no IPv6
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line) // number, local address, remote address, state, …
			if len(f) < 4 || f[3] != listen {
				continue
			}
			host, number, _ := strings.Cut(f[1], ":")
			if n, err := strconv.ParseUint(number, 16, 16); err != nil || uint16(n) != port {
				continue
			}
			if a, ok := kernelAddress(host); ok {
				all = append(all, a)
			}
		}
	}
	return all
}

// kernelAddress reads an address as the kernel prints it: words of four bytes in the machine's order.
func kernelAddress(text string) (netip.Addr, bool) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b)%4 != 0 {
		return netip.Addr{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	return netip.AddrFromSlice(b)
}
