package load_test

import (
	"bufio"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"trellis/load"
)

// The server's close comes in the same segment as its answer, and does not say so in a header: whoever looks before he
// sends again sees it. A busy worker sends again at once, so this is about the look and not about the waiting Read.
func TestCloseTogetherWithTheAnswerIsSeen(t *testing.T) {
	var apart atomic.Int64
	s := serve(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
		raw, err := c.SyscallConn()
		if err != nil {
			t.Error(err)
			return
		}
		var corked error
		err = raw.Control(func(fd uintptr) { corked = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, 1) })
		if err != nil || corked != nil {
			t.Error(err, corked)
		}
		if readRequest(r) == nil {
			begun := time.Now()
			_, _ = io.WriteString(c, ok("hello"))
			_ = c.CloseWrite()
			if time.Since(begun) > 100*time.Millisecond { // the kernel holds back for 200
				apart.Add(1)
			}
		}
	})
	report := run(t, load.Config{URL: s.url, Rate: 1e6, Duration: 200 * time.Microsecond, Connections: 1})
	lost := report.Lost()
	if report.Status[200] != 200-lost || lost > int(apart.Load()) || s.accepted() != 200-lost {
		t.Errorf("%d connections, %d of them closed late, report: %+v", s.accepted(), apart.Load(), report)
	}
}
