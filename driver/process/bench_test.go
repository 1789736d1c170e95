//go:build linux

package process_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/driver/process"
	"trellis/shim"
)

// smallShim builds the real shim: the test binary as one is several times its size.
func smallShim(b *testing.B) []string {
	b.Helper()
	file := filepath.Join(b.TempDir(), "trellis-shim")
	if err := buildShim(file); err != nil {
		b.Fatal(err)
	}
	return []string{file}
}

func benchDriver(b *testing.B, unprivileged bool) *process.Driver {
	b.Helper()
	runtime := b.TempDir()
	d, err := process.New(process.Config{
		Project: "bench", StateDir: b.TempDir(), RuntimeDir: runtime, Shim: smallShim(b), Unprivileged: unprivileged,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		all, err := d.List(context.Background(), "bench")
		if err != nil {
			b.Error(err)
		}
		for _, inst := range all {
			_ = d.Stop(context.Background(), inst.ID, 0)
			if err := d.Remove(context.Background(), inst.ID); err != nil {
				b.Error(err)
			}
		}
	})
	return d
}

func benchSpec(n int, command ...string) driver.Spec {
	return driver.Spec{
		ID: driver.ID(fmt.Sprintf("bench/web-%d-0000000a", n)), Project: "bench", Service: "web", Slot: n, Hash: "a",
		Command: command, Env: []string{"PATH=/usr/bin:/bin"},
	}
}

func modes(b *testing.B, f func(b *testing.B, unprivileged bool)) {
	for name, unprivileged := range map[string]bool{"isolated": false, "shared": true} {
		b.Run(name, func(b *testing.B) {
			if !unprivileged && os.Geteuid() != 0 {
				b.Skip("namespaces need root")
			}
			f(b, unprivileged)
		})
	}
}

// BenchmarkStart is the first start of an instance: records, network, shim, namespaces, program.
func BenchmarkStart(b *testing.B) {
	modes(b, func(b *testing.B, unprivileged bool) {
		d := benchDriver(b, unprivileged)
		n := 0
		for b.Loop() {
			n++
			if err := d.Start(b.Context(), benchSpec(n, "sleep", "1000")); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			_ = d.Stop(b.Context(), benchSpec(n).ID, 0)
			_ = d.Remove(b.Context(), benchSpec(n).ID)
			b.StartTimer()
		}
	})
}

// BenchmarkRestart is the start of an instance that has exited: what a crash waits for.
func BenchmarkRestart(b *testing.B) {
	modes(b, func(b *testing.B, unprivileged bool) {
		d := benchDriver(b, unprivileged)
		for b.Loop() {
			if err := d.Start(b.Context(), benchSpec(1, "sleep", "1000")); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := d.Stop(b.Context(), benchSpec(1).ID, 0); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
}

// BenchmarkFork is the floor of the two: fork, exec and wait for the same program to run.
func BenchmarkFork(b *testing.B) {
	for b.Loop() {
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		b.StartTimer()
	}
}

// BenchmarkCrashSeen is the time from SIGKILL to Watch's call that finds the exit in List.
func BenchmarkCrashSeen(b *testing.B) {
	modes(b, func(b *testing.B, unprivileged bool) {
		d := benchDriver(b, unprivileged)
		woken := make(chan time.Time, 64)
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = d.Watch(ctx, "bench", func(driver.ID) {
				all, err := d.List(ctx, "bench")
				if err == nil && len(all) == 1 && all[0].State == driver.Exited {
					woken <- time.Now()
				}
			})
		}()
		defer func() { cancel(); <-done }()
		var took []time.Duration
		for b.Loop() {
			b.StopTimer()
			if err := d.Start(b.Context(), benchSpec(1, "sleep", "1000")); err != nil {
				b.Fatal(err)
			}
			all, err := d.List(b.Context(), "bench")
			if err != nil || len(all) != 1 || all[0].PID == 0 {
				b.Fatalf("list: %+v, %v", all, err)
			}
			for len(woken) > 0 {
				<-woken
			}
			b.StartTimer()
			killed := time.Now()
			_ = unix.Kill(all[0].PID, unix.SIGKILL)
			for {
				if at := <-woken; at.After(killed) {
					took = append(took, at.Sub(killed))
					break
				}
			}
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs/p50")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs/p99")
	})
}

// BenchmarkShimMemory is what one more instance costs in memory beside its program: its shim, and who waits to be its next
// run.
func BenchmarkShimMemory(b *testing.B) {
	d := benchDriver(b, os.Geteuid() != 0)
	const many = 20
	for n := range many {
		if err := d.Start(b.Context(), benchSpec(n+1, "sleep", "1000")); err != nil {
			b.Fatal(err)
		}
		if err := d.Revive(benchSpec(n+1).ID, 0, driver.ReviveAlways); err != nil {
			b.Fatal(err)
		}
	}
	all, err := d.List(b.Context(), "bench")
	if err != nil || len(all) != many {
		b.Fatalf("%d instances, %v", len(all), err)
	}
	time.Sleep(2 * time.Second)
	var rss, pss, waiting int64
	for _, inst := range all {
		stat, err := shim.ReadStat(inst.PID)
		if err != nil {
			b.Fatal(err)
		}
		rss += memory(b, stat.Parent, "Rss:")
		pss += memory(b, stat.Parent, "Pss:")
		beside, err := shim.Descendants(stat.Parent)
		if err != nil {
			b.Fatal(err)
		}
		for _, s := range beside {
			if s.IsStage() {
				waiting += memory(b, s.PID, "Pss:")
			}
		}
	}
	for b.Loop() {
	}
	b.ReportMetric(float64(rss)/many, "kB-rss")
	b.ReportMetric(float64(pss)/many, "kB-pss")
	b.ReportMetric(float64(waiting)/many, "kB-pss-waiting")
}

// memory is a line of what /proc says of a process's memory, in kB.
func memory(b *testing.B, pid int, name string) int64 {
	b.Helper()
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(rollup)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == name {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n
		}
	}
	return 0
}

// BenchmarkRevive is the time from the SIGKILL of a program to the first sign of the next one, beside that of a
// supervisor that does nothing but start it again. A program that waits for the next run is given time to be there.
func BenchmarkRevive(b *testing.B) {
	fifo := filepath.Join(b.TempDir(), "signs")
	if err := unix.Mkfifo(fifo, 0o666); err != nil {
		b.Fatal(err)
	}
	signs, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer signs.Close()
	sign := make([]byte, 64)
	read := func() int {
		n, err := signs.Read(sign)
		if err != nil {
			b.Fatal(err)
		}
		pid, _ := strconv.Atoi(strings.TrimSpace(string(sign[:n])))
		return pid
	}
	command := []string{"sh", "-c", "echo $$ > " + fifo + "; exec sleep 1000"}
	d := benchDriver(b, os.Geteuid() != 0)
	var ours, floor []time.Duration
	for n := 0; b.Loop(); n++ {
		cmd := exec.Command(command[0], command[1:]...)
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		pid := read()
		killed := time.Now()
		_ = unix.Kill(pid, unix.SIGKILL)
		_ = cmd.Wait()
		again := exec.Command(command[0], command[1:]...)
		if err := again.Start(); err != nil {
			b.Fatal(err)
		}
		read()
		floor = append(floor, time.Since(killed))
		_ = again.Process.Kill()
		_ = again.Wait()

		spec := benchSpec(n%20+1, command...)
		if err := d.Start(b.Context(), spec); err != nil {
			b.Fatal(err)
		}
		pid = read()
		if err := d.Revive(spec.ID, 0, driver.ReviveAlways); err != nil {
			b.Fatal(err)
		}
		time.Sleep(700 * time.Millisecond)
		killed = time.Now()
		_ = unix.Kill(pid, unix.SIGKILL)
		read()
		ours = append(ours, time.Since(killed))
		if err := d.Stop(b.Context(), spec.ID, 0); err != nil {
			b.Fatal(err)
		}
		if err := d.Remove(b.Context(), spec.ID); err != nil {
			b.Fatal(err)
		}
	}
	slices.Sort(ours)
	slices.Sort(floor)
	p50, floor50 := ours[len(ours)/2], floor[len(floor)/2]
	b.ReportMetric(float64(p50.Microseconds()), "µs/p50")
	b.ReportMetric(float64(floor50.Microseconds()), "µs/floor")
	b.ReportMetric(float64(p50)/float64(floor50), "ratio")
	b.ReportMetric(0, "ns/op")
}
