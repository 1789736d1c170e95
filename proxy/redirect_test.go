//go:build linux

package proxy

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var names = Listener{
	Name: "name/web-1", Address: "127.0.0.1:15088", Protocol: Detect, Caller: "web",
	Names: map[string]string{"127.88.0.1": "catalog", "127.88.0.2": "db"},
}

func TestNamed(t *testing.T) {
	got := names.named(netip.MustParseAddrPort("127.88.0.2:5432"))
	if got == nil || got.Service != "db" || got.Port != 5432 || got.Caller != "web" || got.Protocol != Detect || got.Name != names.Name || got.Names != nil {
		t.Errorf("got %+v", got)
	}
	for _, to := range []string{"127.88.0.3:80", "127.0.0.1:15088", "10.0.0.1:80", "[::1]:80"} {
		if got := names.named(netip.MustParseAddrPort(to)); got != nil {
			t.Errorf("%s leads to %+v", to, got)
		}
	}
}

// What came straight to the listener leads nowhere.
func TestNotRedirected(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if got := redirected(&names, dialled(t, ln, ln.Addr().String())); got != nil {
		t.Errorf("it leads to %+v", got)
	}
}

// dialled returns the listener's end of a connection to address.
func dialled(t *testing.T, ln net.Listener, address string) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		t.Fatalf("dial %s: %v", address, err)
	}
	t.Cleanup(func() { conn.Close() })
	in, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	return in.(*net.TCPConn)
}

// TestRedirected asks the kernel: in a namespace of its own whatever goes to a name's address is redirected to the
// listener, which learns where it was meant to go.
func TestRedirected(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may make a network namespace")
	}
	done := make(chan struct{})
	go func() { // a thread of its own, which ends with its namespace
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("make a network namespace: %v", err)
			return
		}
		if err := redirectNames(15088); err != nil {
			t.Errorf("redirect: %v", err)
			return
		}
		ln, err := net.Listen("tcp", "127.0.0.1:15088")
		if err != nil {
			t.Error(err)
			return
		}
		defer ln.Close()
		for address, service := range map[string]string{"127.88.0.1:80": "catalog", "127.88.0.2:5432": "db", "127.88.0.9:80": ""} {
			conn, err := net.DialTimeout("tcp", address, 10*time.Second)
			if err != nil {
				t.Errorf("dial %s: %v", address, err)
				continue
			}
			in, err := ln.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			got := redirected(&names, in.(*net.TCPConn))
			if service == "" && got != nil || service != "" && (got == nil || got.Service != service || got.Address != address) {
				t.Errorf("%s leads to %+v, want %q", address, got, service)
			}
			conn.Close()
			in.Close()
		}
	}()
	<-done
}

// redirectNames does in the thread's namespace what a driver does for an instance.
func redirectNames(port uint16) error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return err
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "names"})
	chain := c.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	const destination = 16 // offset in the IPv4 header
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: destination, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{127, 88}},
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: 1},
	}})
	return errors.Join(c.Flush())
}
