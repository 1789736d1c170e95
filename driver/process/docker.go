//go:build linux

package process

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"strings"
	"time"
)

const (
	// dockerBridge is there where a Docker engine runs or has run.
	dockerBridge = "docker0"
	// dockerChain is where Docker leaves room for rules of others: it drops whatever it does not know, on every interface.
	dockerChain = "DOCKER-USER"
	// iptablesLimit bounds one call, which waits for others that change rules.
	iptablesLimit = 5 * time.Second
)

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
