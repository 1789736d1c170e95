// Package process runs instances as supervised processes of this machine: driver.Driver over package shim.
//
// Everything durable lies in instance directories, StateDir/instances/<ID after the slash>; this package keeps nothing
// that a new Driver over the same directories would miss. With the privileges for it every instance has its own
// network namespace, mounts and hostname; without, it shares the machine's, and Capabilities says what lacks.
package process

import (
	"fmt"
	"log/slog"
	"path/filepath"

	"trellis/errdefs"
)

// Config says where a Driver lives.
type Config struct {
	Project string // whose state StateDir holds
	// StateDir holds what has to outlive a reboot: records, logs, volumes. Absolute. Required.
	StateDir string
	// RuntimeDir holds the mount points of network namespaces. Absolute. Required.
	RuntimeDir string
	// Shim is the command line of the shim, before its verb. Required.
	Shim []string
	// Log takes what goes wrong where nobody can be told; nil discards it.
	Log *slog.Logger
	// Unprivileged forgoes namespaces, control groups and other users even where the process could have them.
	Unprivileged bool
}

func (c Config) validate() error {
	switch {
	case !filepath.IsAbs(c.StateDir) || !filepath.IsAbs(c.RuntimeDir):
		return fmt.Errorf("process driver: %w: StateDir %q and RuntimeDir %q have to be absolute", errdefs.ErrInvalid, c.StateDir, c.RuntimeDir)
	case len(c.Shim) == 0:
		return fmt.Errorf("process driver: %w: no command line of the shim", errdefs.ErrInvalid)
	}
	return nil
}
