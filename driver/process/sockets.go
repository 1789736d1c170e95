//go:build linux

package process

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"trellis/shim"
)

// listener is one listening TCP socket.
type listener struct {
	port     int
	loopback bool
	inode    uint64
}

const stateListen = "0A"

// parseListeners reads /proc/net/tcp or tcp6 as far as the listening sockets go: the kernel lists them first.
func parseListeners(r io.Reader) ([]listener, error) {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), 4096)
	var all []listener
	for first := true; s.Scan(); first = false {
		if first {
			continue // the heading
		}
		l, listens, err := parseListener(s.Bytes())
		if err != nil {
			return all, err
		}
		if !listens {
			return all, nil
		}
		all = append(all, l)
	}
	return all, s.Err()
}

var errSocket = errors.New("this is no line of /proc/net/tcp")

func parseListener(line []byte) (listener, bool, error) {
	f := bytes.Fields(line)
	if len(f) < 10 {
		return listener{}, false, errSocket
	}
	if string(f[3]) != stateListen {
		return listener{}, false, nil
	}
	address, port, ok := bytes.Cut(f[1], []byte{':'})
	raw := make([]byte, hex.DecodedLen(len(address)))
	if _, err := hex.Decode(raw, address); !ok || err != nil || len(raw) != 4 && len(raw) != 16 {
		return listener{}, false, errSocket
	}
	n, err := strconv.ParseUint(string(port), 16, 16)
	if err != nil {
		return listener{}, false, errSocket
	}
	inode, err := strconv.ParseUint(string(f[9]), 10, 64)
	if err != nil {
		return listener{}, false, errSocket
	}
	for i := 0; i+4 <= len(raw); i += 4 { // words in the machine's order
		if littleEndian {
			slices.Reverse(raw[i : i+4])
		}
	}
	return listener{port: int(n), loopback: net.IP(raw).IsLoopback(), inode: inode}, true, nil
}

// littleEndian is so on every machine that Trellis is built for (amd64, arm64).
const littleEndian = true

// ownThread is the calling thread's directory in /proc.
const ownThread = "thread-self"

// procListeners reads the listening sockets of the network namespace of /proc/<who>.
func procListeners(who string) ([]listener, error) {
	var all []listener
	for _, name := range []string{"tcp", "tcp6"} {
		f, err := os.Open("/proc/" + who + "/net/" + name)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // no IPv6, or no such process
		}
		if err != nil {
			return all, err
		}
		some, err := parseListeners(f)
		f.Close()
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return all, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// sockets knows who has which listening socket of the machine. Looking that up goes through the descriptors of every
// process of an instance, so it is kept for as long as neither the sockets nor the processes change.
type sockets struct {
	mu   sync.Mutex
	kept map[string]keptPorts // by instance directory
}

type keptPorts struct {
	run     int
	sockets map[uint64]listener
	ports   []int
}

func (s *sockets) view() *socketView { return &socketView{all: s} }

// socketView is one look at the machine's sockets, for one List.
type socketView struct {
	all    *sockets
	looked bool
	shared map[uint64]listener
}

// listening returns the ports that the instance listens on: of its own namespace all that others can reach, of the
// machine's those that its processes hold.
func (v *socketView) listening(r record) []int {
	if !r.own.Shared {
		list, err := listeners(strconv.Itoa(r.running.Program.PID))
		if err != nil || !r.running.Program.Alive() { // the pid may have come to be another's
			return nil
		}
		return reachable(list)
	}
	if !v.looked {
		v.looked = true
		v.shared = map[uint64]listener{}
		list, err := listeners(ownThread)
		if err != nil {
			return nil
		}
		for _, l := range list {
			v.shared[l.inode] = l
		}
	}
	return v.all.of(r, v.shared)
}

// reachable returns the sorted ports of the sockets that listen on more than the loopback.
func reachable(list []listener) []int {
	var ports []int
	for _, l := range list {
		if !l.loopback {
			ports = append(ports, l.port)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// of returns the ports of the machine's listening sockets that r's processes hold. Loopback counts: this is where they
// are reached.
func (s *sockets) of(r record, shared map[uint64]listener) []int {
	s.mu.Lock()
	kept, ok := s.kept[r.dir]
	s.mu.Unlock()
	if ok && kept.run == r.running.Run && len(kept.ports) > 0 && maps.Equal(kept.sockets, shared) {
		return kept.ports
	}
	held := map[int]bool{}
	tree, err := shim.Descendants(r.running.Shim.PID)
	if err != nil || !r.running.Shim.Alive() {
		return nil
	}
	for _, p := range tree {
		for inode := range socketsOf(p.PID) {
			if l, ok := shared[inode]; ok {
				held[l.port] = true
			}
		}
	}
	ports := slices.Sorted(maps.Keys(held))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == nil {
		s.kept = map[string]keptPorts{}
	}
	s.kept[r.dir] = keptPorts{run: r.running.Run, sockets: shared, ports: ports}
	return ports
}

func (s *sockets) forget(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.kept, dir)
}

// socketsOf returns the inodes of the sockets that a process holds.
func socketsOf(pid int) map[uint64]bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil
	}
	all := map[uint64]bool{}
	for _, name := range names {
		link, err := os.Readlink(dir + "/" + name)
		if err != nil {
			continue
		}
		if text, ok := strings.CutPrefix(link, "socket:["); ok {
			if n, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64); err == nil {
				all[n] = true
			}
		}
	}
	return all
}

// freePort returns a TCP port that nobody listens on and that no instance of this driver has been given.
func (d *Driver) freePort() (int, error) {
	names, err := d.names()
	if err != nil {
		return 0, err
	}
	given := map[int]bool{}
	for _, name := range names {
		if _, own, err := d.spec(d.root + "/" + name); err == nil && own.Port != 0 {
			given[own.Port] = true
		}
	}
	for range 100 {
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			return 0, err
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		d.mu.Lock()
		mine := !given[port] && !d.ports[port]
		d.ports[port] = true
		d.mu.Unlock()
		if mine {
			return port, nil
		}
	}
	return 0, errors.New("every free port is given to an instance already")
}
