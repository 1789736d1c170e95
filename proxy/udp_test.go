package proxy

import (
	"fmt"
	"net"
	"os"
	"testing"
	"time"
)

// udpSocket is a socket of this host's own, as long as the test.
func udpSocket(t testing.TB) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// echoUDP is a server that answers a datagram with it, after "re:".
func echoUDP(t *testing.T) string {
	t.Helper()
	up := udpSocket(t)
	go func() {
		buf := make([]byte, 2000)
		for {
			n, from, err := up.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			up.WriteToUDPAddrPort(append([]byte("re:"), buf[:n]...), from)
		}
	}()
	return up.LocalAddr().String()
}

// listenUDP opens a socket for l and hands it over; push makes it known.
func (r *rig) listenUDP(l Listener) string {
	r.t.Helper()
	front := udpSocket(r.t)
	f, err := front.File()
	if err != nil {
		r.t.Fatal(err)
	}
	l.Protocol, l.Address = UDP, front.LocalAddr().String()
	r.snap.Listeners = append(r.snap.Listeners, l)
	r.feed.ch <- Update{Sockets: map[string]*os.File{l.Name: f}}
	return l.Address
}

func TestUDP(t *testing.T) {
	r := newRig(t, Config{Grace: 100 * time.Millisecond})
	r.snap.Services = []Service{{Name: "dns", Instances: []Instance{instanceAt("dns-1", echoUDP(t))}}}
	front := r.listenUDP(Listener{Name: "dns", Service: "dns", Port: 80})
	r.push()
	for i := range 3 {
		c, err := net.Dial("udp", front)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		for j := range 3 {
			fmt.Fprintf(c, "%d-%d", i, j)
			buf := make([]byte, 100)
			n, err := c.Read(buf)
			if want := fmt.Sprintf("re:%d-%d", i, j); string(buf[:n]) != want {
				t.Fatalf("got %q %v, want %q", buf[:n], err, want)
			}
		}
	}
	if n := r.proxy.Status().InUse["dns-1"]; n != 3 {
		t.Errorf("%d sessions, want 3", n)
	}
	s := &r.snap.Services[0]
	s.Instances[0].Draining, s.Instances[0].DrainBy = true, time.Now()
	r.push()
	eventually(t, "sessions ended", func() bool { return r.proxy.Status().InUse["dns-1"] == 0 })
}
