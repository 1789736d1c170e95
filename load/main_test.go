package load_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain lets the benchmarks run this binary again as a server or as the tool itself, whose CPU time can then be told
// from everybody else's.
func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "server":
		os.Exit(serverRole())
	case "tool":
		os.Exit(toolRole())
	}
	goleak.VerifyTestMain(m)
}

// patience is the Timeout of runs that are never answered: what is not sent for so long, because the machine held the run
// up, counts as missed.
const patience = 2 * time.Second

// script serves each connection of a listener with a function that reads requests and writes whatever it likes.
type script struct {
	url      string
	listener net.Listener
	all      sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
}

// serve starts a script; number counts its connections from 0. The connection is closed when handle returns.
func serve(t testing.TB, handle func(number int, c *net.TCPConn, r *bufio.Reader)) *script {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &script{url: "http://" + l.Addr().String() + "/", listener: l}
	s.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			number := len(s.conns)
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.all.Go(func() {
				defer c.Close()
				handle(number, c.(*net.TCPConn), bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		s.all.Wait()
	})
	return s
}

// accepted is the number of connections so far.
func (s *script) accepted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// answering reads requests, bodies included, and answers each with text.
func answering(text string) func(int, *net.TCPConn, *bufio.Reader) {
	return func(_ int, c *net.TCPConn, r *bufio.Reader) {
		for readRequest(r) == nil {
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
	}
}

func readRequest(r *bufio.Reader) error {
	q, err := http.ReadRequest(r)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, q.Body)
	return err
}

func ok(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}
