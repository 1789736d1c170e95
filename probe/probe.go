// Package probe asks one instance once whether it is ready. The control plane uses it for as long as an instance lives;
// the data plane uses it while the control plane is away. It keeps no state and starts nothing that outlives a call.
package probe

import (
	"context"
	"time"
)

// The kinds of a Spec.
const (
	None = ""     // always ready while it runs
	HTTP = "http" // GET; 200 to 399 is ready; redirects are not followed
	TCP  = "tcp"  // the connection is accepted
	GRPC = "grpc" // grpc.health.v1.Health/Check answers SERVING
	Exec = "exec" // a command inside the instance exits 0
)

// Spec says how to ask. Its zero value is the probe that always succeeds.
type Spec struct {
	Kind    string   `json:"kind,omitempty"`
	Port    int      `json:"port,omitempty"` // target port of the file
	Path    string   `json:"path,omitempty"` // HTTP: path and query; GRPC: name of the service
	TLS     bool     `json:"tls,omitempty"`  // certificate not verified
	Command []string `json:"command,omitempty"`

	Interval      time.Duration `json:"interval,omitempty"`
	Timeout       time.Duration `json:"timeout,omitempty"`
	Retries       int           `json:"retries,omitempty"`        // failures in a row until unready
	StartPeriod   time.Duration `json:"start_period,omitempty"`   // failures within it do not count
	StartInterval time.Duration `json:"start_interval,omitempty"` // interval until first ready
}

// Result is one answer.
type Result struct {
	Ready   bool
	Message string // what was answered, at most 1 KiB: "GET /healthz: 503 warming up", "connection refused"
	Took    time.Duration
	Time    time.Time
}

// Executor runs a command inside the instance that is asked, for Exec. Output is what the command printed, cut to 1 KiB.
// It ends the command and returns soon after ctx has ended.
type Executor func(ctx context.Context, command []string) (exitCode int, output string, err error)
