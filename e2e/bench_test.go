//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// farm is a Compose file of n services, one replica each, behind the ports.
func farm(ports []int) string {
	var b strings.Builder
	b.WriteString("name: farm\nservices:\n")
	for i, port := range ports {
		fmt.Fprintf(&b, `  s%d:
    image: testapp
    ports: ["%d:80"]
    healthcheck: {interval: 1s, timeout: 1s, retries: 3}
    x-trellis:
      process: {command: [%s]}
      probe: {http: /healthz}
`, i, port, built.app)
	}
	return b.String()
}

// freePorts returns n different TCP ports that nothing listens on.
func freePorts(b *testing.B, n int) []int {
	b.Helper()
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close() // not before all are found: they would be found again
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports
}

// answeringPid returns who answers at a port, 0 while nobody does.
func answeringPid(client *http.Client, port int) int {
	resp, err := client.Get(url(port))
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	var hello struct{ PID int }
	if resp.StatusCode != http.StatusOK || json.NewDecoder(resp.Body).Decode(&hello) != nil {
		return 0
	}
	return hello.PID
}

// awaitPid blocks until somebody else than the process old answers with 200 at a port, and returns who.
func awaitPid(b *testing.B, client *http.Client, port, old int) int {
	b.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Microsecond) {
		if pid := answeringPid(client, port); pid != 0 && pid != old {
			return pid
		}
		if time.Now().After(deadline) {
			b.Fatalf("nobody answers at port %d", port)
		}
	}
}

// awaitAll blocks until each port has answered.
func awaitAll(b *testing.B, ports []int) {
	b.Helper()
	var all sync.WaitGroup
	late := make([]bool, len(ports))
	for i, port := range ports {
		all.Go(func() {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
			for deadline := time.Now().Add(2 * time.Minute); answeringPid(client, port) == 0; time.Sleep(time.Millisecond) {
				if late[i] = time.Now().After(deadline); late[i] {
					return
				}
			}
		})
	}
	all.Wait()
	if i := slices.Index(late, true); i >= 0 {
		b.Fatalf("nobody answers at port %d", ports[i])
	}
}

// bare starts the test's program on a port without Trellis.
func bare(port int) (*exec.Cmd, error) {
	cmd := exec.Command(built.app)
	cmd.Env = []string{"PORT=" + strconv.Itoa(port)}
	return cmd, cmd.Start()
}

// bareFarm is the floor of an up: the same programs started with nothing around them, until the slowest has answered.
func bareFarm(b *testing.B, ports []int) time.Duration {
	b.Helper()
	var cmds []*exec.Cmd
	defer func() {
		for _, cmd := range cmds {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}()
	start := time.Now()
	for _, port := range ports {
		cmd, err := bare(port)
		if err != nil {
			b.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	awaitAll(b, ports)
	return time.Since(start)
}

// BenchmarkUp is the time from the command to its return with every service ready, when every port answers.
func BenchmarkUp(b *testing.B) {
	for _, tc := range []struct{ services, rounds int }{{1, 5}, {10, 3}, {50, 1}} {
		b.Run(fmt.Sprintf("services=%d", tc.services), func(b *testing.B) {
			var ups, floors []time.Duration
			for range b.N * tc.rounds {
				ports := freePorts(b, tc.services)
				floors = append(floors, bareFarm(b, ports))
				p := newProject(b, map[string]string{"compose.yaml": farm(ports)})
				start := time.Now()
				p.run("up", "-d")
				awaitAll(b, ports)
				ups = append(ups, time.Since(start))
				p.run("down", "--volumes", "--yes")
			}
			b.Logf("up %v, floor %v", ups, floors)
			compared(b, median(ups), median(floors))
		})
	}
}

// BenchmarkCommand is what a command takes of a processor, its own and the kernel's time for it. "version" does nothing but start.
func BenchmarkCommand(b *testing.B) {
	const times = 40
	p := newProject(b, map[string]string{"compose.yaml": farm(freePorts(b, 3))})
	p.run("up", "-d")
	took := map[string]time.Duration{}
	commands := []string{"version", "config", "ps"}
	for range b.N * times {
		for _, name := range commands {
			cmd := exec.Command(p.trellis, name)
			cmd.Dir = p.dir
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("trellis %s: %v\n%s", name, err, out)
			}
			took[name] += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		}
	}
	for _, name := range commands {
		b.ReportMetric(ms(took[name])/float64(b.N*times), name+"-ms")
	}
	b.ReportMetric(float64(took["ps"])/float64(took["version"]), "ps-of-version")
	b.ReportMetric(0, "ns/op")
}

// supervise is a supervisor that only starts its program again, until stop is called.
func supervise(b *testing.B, port int) (stop func()) {
	b.Helper()
	var mu sync.Mutex
	var current *exec.Cmd
	stopped := false
	start := func() bool {
		mu.Lock()
		defer mu.Unlock()
		if stopped {
			return false
		}
		cmd, err := bare(port)
		if err != nil {
			b.Error(err)
			return false
		}
		current = cmd
		return true
	}
	var loop sync.WaitGroup
	loop.Go(func() {
		for start() {
			_ = current.Wait()
		}
	})
	return func() {
		mu.Lock()
		stopped = true
		if current != nil {
			_ = current.Process.Kill()
		}
		mu.Unlock()
		loop.Wait()
	}
}

// BenchmarkCrash is the time from the SIGKILL of a program to the first answer of the one in its place. Each service is
// killed once: a second crash soon after the first one is answered with a pause on purpose. What is limited has control groups
// of its own, which the floor has not.
func BenchmarkCrash(b *testing.B) {
	b.Run("plain", func(b *testing.B) { crashes(b, "") })
	b.Run("limited", func(b *testing.B) {
		crashes(b, "    deploy: {resources: {limits: {memory: 256M, pids: 100}}}\n")
	})
}

// crashes is BenchmarkCrash with more lines in the file of each service.
func crashes(b *testing.B, more string) {
	const kills = 20
	var ours, floor []time.Duration
	for range b.N {
		ports := freePorts(b, kills+1)
		client := &http.Client{Timeout: 10 * time.Second}
		crash := func(port int) time.Duration {
			pid := awaitPid(b, client, port, 0)
			time.Sleep(20 * time.Millisecond) // what the last one caused is over
			start := time.Now()
			signal(b, pid, "KILL")
			awaitPid(b, client, port, pid)
			return time.Since(start)
		}
		file := strings.ReplaceAll(farm(ports[:kills]), "    image: testapp\n", "    image: testapp\n"+more)
		p := newProject(b, map[string]string{"compose.yaml": file})
		p.run("up", "-d")
		time.Sleep(time.Second)              // what starting caused is over
		for _, port := range ports[:kills] { // one of each in turn: whatever else the machine does meets both
			stop := supervise(b, ports[kills])
			floor = append(floor, crash(ports[kills]))
			stop()
			ours = append(ours, crash(port))
		}
		p.run("down", "--volumes", "--yes")
	}
	b.Logf("crash %v, floor %v", ours, floor)
	compared(b, median(ours), median(floor))
	b.ReportMetric(ms(slices.Max(ours)), "max-ms")
	b.ReportMetric(ms(slices.Max(floor)), "floor-max-ms")
}

// idle is a project of three services that nobody asks anything.
func idle(b *testing.B) *project {
	b.Helper()
	p := newProject(b, map[string]string{"compose.yaml": farm(freePorts(b, 3))})
	p.run("up", "-d")
	time.Sleep(5 * time.Second) // what starting caused is over
	return p
}

// BenchmarkIdleMemory is what each of Trellis' own processes keeps resident, shared pages counted in parts.
func BenchmarkIdleMemory(b *testing.B) {
	const target = 120.0 // MB for the three together
	p := idle(b)
	sum := 0.0
	for name, pid := range own(p.ps()) {
		mb := pss(b, pid)
		sum += mb
		b.ReportMetric(mb, name+"-MB")
	}
	b.ReportMetric(sum, "sum-MB")
	b.ReportMetric(sum/target, "of-target")
	b.ReportMetric(0, "ns/op")
}

// pss is a process's proportional set size in MB.
func pss(b *testing.B, pid int) float64 {
	b.Helper()
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(rollup)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
			kib, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib * 1024 / 1e6
		}
	}
	b.Fatalf("no Pss of %d: %s", pid, rollup)
	return 0
}

// BenchmarkIdleCPU is what each of Trellis' own processes uses of one processor while nothing happens but probes.
func BenchmarkIdleCPU(b *testing.B) {
	const over = 10 * time.Second
	p := idle(b)
	pids := own(p.ps())
	before := map[string]time.Duration{}
	start := time.Now()
	for name, pid := range pids {
		before[name] = cpu(b, pid)
	}
	time.Sleep(over)
	took := time.Since(start)
	for name, pid := range pids {
		b.ReportMetric(100*float64(cpu(b, pid)-before[name])/float64(took), name+"-%")
	}
	b.ReportMetric(0, "ns/op")
}

// cpu is the time that a process has spent on processors, all of its threads, to the nanosecond of the scheduler.
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(names) == 0 {
		b.Fatalf("process %d: %v", pid, err)
	}
	var sum time.Duration
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		on, _, _ := bytes.Cut(text, []byte{' '})
		ns, err := strconv.ParseInt(string(on), 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(ns)
	}
	return sum
}

// BenchmarkTakeover is the time from an up to a right ps after all of Trellis' own processes were killed.
func BenchmarkTakeover(b *testing.B) {
	const rounds = 5
	target := 2 * time.Second
	var took []time.Duration
	p := newProject(b, map[string]string{"compose.yaml": farm(freePorts(b, 3))})
	p.run("up", "-d")
	for range b.N * rounds {
		before := p.ps()
		for _, pid := range own(before) {
			signal(b, pid, "KILL")
		}
		start := time.Now()
		p.run("up", "-d")
		eventually(b, time.Minute, "ps is right", func() string {
			s := p.ps()
			if fmt.Sprint(pids(s)) != fmt.Sprint(pids(before)) {
				return fmt.Sprintf("instances %v, before %v", pids(s), pids(before))
			}
			for _, svc := range s.Services {
				if svc.Ready != svc.Want || svc.Want != 1 {
					return fmt.Sprintf("%s: %d ready of %d", svc.Name, svc.Ready, svc.Want)
				}
			}
			return ""
		})
		took = append(took, time.Since(start))
	}
	b.Logf("%v", took)
	b.ReportMetric(ms(median(took)), "p50-ms")
	b.ReportMetric(ms(slices.Max(took)), "max-ms")
	b.ReportMetric(float64(slices.Max(took))/float64(target), "of-target")
	b.ReportMetric(0, "ns/op")
}

func compared(b *testing.B, ours, floor time.Duration) {
	b.ReportMetric(ms(ours), "p50-ms")
	b.ReportMetric(ms(floor), "floor-ms")
	b.ReportMetric(float64(ours)/float64(floor), "ratio")
	b.ReportMetric(0, "ns/op")
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}
