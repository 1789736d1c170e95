package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// attackers are clients that flood or are slow, in a process of their own that gets what the others leave of the machine:
// real ones bring processors of their own, and have only what they send taken from the gateway's.
type attackers struct {
	stop func() // ends them and returns when they have ended

	mu   sync.Mutex
	said map[string]int // how often each line
}

const attackPrefix = "attack: "

// newAttackers starts some of a kind and returns when they have begun.
func newAttackers(t *testing.T, kind, addr string, args ...string) *attackers {
	t.Helper()
	low := []string{"nice", "-n", "19"}
	if long() {
		low = []string{"chrt", "--idle", "0"} // on a busy machine they might never get to anything so
	}
	cmd := exec.Command(low[0], append(low[1:], os.Args[0], "-test.run=^TestAttackers$", "-test.timeout=10m")...)
	cmd.Env = append(os.Environ(), "ATTACK="+strings.Join(append([]string{kind, addr}, args...), " "))
	in, out := pipes(t, cmd)
	a := &attackers{said: map[string]int{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if line, ok := strings.CutPrefix(lines.Text(), attackPrefix); ok {
				a.mu.Lock()
				a.said[line]++
				a.mu.Unlock()
			}
		}
	}()
	a.stop = sync.OnceFunc(func() {
		in.Close()
		<-ended
		cmd.Wait()
	})
	t.Cleanup(a.stop)
	eventually(t, "the attackers begin", func() bool { return a.times("begun") > 0 })
	return a
}

// times returns how often they have said a line.
func (a *attackers) times(line string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.said[line]
}

// TestAttackers is not a test: it is the attackers.
func TestAttackers(t *testing.T) {
	args := strings.Fields(os.Getenv("ATTACK"))
	if len(args) == 0 {
		t.Skip("only as a child")
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		io.Copy(io.Discard, os.Stdin) // until who started them is done with them, or dead
		stop()
	}()
	var all sync.WaitGroup
	switch args[0] {
	case "floods":
		for i := range floods {
			all.Go(func() { attack(ctx, args[1], i) })
		}
		for kind := range 3 {
			for range 20 {
				all.Go(func() { dawdle(ctx, args[1], kind) })
			}
		}
	case "slow":
		each, err := strconv.Atoi(args[2])
		if err != nil {
			t.Fatal(err)
		}
		if err := dribble(args[1], each, &all); err != nil {
			t.Fatal(err)
		}
	}
	say("begun")
	all.Wait()
	say("all were let go of")
	<-ctx.Done()
}

// say writes a line for who started the attackers.
func say(line string) { fmt.Println(attackPrefix + line) }

// attack floods until ctx is done, over a new connection whenever it is cut off, and says so then.
func attack(ctx context.Context, addr string, kind int) {
	f := &floods[kind]
	for ctx.Err() == nil {
		c, err := newRaw2(addr)
		if err != nil {
			return
		}
		if f.begin == nil || f.begin(c) == nil {
			for i := 0; f.one(c, i) == nil; i++ {
				if ctx.Err() != nil {
					c.Close()
					return
				}
			}
			say(strconv.Itoa(kind))
		}
		c.Close()
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// dawdle is slow over HTTP/2, until ctx is done or it is cut off: with a head, with a body, or in taking an answer.
func dawdle(ctx context.Context, addr string, kind int) {
	c, err := newRaw2(addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
	if err != nil {
		return
	}
	defer c.Close()
	var drip func() error
	switch kind {
	case 0:
		c.open(1, "GET", true, false)
		drip = func() error { return c.WriteContinuation(1, false, []byte("\x00\x01a\x01b")) }
	case 1:
		c.open(1, "POST", false, true, "content-length", strconv.Itoa(100_000))
		drip = func() error { return c.WriteData(1, false, []byte("x")) }
	default:
		c.open(1, "GET", true, true)
		drip = func() error { return c.WriteWindowUpdate(1, 1) }
	}
	for drip() == nil && c.out.Flush() == nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// dribble has so many clients be slow over HTTP/1.1 with their heads, with bodies of both kinds, and in taking what they
// asked for, until they are cut off. It returns when all have begun.
func dribble(addr string, each int, all *sync.WaitGroup) error {
	for _, c := range []struct{ first, drip string }{
		{"GET / HTTP/1.1\r\nHost: a\r\n", "X: y\r\n"},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc", ""},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3", ""},
		{"GET /large HTTP/1.1\r\nHost: a\r\n\r\n", ""},
	} {
		for range each {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				return err
			}
			io.WriteString(conn, c.first)
			all.Go(func() {
				defer conn.Close()
				for { // until the gateway has closed it
					time.Sleep(100 * time.Millisecond)
					if c.drip == "" && ended(conn) {
						return
					}
					if _, err := io.WriteString(conn, c.drip); err != nil {
						return
					}
				}
			})
		}
	}
	return nil
}
