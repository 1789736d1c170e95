package server

import (
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// TestThePortsHolderIsTheServer: its workers, which have the socket from it, are not named.
func TestThePortsHolderIsTheServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 3 {
		worker := exec.Command("sleep", "60")
		worker.ExtraFiles = []*os.File{f}
		if err := worker.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = worker.Process.Kill(); _ = worker.Wait() }()
	}
	want := "(pid " + strconv.Itoa(os.Getpid()) + ")"
	if who := portHolder(l.Addr().(*net.TCPAddr).Port); !strings.HasSuffix(who, want) {
		t.Errorf("%s, want %s", who, want)
	}
	if got := eldest(map[string]bool{strconv.Itoa(os.Getpid()): true, strconv.Itoa(os.Getppid()): true}); got != strconv.Itoa(os.Getppid()) {
		t.Errorf("the eldest is %s", got)
	}
}
