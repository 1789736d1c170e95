package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"slices"
	"time"
)

// proxiedMost bounds what follows the fixed part of a header: addresses of 36 bytes and what is said besides.
const proxiedMost = 4096

// proxiedSignature begins a header of the PROXY protocol, version 2 (its specification, section 2.2).
const proxiedSignature = "\r\n\r\n\x00\r\nQUIT\n"

var errProxied = errors.New("no header of the PROXY protocol, version 2")

// behind says whether connections to the listener that come from an address tell in a header whose they are.
func (t *table) behind(l *Listener, from netip.Addr) bool {
	return within(t.proxied[l.Name], from)
}

// readProxied reads the header that a balancer sends first, within that time, and not a byte more. It takes the client's address from it,
// where the header has one; a balancer's own connection keeps its own.
func (c *clientConn) readProxied(within time.Duration) error {
	c.raw.SetReadDeadline(time.Now().Add(within))
	defer c.raw.SetReadDeadline(time.Time{})
	var fixed [16]byte
	if _, err := io.ReadFull(c.raw, fixed[:]); err != nil {
		return err
	}
	length, err := proxiedLength(fixed)
	if err != nil {
		return err
	}
	rest := make([]byte, length)
	if _, err := io.ReadFull(c.raw, rest); err != nil {
		return err
	}
	client, err := parseProxied(fixed, rest)
	if err == nil && client.IsValid() {
		c.client = client
	}
	return err
}

// proxiedLength returns how much follows the fixed part of a header.
func proxiedLength(fixed [16]byte) (int, error) {
	if string(fixed[:12]) != proxiedSignature || fixed[12]>>4 != 2 {
		return 0, errProxied
	}
	length := int(binary.BigEndian.Uint16(fixed[14:]))
	if length > proxiedMost {
		return 0, fmt.Errorf("%w: %d bytes follow, more than %d", errProxied, length, proxiedMost)
	}
	return length, nil
}

// Families of a header, with their transport.
const (
	proxiedUnspec = 0x00
	proxiedTCP4   = 0x11
	proxiedTCP6   = 0x21
)

// parseProxied returns the client's address of a header; none where the connection is the balancer's own (LOCAL, as for a
// check of health) or it says that it does not know. Anything that is not exactly a header is an error.
func parseProxied(fixed [16]byte, rest []byte) (client netip.Addr, err error) {
	if _, err := proxiedLength(fixed); err != nil {
		return client, err
	}
	size := 0
	switch family := fixed[13]; {
	case family == proxiedTCP4:
		size = 12
	case family == proxiedTCP6:
		size = 36
	case family != proxiedUnspec:
		return client, fmt.Errorf("%w: family %#02x is none of TCP", errProxied, family)
	}
	if len(rest) < size {
		return client, fmt.Errorf("%w: it is too short for its addresses", errProxied)
	}
	if err := checkExtras(fixed, rest, rest[size:]); err != nil {
		return client, err
	}
	switch fixed[12] & 0xf {
	case 0: // LOCAL: the addresses are to be skipped
		return client, nil
	case 1: // PROXY
	default:
		return client, fmt.Errorf("%w: unknown command", errProxied)
	}
	switch size {
	case 12:
		client = netip.AddrFrom4([4]byte(rest))
	case 36:
		client = netip.AddrFrom16([16]byte(rest)).Unmap()
	default:
		return client, nil
	}
	if client.IsUnspecified() || client.IsMulticast() {
		return netip.Addr{}, fmt.Errorf("%w: %s is nobody's address", errProxied, client)
	}
	return client, nil
}

// proxiedCRC is the type of the checksum among what is said besides addresses.
const proxiedCRC = 0x03

// checkExtras checks that what follows the addresses is a list of types, lengths and values to its last byte, and the
// checksum (CRC-32C of all with the checksum as zeros) where there is one.
func checkExtras(fixed [16]byte, rest, extras []byte) error {
	for len(extras) > 0 {
		if len(extras) < 3 {
			return fmt.Errorf("%w: it ends in a value", errProxied)
		}
		kind, n := extras[0], int(binary.BigEndian.Uint16(extras[1:]))
		if len(extras) < 3+n {
			return fmt.Errorf("%w: it ends in a value", errProxied)
		}
		if kind == proxiedCRC {
			at := len(rest) - len(extras) + 3
			if n != 4 || !sumHolds(fixed, rest, at) {
				return fmt.Errorf("%w: its checksum does not hold", errProxied)
			}
		}
		extras = extras[3+n:]
	}
	return nil
}

// sumHolds says whether the checksum at an offset of rest is the header's.
func sumHolds(fixed [16]byte, rest []byte, at int) bool {
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(0, table, fixed[:])
	sum = crc32.Update(sum, table, rest[:at])
	sum = crc32.Update(sum, table, make([]byte, 4))
	sum = crc32.Update(sum, table, rest[at+4:])
	return sum == binary.BigEndian.Uint32(rest[at:])
}

// compilePrefixes reads the addresses of a listener into those of all, by listener.
func compilePrefixes(all *map[string][]netip.Prefix, l *Listener, texts []string) error {
	if len(texts) == 0 {
		return nil
	}
	var list []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("listener %q: %w", l.Name, err)
		}
		list = append(list, p.Masked())
	}
	if *all == nil {
		*all = map[string][]netip.Prefix{}
	}
	(*all)[l.Name] = list
	return nil
}

// within says whether an address is in one of the prefixes.
func within(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}
