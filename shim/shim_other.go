//go:build !linux

package shim

import (
	"fmt"
	"os"
)

// Main says that there is no shim on this system.
func Main([]string) int {
	fmt.Fprintln(os.Stderr, "trellis-shim: only Linux has what a shim needs")
	return 1
}
