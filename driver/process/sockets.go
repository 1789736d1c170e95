//go:build linux

package process

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"trellis/netspace"
	"trellis/shim"
)

// sockets knows who has which listening socket of the machine. Looking that up goes through the descriptors of every
// process of an instance, so it is kept for as long as neither the sockets nor the processes change.
type sockets struct {
	mu   sync.Mutex
	kept map[string]keptPorts // by instance directory
}

type keptPorts struct {
	run     int
	sockets map[uint64]netspace.Listener
	ports   []int
}

func (s *sockets) view() *socketView { return &socketView{all: s} }

// socketView is one look at the machine's sockets, for one List.
type socketView struct {
	all    *sockets
	looked bool
	shared map[uint64]netspace.Listener
}

// listening returns the ports that the instance listens on: of its own namespace all that others can reach, of the
// machine's those that its processes hold.
func (v *socketView) listening(r record) []int {
	if !r.own.Shared {
		list, err := netspace.Listeners(strconv.Itoa(r.running.Program.PID))
		if err != nil || !r.running.Program.Alive() { // the pid may have come to be another's
			return nil
		}
		return netspace.Ports(list)
	}
	if !v.looked {
		v.looked = true
		v.shared = map[uint64]netspace.Listener{}
		list, err := netspace.Listeners(netspace.OwnThread)
		if err != nil {
			return nil
		}
		for _, l := range list {
			v.shared[l.Inode] = l
		}
	}
	return v.all.of(r, v.shared)
}

// of returns the ports of the machine's listening sockets that r's processes hold. Loopback counts: this is where they
// are reached.
func (s *sockets) of(r record, shared map[uint64]netspace.Listener) []int {
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
				held[l.Port] = true
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
