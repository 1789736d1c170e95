//go:build linux

package netspace

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// RedirectNames makes the calling thread's network namespace send every TCP connection to an address of network to the
// one listener for names, an address and port. Listeners at the names' own addresses would take ports away from the instance: a program that
// listens on port 80 of all addresses cannot, while any address has a listener on it. It may be called again.
func RedirectNames(network, to string) error {
	_, names, err := net.ParseCIDR(network)
	if err != nil {
		return err
	}
	listener, err := netip.ParseAddrPort(to)
	if err != nil {
		return err
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "trellis"})
	output := c.AddChain(&nftables.Chain{
		Name: "names", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	const destination = 16 // offset in the IPv4 header
	// The rule of an earlier call goes in the same transaction: there is no moment without one.
	c.FlushChain(output)
	c.AddRule(&nftables.Rule{Table: table, Chain: output, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: destination, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: names.Mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: names.IP.To4()},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, listener.Port())},
		&expr.Redir{RegisterProtoMin: 1},
	}})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("redirect names in the network namespace: %w", err)
	}
	return nil
}
