//go:build unix

// Package cputime tells what something costs of processors, for tests and benchmarks: other than time that has passed, it does not
// depend on what else a machine does.
package cputime

import (
	"syscall"
	"testing"
	"time"
)

// Used returns the processor time that this process has used so far (getrusage(2)): of all its threads, in user space and in the kernel.
func Used(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
