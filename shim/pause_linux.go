package shim

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// pause holds the network namespace of a container until it is told to end. With watch it writes the ports that others
// can reach to standard output whenever they change: "listening 80 443".
func pause(watch bool) int {
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM, unix.SIGINT)
	child := make(chan os.Signal, 1)
	signal.Notify(child, unix.SIGCHLD)
	var look <-chan time.Time
	if watch {
		look = time.Tick(pauseLook)
	}
	var before []int
	for {
		select {
		case <-end:
			return exitDone
		case <-child: // what an exec left
			for {
				if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
					break
				}
			}
		case <-look:
			now := reachablePorts()
			if !slices.Equal(now, before) {
				before = now
				fmt.Println(ListeningLine(now))
			}
		}
	}
}

// pauseLook is how often a pause looks at what listens.
const pauseLook = 100 * time.Millisecond

// reachablePorts reads which TCP ports of this namespace others can reach.
func reachablePorts() []int {
	var ports []int
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // no IPv6
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 4 || f[3] != "0A" {
				continue
			}
			address, port, ok := strings.Cut(f[1], ":")
			n, err := strconv.ParseUint(port, 16, 16)
			loopback := strings.HasSuffix(address, "7F") && len(address) == 8 || address == "00000000000000000000000001000000" ||
				strings.HasPrefix(address, "0000000000000000FFFF0000") && strings.HasSuffix(address, "7F")
			if ok && err == nil && !loopback {
				ports = append(ports, int(n))
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// hosts replaces the content of /etc/hosts by what comes on standard input, in place: it is mounted.
func hosts() int {
	text, err := io.ReadAll(io.LimitReader(os.Stdin, 1<<20))
	if err == nil {
		err = overwrite("/etc/hosts", text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitError
	}
	return exitDone
}

func overwrite(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(text, 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(text)))
}
