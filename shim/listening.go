package shim

import (
	"strconv"
	"strings"
)

const listening = "listening"

// ListeningLine is how a pause says which ports are listened on.
func ListeningLine(ports []int) string {
	line := listening
	for _, p := range ports {
		line += " " + strconv.Itoa(p)
	}
	return line
}

// ParseListening reads a ListeningLine; false for any other.
func ParseListening(line string) ([]int, bool) {
	f := strings.Fields(line)
	if len(f) == 0 || f[0] != listening {
		return nil, false
	}
	var ports []int
	for _, text := range f[1:] {
		p, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return nil, false
		}
		ports = append(ports, int(p))
	}
	return ports, true
}
