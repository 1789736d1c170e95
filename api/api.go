// Package api is the control plane's HTTP API: the interfaces of a control plane, a handler that serves them and a
// client that implements them, so that a caller cannot tell whether a control plane is in its own process.
//
// One control plane serves one project, on a unix socket with owner-only mode. Errors keep their kind (package errdefs)
// on the way.
package api

import (
	"context"
	"io"
	"time"

	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
	"trellis/proxy"
	"trellis/state"
)

// Observer tells what is there.
type Observer interface {
	// Status returns the project as it is now. Nothing was ever applied: a Status with Revision 0.
	Status(ctx context.Context) (Status, error)
	// Watch calls fn with the Status now and after each change, until ctx is done or fn returns an error, which it
	// returns. Changes that come faster than fn are merged.
	Watch(ctx context.Context, fn func(Status) error) error
	// Events calls fn for each event that matches, oldest first; with follow it goes on until ctx is done.
	Events(ctx context.Context, f state.EventFilter, follow bool, fn func(state.Event) error) error
	// History returns the revisions, newest first; limit 0 is all.
	History(ctx context.Context, limit int) ([]state.Revision, error)
	// Routes returns the gateway's routes as they are in force, most specific first.
	Routes(ctx context.Context) ([]Route, error)
	// Top returns what the instances use.
	Top(ctx context.Context) ([]engine.Usage, error)
	// Volumes returns the full names of the volumes that a Down with Volumes deletes, in order. A control plane that is too old to
	// say: ErrUnsupported.
	Volumes(ctx context.Context) ([]string, error)
	// Drift returns where the world is not what the revision in force says. Nothing was ever applied: none.
	Drift(ctx context.Context) (Drift, error)
}

// Deployer changes what is wanted.
type Deployer interface {
	// Plan returns what Apply of the same request would change. It writes nothing.
	Plan(ctx context.Context, req ApplyRequest) (Plan, error)
	// Apply makes a project the desired one and returns without waiting for it. Where another apply is under way: with
	// req.NoWait ErrConflict that says whose, otherwise it waits for it.
	Apply(ctx context.Context, req ApplyRequest) (state.Revision, error)
	// Rollback applies the project of an earlier revision again, as a new one; 0 is the last healthy one before the
	// newest.
	Rollback(ctx context.Context, number int64, actor string) (state.Revision, error)
	// Rollout promotes or aborts open rollouts of the newest revision. None is open: ErrConflict.
	Rollout(ctx context.Context, req RolloutRequest) error
	// Override writes a durable wish beside the file. Only the fields that are set change; Restart > 0 counts the
	// generation up.
	Override(ctx context.Context, c OverrideRequest) error
	// Revert brings back what Drift tells of the services named, all where none is, and returns what it set out to bring
	// back, without waiting for it.
	Revert(ctx context.Context, req RevertRequest) (Drift, error)
	// Down removes the project from this machine and blocks until it is gone; revisions stay, the control plane ends.
	Down(ctx context.Context, opt engine.DeleteOptions) error
}

// Operator reaches into instances.
type Operator interface {
	// Logs streams output of instances, as LogLine objects, one a line. In place of output that cannot be read stands a line of the
	// stream "system"; a stream that is cut ends with an error other than io.EOF.
	Logs(ctx context.Context, req LogsRequest) (io.ReadCloser, error)
	// Exec runs a command in an instance; Instance "" with Service takes the lowest slot that runs.
	Exec(ctx context.Context, req ExecRequest, cmd driver.Command) (exitCode int, err error)
	// Shutdown ends control plane, data plane and holder; the instances go on unless stop is set.
	Shutdown(ctx context.Context, stop bool) error
}

// Control is a whole control plane.
type Control interface {
	Observer
	Viewer
	Seer
	Deployer
	Operator
}

// Status is the shape of `trellis ps --format json`.
type Status struct {
	engine.State
	ControlPlane Process   `json:"control_plane"`
	Proxy        Process   `json:"proxy"`
	Holder       Process   `json:"holder"`
	Gateway      Gateway   `json:"gateway"`
	Console      *string   `json:"console"`
	Prometheus   *string   `json:"prometheus"`
	OTLP         Endpoints `json:"otlp"`
	Version      string    `json:"version"` // of the control plane's binary
	// Ends is when the project is taken down by itself (x-trellis.environments.*.ttl), null for never.
	Ends *time.Time `json:"ends"`
	// Traffic counts requests by service, cumulative since the data plane of that pid started.
	Traffic map[string]proxy.Counters `json:"traffic,omitempty"`
}

// Process is one of Trellis' own processes.
type Process struct {
	PID int `json:"pid"`
}

// Gateway are the gateway's addresses, null where it does not listen.
type Gateway struct {
	HTTP  *string `json:"http"`
	HTTPS *string `json:"https"`
}

// Endpoints are the telemetry receiver's addresses, null where there is none.
type Endpoints struct {
	GRPC *string `json:"grpc"`
	HTTP *string `json:"http"`
}

// Plan is what an apply would change, and the state it was made for.
type Plan struct {
	Base    engine.StateID  `json:"base"`
	Changes []engine.Change `json:"changes"`
	// Again says why an apply would do something although there are no changes: what runs is not all of the newest revision. "": it is.
	Again string `json:"again,omitempty"`
	// Warnings are the loader's; the CLI fills them in.
	Warnings []compose.Diagnostic `json:"warnings"`
}

// Drift is where the world is not what a revision says. Its JSON is the shape of `trellis drift --format json`.
type Drift struct {
	Project  string         `json:"project"`
	Revision int64          `json:"revision"` // 0: nothing was ever applied
	Changes  []engine.Drift `json:"changes"`  // in order of path
}

// RevertRequest names the services whose drift is brought back.
type RevertRequest struct {
	Services []string `json:"services,omitempty"` // none: all
	Actor    string   `json:"actor"`
}

// ApplyRequest asks for a project to be made the desired one.
type ApplyRequest struct {
	Project compose.Project `json:"project"`
	// Contents are the contents of secrets and configs by "secrets/NAME" and "configs/NAME". They go into the content
	// store and nowhere else.
	Contents map[string][]byte `json:"contents,omitempty"`
	Base     engine.StateID    `json:"base,omitempty"` // "" whatever the state
	Commit   *state.Commit     `json:"commit,omitempty"`
	Cause    string            `json:"cause"`
	Actor    string            `json:"actor"`
	NoWait   bool              `json:"no_wait,omitempty"`
}

// RolloutRequest says what becomes of open rollouts.
type RolloutRequest struct {
	Service string `json:"service,omitempty"` // "": all
	Action  string `json:"action"`            // engine.Promote or engine.Abort
	Actor   string `json:"actor"`
}

// CauseWatch is the Cause of an apply by `up --watch`, which takes the place of one of its own that is under way.
const CauseWatch = state.CauseWatch

// OverrideRequest changes the overrides of one service.
type OverrideRequest struct {
	Service  string `json:"service"`
	Replicas *int   `json:"replicas,omitempty"`
	Restart  bool   `json:"restart,omitempty"`
	Stopped  *bool  `json:"stopped,omitempty"`
	Actor    string `json:"actor"`
}

// LogsRequest selects output.
type LogsRequest struct {
	Services []string          `json:"services,omitempty"` // none: all
	Instance engine.InstanceID `json:"instance,omitempty"`
	Revision int64             `json:"revision,omitempty"`
	Follow   bool              `json:"follow,omitempty"` // new instances are joined as they come
	Tail     int               `json:"tail,omitempty"`   // per instance; 0 all
	Since    time.Time         `json:"since,omitzero"`
}

// LogLine is one line of an instance's output.
type LogLine struct {
	Time     time.Time         `json:"time"`
	Service  string            `json:"service"`
	Instance engine.InstanceID `json:"instance"`
	Stream   string            `json:"stream"`
	Text     string            `json:"text"`
}

// ExecRequest names an instance.
type ExecRequest struct {
	Service  string            `json:"service,omitempty"`
	Instance engine.InstanceID `json:"instance,omitempty"`
	// OneOff runs the command in an instance of Service made for it alone, beside its replicas and without traffic or
	// published ports, which is removed when the command has ended.
	OneOff bool `json:"one_off,omitempty"`
}

// Route is one route in force.
type Route struct {
	Host    string   `json:"host"`
	Path    string   `json:"path"`
	Methods []string `json:"methods"`
	Service string   `json:"service"`
	Port    int      `json:"port"`
	Auth    string   `json:"auth"`
	Rules   []string `json:"rules"`            // what else is asked of requests and done to them, in words
	Closed  string   `json:"closed,omitempty"` // why nobody can use it; "": somebody can
	Source  string   `json:"source"`           // file:line:column
	Address string   `json:"address"`
}
