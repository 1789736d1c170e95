package server

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"trellis/engine/local"
	"trellis/errdefs"
	"trellis/holder"
	"trellis/proxy"
)

// addresses are what was chosen for a project beyond its file. A choice is made once and kept beside the state, so that
// an address stays the same for as long as the project exists.
type addresses struct {
	location Location

	// Ports are chosen where the file leaves a port open, or where another copy of the project has it, by what the file
	// asks for: see choiceOf.
	Ports map[string]int `json:"ports,omitempty"`
	// Block is the block of loopback addresses that the project's names have outside of namespaces, see local.Config.
	Block *int `json:"block,omitempty"`
}

// The ports to choose from lie below those that the kernel gives to outgoing connections.
const (
	firstChoice = 20000
	choices     = 12768
	// tries bounds how many ports are tried of which none is known to be taken.
	tries = 256
)

func (l Location) addressFile() string { return filepath.Join(l.StateDir, "addresses.json") }

// loadAddresses returns what was chosen for l, nothing if nothing was.
func loadAddresses(l Location) (*addresses, error) {
	a := &addresses{location: l}
	if err := readJSON(l.addressFile(), a); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if a.Ports == nil {
		a.Ports = map[string]int{}
	}
	return a, nil
}

func (a *addresses) save() error { return writeJSON(a.location.addressFile(), a) }

// forget drops the chosen ports; the block stays, which nobody sees.
func (a *addresses) forget() error {
	if len(a.Ports) == 0 {
		return nil
	}
	clear(a.Ports)
	return a.save()
}

// choiceOf names the choice of a port for a listener as the file has it.
func choiceOf(l proxy.Listener) string { return l.Name + " " + l.Address }

// socketOf returns the socket of a listener, with the port that was chosen for it.
func (a *addresses) socketOf(l proxy.Listener) holder.Socket {
	network := "tcp"
	if l.Protocol == proxy.UDP {
		network = "udp"
	}
	address := l.Address
	if port, chosen := a.Ports[choiceOf(l)]; chosen {
		address = atPort(address, port)
	}
	return holder.Socket{Name: l.Name, Network: network, Address: address, Netns: l.Netns}
}

// atPort returns address with another port.
func atPort(address string, port int) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address // whoever listens there will say what is wrong
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// portOf returns the port of an address, 0 for one that is none.
func portOf(address string) int {
	_, text, _ := net.SplitHostPort(address)
	port, _ := strconv.Atoi(text)
	return port
}

// candidates calls try with one port after the other until it returns true or an error. They begin at a place that
// depends on the project and the choice, and leave out what other projects have been given.
func (a *addresses) candidates(choice string, try func(port int) (bool, error)) error {
	others, err := known()
	if err != nil {
		return err
	}
	taken := map[int]bool{}
	for _, l := range others {
		if b, err := loadAddresses(l); err == nil && l.StateDir != a.location.StateDir {
			for port := range maps.Values(b.Ports) {
				taken[port] = true
			}
		}
	}
	h := fnv.New32a()
	fmt.Fprintf(h, "%s %s", a.location.StateDir, choice)
	tried := 0
	for i := range choices {
		port := firstChoice + (int(h.Sum32()%choices)+i)%choices
		if taken[port] {
			continue
		}
		if done, err := try(port); done || err != nil {
			return err
		}
		if tried++; tried == tries {
			break
		}
	}
	return fmt.Errorf("choose a port: %w: none of %d to %d is free", errdefs.ErrUnavailable, firstChoice, firstChoice+choices-1)
}

// block returns the project's block of loopback addresses, chosen if it has none: the one that its name asks for, or the
// next that no other project has and nobody listens in.
func (a *addresses) block() (int, error) {
	if a.Block != nil {
		return *a.Block, nil
	}
	unlock, err := lock(filepath.Join(runtimeRoot(), "addresses.lock"))
	if err != nil {
		return 0, err
	}
	defer unlock()
	others, err := known()
	if err != nil {
		return 0, err
	}
	taken := map[int]bool{}
	for _, l := range others {
		if b, err := loadAddresses(l); err == nil && b.Block != nil && l.StateDir != a.location.StateDir {
			taken[*b.Block] = true
		}
	}
	n := local.BlockOf(a.location.Project)
	for range local.Blocks {
		if !taken[n] {
			break
		}
		n = (n + 1) % local.Blocks
	}
	a.Block = &n
	return n, a.save()
}

// neighbour returns the project of this user that listens on a port of this machine, other than l itself, and the pid of
// its holder; 0 where it is none.
func neighbour(ctx context.Context, l Location, network string, port int) (Location, int) {
	all, err := registered()
	if err != nil {
		return Location{}, 0
	}
	for _, other := range all {
		if other.StateDir == l.StateDir {
			continue
		}
		if pid := listens(ctx, other, network, port); pid != 0 {
			return other, pid
		}
	}
	return Location{}, 0
}

// listens returns the pid of the holder of l if it has a port open to the machine, 0 otherwise.
func listens(ctx context.Context, l Location, network string, port int) int {
	info := holderInfo(ctx, l)
	for _, s := range info.Sockets {
		if portOf(s.Address) == port && !strings.HasPrefix(s.Name, "name/") && strings.Contains(s.Name, "/udp") == (network == "udp") {
			return info.PID
		}
	}
	return 0
}

// lenders asks the other projects of this user that listen on the port of s to lend it, and returns how many do; 0 where
// one of them does not, because it has that very address.
func lenders(ctx context.Context, l Location, s holder.Socket) int {
	all, err := registered()
	if err != nil {
		return 0
	}
	lent := 0
	for _, other := range all {
		if other.StateDir == l.StateDir {
			continue
		}
		asked, err := lend(ctx, other, s)
		if err != nil {
			return 0
		}
		if asked {
			lent++
		}
	}
	return lent
}

// lend asks the holder of l, if it listens on the port of s, to lend it.
func lend(ctx context.Context, l Location, s holder.Socket) (asked bool, err error) {
	client, err := holder.Dial(ctx, l.holderSocket())
	if err != nil {
		return false, nil // it does not run
	}
	defer client.Close()
	info, err := client.Info(ctx)
	if err != nil {
		return false, nil
	}
	for _, has := range info.Sockets {
		if portOf(has.Address) == portOf(s.Address) && !strings.Contains(has.Name, "/udp") {
			return true, client.Lend(ctx, s)
		}
	}
	return false, nil
}

// taken says in one sentence that an address is taken, by whom, and what to do.
func taken(ctx context.Context, l Location, s holder.Socket) string {
	port := portOf(s.Address)
	if other, pid := neighbour(ctx, l, s.Network, port); pid != 0 {
		if other.WorkingDir == l.WorkingDir {
			return fmt.Sprintf("%s is taken by project %s of the same folder (pid %d); stop that, publish another port, or use --copy, which chooses one",
				s.Address, other.Project, pid)
		}
		return fmt.Sprintf("%s is taken by project %s in %s (pid %d); stop that, or publish another port",
			s.Address, other.Project, other.WorkingDir, pid)
	}
	who := portHolder(port)
	if who == "" {
		return fmt.Sprintf("%s is taken; stop what listens there, or publish another port", s.Address)
	}
	return fmt.Sprintf("%s is taken by %s; stop it, or publish another port", s.Address, who)
}
