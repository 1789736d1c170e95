// Package engine is the contract for a place that runs a project as its file says: Engine, the State it observes in
// Compose terms, and the pure Diff between what is wanted and what is there.
//
// An apply only writes down what is wanted. The engine's loop, and nothing else, acts: it looks at the world, decides
// and carries out, again and again, so a crash at any point is repaired by the next round.
package engine

import (
	"context"
	"io"
	"time"

	"trellis/compose"
	"trellis/driver"
	"trellis/state"
)

// Engine makes one place run projects as written.
type Engine interface {
	// Capabilities says what this engine can carry out here.
	Capabilities() Capabilities
	// Run is the loop; it blocks until ctx is done and returns after all it started has ended; the instances go on.
	// changed is called, never concurrently, when what Observe returns may have changed.
	Run(ctx context.Context, changed func(project string)) error
	// Observe returns the truth about a project. One that was never applied: ErrNotFound.
	Observe(ctx context.Context, project string) (State, error)
	// Apply makes rev the desired revision, durably, and returns it with its number without waiting for the loop.
	// base is the ID of the State that the caller decided upon, "" for none: where the world is no longer that,
	// ErrConflict.
	Apply(ctx context.Context, rev state.Revision, base StateID) (state.Revision, error)
	// Override writes a durable wish beside the file (scale, restart, stop, start).
	Override(ctx context.Context, project string, o state.Override) error
	// Instruct promotes or aborts the open rollouts of the newest revision, service "" all of them. None is open:
	// ErrConflict.
	Instruct(ctx context.Context, project, service, action, actor string) error
	// Drift returns where the world is not what the revision in force says, in order of path: what was changed behind
	// the engine's back, and the overrides that hold. A file that was edited and not applied is no drift. Never applied:
	// ErrNotFound.
	Drift(ctx context.Context, project string) ([]Drift, error)
	// Revert brings back what Drift tells of services (none: all), as a durable wish that the loop carries out, and
	// returns what it set out to bring back. What heals by itself is left to heal.
	Revert(ctx context.Context, project string, services []string, actor string) ([]Drift, error)
	// Logs, Exec and Stats reach an instance; unknown: ErrNotFound.
	Logs(ctx context.Context, project string, id InstanceID, opt driver.LogOptions) (io.ReadCloser, error)
	Exec(ctx context.Context, project string, id InstanceID, cmd driver.Command) (exitCode int, err error)
	Stats(ctx context.Context, project string) ([]Usage, error)
	// Volumes returns the full names of the volumes that Delete removes where it is asked to, in order: those that the newest revision
	// has, and those that were made for an earlier one. What any of them calls external is not the project's. Never applied: none.
	Volumes(ctx context.Context, project string) ([]string, error)
	// Delete stops every instance, removes what the engine made for the project and blocks until it is gone. Revisions
	// and events stay; volumes stay unless opt says else. What somebody else uses may be left: opt is told.
	Delete(ctx context.Context, project string, opt DeleteOptions) error
}

// InstanceID is an instance's name within its project: "catalog-2-5f3a9c01".
type InstanceID string

// StateID stands for everything about a State that a decision may rest on.
type StateID string

// Capabilities are what an engine can do; differences are data.
type Capabilities struct {
	Name    string                `json:"name"`
	Drivers []driver.Capabilities `json:"drivers,omitempty"`
}

// DeleteOptions say what Delete takes along.
type DeleteOptions struct {
	Volumes bool `json:"volumes,omitempty"`
	// Now kills what runs without waiting for its grace period, also what an earlier Delete still waits for.
	Now bool `json:"now,omitempty"`
	// Left is told, one sentence each, what was made for the project and could not be removed although nothing of it runs; nil: nobody is.
	Left func(what string) `json:"-"`
}

// What Instruct does to a rollout: Promote ends its watch and replaces the rest, Abort goes back to the revision before.
const (
	Promote = "promote"
	Abort   = "abort"
)

// The states of a service.
const (
	ServiceHealthy      = "healthy"
	ServiceStarting     = "starting"
	ServiceDegraded     = "degraded" // some, but not all wanted instances are ready, or it is not known: Service.Unknown
	ServiceCrashLooping = "crash-looping"
	ServiceStopped      = "stopped"
	ServiceCompleted    = "completed" // ran to its end with exit code 0 and is not to be restarted
	ServiceFailed       = "failed"
)

// The states of an instance.
const (
	InstancePending  = "pending"
	InstanceStarting = "starting"
	InstanceReady    = "ready"
	InstanceUnready  = "unready"
	InstanceDraining = "draining"
	InstanceExited   = "exited"
)

// State is what is there, in Compose terms. Its JSON is the core of `trellis ps`.
type State struct {
	Project  string    `json:"project"`
	Revision int64     `json:"revision"`
	Engine   string    `json:"engine"`
	Services []Service `json:"services"` // by name
	ID       StateID   `json:"id"`
	// Settled says that the loop has nothing left to do for Revision, Outcome how it went.
	Settled bool   `json:"settled"`
	Outcome string `json:"outcome"`
	// Rollouts are those of Revision, and of the one that it undoes.
	Rollouts []state.Rollout `json:"rollouts,omitempty"`
	// Unserved is what a gateway that is not Trellis' own does not serve of the routes.
	Unserved []Unserved `json:"unserved,omitempty"`

	// Desired is the project of Revision, for Diff.
	Desired *compose.Project `json:"-"`
}

// Unserved is a route that nobody reaches.
type Unserved struct {
	Service string `json:"service,omitempty"` // that has the route; "": it is of the gateway itself
	Route   string `json:"route,omitempty"`   // its host and path, or the name of a door of the gateway; "": all of them
	Source  string `json:"source,omitempty"`  // file:line:column
	Reason  string `json:"reason"`            // what the gateway says
}

// Service is the state of one service.
type Service struct {
	Name      string     `json:"name"`
	State     string     `json:"state"`
	Want      int        `json:"want"`
	Ready     int        `json:"ready"`
	Revision  int64      `json:"revision"` // of its newest instance
	Ports     []Port     `json:"ports"`
	Instances []Instance `json:"instances"`
	// Reason says in one sentence why State is not healthy: the last probe's answer, what it waits for, how it exited.
	Reason string `json:"reason,omitempty"`
	// Unknown is nil where it is known what runs.
	Unknown *Unknown `json:"unknown,omitempty"`
	// LastLog are the last lines (at most 50) of the instance that failed last, kept while the service is not healthy.
	LastLog []string `json:"last_log,omitempty"`
	// Autoscale is nil for a service that is not scaled by its load.
	Autoscale *Autoscale `json:"autoscale,omitempty"`
}

// Unknown says why it is not known what runs of a service: its instances are those that were seen last, and are left
// alone.
type Unknown struct {
	Driver string    `json:"driver"`
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"`           // what its driver said
	Remedy string    `json:"remedy,omitempty"` // what to do about it
}

// Autoscale says between which bounds a service is scaled by its load, and what was decided last.
type Autoscale struct {
	Min       int       `json:"min"`
	Max       int       `json:"max"`
	Reason    string    `json:"reason,omitempty"` // "" until something was decided
	DecidedAt time.Time `json:"decided_at,omitzero"`
}

// Port is a published port as it is in force.
type Port struct {
	Target    int    `json:"target"`
	Published int    `json:"published"`
	HostIP    string `json:"host_ip"`
	Protocol  string `json:"protocol"`
}

// Instance is the state of one instance.
type Instance struct {
	ID        InstanceID  `json:"id"`
	Slot      int         `json:"slot"` // from 1; 0 where the engine has no slots
	Driver    string      `json:"driver"`
	PID       int         `json:"pid"` // of the program; 0 where it is not on this machine
	Container string      `json:"container"`
	State     string      `json:"state"`
	Ready     bool        `json:"ready"`
	Restarts  int         `json:"restarts"`
	Address   string      `json:"address"` // host:port of its first port, or its host
	Revision  int64       `json:"revision"`
	StartedAt time.Time   `json:"started_at,omitzero"`
	Exit      *ExitStatus `json:"exit,omitempty"`
	Probe     string      `json:"probe,omitempty"` // the last answer
}

// ExitStatus says how an instance ended.
type ExitStatus struct {
	Code   int       `json:"code"`
	Signal string    `json:"signal,omitempty"`
	OOM    bool      `json:"oom,omitempty"`
	Time   time.Time `json:"time"`
	Error  string    `json:"error,omitempty"`
}

// Usage is what one instance uses.
type Usage struct {
	Service  string       `json:"service"`
	Instance InstanceID   `json:"instance"`
	Usage    driver.Usage `json:"usage"`
}

// The actions and effects of a Change.
const (
	Add    = "add"
	Modify = "change"
	Remove = "remove"

	EffectNone      = "none"       // nothing that runs is touched
	EffectInPlace   = "in-place"   // carried out on what runs
	EffectRollout   = "rollout"    // instances are replaced, start-first
	EffectStopFirst = "stop-first" // instances are stopped before their replacements start
	EffectDataLoss  = "data-loss"  // a volume leaves the project: no service has its data any more, and no apply deletes it
)

// Change is one difference, in Compose paths. Values that look like secrets are masked in From and To.
type Change struct {
	Path   string `json:"path"` // "services.web.environment.COLOR"
	Action string `json:"action"`
	From   any    `json:"from"`
	To     any    `json:"to"`
	Effect string `json:"effect"`
}
