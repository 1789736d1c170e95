// Command trellis-shim is the small binary beside everything that Trellis runs: `run DIR` is the parent of one
// process, `hold FILE` keeps the sockets of one project, `pause` keeps the network of one container.
package main

import (
	"fmt"
	"os"

	"trellis/holder"
	"trellis/shim"
)

func main() {
	args := os.Args[1:]
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: trellis-shim run DIR | hold FILE")
		os.Exit(64)
	}
	if args[0] == "hold" {
		os.Exit(holder.Main(args[1:]))
	}
	os.Exit(shim.Main(args))
}
