package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"
)

// resting counts the connections that wait with a stack of their own.
func resting(t *testing.T) int {
	t.Helper()
	var all strings.Builder
	if err := pprof.Lookup("goroutine").WriteTo(&all, 2); err != nil {
		t.Fatal(err)
	}
	return strings.Count(all.String(), "(*front).goOn1.func1")
}

// TestResting: a connection that has waited for a while goes on waiting with less memory. A request that comes in that moment, whole or
// in parts, is served like every other; the connection is closed as one that was idle all the time, and when the data plane ends.
func TestResting(t *testing.T) {
	s := newSecureRig(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	s.issue(time.Now(), "shop.localhost")
	s.snap.Listeners[1].Upgrade = 0
	s.push()
	const n = 60
	var all sync.WaitGroup
	for i := range n {
		conn, err := net.Dial("tcp", []string{s.plain, s.secure}[i%2])
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		if i%2 == 1 {
			conn = tls.Client(conn, &tls.Config{RootCAs: s.roots, ServerName: "shop.localhost"})
		}
		all.Go(func() {
			br := bufio.NewReader(conn)
			ask := func(part time.Duration) {
				text := fmt.Sprintf("request %d", i)
				whole := fmt.Sprintf("POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
				io.WriteString(conn, whole[:i%20+1])
				time.Sleep(part)
				io.WriteString(conn, whole[i%20+1:])
				res, err := http.ReadResponse(br, nil)
				if got := body(t, res, err); got != text || res.Close {
					t.Errorf("connection %d: %q, close %t", i, got, res.Close)
				}
			}
			ask(0)
			time.Sleep(restTime + time.Duration(i-n/4)*2*beat/n) // it rests within the first two beats after that
			ask(time.Duration(i%3) * beat)
		})
	}
	all.Wait()
	until := map[*clientConn]int64{}
	for _, c := range s.proxy.pulse.list() {
		until[c] = c.readBy.at.Load()
	}
	eventually(t, "all rest", func() bool { return resting(t) == n })
	for c, at := range until {
		if now := c.readBy.at.Load(); at != 0 && now != at { // 0: it was not waiting yet
			t.Errorf("it may be idle until %d, and before it rested until %d", now, at)
		}
		c.readBy.set(1) // the time is over
	}
	eventually(t, "all closed", func() bool { return s.proxy.pulse.len() == 0 })

	conn, err := net.Dial("tcp", s.plain)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
	eventually(t, "it rests", func() bool { return resting(t) == 1 })
	began := time.Now()
	s.stop()
	if took := time.Since(began); took > s.proxy.cfg.Grace {
		t.Errorf("a drain waits for it for %v", took)
	}
}
