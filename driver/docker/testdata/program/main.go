// Command program is what the containers of the conformance suite run.
package main

import (
	"fmt"
	"os"

	"trellis/driver/drivertest"
)

func main() {
	drivertest.Program()
	fmt.Fprintln(os.Stderr, "this is a program of the conformance suite of drivers")
	os.Exit(64)
}
