//go:build linux

package process

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// machineDir is shared by all projects of the machine: what they have to agree on is locked there.
const machineDir = "/run/trellis"

// addresses are what instances get: the range of RFC 2544 for benchmarks, which no network routes. Each instance has
// two that differ in the last bit: the machine's end, and its own.
var addresses = netip.MustParsePrefix("198.18.0.0/15")

const (
	nsfsMagic = 0x6e736673
	linkName  = "eth0" // inside
)

// network is one instance's.
type network struct {
	path         string // of the pinned namespace
	host, inside string // addresses
}

func (d *Driver) netnsDir() string { return filepath.Join(d.cfg.RuntimeDir, "netns") }

// netnsPath is short and unlike any other's, whatever the instance is called.
func (d *Driver) netnsPath(dir string) string {
	return filepath.Join(d.netnsDir(), filepath.Base(dir))
}

// vethName is the name of the machine's end; 14 of the 15 characters a name may have.
func vethName(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return "tr" + hex.EncodeToString(sum[:6])
}

// locked calls f while no other program on this machine changes what projects share.
func locked(f func() error) error {
	if err := os.MkdirAll(machineDir, 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(machineDir, "network.lock"), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	for {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		if err == nil {
			return f()
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock %s: %w", lock.Name(), err)
		}
	}
}

// network makes the instance's network, or finds it as it is. The address wanted is taken again where it is free.
func (d *Driver) network(dir, wanted string) (network, error) {
	n := network{path: d.netnsPath(dir)}
	if err := d.pinNamespace(n.path); err != nil {
		return n, err
	}
	ns, err := netns.GetFromPath(n.path)
	if err != nil {
		return n, err
	}
	defer ns.Close()
	if n.found(dir, ns) {
		return n, nil // a restart does not wait for those who make theirs
	}
	err = locked(func() error {
		if link, err := netlink.LinkByName(vethName(dir)); err == nil {
			if err := netlink.LinkDel(link); err != nil {
				return fmt.Errorf("remove the remains of a veth: %w", err)
			}
		}
		host, err := freeAddress(dir, wanted)
		if err != nil {
			return err
		}
		n.host, n.inside = host.String(), host.Next().String()
		if err := connect(vethName(dir), ns, host); err != nil {
			return err
		}
		if err := openWay(d.log); err != nil {
			d.warnEgress(err)
		}
		return nil
	})
	return n, err
}

// found takes the addresses of the network as it stands, and says whether it is whole.
func (n *network) found(dir string, ns netns.NsHandle) bool {
	link, err := netlink.LinkByName(vethName(dir))
	if err != nil {
		return false
	}
	host := addressOf(link)
	if !host.IsValid() || !insideIs(ns, host.Next()) {
		return false
	}
	n.host, n.inside = host.String(), host.Next().String()
	return true
}

// warnEgress says once that instances do not reach other machines.
func (d *Driver) warnEgress(err error) {
	d.mu.Lock()
	said := d.noEgress
	d.noEgress = true
	d.mu.Unlock()
	if !said {
		d.log.Warn("instances cannot reach other machines: address translation could not be set up", "project", d.cfg.Project, "err", err)
	}
}

// namespaceOf returns the inode that stands for the namespace pinned at path, 0 for none.
func namespaceOf(path string) uint64 {
	var st unix.Stat_t
	if path == "" || !isNamespace(path) || unix.Stat(path, &st) != nil {
		return 0
	}
	return st.Ino
}

// inNamespace says whether a process is in the namespace of that kind with that inode.
func inNamespace(pid int, kind string, inode uint64) bool {
	var st unix.Stat_t
	return unix.Stat(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), &st) == nil && st.Ino == inode
}

// ownMounts returns the inode of this process's mount namespace, 0 if it cannot be had.
func ownMounts() uint64 {
	var st unix.Stat_t
	if unix.Stat("/proc/self/ns/mnt", &st) != nil {
		return 0
	}
	return st.Ino
}

// addressOf returns the address of link within addresses.
func addressOf(link netlink.Link) netip.Addr {
	list, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return netip.Addr{}
	}
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok && addresses.Contains(ip) {
			return ip
		}
	}
	return netip.Addr{}
}

// insideIs says whether the namespace has its end of the veth, up and with that address.
func insideIs(ns netns.NsHandle, address netip.Addr) bool {
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return false
	}
	defer h.Close()
	link, err := h.LinkByName(linkName)
	if err != nil || link.Attrs().Flags&net.FlagUp == 0 {
		return false
	}
	list, err := h.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return false
	}
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok && ip == address {
			return true
		}
	}
	return false
}

// freeAddress returns a machine's end that no interface has: the one beside wanted, or from a place that depends on
// the instance, so that an instance mostly has the same one again after a reboot.
func freeAddress(dir, wanted string) (netip.Addr, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list addresses: %w", err)
	}
	taken := map[netip.Addr]bool{}
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok {
			taken[even(ip)] = true
		}
	}
	if ip, err := netip.ParseAddr(wanted); err == nil && addresses.Contains(ip) && !taken[even(ip)] {
		return even(ip), nil
	}
	sum := sha256.Sum256([]byte(dir))
	pairs := uint32(1) << (31 - addresses.Bits())
	base := binary.BigEndian.Uint32(addresses.Addr().AsSlice())
	start := binary.BigEndian.Uint32(sum[:])
	for i := range pairs {
		// The first pair is left out: its first address would be the network's own.
		n := 1 + (start+i)%(pairs-1)
		ip := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, base+2*n)))
		if !taken[ip] {
			return ip, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("all %d addresses of %s are taken", pairs, addresses)
}

func even(ip netip.Addr) netip.Addr {
	b := ip.As4()
	b[3] &^= 1
	return netip.AddrFrom4(b)
}

// connect makes the veth pair: host on the machine, the next address inside, and the way out through host.
func connect(name string, ns netns.NsHandle, host netip.Addr) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, wayOutMTU()
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: linkName, PeerNamespace: netlink.NsFd(ns)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make a veth pair: %w", err)
	}
	err := func() error {
		if err := configure(&netlink.Handle{}, name, host); err != nil {
			return fmt.Errorf("set up %s: %w", name, err)
		}
		h, err := netlink.NewHandleAt(ns)
		if err != nil {
			return err
		}
		defer h.Close()
		if err := configure(h, linkName, host.Next()); err != nil {
			return fmt.Errorf("set up %s inside: %w", linkName, err)
		}
		return h.RouteReplace(&netlink.Route{Gw: net.IP(host.AsSlice()), Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}})
	}()
	if err != nil {
		_ = netlink.LinkDel(veth)
	}
	return err
}

func configure(h *netlink.Handle, name string, address netip.Addr) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	mask := &net.IPNet{IP: net.IP(address.AsSlice()), Mask: net.CIDRMask(31, 32)}
	if err := h.AddrReplace(link, &netlink.Addr{IPNet: mask}); err != nil {
		return err
	}
	return h.LinkSetUp(link)
}

// wayOutMTU returns the MTU of the interface that leads to other machines, 0 (the kernel's default) without one.
func wayOutMTU() int {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return 0
	}
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			return link.Attrs().MTU
		}
	}
	return 0
}

// removeNetwork takes away what network made; what is not there is no error.
func (d *Driver) removeNetwork(dir string) error {
	if !d.isolate {
		return nil
	}
	return locked(func() error {
		if link, err := netlink.LinkByName(vethName(dir)); err == nil {
			if err := netlink.LinkDel(link); err != nil {
				return fmt.Errorf("remove %s: %w", vethName(dir), err)
			}
		}
		if err := unpin(d.netnsPath(dir)); err != nil {
			return err
		}
		return d.tidyNetwork()
	})
}

// tidyNetwork takes away what the last instance of the driver, and of the machine, leaves. The caller holds the
// machine's lock.
func (d *Driver) tidyNetwork() error {
	if err := clearRoom(d.netnsDir()); err != nil {
		return err
	}
	list, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok && addresses.Contains(ip) {
			return nil
		}
	}
	return closeWay()
}
