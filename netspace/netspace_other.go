//go:build !linux

package netspace

import (
	"fmt"

	"trellis/errdefs"
)

// Listener is one listening TCP socket.
type Listener struct {
	Port     int
	Loopback bool // nobody else reaches it
	Inode    uint64
}

// Ports returns none: this system has no network namespaces.
func Ports([]Listener) []int { return nil }

// At refuses: this system has no network namespaces.
func At(path string, _ func() error) error {
	return fmt.Errorf("enter the network namespace %s: %w: this system has none", path, errdefs.ErrUnsupported)
}

// ListenersAt refuses: this system has no network namespaces.
func ListenersAt(path string) ([]Listener, error) { return nil, At(path, nil) }

// RedirectNames refuses: this system has no network namespaces.
func RedirectNames(_, _ string) error {
	return fmt.Errorf("redirect names: %w: this system has no network namespaces", errdefs.ErrUnsupported)
}

// Here returns none: nobody has looked for them on this system.
func Here() ([]Listener, error) { return nil, nil }
