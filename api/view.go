package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"trellis/engine"
	"trellis/state"
)

// Viewer tells what a project did lately, for whoever watches it without being able to change it. Nothing of it holds
// the value of a secret.
type Viewer interface {
	// Deployments returns the revisions with their rollouts, newest first; limit 0 is all.
	Deployments(ctx context.Context, limit int) ([]Deployment, error)
	// Compare returns what revision to has that revision from has not; from 0 is the empty project, so everything is
	// added. No such revision: ErrNotFound.
	Compare(ctx context.Context, from, to int64) ([]engine.Change, error)
	// Traffic calls fn with the steps that are remembered, oldest first, and then with each new one, until ctx is done or
	// fn returns an error, which it returns.
	Traffic(ctx context.Context, fn func([]TrafficStep) error) error
	// Door returns where the console answers and what lets one in. It does not listen: ErrUnavailable.
	Door(ctx context.Context) (Door, error)
}

// Deployment is a revision without its project.
type Deployment struct {
	Number    int64           `json:"revision"`
	Commit    *state.Commit   `json:"commit"`
	AppliedAt time.Time       `json:"applied_at"`
	HealthyAt *time.Time      `json:"healthy_at"`
	Outcome   string          `json:"outcome"`
	Cause     string          `json:"cause"`
	Actor     string          `json:"actor"`
	Undoes    int64           `json:"undoes,omitempty"`
	Services  []string        `json:"services"`
	Rollouts  []state.Rollout `json:"rollouts"`
}

// TrafficStep is what the data planes measured between two moments. Who was not asked is left out.
type TrafficStep struct {
	Time    time.Time `json:"time"` // its end
	Seconds float64   `json:"seconds"`
	// Services are flows by name. What was tried at two instances counts at both.
	Services map[string]Flow `json:"services"`
	// Recent is the half minute that ends with the step; only the newest step has it.
	Recent *Recent `json:"recent,omitempty"`
}

// Recent is what was measured over several steps, as one.
type Recent struct {
	Seconds   float64         `json:"seconds"`
	Services  map[string]Flow `json:"services"`
	Instances map[string]Flow `json:"instances"` // by ID
}

// Flow is what one service or instance was asked in some time.
type Flow struct {
	Requests uint64 `json:"requests"`
	Failed   uint64 `json:"failed"` // of these: answered with 5xx, cut off or not answered in time
	// P50, P95 and P99 are the time to the head of the answer, in milliseconds, by less than 1/16 too long.
	P50 float64 `json:"p50_ms"`
	P95 float64 `json:"p95_ms"`
	P99 float64 `json:"p99_ms"`
}

// Door is the way into the console.
type Door struct {
	URL string `json:"url"`
	Key string `json:"key"` // whoever has it may do what the console can
	// Lasts says that the door is open only as long as the control that was asked for it.
	Lasts bool `json:"-"`
}

// Watchman is the part of a Control that looks at a project, and changes nothing but what is said of it.
type Watchman interface {
	Viewer
	Seer
}

// WatchHandler serves a Watchman over HTTP, at the paths of Handler. It checks no identity: whoever reaches it may silence alerts, and is
// given the key of the console.
func WatchHandler(c Watchman) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/v1/", SeerHandler(c))
	view(mux, c)
	return mux
}

// view serves a Viewer.
func view(mux *http.ServeMux, c Viewer) {
	v := viewer{c}
	mux.HandleFunc("GET /v1/deployments", v.deployments)
	mux.HandleFunc("GET /v1/changes", v.compare)
	mux.HandleFunc("GET /v1/traffic", v.traffic)
	mux.HandleFunc("GET /v1/door", get(c.Door))
}

type viewer struct{ control Viewer }

func (h viewer) deployments(w http.ResponseWriter, r *http.Request) {
	limit, err := number(r.URL.Query(), "limit")
	if err != nil {
		writeError(w, err)
		return
	}
	all, err := h.control.Deployments(r.Context(), int(limit))
	respond(w, all, err)
}

func (h viewer) compare(w http.ResponseWriter, r *http.Request) {
	from, err := number(r.URL.Query(), "from")
	to := int64(0)
	if err == nil {
		to, err = number(r.URL.Query(), "to")
	}
	if err != nil {
		writeError(w, err)
		return
	}
	changes, err := h.control.Compare(r.Context(), from, to)
	respond(w, changes, err)
}

func (h viewer) traffic(w http.ResponseWriter, r *http.Request) {
	stream(w, func(send func([]TrafficStep) error) error { return h.control.Traffic(r.Context(), send) })
}

// Deployments implements Viewer.
func (c *Client) Deployments(ctx context.Context, limit int) ([]Deployment, error) {
	return call[[]Deployment](ctx, c, http.MethodGet, "/v1/deployments?limit="+strconv.Itoa(limit), nil)
}

// Compare implements Viewer.
func (c *Client) Compare(ctx context.Context, from, to int64) ([]engine.Change, error) {
	q := url.Values{"from": {strconv.FormatInt(from, 10)}, "to": {strconv.FormatInt(to, 10)}}
	return call[[]engine.Change](ctx, c, http.MethodGet, "/v1/changes?"+q.Encode(), nil)
}

// Traffic implements Viewer.
func (c *Client) Traffic(ctx context.Context, fn func([]TrafficStep) error) error {
	return follow(ctx, c, "/v1/traffic", fn)
}

// Door implements Viewer.
func (c *Client) Door(ctx context.Context) (Door, error) {
	return call[Door](ctx, c, http.MethodGet, "/v1/door", nil)
}
