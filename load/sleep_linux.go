package load

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// sleeper waits for a timer of the kernel's as for a connection. The runtime's timers would do, but an idle Go program
// waits for them in epoll with a resolution of 1 ms, and then everything is late by half of that. A thread that sleeps in
// the kernel is as precise, but the runtime's monitor looks after it thousands of times a second.
type sleeper struct {
	fd   int
	file *os.File
	rest *time.Timer // where there is no timer of the kernel's
}

func newSleeper() sleeper {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return sleeper{rest: time.NewTimer(0)}
	}
	return sleeper{fd: fd, file: os.NewFile(uintptr(fd), "timer")}
}

// arm has wait return after d. It may be called while wait waits.
func (s sleeper) arm(d time.Duration) {
	if s.rest != nil {
		s.rest.Reset(d)
		return
	}
	once := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(d, 1)))} // 0 would be never
	_ = unix.TimerfdSettime(s.fd, 0, &once, nil)
}

// wait may return early.
func (s sleeper) wait() {
	if s.rest != nil {
		<-s.rest.C
		return
	}
	var expirations [8]byte
	_, _ = s.file.Read(expirations[:])
}

func (s sleeper) close() {
	if s.file != nil {
		_ = s.file.Close()
	}
}
