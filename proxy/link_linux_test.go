package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hostVariable has the test's binary be a host of its own: one data plane, in a network namespace of its own.
const hostVariable = "PROXY_TEST_HOST"

// host is what such a process is told.
type host struct {
	Snapshot Snapshot
	Sockets  map[string]string // addresses by listener
	Serve    string            // the address of an instance that it has; "": none
}

// marker is in every request and every answer.
const marker = "XyzzyNobodyMayReadThis"

// TestOtherHost is no test: it is a host of another test, until its standard input ends.
func TestOtherHost(t *testing.T) {
	text := os.Getenv(hostVariable)
	if text == "" {
		return
	}
	var h host
	if err := json.Unmarshal([]byte(text), &h); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil { // the network is there
		t.Fatal(err)
	}
	r := newRig(t, Config{})
	if h.Serve != "" {
		served := map[string]bool{}
		var mu sync.Mutex
		serve(t, h.Serve, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			b, _ := io.ReadAll(q.Body)
			if id := q.Header.Get("X-Once"); id != "" {
				mu.Lock()
				if served[id] {
					w.WriteHeader(http.StatusConflict)
				}
				served[id] = true
				mu.Unlock()
			}
			fmt.Fprintf(w, "%s %d", marker, len(b))
		}))
	}
	version := h.Snapshot.Version
	r.snap = h.Snapshot
	r.snap.Version = version
	for name, addr := range h.Sockets {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		r.sockets[name] = ln.(*net.TCPListener)
		r.handOver(r.feed, name)
	}
	r.push()
	fmt.Println("READY")
	for { // a command is a line
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		var s struct {
			Version, Epoch uint64
			Ejected        []string
		}
		if strings.TrimSpace(line) == "status" {
			st := r.proxy.Status()
			s.Version, s.Epoch, s.Ejected = st.Version, st.Epoch, st.Ejected
		}
		b, _ := json.Marshal(s)
		fmt.Println("STATUS " + string(b))
	}
}

// otherHost is a running one.
type otherHost struct {
	pid int
	in  io.WriteCloser
	out *bufio.Reader
}

// startHost starts a process in a network namespace of its own; go has it serve, once its network is there.
func startHost(t testing.TB, h host) *otherHost {
	t.Helper()
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestOtherHost$", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), hostVariable+"="+string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	cmd.Stderr = os.Stderr
	in, out := pipes(t, cmd)
	o := &otherHost{pid: cmd.Process.Pid, in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		in.Close()
		rest, _ := io.ReadAll(o.out)
		if err := cmd.Wait(); err != nil {
			t.Errorf("a host: %v\n%s", err, rest)
		}
	})
	return o
}

// say sends a line and returns the next one that begins with a word.
func (o *otherHost) say(t testing.TB, line, word string) string {
	t.Helper()
	fmt.Fprintln(o.in, line)
	for {
		got, err := o.out.ReadString('\n')
		if err != nil {
			t.Fatalf("a host has ended: %v", err)
		}
		if rest, ok := strings.CutPrefix(got, word); ok {
			return strings.TrimSpace(rest)
		}
	}
}

// run runs a program in the host's network.
func (o *otherHost) run(t testing.TB, args ...string) {
	t.Helper()
	args = append([]string{"--net=/proc/" + fmt.Sprint(o.pid) + "/ns/net"}, args...)
	if out, err := exec.Command("nsenter", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
}

// inside calls f on a thread that is in the host's network.
func (o *otherHost) inside(f func() error) error {
	done := make(chan error)
	go func() {
		done <- func() error {
			runtime.LockOSThread() // and never let go: it ends with the goroutine
			ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", o.pid))
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-done
}

// get makes one request inside of the host, over a connection of its own or, without one, a new one.
func (o *otherHost) dial(addr string) (conn net.Conn, err error) {
	err = o.inside(func() error {
		conn, err = net.DialTimeout("tcp", addr, 10*time.Second)
		return err
	})
	return conn, err
}

// twoHosts starts a host whose callers are at 127.0.0.1:8000 (service web), and one with the instance, and the wire
// between them.
func twoHosts(t testing.TB, change func(near, far *Snapshot)) (near, far *otherHost) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("networks of their own need root")
	}
	m := newMutualRig(t)
	b := Snapshot{
		Project: "test", Epoch: 1, Mesh: m.mesh(),
		Listeners: []Listener{{Name: "link", Protocol: Link, Address: "10.77.0.2:7443"}},
		Services:  []Service{{Name: "app", Instances: []Instance{{ID: "app-1", Host: "127.0.0.1", PortMap: map[int]int{80: 9000}, Ready: true}}}},
	}
	a := Snapshot{
		Project: "test", Epoch: 1, Mesh: m.mesh(),
		Listeners: []Listener{{Name: "web", Protocol: Detect, Service: "app", Port: 80, Caller: "web", Address: "127.0.0.1:8000"}},
		Services:  []Service{{Name: "app", Instances: []Instance{{ID: "app-1", Host: "10.77.0.2", Plane: "10.77.0.2:7443", Ready: true}}}},
	}
	if change != nil {
		change(&a, &b)
	}
	near = startHost(t, host{Snapshot: a, Sockets: map[string]string{"web": "127.0.0.1:8000"}, Serve: "127.0.0.1:9000"})
	far = startHost(t, host{Snapshot: b, Sockets: map[string]string{"link": "10.77.0.2:7443"}, Serve: "127.0.0.1:9000"})
	near.run(t, "ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", fmt.Sprint(far.pid))
	for i, o := range []*otherHost{near, far} {
		o.run(t, "ip", "link", "set", "lo", "up")
		o.run(t, "ip", "addr", "add", fmt.Sprintf("10.77.0.%d/24", i+1), "dev", "wire")
		o.run(t, "ip", "link", "set", "wire", "up")
	}
	far.say(t, "", "READY")
	near.say(t, "", "READY")
	return near, far
}

// capture is all that goes over the wire at a host.
type capture struct {
	fd   int
	mu   sync.Mutex
	all  bytes.Buffer
	done chan struct{}
}

// tap begins a capture. Packets of the loopback are not in it.
func (o *otherHost) tap(t testing.TB) *capture {
	t.Helper()
	c := &capture{done: make(chan struct{})}
	err := o.inside(func() error {
		wire, err := net.InterfaceByName("wire")
		if err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8 // in the network's order
		if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}); err != nil {
			return err
		}
		return unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: wire.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	go func() {
		defer close(c.done)
		buf := make([]byte, 128<<10)
		for {
			n, err := unix.Read(c.fd, buf)
			switch {
			case n > 0:
				c.mu.Lock()
				c.all.Write(buf[:n])
				c.mu.Unlock()
			case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
				select {
				case <-stop:
					return
				default:
				}
			default:
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-c.done
		unix.Close(c.fd)
	})
	return c
}

// bytes returns what was seen until now, once it was quiet for a moment, and how many packets the capture had no room for.
func (c *capture) bytes(t testing.TB) ([]byte, uint32) {
	t.Helper()
	last := -1
	eventually(t, "the wire is quiet", func() bool {
		time.Sleep(150 * time.Millisecond)
		c.mu.Lock()
		defer c.mu.Unlock()
		was := last
		last = c.all.Len()
		return last == was
	})
	st, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.all.Bytes()), st.Drops
}

// TestNothingReadableOnTheWire: between data planes in two network namespaces all that can be seen is ciphertext. The same
// calls to an instance on no other host are seen: the capture would have found it.
func TestNothingReadableOnTheWire(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		near, far := twoHosts(t, func(near, far *Snapshot) {
			if plain {
				near.Services[0].Instances[0] = Instance{ID: "app-1", Host: "10.77.0.2", PortMap: map[int]int{80: 7443}, Ready: true}
				far.Listeners[0] = Listener{Name: "link", Protocol: HTTP1, Service: "app", Port: 80, Address: "10.77.0.2:7443"}
			}
		})
		wire := far.tap(t)
		transport := &http.Transport{DialContext: func(_ context.Context, _, addr string) (net.Conn, error) { return near.dial(addr) }}
		c := &http.Client{Transport: transport, Timeout: time.Minute}
		for range 20 {
			res, err := c.Post("http://127.0.0.1:8000/"+marker, "", strings.NewReader(strings.Repeat(marker, 1000)))
			if got := body(t, res, err); got != fmt.Sprintf("%s %d", marker, 1000*len(marker)) {
				t.Fatalf("%s %q", res.Status, got)
			}
		}
		transport.CloseIdleConnections()
		seen, dropped := wire.bytes(t)
		n := bytes.Count(seen, []byte(marker))
		t.Logf("verdict: %d bytes captured, %d packets missed, marker seen %d times (plain: %v)", len(seen), dropped, n, plain)
		switch {
		case dropped > 0 || len(seen) < 20*1000*len(marker):
			t.Errorf("the capture has only %d bytes, and missed %d packets", len(seen), dropped)
		case plain && n < 20*1000 || !plain && n > 0:
			t.Errorf("the marker was seen %d times (plain: %v)", n, plain)
		}
	}
}

// partition is one way in which the wire fails, as rules of iptables in the near host.
type partition struct {
	name  string
	rules [][]string
}

// TestPartition: the wire between two hosts fails, wholly, in one direction or for one packet in twenty, and works again.
// A short fault costs no call, though none of them may be repeated; after a long one calls are answered as soon as there is a
// way. None hangs, none is carried out twice, and neither host takes up another snapshot than it had.
func TestPartition(t *testing.T) {
	t.Parallel()
	cut := 1 * time.Second
	if long() {
		cut = time.Minute
	}
	near, far := twoHosts(t, func(near, far *Snapshot) { near.Services[0].Hold = 10 * time.Second })
	var ids atomic.Int64
	call := func(limit time.Duration) (int, error) {
		conn, err := near.dial("127.0.0.1:8000")
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(limit))
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: app\r\nX-Once: %d\r\nContent-Length: 4\r\nConnection: close\r\n\r\nonce", ids.Add(1))
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return 0, err
		}
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		return res.StatusCode, err
	}
	drop := func(chain string, more ...string) []string {
		return append([]string{chain, "-p", "tcp", "-m", "tcp"}, append(more, "-j", "DROP")...)
	}
	for _, p := range []partition{
		{"both ways", [][]string{drop("INPUT", "--sport", "7443"), drop("OUTPUT", "--dport", "7443")}},
		{"requests only", [][]string{drop("OUTPUT", "--dport", "7443")}},
		{"answers only", [][]string{drop("INPUT", "--sport", "7443")}},
		{"one packet in twenty", [][]string{drop("INPUT", "--sport", "7443", "-m", "statistic", "--mode", "random", "--probability", "0.05"), drop("OUTPUT", "--dport", "7443", "-m", "statistic", "--mode", "random", "--probability", "0.05")}},
	} {
		t.Run(p.name, func(t *testing.T) {
			stop, done := make(chan struct{}), make(chan struct{})
			var answered, refused atomic.Int64
			go func() {
				defer close(done)
				for {
					select {
					case <-stop:
						return
					default:
					}
					began := time.Now()
					status, err := call(time.Minute)
					switch {
					case err != nil:
						t.Errorf("no answer after %s: %v", time.Since(began), err)
					case status == 200:
						answered.Add(1)
					case status == http.StatusConflict:
						t.Error("a request was carried out twice")
					default:
						refused.Add(1)
					}
					if took := time.Since(began); took > 30*time.Second {
						t.Errorf("a caller waited %s", took)
					}
				}
			}()
			began := time.Now()
			for _, rule := range p.rules {
				near.run(t, append([]string{"iptables", "-w", "-A"}, rule...)...)
			}
			time.Sleep(cut)
			for _, chain := range []string{"INPUT", "OUTPUT"} {
				near.run(t, "iptables", "-w", "-F", chain)
			}
			lasted := time.Since(began)
			healed := time.Now()
			eventually(t, "calls are answered again", func() bool {
				status, err := call(time.Minute)
				if status == http.StatusConflict {
					t.Error("a request was carried out twice")
				}
				return err == nil && status == 200
			})
			back := time.Since(healed)
			close(stop)
			<-done
			t.Logf("verdict: %s for %s: %d answered, %d refused, answered again %s after it", p.name, lasted.Round(time.Millisecond), answered.Load(), refused.Load(), back.Round(time.Millisecond))
			if n := refused.Load(); n > 0 && lasted < linkSilence/2 {
				t.Errorf("%d calls were refused for a fault of %s", n, lasted)
			}
			for _, o := range []*otherHost{near, far} {
				var st struct{ Version, Epoch uint64 }
				if err := json.Unmarshal([]byte(o.say(t, "status", "STATUS ")), &st); err != nil || st.Version != 1 || st.Epoch != 1 {
					t.Errorf("a host is at %+v (%v)", st, err)
				}
			}
		})
	}
}
