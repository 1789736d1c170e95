package proxy

import (
	"bufio"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestNothingIsAllocated: a request over HTTP/1.1 and its answer cost no allocation, with routing, balancing,
// measuring and the access log on. One whose trace is kept, of which there are at most so many a second, costs some.
func TestNothingIsAllocated(t *testing.T) {
	if raced {
		t.Skip("with the race detector pools drop what is given back, on purpose")
	}
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n" + strings.Repeat("x", 100))
	head := make([]byte, 4096)
	up := rawServer(t, func(c net.Conn) {
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			copy(head, buf[:n])
			c.Write(answer)
		}
	})
	r := newRig(t, Config{AccessLog: io.Discard})
	r.snap.AccessLog = 1
	r.proxy.spans.traces.last, r.proxy.spans.traces.rate, r.proxy.spans.traces.burst = time.Now(), 0, 0 // no trace is chosen
	addr := r.gateway(instanceAt("app-1", up))
	for name, request := range map[string]string{
		"GET":  "GET /api/courses/12?a=b HTTP/1.1\r\nHost: evergreen.localhost\r\nUser-Agent: test\r\nAccept: */*\r\nCookie: a=b\r\n\r\n",
		"POST": "POST /api/courses HTTP/1.1\r\nHost: evergreen.localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
	} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		br, raw := bufio.NewReader(conn), []byte(request)
		one := func() {
			if _, err := conn.Write(raw); err != nil {
				t.Fatal(err)
			}
			for {
				line, err := br.ReadSlice('\n')
				if err != nil {
					t.Fatal(err)
				}
				if len(line) == 2 {
					break
				}
			}
			if _, err := br.Discard(100); err != nil {
				t.Fatal(err)
			}
		}
		for range 50 {
			one()
		}
		// What runs beside it (the pulse, the tests' own machinery) allocates now and then: the least of some rounds counts.
		const requests = 200
		least := ^uint64(0)
		for range 10 {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range requests {
				one()
			}
			runtime.ReadMemStats(&after)
			least = min(least, after.Mallocs-before.Mallocs)
		}
		if least > requests/20 {
			t.Errorf("%s: %d allocations in %d requests", name, least, requests)
		}
	}
}
