//go:build linux

package netspace

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Listener is one listening TCP socket.
type Listener struct {
	Port     int
	Loopback bool // nobody else reaches it
	Inode    uint64
}

const stateListen = "0A"

// parseListeners reads /proc/net/tcp or tcp6 as far as the listening sockets go: the kernel lists them first.
func parseListeners(r io.Reader) ([]Listener, error) {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), 4096)
	var all []Listener
	for first := true; s.Scan(); first = false {
		if first {
			continue // the heading
		}
		l, listens, err := parseListener(s.Bytes())
		if err != nil {
			return all, err
		}
		if !listens {
			return all, nil
		}
		all = append(all, l)
	}
	return all, s.Err()
}

var errSocket = errors.New("this is no line of /proc/net/tcp")

func parseListener(line []byte) (Listener, bool, error) {
	f := bytes.Fields(line)
	if len(f) < 10 {
		return Listener{}, false, errSocket
	}
	if string(f[3]) != stateListen {
		return Listener{}, false, nil
	}
	address, port, ok := bytes.Cut(f[1], []byte{':'})
	raw := make([]byte, hex.DecodedLen(len(address)))
	if _, err := hex.Decode(raw, address); !ok || err != nil || len(raw) != 4 && len(raw) != 16 {
		return Listener{}, false, errSocket
	}
	n, err := strconv.ParseUint(string(port), 16, 16)
	if err != nil {
		return Listener{}, false, errSocket
	}
	inode, err := strconv.ParseUint(string(f[9]), 10, 64)
	if err != nil {
		return Listener{}, false, errSocket
	}
	for i := 0; i+4 <= len(raw); i += 4 { // words in the machine's order
		if littleEndian {
			slices.Reverse(raw[i : i+4])
		}
	}
	return Listener{Port: int(n), Loopback: net.IP(raw).IsLoopback(), Inode: inode}, true, nil
}

// littleEndian is so on every machine that Trellis is built for (amd64, arm64).
const littleEndian = true

// OwnThread is the calling thread's directory in /proc.
const OwnThread = "thread-self"

// procListeners reads the listening sockets of the network namespace of /proc/<who>.
func procListeners(who string) ([]Listener, error) {
	var all []Listener
	for _, name := range []string{"tcp", "tcp6"} {
		f, err := os.Open("/proc/" + who + "/net/" + name)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // no IPv6, or no such process
		}
		if err != nil {
			return all, err
		}
		some, err := parseListeners(f)
		f.Close()
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return all, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// Ports returns the sorted ports of the sockets that listen on more than the loopback.
func Ports(list []Listener) []int {
	var ports []int
	for _, l := range list {
		if !l.Loopback {
			ports = append(ports, l.Port)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}
