package driver

import "context"

// The fields of a Deviation: what of an instance is seen to be another one. Key is given in brackets.
const (
	DeviatesState   = "state"   // it stands still: frozen, paused or stopped by a signal
	DeviatesLimit   = "limit"   // [cpus, memory, pids, and of containers cpu_shares, cpuset, mem_reservation]
	DeviatesUlimit  = "ulimit"  // [name]
	DeviatesOom     = "oom"     // OomScore
	DeviatesMount   = "mount"   // [target] nothing is mounted there, or something else
	DeviatesAccess  = "access"  // [target] a mount that may be written, or no longer
	DeviatesFile    = "file"    // [target] another content, or none
	DeviatesMode    = "mode"    // [target] of a file: its mode
	DeviatesHost    = "host"    // [name] resolves to another address
	DeviatesEnv     = "env"     // [variable]
	DeviatesImage   = "image"   // of containers
	DeviatesCommand = "command" // of containers
	DeviatesRestart = "restart" // of containers: their engine starts them again by itself
	DeviatesNetwork = "network" // [full name] of containers: joined or left
)

// Deviation is one thing about a running instance that is no longer as its Spec says: somebody changed it behind Trellis'
// back. Want and Have are strings, int64, float64 or bool; nil for what is not there. The content of a file is in neither.
type Deviation struct {
	Field   string
	Key     string
	Want    any
	Have    any
	Message string // what was seen, in words; "" where Want and Have say it
}

// Examiner is the optional ability of a driver to compare running instances with what they were started as.
type Examiner interface {
	// Examine returns what of a running instance the machine shows to be otherwise than spec says, in a fixed order. What
	// cannot be seen here, and what a program may change by itself, is left out. It changes nothing. Only what is set in
	// spec.Env is compared. Unknown, not running or started from a spec with another Hash: ErrNotFound.
	Examine(ctx context.Context, spec Spec) ([]Deviation, error)
}
