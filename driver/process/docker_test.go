//go:build linux

package process_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestBesideDocker: a Docker engine has the machine drop what it does not forward itself, so what instances send to other
// machines is let through for as long as there are instances.
func TestBesideDocker(t *testing.T) {
	rules := func() string {
		out, err := exec.Command("iptables", "-w", "-S", "DOCKER-USER").Output()
		if err != nil {
			t.Skip("no Docker engine has made its rules on this machine")
		}
		return string(out)
	}
	rules()
	w := newWorld(t, false)
	spec := w.spec("web", "sleep", "1000")
	w.start(spec)
	for _, rule := range []string{"-s 198.18.0.0/15 -j ACCEPT", "-d 198.18.0.0/15 -j ACCEPT"} {
		if got := rules(); strings.Count(got, rule) != 1 {
			t.Errorf("rule %q is not there once:\n%s", rule, got)
		}
	}
	w.stop(spec.ID, 0)
}

// aloneVariable says to a test that this process has a network and a /run of its own.
const aloneVariable = "PROCESS_TEST_ALONE"

// TestDockerThatComesLater: an engine that is started beside instances does not cut them off. It runs where nobody else is,
// with what an engine leaves on a machine in the place of one. What the engine's own containers need stays when the last
// instance has gone: it found forwarding switched on, and would have switched it on itself.
func TestDockerThatComesLater(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a network of one's own needs root")
	}
	if _, err := exec.LookPath("iptables"); err != nil {
		t.Skip("no iptables, and so no Docker engine either")
	}
	if os.Getenv(aloneVariable) == "" {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe, "-test.run=^TestDockerThatComesLater$", "-test.v")
		cmd.Env = append(os.Environ(), aloneVariable+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""))
	must(unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
	const forwarding = "/proc/sys/net/ipv4/ip_forward"
	must(os.WriteFile(forwarding, []byte("0"), 0))
	iptables := func(args ...string) string {
		out, err := exec.Command("iptables", append([]string{"-w"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("iptables %q: %v: %s", args, err, out)
		}
		return string(out)
	}
	w := newWorld(t, false)
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = w.d.Run(ctx)
	}()
	defer func() { cancel(); <-over }()
	spec := w.spec("web", "sleep", "1000")
	w.start(spec)
	must(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "docker0"}}))
	iptables("-N", "DOCKER-USER")
	await(t, "what instances send is let through", func() bool {
		rules := iptables("-S", "DOCKER-USER")
		return strings.Contains(rules, "-s 198.18.0.0/15 -j ACCEPT") && strings.Contains(rules, "-d 198.18.0.0/15 -j ACCEPT")
	})
	w.stop(spec.ID, 0)
	must(w.d.Remove(context.Background(), spec.ID))
	if now, err := os.ReadFile(forwarding); err != nil || strings.TrimSpace(string(now)) != "1" {
		t.Errorf("IP forwarding is %q beside an engine: %v", now, err)
	}
	if rules := iptables("-S", "DOCKER-USER"); strings.Contains(rules, "198.18.0.0/15") {
		t.Errorf("rules for instances are left:\n%s", rules)
	}
	must(netlink.LinkDel(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "docker0"}}))
	must(os.WriteFile(forwarding, []byte("0"), 0))
	w.start(spec)
	w.stop(spec.ID, 0)
	must(w.d.Remove(context.Background(), spec.ID))
	if now, err := os.ReadFile(forwarding); err != nil || strings.TrimSpace(string(now)) != "0" {
		t.Errorf("IP forwarding is %q after the last instance, where nobody else is: %v", now, err)
	}
}
