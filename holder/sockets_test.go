package holder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestOpenIsIdempotentByName(t *testing.T) {
	w := start(t)
	first := w.open(tcp("a"), Socket{Name: "b", Network: "tcp", Address: "127.0.0.2:0"})
	same(t, "opened again", w.open(tcp("a"), Socket{Name: "b", Network: "tcp", Address: "127.0.0.2:0"}), first)
	moved := w.open(Socket{Name: "a", Network: "tcp", Address: "127.0.0.3:0"})[0]
	if moved == first[0] {
		t.Fatalf("still at %s", moved)
	}
	if _, _, err := ask("tcp", moved); err != nil {
		t.Error(err)
	}
	if _, _, err := ask("tcp", first[0]); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the old address of a: %v", err)
	}
	if _, _, err := ask("tcp", first[1]); err != nil {
		t.Errorf("b was touched: %v", err)
	}
	if err := w.client.CloseSockets(t.Context(), "b", "never-there"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ask("tcp", first[1]); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the closed b: %v", err)
	}
}

// The data plane still has the old socket of that port when the new one is bound.
func TestSamePortOtherAddress(t *testing.T) {
	w := start(t)
	address := w.open(Socket{Name: "port", Network: "tcp", Address: "0.0.0.0:0"})[0]
	_, port, _ := net.SplitHostPort(address)
	if host, _, _ := net.SplitHostPort(address); host != "0.0.0.0" {
		t.Errorf("bound %s: not IPv4 alone", address)
	}
	for i := range 6 {
		host := []string{"127.0.0.1", "0.0.0.0", ""}[i%3]
		to := w.open(Socket{Name: "port", Network: "tcp", Address: net.JoinHostPort(host, port)})[0]
		if _, _, err := ask("tcp", net.JoinHostPort("127.0.0.1", port)); err != nil {
			t.Fatalf("at %s: %v", to, err)
		}
	}
}

// TestAllAddressesBesideOne has a socket for all addresses and some for one each on the same port, in any order, and looks
// who answers, and that nobody else may listen there.
func TestAllAddressesBesideOne(t *testing.T) {
	for _, all := range []string{"0.0.0.0", "", "::"} {
		for _, order := range []string{"all first", "one first"} {
			t.Run(all+" "+order, func(t *testing.T) {
				s := newSockets()
				port := freePort(t)
				at := func(host string) string { return net.JoinHostPort(host, port) }
				everywhere := Socket{Name: "gateway", Network: "tcp", Address: at(all)}
				asked := []Socket{everywhere, {Name: "name/a", Network: "tcp", Address: at("127.66.0.1")}, {Name: "name/b", Network: "tcp", Address: at("127.66.0.2")}}
				if order == "one first" {
					slices.Reverse(asked)
				}
				answers, _ := s.open(asked)
				for i, o := range answers {
					if o.Error != "" {
						t.Fatalf("%s: %s", asked[i].Address, o.Error)
					}
				}
				for _, o := range s.all() {
					host, _, _ := net.SplitHostPort(o.Address)
					if host == "0.0.0.0" || host == "::" {
						host = "127.0.0.1"
						if all == "::" {
							host = "::1"
						}
					}
					for range 5 {
						conn, err := net.Dial("tcp", at(host))
						if err != nil {
							t.Fatal(err)
						}
						defer conn.Close()
						if who := accepts(t, s, time.Second); who != o.Name {
							t.Errorf("%s was answered by %s, want %s", at(host), who, o.Name)
						}
					}
				}
				for _, host := range []string{all, "127.66.0.1"} {
					if l, err := net.Listen("tcp", at(host)); err == nil {
						l.Close()
						t.Errorf("somebody else may listen at %s", at(host))
					}
				}
				other := newSockets()
				defer other.close([]string{"name/c", "name/d", "gateway"})
				c, d := Socket{Name: "name/c", Network: "tcp", Address: at("127.66.0.3")}, Socket{Name: "name/d", Network: "tcp", Address: at("127.66.0.4")}
				lent, err := s.lend(c)
				if err != nil {
					t.Fatal(err)
				}
				c.Lenders = 1
				answers, _ = other.open([]Socket{c})
				if o := answers[0]; o.Error != "" {
					t.Errorf("the port was lent: %s", o.Error)
				}
				if _, err := s.lend(everywhere); err == nil {
					t.Errorf("%s was lent to another holder", everywhere.Address)
				}
				lent()
				answers, _ = other.open([]Socket{d, everywhere})
				if d := answers[0].InUse; d == (all == "::") || !answers[1].InUse { // IPv6 alone is nothing to IPv4
					t.Errorf("after that another holder may still listen: %+v", answers)
				}
				answers, _ = s.open([]Socket{{Name: "again", Network: "tcp", Address: at("127.66.0.1")}, {Name: "all again", Network: "tcp", Address: at(all)}})
				for _, o := range answers {
					if !o.InUse {
						t.Errorf("two sockets of one address: %+v", o)
					}
				}
				s.close([]string{"gateway", "name/a", "name/b"})
				other.close([]string{"name/c", "name/d"})
				l, err := net.Listen("tcp", at(all))
				if err != nil {
					t.Fatalf("closed, and still taken: %v", err)
				}
				l.Close()
			})
		}
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// accepts returns the name of the socket that has a connection to accept, and accepts it.
func accepts(t *testing.T, s *sockets, within time.Duration) string {
	t.Helper()
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for name, k := range s.byName {
			if err := unix.SetNonblock(k.fd, true); err != nil {
				t.Fatal(err)
			}
			if fd, _, err := unix.Accept(k.fd); err == nil {
				unix.Close(fd)
				return name
			}
		}
	}
	return "nobody"
}

func TestTakenAddress(t *testing.T) {
	w := start(t)
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	otherUDP, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer otherUDP.Close()
	opened, err := w.client.Open(t.Context(), []Socket{
		{Name: "taken", Network: "tcp", Address: other.Addr().String()},
		{Name: "taken-udp", Network: "udp", Address: otherUDP.LocalAddr().String()},
		tcp("free"),
		{Name: "", Network: "tcp", Address: "127.0.0.1:0"},
		{Name: "x", Network: "sctp", Address: "127.0.0.1:0"},
		{Name: "x", Network: "tcp", Address: "127.0.0.1"},
		{Name: "x", Network: "tcp", Address: "example.org:80"},
		{Name: "x", Network: "tcp", Address: "127.0.0.1:99999"},
		{Name: "x", Network: "tcp", Address: "192.0.2.1:0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range opened {
		if taken := i < 2; o.InUse != taken || (o.Error == "") != (i == 2) {
			t.Errorf("%d: %+v", i, o)
		}
	}
	if _, _, err := ask("tcp", opened[2].Address); err != nil {
		t.Error(err)
	}
}

func TestUDP(t *testing.T) {
	w := start(t)
	address := w.open(Socket{Name: "dns", Network: "udp", Address: "127.0.0.1:0"})[0]
	answered := func() bool {
		conn, err := net.Dial("udp", address)
		if err != nil {
			return false
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(200 * time.Millisecond))
		fmt.Fprintln(conn, "hi")
		_, err = conn.Read(make([]byte, 100))
		return err == nil
	}
	until(t, "a datagram is answered", answered)
	_, port, _ := net.SplitHostPort(address)
	for _, host := range []string{"0.0.0.0", "127.0.0.1"} {
		w.open(Socket{Name: "dns", Network: "udp", Address: net.JoinHostPort(host, port)})
		until(t, "a datagram is answered", answered)
	}
}

// collector follows and keeps what it is told.
type collector struct {
	sockets  []string
	snapshot string
	version  uint64
	events   int
}

func (c *collector) apply(e Event) error {
	c.events++
	for _, name := range e.Closed {
		c.sockets = slices.DeleteFunc(c.sockets, func(s string) bool { return s == name })
	}
	for name, f := range e.Sockets {
		if _, err := net.FileListener(f); err != nil {
			return fmt.Errorf("%s is no listener: %w", name, err)
		}
		f.Close()
		c.sockets = append(c.sockets, name)
	}
	slices.Sort(c.sockets)
	if e.Snapshot != nil {
		c.snapshot, c.version = string(e.Snapshot), e.Version
	}
	return nil
}

var errEnough = errors.New("enough")

func TestFollow(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	var many []Socket
	var names []string
	for i := range 2*maxFiles + 30 { // three messages
		name := fmt.Sprintf("s%04d", i)
		many, names = append(many, tcp(name)), append(names, name)
	}
	w.open(many...)
	if err := w.client.Publish(ctx, []byte("one"), 1, 7); err != nil {
		t.Fatal(err)
	}
	c := &collector{}
	step := 0
	err := w.client.Follow(ctx, func(e Event) error {
		if err := c.apply(e); err != nil {
			return err
		}
		switch step {
		case 0: // all at once
			if c.events != 1 || !slices.Equal(c.sockets, names) || c.snapshot != "one" || c.version != 7 {
				return fmt.Errorf("first event: %d sockets, snapshot %q", len(c.sockets), c.snapshot)
			}
			if err := w.client.CloseSockets(ctx, names[1:]...); err != nil {
				return err
			}
			step++
		case 1:
			if len(c.sockets) > 1 {
				return nil
			}
			if len(e.Snapshot) > 0 {
				return errors.New("the snapshot came again without a change")
			}
			// What happens while the follower is busy comes as one event.
			w.open(tcp("new"), Socket{Name: "s0000", Network: "tcp", Address: "127.0.0.2:0"})
			for v := range uint64(50) {
				if err := w.client.Publish(ctx, []byte(fmt.Sprint("v", v)), 2, v); err != nil {
					return err
				}
			}
			c.events = 0
			step++
		case 2:
			if c.snapshot == "v49" && slices.Equal(c.sockets, []string{"new", "s0000"}) {
				return errEnough
			}
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	if c.events > 10 {
		t.Errorf("%d events for changes that came while it was busy", c.events)
	}
}

func TestPublishRefusesOlder(t *testing.T) {
	w := start(t)
	for _, c := range []struct {
		snapshot       string
		epoch, version uint64
		stale          bool
	}{
		{"a", 2, 5, false}, {"a", 2, 5, false}, {"b", 2, 5, true}, {"c", 2, 4, true}, {"d", 1, 9, true},
		{"e", 2, 6, false}, {"f", 3, 0, false}, {"e", 2, 6, true},
	} {
		err := w.client.Publish(t.Context(), []byte(c.snapshot), c.epoch, c.version)
		if errors.Is(err, ErrStale) != c.stale || err != nil && !c.stale {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if info := w.info(); info.Epoch != 3 || info.Version != 0 {
		t.Errorf("the holder has %d.%d", info.Epoch, info.Version)
	}
}

// Followers that never read, or that are killed, hold up nobody.
func TestSlowFollowersBlockNobody(t *testing.T) {
	w := start(t)
	var many []Socket
	for i := range 3 * maxFiles {
		many = append(many, tcp(fmt.Sprint("s", i)))
	}
	w.open(many...)
	for range 3 {
		conn, _, err := w.client.ask(t.Context(), request{Op: opFollow}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close() // and never reads
	}
	big := make([]byte, 8<<20)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for v := range uint64(5) {
		big[0] = byte(v)
		if err := w.client.Publish(ctx, big, 1, v+1); err != nil {
			t.Fatal(err)
		}
		w.open(tcp(fmt.Sprint("more", v)))
	}
	err := w.client.Follow(ctx, func(e Event) error {
		closeAll(e.Sockets)
		if len(e.Snapshot) != len(big) || e.Version != 5 || len(e.Sockets) != len(many)+5 {
			return fmt.Errorf("told %d sockets and %d bytes of version %d", len(e.Sockets), len(e.Snapshot), e.Version)
		}
		return errEnough
	})
	if !errors.Is(err, errEnough) {
		t.Error(err)
	}
}

// namespace makes a network namespace that lives as long as a process, and returns its path.
func namespace(t *testing.T) (path string, end func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	var ended bool
	end = func() {
		if !ended {
			ended = true
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	t.Cleanup(end)
	path = fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
	if err := inNamespace(path, loopbackUp); err != nil {
		t.Fatal(err)
	}
	return path, end
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var req struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(req.name[:], "lo")
	req.flags = unix.IFF_UP | unix.IFF_RUNNING
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}

func TestNetworkNamespace(t *testing.T) {
	w := start(t)
	path, end := namespace(t)
	const address = "127.88.0.2:5432"
	here := Socket{Name: "here", Network: "tcp", Address: address}
	there := Socket{Name: "there", Network: "tcp", Address: address, Netns: path}
	w.open(here, there, Socket{Name: "udp", Network: "udp", Address: address, Netns: path})
	err := inNamespace(path, func() error { _, _, err := ask("tcp", address); return err })
	if err != nil {
		t.Errorf("from inside: %v", err)
	}
	if err := w.client.CloseSockets(t.Context(), "here"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ask("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("from outside: %v", err)
	}
	end()
	opened, err := w.client.Open(t.Context(), []Socket{there, tcp("after"),
		{Name: "fifo", Network: "tcp", Address: address, Netns: fifo(t)}, {Name: "no", Network: "tcp", Address: address, Netns: os.DevNull}})
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range opened {
		if (o.Error == "") != (i == 1) || o.InUse {
			t.Errorf("with a vanished namespace: %+v", o)
		}
	}
	if _, _, err := ask("tcp", opened[1].Address); err != nil {
		t.Error(err)
	}
	// Another namespace at the same path is another socket.
	first, _ := namespace(t)
	second, _ := namespace(t)
	link := filepath.Join(t.TempDir(), "ns")
	var events []string
	for _, target := range []string{first, second} {
		os.Remove(link)
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		w.open(Socket{Name: "linked", Network: "tcp", Address: address, Netns: link})
		err := inNamespace(target, func() error { _, _, err := ask("tcp", address); return err })
		events = append(events, fmt.Sprint(err))
	}
	if strings.Join(events, " ") != "<nil> <nil>" {
		t.Errorf("asked in both: %v", events)
	}
}

// TestThreadsComeBack: no thread of the holder stays in a namespace that it has listened in, which would live as long as the
// holder does. What /proc/self shows is the first one, which cannot end.
func TestThreadsComeBack(t *testing.T) {
	own := func() string {
		link, err := os.Readlink("/proc/self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	before := own()
	path, _ := namespace(t)
	for n := range 200 {
		if err := inNamespace(path, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		if now := own(); now != before {
			t.Fatalf("after %d times the first thread is in %s, and it was in %s", n+1, now, before)
		}
	}
}

func fifo(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
