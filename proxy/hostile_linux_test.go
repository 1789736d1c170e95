package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSlowClientsHurtNobody: hundreds of clients that are slow with their heads, with their bodies, and in taking what
// they asked for are let go of in time, and good ones get every answer meanwhile.
func TestSlowClientsHurtNobody(t *testing.T) {
	large := make([]byte, 16<<20)
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			w.Write(large)
			return
		}
		io.Copy(w, r.Body)
	})
	r := newRig(t, Config{})
	r.proxy.front.head, r.proxy.front.stall = time.Second, time.Second
	addr := r.gateway(instanceAt("app-1", b.addr))
	each := 100
	if long() {
		each = 500
	}
	c := client(t)
	var before, during latencies
	before.ask(t, c, "http://"+addr+"/", 4*each)
	began := time.Now()
	a := newAttackers(t, "slow", addr, strconv.Itoa(each))
	during.ask(t, c, "http://"+addr+"/", 4*each)
	for a.times("all were let go of") == 0 && time.Since(began) < time.Minute {
		time.Sleep(10 * time.Millisecond)
	}
	took := time.Since(began)
	a.stop()
	t.Logf("p99 of good clients %v, beside slow ones %v", before.p99(), during.p99())
	// Two milliseconds are what a machine does by itself.
	if quiet, loud := before.p99(), during.p99(); long() && loud > 2*quiet+2*time.Millisecond {
		t.Errorf("p99 of good clients: %v beside slow ones, %v without", loud, quiet)
	}
	t.Logf("verdict: 1 tried, 1 held, %d requests, 0 lost, seed 0", len(before)+len(during))
	if took > 30*time.Second {
		t.Errorf("the last slow one was let go of after %v", took)
	}
	eventually(t, "nothing is left", func() bool { return r.proxy.handlers.Load() == 0 && r.proxy.Status().InUse["app-1"] == 0 })
}

// ended says whether the other side has closed a connection that nobody reads from: it was reset, or takes no more.
func ended(c net.Conn) (yes bool) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return true
	}
	raw.Control(func(fd uintptr) { yes = closedByOther(int(fd)) })
	return yes
}

// TestSnapshotsUnderLoad: a hundred new snapshots a second, one in five of them invalid, and every request is answered.
func TestSnapshotsUnderLoad(t *testing.T) {
	t.Parallel()
	l := &ledger{seen: map[string]int{}}
	a, b := worker(t, "127.0.0.1:0", l), worker(t, "127.0.0.1:0", l)
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", a.addr), instanceAt("app-2", b.addr))
	tr := newTraffic(addr, "POST")
	applied := 0
	tr.during(func() {
		for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
			r.snap.Version++
			s := r.snap
			s.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", a.addr), instanceAt("app-2", b.addr)}, Retries: 1 + applied%5}}
			s.Routes = []Route{{Service: "app", Port: 80}, {Path: "/other/" + strings.Repeat("x", applied%7), Service: "app", Port: 80}}
			if applied%5 == 4 {
				s.Routes = append(s.Routes, Route{Path: "/x", Service: "nobody", Port: 80})
			}
			r.feed.ch <- Update{Snapshot: &s}
			applied++
			time.Sleep(10 * time.Millisecond)
		}
	})
	tr.report(t, l, false)
	if applied < 20 {
		t.Errorf("%d snapshots only", applied)
	}
	if v := r.proxy.table.Load().version; v > r.snap.Version || v+2 < r.snap.Version {
		t.Errorf("version %d is in force, the last is %d", v, r.snap.Version)
	}
}

// TestPipelining: requests that come at once are answered in their order, bodies and all.
func TestPipelining(t *testing.T) {
	t.Parallel()
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/slow" {
			time.Sleep(50 * time.Millisecond)
		}
		io.WriteString(w, r.URL.Path+" "+string(data))
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	var all, want strings.Builder
	for range 50 {
		for _, q := range [][2]string{
			{"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n", "/slow "},
			{"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "/a hello"},
			{"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "/b abcde"},
			{"POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: 6000\r\n\r\n" + strings.Repeat("x", 6000), "/c " + strings.Repeat("x", 6000)},
			{"HEAD /d HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		} {
			all.WriteString(q[0])
			want.WriteString(q[1] + "\n")
		}
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	go io.WriteString(conn, all.String())
	br := bufio.NewReader(conn)
	var got strings.Builder
	for i := range 250 {
		method := "GET"
		if i%5 == 4 {
			method = "HEAD"
		}
		res, err := http.ReadResponse(br, &http.Request{Method: method})
		got.WriteString(body(t, res, err) + "\n")
	}
	if got.String() != want.String() {
		t.Error("the answers are not those of the requests, in their order")
	}
}

// closedByOther says whether the other side of a socket has closed it; what it sent before may still be unread.
func closedByOther(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, _ := unix.Poll(p, 0)
	return n > 0 && p[0].Revents != 0
}
