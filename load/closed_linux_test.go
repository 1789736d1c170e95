package load_test

import (
	"bufio"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"trellis/load"
)

// The server's close comes in the same segment as its answer, and does not say so in a header: whoever looks before he
// sends again sees it. A busy worker sends again at once, so this is about the look and not about the waiting Read.
func TestCloseTogetherWithTheAnswerIsSeen(t *testing.T) {
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
			_, _ = io.WriteString(c, ok("hello"))
		}
	})
	report := run(t, load.Config{URL: s.url, Rate: 1e6, Duration: 200 * time.Microsecond, Connections: 1})
	if report.Status[200] != 200 || report.Lost() != 0 || s.accepted() != 200 {
		t.Errorf("%d connections, report: %+v", s.accepted(), report)
	}
}
