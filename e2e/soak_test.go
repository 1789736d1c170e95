//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"trellis/load"
)

// TestTwoHundredRollouts replaces a service of three two hundred times while at least 300,000 requests arrive.
func TestTwoHundredRollouts(t *testing.T) {
	longAlone(t)
	const rollouts, requests, rate = 200, 300_000, 500
	f, port := newFault(t), freePort(t)
	file := func(version int) string {
		return strings.Replace(shop(port, 3, fmt.Sprintf("v%d", version), ""), "500ms", "100ms", 1)
	}
	p := newProject(t, map[string]string{"compose.yaml": file(0), "ledger/.keep": ""})
	p.run("up", "-d")
	cfg := load.Config{URL: url(port), Connections: 200, Timeout: 15 * time.Second, Pacer: load.Constant(rate, 2*time.Hour), Mix: mixOf("/", "/ledger")}
	tr := f.underLoadOf(cfg, func() {
		until := time.Now().Add(requests * 21 / 20 / rate * time.Second)
		for i := 1; i <= rollouts || time.Now().Before(until); i++ {
			f.try("rollout", func() {
				p.write("compose.yaml", file(i))
				p.run("up", "-d")
			})
		}
	})
	tr.NoneLost(t)
	tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
	if tr.Report.Completed < requests {
		t.Errorf("%d requests only", tr.Report.Completed)
	}
}

// soaked is what Trellis' own processes hold at one time.
type soaked struct {
	time time.Time
	at   time.Duration      // since the first one
	mem  map[string]float64 // MB of each process that are nobody else's and in no file; the control plane's in use
	fds  map[string]int     // but for those of metrics that are complete
}

// settled is when the memory of Trellis' own processes has the size that it keeps: heaps and caches have theirs after some minutes, and
// the newest 120 samples of a metric are in memory, which are those of up to half an hour.
const settled = 30 * time.Minute

// TestSoak replaces a service of three every two minutes, under load, for as long as SOAK says (make soak: an hour and a half).
// Nothing is lost, and neither the files of Trellis' own processes grow nor, once it has settled, their memory.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("SOAK"))
	if err != nil {
		t.Skip("make soak runs it for an hour and a half")
	}
	every := min(2*time.Minute, length/30)
	f, port := newFault(t), freePort(t)
	file := func(version int) string { return shop(port, 3, fmt.Sprintf("v%d", version), "") }
	p := newProject(t, map[string]string{"compose.yaml": file(0), "ledger/.keep": ""})
	p.run("up", "-d")
	pids := own(p.ps())
	var samples []soaked
	cfg := load.Config{URL: url(port), Connections: 64, Timeout: 15 * time.Second, Pacer: load.Constant(50, length+10*time.Minute), Mix: mixOf("/", "/ledger")}
	tr := f.underLoadOf(cfg, func() {
		began := time.Now()
		for i := 1; time.Since(began) < length; i++ {
			f.try("rollout", func() {
				p.write("compose.yaml", file(i))
				p.run("up", "-d")
			})
			for next := began.Add(time.Duration(i) * every); ; time.Sleep(every / 12) {
				if samples = append(samples, soak(t, pids, time.Since(began))); time.Now().After(next) {
					break
				}
			}
			last := samples[len(samples)-1]
			t.Logf("%v: %v MB, %v files", last.at.Round(time.Second), last.mem, last.fds)
		}
	})
	tr.NoneLost(t)
	tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
	if now := own(p.ps()); fmt.Sprint(now) != fmt.Sprint(pids) {
		t.Errorf("processes %v, then %v", pids, now)
	}
	for name := range pids {
		f.keepsFiles(name, samples)
		f.keepsMemory(name, samples)
	}
}

// keepsFiles fails if a process holds more files as time passes.
func (f *fault) keepsFiles(name string, samples []soaked) {
	samples = samples[len(samples)/6:]
	first, last := fewest(samples[:len(samples)/6], name), fewest(samples[len(samples)*5/6:], name)
	f.Logf("%s: %d files, then %d", name, first, last)
	if last > first+2 {
		f.Errorf("%s holds %d files, then %d", name, first, last)
	}
}

// keepsMemory fails if a process that has settled grows by more than 1 MB an hour.
func (f *fault) keepsMemory(name string, samples []soaked) {
	from := slices.IndexFunc(samples, func(s soaked) bool { return s.at >= settled })
	if from < 0 || samples[len(samples)-1].at-settled < 30*time.Minute {
		f.Logf("%s: too short to say whether its memory grows for good", name)
		return
	}
	slope := slopeOf(samples[from:], func(s soaked) float64 { return s.mem[name] })
	f.Logf("%s: %+.2f MB an hour", name, slope)
	if slope > 1 {
		f.Errorf("%s grows by %.2f MB an hour", name, slope)
	}
}

// memoryInUse has the control plane collect its garbage, and returns the memory in MB that it then has without what is free in its heap:
// the spans that Go uses, and what is anonymous outside of Go's heap, SQLite's for one. Between two collections a heap of its size goes up
// and down by 6 MB, and a line through that is no better than 1.7 MB an hour either way; what is free is in memory or not, as Go gives it
// back and takes it again, which is 2 MB up and down.
func memoryInUse(t *testing.T, pid int) float64 {
	t.Helper()
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		t.Fatal(err)
	}
	args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
	socket := filepath.Join(filepath.Dir(args[len(args)-1]), "api.sock") // beside the file that --location names
	c := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	res, err := c.Get("http://trellis/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	told, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	stat := func(name string) float64 {
		_, rest, _ := strings.Cut(string(told), "# "+name+" = ")
		value, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("%s of the control plane's heap: %v", name, err)
		}
		return n / 1e6
	}
	return stat("HeapInuse") + outsideHeap(t, pid)
}

// outsideHeap returns the anonymous memory in MB of a process that is not in the arena of Go's heap. That begins anywhere (a random address,
// since Go 1.26) between the program and what the kernel maps, which is from 0x7f0000000000 on.
func outsideHeap(t *testing.T, pid int) float64 {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		t.Fatal(err)
	}
	sum, within := 0.0, false
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		if from, _, mapping := strings.Cut(fields[0], "-"); mapping {
			at, err := strconv.ParseUint(from, 16, 64)
			if err != nil {
				t.Fatalf("smaps of %d: %q: %v", pid, line, err)
			}
			within = at >= 1<<32 && at < 0x7f<<40
		} else if fields[0] == "Anonymous:" && !within {
			kib, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				t.Fatalf("smaps of %d: %q: %v", pid, line, err)
			}
			sum += kib * 1024 / 1e6
		}
	}
	return sum
}

// anonymous returns the memory in MB that is the process's alone and in no file.
func anonymous(t *testing.T, pid int) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(status, []byte("RssAnon:"))
	kib, err := strconv.ParseFloat(strings.Fields(string(rest))[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib * 1024 / 1e6
}

// metricsBlock is a file of metrics that are complete: one directory for two hours, and fewer of them as Prometheus merges those.
var metricsBlock = regexp.MustCompile(`/telemetry/metrics/[0-9A-Z]{26}/`)

func soak(t *testing.T, pids map[string]int, at time.Duration) soaked {
	t.Helper()
	s := soaked{time.Now(), at, map[string]float64{}, map[string]int{}}
	for name, pid := range pids {
		if s.mem[name] = anonymous(t, pid); name == "control" {
			s.mem[name] = memoryInUse(t, pid)
		}
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil {
			t.Fatal(err)
		}
		complete := 0
		for _, fd := range fds {
			switch file, err := os.Readlink(fd); {
			case err != nil: // closed meanwhile
			case metricsBlock.MatchString(file):
				complete++
			default:
				s.fds[name]++
			}
		}
		if complete > 24 {
			t.Errorf("%s holds %d files of metrics that are complete", name, complete)
		}
	}
	return s
}

// slopeOf is the slope of the lines of one slope that fit best, in units an hour: one line for each hour of the clock. When that
// changes so do the files that hold logs and traces, and SQLite's allocator keeps some pages of the old ones; not more with
// each hour, which a test of telemetry/segment sees to.
func slopeOf(samples []soaked, value func(soaked) float64) float64 {
	byHour := map[time.Time][]soaked{}
	for _, s := range samples {
		hour := s.time.Truncate(time.Hour)
		byHour[hour] = append(byHour[hour], s)
	}
	var xx, xy float64
	for _, part := range byHour {
		var x, y float64
		for _, s := range part {
			x, y = x+s.at.Hours(), y+value(s)
		}
		x, y = x/float64(len(part)), y/float64(len(part))
		for _, s := range part {
			dx, dy := s.at.Hours()-x, value(s)-y
			xx, xy = xx+dx*dx, xy+dx*dy
		}
	}
	return xy / xx
}

// fewest is the least number of files that a process held open: what it holds while nothing happens.
func fewest(samples []soaked, name string) int {
	n := samples[0].fds[name]
	for _, s := range samples {
		n = min(n, s.fds[name])
	}
	return n
}
