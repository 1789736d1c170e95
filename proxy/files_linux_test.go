package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nudged is a client's connection that is chosen to be closed in the moment in which its next request comes.
type nudged struct {
	duplex
	c     *clientConn
	after bool // the request is read already
}

func (n nudged) Read(b []byte) (int, error) {
	if !n.after {
		n.c.closeIdle()
		return n.duplex.Read(b)
	}
	read, err := n.duplex.Read(b)
	n.c.closeIdle()
	return read, err
}

// TestARequestThatCameIsAnswered: a connection is closed because it waits for its next request, and that one is there.
func TestARequestThatCameIsAnswered(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	rig := newRig(t, Config{})
	addr := rig.gateway(instanceAt("app-1", b.addr))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, after := range []bool{false, true} {
		sent, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		rig.proxy.mu.Lock()
		c := newClientConn(got.(*net.TCPConn), rig.proxy.listeners["gateway"])
		rig.proxy.mu.Unlock()
		c.closed = func() {}
		c.tcp = nudged{got.(*net.TCPConn), c, after}
		fmt.Fprintf(sent, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 5\r\n\r\nwhole", addr)
		time.Sleep(10 * time.Millisecond) // it is in the kernel, as a rule
		go rig.proxy.front.serve1(c)
		sent.SetReadDeadline(time.Now().Add(5 * time.Second))
		answer, err := io.ReadAll(sent)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200") || !strings.HasSuffix(string(answer), "whole") ||
			!strings.Contains(string(answer), "Connection: close") {
			t.Errorf("closed, after its request was read (%v): %v\n%s", after, err, answer)
		}
		sent.Close()
	}
}

// TestFilesOfTheIdleAreFreed: where no more files can be opened, connections to instances that nobody uses make room.
func TestFilesOfTheIdleAreFreed(t *testing.T) {
	arrived, all := make(chan bool, 20), make(chan bool)
	many := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- true
		<-all
	})
	one := serveFunc(t, func(http.ResponseWriter, *http.Request) {})
	r := newRig(t, Config{})
	r.snap.Services = []Service{
		{Name: "many", Instances: []Instance{instanceAt("many-1", many.addr)}}, {Name: "one", Instances: []Instance{instanceAt("one-1", one.addr)}},
	}
	r.snap.Routes = []Route{
		{Path: "/many", Service: "many", Port: 80, Decision: Decision{Auth: "none"}}, {Path: "/one", Service: "one", Port: 80, Decision: Decision{Auth: "none"}},
	}
	addr := r.listen(Listener{Name: "gateway", Protocol: HTTP1})
	r.push()
	c := client(t)
	done := make(chan int, 20)
	for range cap(done) {
		go func() {
			status, _, _ := get(t, c, "http://"+addr+"/many")
			done <- status
		}()
	}
	for range cap(done) {
		<-arrived
	}
	close(all)
	for range cap(done) {
		if status := <-done; status != 200 {
			t.Fatalf("status %d", status)
		}
	}
	leaveFiles(t, 0) // the client's connection is there already
	if status, _, _ := get(t, c, "http://"+addr+"/one"); status != 200 {
		t.Errorf("without a file to open: %d", status)
	}
}

// leaveFiles lets this process open no more than n files, until the test's end.
func leaveFiles(t *testing.T, n int) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	highest := 0
	for _, e := range entries {
		var fd int
		fmt.Sscan(e.Name(), &fd)
		highest = max(highest, fd)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(highest) + 1, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	var fillers []*os.File
	for {
		f, err := os.Open("/dev/null")
		if err != nil {
			break
		}
		fillers = append(fillers, f)
	}
	for _, f := range fillers[:min(n, len(fillers))] {
		f.Close()
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
		for _, f := range fillers {
			f.Close()
		}
	})
}
