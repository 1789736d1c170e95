// Command trellis-shim is the small binary beside every instance: `run DIR` is the parent of one process.
package main

import (
	"fmt"
	"os"

	"trellis/shim"
)

func main() {
	args := os.Args[1:]
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: trellis-shim run DIR")
		os.Exit(64)
	}
	os.Exit(shim.Main(args))
}
