//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// systemdMachine is a machine that systemd runs: processes, network and mounts of its own, and this machine's files with
// every change to them in a layer of its own, which outlives it as a disk does.
type systemdMachine struct {
	t    *testing.T
	disk string
	init int // systemd's pid here; 0 while it is off
}

// newSystemdMachine returns one that is off. The test is skipped where none can be had.
func newSystemdMachine(t *testing.T) *systemdMachine {
	t.Helper()
	needPrograms(t, "unshare", "nsenter", "systemctl", "ip")
	if os.Geteuid() != 0 {
		t.Skip("a machine of its own needs root")
	}
	m := &systemdMachine{t: t, disk: t.TempDir()}
	for _, dir := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(m.disk, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(m.cutPower)
	return m
}

// bootScript becomes the machine's first process. What this machine's administrator has enabled is not started in it.
const bootScript = `set -eu
root=$1/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
if grep -q name=systemd /proc/self/cgroup; then
	while IFS=: read -r _ names _; do
		test -n "$names" || continue
		mkdir -p "sys/fs/cgroup/${names#name=}"
		mount -t cgroup -o "$(test "$names" = name=systemd && echo none,)$names" cgroup "sys/fs/cgroup/${names#name=}"
	done </proc/self/cgroup
else
	mount -t cgroup2 cgroup sys/fs/cgroup
fi
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
mount --rbind /dev dev
test -e "$1/installed" || rm -rf etc/systemd/system/*.wants
touch "$1/installed"
ip link set lo up
exec chroot . env -i container=test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system
`

func (m *systemdMachine) powerOn() {
	m.t.Helper()
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup", "--net", "sh", "-c", bootScript, "sh", m.disk)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	eventually(m.t, 60*time.Second, "systemd runs", func() string {
		select {
		case err := <-ended:
			m.t.Fatalf("no machine: %v\n%s", err, out.String())
		default:
		}
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		if err != nil {
			return err.Error()
		}
		if _, err := fmt.Sscan(string(children), &m.init); err != nil {
			return "no first process"
		}
		if state, _ := m.try("systemctl", "is-system-running"); !strings.Contains("running degraded starting", strings.TrimSpace(state)) || state == "" {
			return state
		}
		return ""
	})
}

// cutPower ends every process of the machine at once. What they have written is on its disk.
func (m *systemdMachine) cutPower() {
	if m.init > 0 {
		_ = exec.Command("kill", "-KILL", fmt.Sprint(m.init)).Run()
	}
	m.off()
}

// off waits until nothing of the machine runs.
func (m *systemdMachine) off() {
	m.t.Helper()
	eventually(m.t, 90*time.Second, "the machine is off", func() string {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", m.init)); m.init > 0 && err == nil {
			return "its first process runs"
		}
		return ""
	})
	m.init = 0
}

func (m *systemdMachine) try(args ...string) (string, error) {
	enter := []string{"-t", fmt.Sprint(m.init), "-m", "-p", "-n", "-u", "-i", "-C", "-r", "-w"}
	out, err := exec.Command("nsenter", append(enter, args...)...).CombinedOutput()
	return string(out), err
}

// sh runs a script in the machine, which has to succeed.
func (m *systemdMachine) sh(script string) string {
	m.t.Helper()
	out, err := m.try("sh", "-euc", script)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

// copy puts a file of this machine, which has the test's folder covered, into that one.
func (m *systemdMachine) copy(from, to string) {
	m.t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		m.t.Fatal(err)
	}
	m.put(to, b)
}

func (m *systemdMachine) put(to string, content []byte) {
	m.t.Helper()
	cmd := exec.Command("nsenter", "-t", fmt.Sprint(m.init), "-m", "-r", "sh", "-euc", `mkdir -p "${1%/*}"; cat >"$1"; chmod 755 "$1"; sync "$1"`, "sh", to)
	cmd.Stdin = bytes.NewReader(content)
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("%s: %v\n%s", to, err, out)
	}
}

// inShop is how a script in the machine begins that asks its project.
const inShop = "cd /opt/shop && bin/trellis "

// ended returns how many instances have ended in this way, by the project's events.
func (m *systemdMachine) ended(how string) (n int) {
	m.t.Helper()
	for line := range strings.Lines(m.sh(inShop + "events")) {
		if strings.Contains(line, "instance.exited") && strings.Contains(line, how) {
			n++
		}
	}
	return n
}

// TestSystemdBringsItBack has a machine that systemd runs lose every process at once, and be shut down: both times the project serves
// again when the machine is on, and in the second case its programs were stopped as the file says.
func TestSystemdBringsItBack(t *testing.T) {
	longAlone(t)
	f, m := newFault(t), newSystemdMachine(t)
	m.powerOn()
	m.copy(built.trellis, "/opt/shop/bin/trellis")
	m.copy(built.app, "/opt/shop/bin/testapp")
	m.put("/opt/shop/compose.yaml", []byte(`name: shop
services:
  web:
    image: testapp
    ports: ["18080:80"]
    environment: {VERSION: v1}
    deploy: {replicas: 2}
    x-trellis: {process: {command: [/opt/shop/bin/testapp]}, probe: {http: /healthz}}
`))
	m.sh(inShop + "up -d && bin/trellis boot enable && sync")
	serves := func() string {
		out, err := m.try("sh", "-c", "curl -fsS http://127.0.0.1:18080/")
		if err != nil || !strings.Contains(out, `"v1"`) {
			return out
		}
		return ""
	}
	for _, way := range []struct {
		name string
		down func()
		end  string // what events say of the instances' end
	}{
		{"everything ends at once", m.cutPower, "its supervisor was killed"},
		{"shut down", func() { _, _ = m.try("systemctl", "poweroff"); m.off() }, "exited with code 0"},
	} {
		f.try(way.name, func() {
			before := m.ended(way.end)
			way.down()
			on := time.Now()
			m.powerOn()
			eventually(t, 60*time.Second, "serves again", serves)
			t.Logf("%s: serves %v after the machine was switched on", way.name, time.Since(on).Round(time.Millisecond))
			if now := m.ended(way.end); now != before+2 {
				t.Errorf("%s: events do not say %q of both instances:\n%s", way.name, way.end, m.sh(inShop+"events"))
			}
		})
	}
	m.sh(inShop + "boot disable && test ! -e /etc/systemd/system/multi-user.target.wants/trellis-*")
	if why := serves(); why != "" {
		t.Errorf("what is not to come back is not to be stopped either: %s", why)
	}
	m.sh(inShop + "down --volumes --yes")
}
