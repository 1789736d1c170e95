//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"trellis/engine"
)

// BenchmarkEvergreenVisit is the processor time that one visit of load/visit.yaml takes from all who have a part in it:
// the programs and their shims, gateway and mesh, the control plane, and the load generator. Two cores have 20 ms for
// each of 100 visits a second. EVERGREEN_RATE is another rate than 20 visits a second; a lower one costs more a visit,
// because what happens at once is done together.
func BenchmarkEvergreenVisit(b *testing.B) {
	b.Run("Services", func(b *testing.B) { visitCosts(b, newEvergreen(b)) })
	b.Run("Monolith", func(b *testing.B) { visitCosts(b, newMonolith(b)) })
}

func visitCosts(b *testing.B, e *evergreen) {
	const length = 30 * time.Second
	rate := 20.0
	if r, err := strconv.ParseFloat(os.Getenv("EVERGREEN_RATE"), 64); err == nil && r > 0 {
		rate = r
	}
	e.run("up", "-d", "--yes")
	e.visits(rate, 10*time.Second, func() {}) // connections are made and memories filled
	before := e.spent(b)
	report := e.visits(rate, length, func() {})
	after := e.spent(b)
	if report.Visits.Failed > 0 {
		b.Errorf("%d of %d visits failed", report.Visits.Failed, report.Visits.Started)
	}
	var sum time.Duration
	for who, d := range after {
		d -= before[who]
		sum += d
		b.ReportMetric(milliseconds(d)/float64(report.Visits.Completed), "ms/visit-"+who)
	}
	b.ReportMetric(milliseconds(sum)/float64(report.Visits.Completed), "ms/visit")
	b.ReportMetric(0, "ns/op")
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// spent is the processor time so far of all processes of the platform and of this one, which sends the load.
func (e *evergreen) spent(b *testing.B) map[string]time.Duration {
	b.Helper()
	var self syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &self); err != nil {
		b.Fatal(err)
	}
	status := e.ps()
	all := map[string]time.Duration{"load": time.Duration(self.Utime.Nano() + self.Stime.Nano())}
	for name, pid := range own(status) {
		all[name] = cpu(b, pid)
	}
	for _, svc := range status.Services {
		for _, in := range svc.Instances {
			if in.State != engine.InstanceExited {
				all[svc.Name] += cpu(b, in.PID)
				all["shims"] += cpu(b, parentOf(b, in.PID))
			}
		}
	}
	return all
}

var parentLine = regexp.MustCompile(`(?m)^PPid:\s+(\d+)$`)

func parentOf(b *testing.B, pid int) int {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	m := parentLine.FindSubmatch(status)
	if m == nil {
		b.Fatalf("process %d has no parent", pid)
	}
	ppid, err := strconv.Atoi(string(m[1]))
	if err != nil {
		b.Fatal(err)
	}
	return ppid
}
