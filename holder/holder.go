// Package holder is the process that is there first and last: one per project. It keeps every listening socket and the
// last snapshot of the data plane, starts control plane and data plane, restarts them with back-off when they die, and
// hands them the sockets, so that neither's end refuses a connection.
//
// The package imports the standard library and x/sys only; it is part of the small trellis-shim binary. Clients speak
// to it over a unix socket (Dial): JSON messages, sockets passed beside them by SCM_RIGHTS. The protocol carries a
// version and a holder serves clients of the version before.
package holder

import "time"

// Config is what a holder is started with: `trellis-shim hold FILE`, FILE being this as JSON.
type Config struct {
	Project string `json:"project"`
	// Dir is the runtime directory, 0700: holder.sock, holder.pid (flocked while the holder lives), api.sock of the
	// control plane and proxy-PID.sock of data planes lie there.
	Dir string `json:"dir"`
	// ControlPlane and DataPlane are the command lines of the two programs; their environment is Env alone.
	ControlPlane []string `json:"control_plane"`
	DataPlane    []string `json:"data_plane"`
	Env          []string `json:"env"`
	// Keep are the names of files in Dir that the two programs are started with. Where somebody removes them, or all of Dir, they are
	// written again as they were.
	Keep []string `json:"keep,omitempty"`
	// Log is the file that takes the holder's and the two programs' standard error; it is rotated once at 10 MiB.
	Log string `json:"log"`
}

// Socket is a listening socket that the holder keeps under a name.
type Socket struct {
	Name    string `json:"name"`
	Network string `json:"network"` // tcp or udp
	Address string `json:"address"` // host:port; port 0 takes a free one
	// Netns is the path of the network namespace to listen in; "" is the holder's own.
	Netns string `json:"netns,omitempty"`
	// Lenders is how many holders of this user lend the port just now: see Client.Lend.
	Lenders int `json:"lenders,omitempty"`
}

// Opened is the answer for one Socket.
type Opened struct {
	Name    string `json:"name"`
	Address string `json:"address"` // as bound
	Error   string `json:"error,omitempty"`
	InUse   bool   `json:"in_use,omitempty"` // Error is that the address is taken
}

// Info is what a holder says of itself.
type Info struct {
	PID          int       `json:"pid"`
	Started      time.Time `json:"started"`
	Protocol     int       `json:"protocol"`
	ControlPlane Child     `json:"control_plane"`
	DataPlane    Child     `json:"data_plane"`
	Sockets      []Opened  `json:"sockets"`
	Epoch        uint64    `json:"epoch"` // of the snapshot it has
	Version      uint64    `json:"version"`
}

// Child is one of the two programs.
type Child struct {
	PID      int       `json:"pid"`
	Started  time.Time `json:"started"`
	Restarts int       `json:"restarts"`
	// Failed is how it ended last, "" if it never did: "exit status 1", "signal: killed".
	Failed string `json:"failed,omitempty"`
}
