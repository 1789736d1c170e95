//go:build linux

package process

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"
)

const (
	// dockerBridge is there where a Docker engine runs or has run.
	dockerBridge = "docker0"
	// dockerChain is where Docker leaves room for rules of others: it drops whatever it does not know, on every interface.
	dockerChain = "DOCKER-USER"
	// dockerLook is the pause between two looks whether an engine was started, and dockerLooks how many follow that find
	// one: its rules come after its bridge.
	dockerLook  = 2 * time.Second
	dockerLooks = 15
	// iptablesLimit bounds one call, which waits for others that change rules.
	iptablesLimit = 5 * time.Second
)

// followDocker lets traffic of instances through engines that are started later than they were, until ctx is done.
func (d *Driver) followDocker(ctx context.Context) {
	if !d.isolate {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(dockerLook)
	defer tick.Stop()
	known, left := bridgeIndex(), 1 // it may have come before this process
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := bridgeIndex(); now != known {
			known, left = now, dockerLooks
		}
		if known == 0 || left == 0 {
			continue
		}
		left--
		err := locked(func() error {
			if held, err := os.ReadDir(d.netnsDir()); err == nil && len(held) > 0 {
				passDocker(d.log)
			}
			return nil
		})
		if err != nil {
			d.log.Warn("Docker's rules may drop what instances send to other machines", "project", d.cfg.Project, "err", err)
		}
	}
}

// bridgeIndex is the number of Docker's bridge, another one each time that it is made; 0 without.
func bridgeIndex() int {
	bridge, err := net.InterfaceByName(dockerBridge)
	if err != nil {
		return 0
	}
	return bridge.Index
}

// passDocker lets traffic of instances through where a Docker engine has made the machine drop what it does not forward
// itself. What must not reach instances is dropped by our own table, before or after. A machine without Docker's rules is
// left as it is. The caller holds the machine's lock.
func passDocker(log *slog.Logger) {
	if _, err := net.InterfaceByName(dockerBridge); err != nil {
		return
	}
	if iptables("-S", dockerChain) != nil {
		return // Docker was told to keep its hands off the rules
	}
	for _, rule := range dockerRules() {
		if iptables(append([]string{"-C", dockerChain}, rule...)...) == nil {
			continue
		}
		if err := iptables(append([]string{"-I", dockerChain}, rule...)...); err != nil {
			log.Warn("Docker's rules drop what instances send to other machines", "err", err)
		}
	}
}

// leaveDocker takes back what passDocker did.
func leaveDocker() {
	if _, err := net.InterfaceByName(dockerBridge); err != nil {
		return
	}
	for _, rule := range dockerRules() {
		_ = iptables(append([]string{"-D", dockerChain}, rule...)...) // not there: nothing to take back
	}
}

func dockerRules() [][]string {
	return [][]string{
		{"-s", addresses.String(), "-j", "ACCEPT"},
		{"-d", addresses.String(), "-j", "ACCEPT"},
	}
}

// iptables is Docker's own tool for its rules, whichever of the kernel's two ways it uses.
func iptables(args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), iptablesLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, "iptables", append([]string{"-w"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("iptables %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
