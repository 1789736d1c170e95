package holder

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNamespace runs fn in the network namespace at path, "" for this process's own. The thread that enters a namespace
// goes back to its own and is not thrown away: the first thread of a process cannot end, and would keep that namespace for as
// long as the holder lives.
func inNamespace(path string, fn func() error) error {
	if path == "" {
		return fn()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := enterNamespace(path)
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer back.Close()
		err = fn()
		if unix.Setns(int(back.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		} // else the thread ends with this function
		done <- err
	}()
	return <-done
}

// enterNamespace moves the calling thread into the network namespace at path and returns the one that it was in.
func enterNamespace(path string) (back *os.File, err error) {
	// Not blocking: path could be a FIFO.
	ns, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	defer ns.Close()
	if back, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		back.Close()
		return nil, fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return back, nil
}
