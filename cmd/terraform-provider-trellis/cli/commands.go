package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Diagnostic is something to say about a place of a file.
type Diagnostic struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Path    string `json:"path"`
	Message string `json:"message"`
}

// Place is file:line:column, "" where the file is not known.
func (d Diagnostic) Place() string {
	if d.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d:%d", d.File, d.Line, d.Column)
}

// Change is one difference, at a Compose path.
type Change struct {
	Path   string `json:"path"`
	Action string `json:"action"` // add, change or remove
	From   any    `json:"from"`
	To     any    `json:"to"`
	Effect string `json:"effect"` // none, in-place, rollout, stop-first or data-loss
}

// Plan is what `up` would do.
type Plan struct {
	Project  string       `json:"project"`
	Changes  []Change     `json:"changes"`
	Again    string       `json:"again"` // why it would do something although there are no changes; "": it would not
	Warnings []Diagnostic `json:"warnings"`
	Wanted   []Change     `json:"wanted"` // all that the project will be, as changes of an empty one
}

// Plan returns what Up would change. Files that are not valid: a *Failed that is Invalid.
func (c *Command) Plan(ctx context.Context, p Project) (Plan, error) {
	return decode[Plan](ctx, c, p, "plan", "--whole")
}

// Check returns what is wrong with the files, which is the long form of a Failed that is Invalid.
func (c *Command) Check(ctx context.Context, p Project) ([]Diagnostic, error) {
	engine := p.Engine
	p.Engine, p.Context, p.Namespace = "", "", ""
	args := []string{"check", "--format=json"}
	if engine != "" {
		args = append(args, "--on="+engine)
	}
	out, err := c.run(ctx, p, args...)
	var failed *Failed
	if err != nil && !(errors.As(err, &failed) && failed.Invalid()) {
		return nil, err
	}
	var view struct {
		Errors []Diagnostic `json:"errors"`
	}
	if json.Unmarshal(out, &view) != nil {
		return nil, err
	}
	return view.Errors, nil
}

// Up makes the project run as its files say and waits until it is healthy, for as long as timeout.
func (c *Command) Up(ctx context.Context, p Project, timeout time.Duration) error {
	_, err := c.run(ctx, p, "up", "--detach", "--yes", "--timeout="+timeout.String())
	return err
}

// Status is how a project stands.
type Status struct {
	Project  string  `json:"project"`
	Revision *int64  `json:"revision"` // nil: it does not run
	Engine   string  `json:"engine"`
	Outcome  string  `json:"outcome"`
	Gateway  Gateway `json:"gateway"`
	Console  *string `json:"console"`
	Metrics  *string `json:"prometheus"`
	OTLP     struct {
		GRPC *string `json:"grpc"`
		HTTP *string `json:"http"`
	} `json:"otlp"`
	Services []Service `json:"services"`
}

// Gateway are the addresses of the gateway, nil where it does not listen.
type Gateway struct {
	HTTP  *string `json:"http"`
	HTTPS *string `json:"https"`
}

// Service is how a service stands.
type Service struct {
	Name     string `json:"name"`
	State    string `json:"state"`
	Want     int64  `json:"want"`
	Ready    int64  `json:"ready"`
	Revision *int64 `json:"revision"`
	Reason   string `json:"reason"`
	Ports    []Port `json:"ports"`
}

// Port is a published port.
type Port struct {
	Target    int64  `json:"target"`
	Published *int64 `json:"published"`
	HostIP    string `json:"host_ip"`
	Protocol  string `json:"protocol"`
}

// Status returns how a project stands; one that does not run has no revision.
func (c *Command) Status(ctx context.Context, p Project) (Status, error) {
	return decode[Status](ctx, c, p, "ps")
}

// Revision returns all that a revision says, as changes of an empty project.
func (c *Command) Revision(ctx context.Context, p Project, number int64) ([]Change, error) {
	view, err := decode[struct {
		Changes []Change `json:"changes"`
	}](ctx, c, p, "diff", "0", strconv.FormatInt(number, 10))
	return view.Changes, err
}

// Drift is one place where what runs is not what the revision in force says.
type Drift struct {
	Change
	Reason string `json:"reason"`
	Heals  bool   `json:"heals"` // it is being brought back already
}

// Drift returns where what runs is not what the revision in force says.
func (c *Command) Drift(ctx context.Context, p Project) ([]Drift, error) {
	view, err := decode[struct {
		Changes []Drift `json:"changes"`
	}](ctx, c, p, "drift")
	return view.Changes, err
}

// Revert brings back what drifted and waits for it.
func (c *Command) Revert(ctx context.Context, p Project, timeout time.Duration) error {
	_, err := c.run(ctx, p, "drift", "--revert", "--quiet", "--timeout="+timeout.String())
	return err
}

// Route is a route of the gateway that is in force.
type Route struct {
	Host    string   `json:"host"`
	Path    string   `json:"path"`
	Methods []string `json:"methods"`
	Service string   `json:"service"`
	Port    int64    `json:"port"`
	Auth    string   `json:"auth"`
	Rules   []string `json:"rules"`
	Closed  string   `json:"closed"`
	Source  string   `json:"source"`
	Address string   `json:"address"`
}

// Routes returns the routes of the gateway, most specific first.
func (c *Command) Routes(ctx context.Context, p Project) ([]Route, error) {
	return decode[[]Route](ctx, c, p, "routes")
}

// Down removes the project, with volumes also the data of its named volumes. One that does not run is no error.
func (c *Command) Down(ctx context.Context, p Project, volumes bool) error {
	args := []string{"down", "--yes", "--quiet"}
	if volumes {
		args = append(args, "--volumes")
	}
	_, err := c.run(ctx, p, args...)
	return err
}
