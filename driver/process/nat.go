//go:build linux

package process

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	tableName = "trellis"
	forwardIP = "/proc/sys/net/ipv4/ip_forward"
)

// forwardMark says that it was Trellis that switched IP forwarding on.
func forwardMark() string { return filepath.Join(machineDir, "ip_forward") }

// openWay lets instances reach other machines: their addresses are translated to the machine's, and what is new from
// elsewhere, or from one instance to another, is dropped: instances are reached through the machine alone. The caller
// holds the machine's lock.
func openWay(log *slog.Logger) error {
	if err := openForwarding(log); err != nil {
		return err
	}
	passDocker(log)
	c, err := nftables.New()
	if err != nil {
		return err
	}
	if tableStands(c) {
		return nil
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName})
	c.FlushTable(table)
	forward := c.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	postrouting := c.AddChain(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	const source, destination = 12, 16 // offsets in the IPv4 header
	answers := binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	c.AddRule(&nftables.Rule{Table: table, Chain: forward, Exprs: append(within(destination, expr.CmpOpEq),
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: answers, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
		&expr.Verdict{Kind: expr.VerdictAccept})})
	c.AddRule(&nftables.Rule{Table: table, Chain: forward, Exprs: append(within(destination, expr.CmpOpEq),
		&expr.Verdict{Kind: expr.VerdictDrop})})
	c.AddRule(&nftables.Rule{Table: table, Chain: postrouting, Exprs: append(append(
		within(source, expr.CmpOpEq), within(destination, expr.CmpOpNeq)...), &expr.Masq{})})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("make the nftables table %s: %w", tableName, err)
	}
	return nil
}

// within compares the address at offset with the range of instances.
func within(offset uint32, op expr.CmpOp) []expr.Any {
	first := addresses.Addr().As4()
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{0xff, 0xfe, 0, 0}, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: 1, Data: first[:]},
	}
}

// tableStands says whether the table is there with all its chains: it is made whole or not at all.
func tableStands(c *nftables.Conn) bool {
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return false
	}
	n := 0
	for _, chain := range chains {
		if chain.Table.Name == tableName {
			n++
		}
	}
	return n == 2
}

func openForwarding(log *slog.Logger) error {
	b, err := os.ReadFile(forwardIP)
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(b)) == "1" {
		return nil
	}
	if err := os.WriteFile(forwardMark(), nil, 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(forwardIP, []byte("1"), 0); err != nil {
		return fmt.Errorf("switch IP forwarding on: %w", err)
	}
	log.Info("IP forwarding was switched on, so that instances reach other machines; it goes off with the last one")
	return nil
}

// closeWay undoes openWay after the last instance of the machine. Forwarding stays on where a Docker engine has come meanwhile: it
// found it on, and its containers need it.
func closeWay() error {
	leaveDocker()
	if err := os.Remove(forwardMark()); err == nil && bridgeIndex() == 0 {
		if err := os.WriteFile(forwardIP, []byte("0"), 0); err != nil {
			return fmt.Errorf("switch IP forwarding off: %w", err)
		}
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.DelTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName})
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the nftables table %s: %w", tableName, err)
	}
	return nil
}
