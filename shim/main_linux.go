package shim

import (
	"fmt"
	"os"
	"slices"
)

// The exit codes of a shim. How its program ended is in the directory, not in these.
const (
	exitDone  = 0
	exitError = 1
	exitBusy  = 3 // another shim has the directory
	exitUsage = 64
)

// Main is a shim: `run DIR` until the instance has ended, or `exec`, the second stage; in a container that holds a network
// it is `pause` (`pause watch` tells what listens) or `hosts`, which replaces the hosts file. It returns the exit code of
// the process. What it writes to standard output is one line: Started when the start is decided and List-able, Busy when
// another shim has the directory, or the reason why it cannot even keep a record.
func Main(args []string) int {
	switch {
	case len(args) == 2 && args[0] == "run":
		return run(args[1], os.Args[1:len(os.Args)-len(args)])
	case len(args) == 1 && args[0] == "exec":
		return stage()
	case len(args) > 0 && len(args) < 3 && args[0] == "pause":
		return pause(slices.Equal(args[1:], []string{"watch"}))
	case len(args) == 1 && args[0] == "hosts":
		return hosts()
	}
	fmt.Fprintln(os.Stderr, "usage: trellis-shim run DIR | exec | pause [watch] | hosts")
	return exitUsage
}

// The first words of a shim on its standard output.
const (
	Started = "started"
	Busy    = "busy"
)
