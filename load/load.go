// Package load is the measuring instrument: it sends requests on a schedule and says what became of each of them.
//
// The model is open: the schedule is a list of intended starts, fixed before the run and not changed by how the target
// answers. A start waits while every connection is in use, and the latency of a request counts from its intended start,
// so that a target that stalls for half a second shows that half second in every request that a user would have made
// meanwhile. Nothing is ever sent twice.
//
// Every start ends in exactly one place of the Report: missed, or sent and then answered, failed, or abandoned because
// the run was cancelled.
package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"trellis/errdefs"
)

// Headers that load writes or reads.
const (
	SeqHeader         = "X-Load-Seq"         // on every request: the number of its start, from 0
	IdempotencyHeader = "Idempotency-Key"    // with Config.IdempotencyKey
	MarkerHeader      = "X-Trellis-Error"    // on answers that the data plane wrote itself: the kind, overloadKind when it shed load
	InstanceHeader    = "X-Trellis-Instance" // on answers: the instance that gave it
)

// overloadKind is the value of MarkerHeader with which the data plane refuses a request because too many wait already.
const overloadKind = "overload"

// The values of a Config that names none.
const (
	DefaultConnections = 64 // for HTTP/2 as many requests: DefaultConnections/Streams
	DefaultStreams     = 16
	DefaultTimeout     = 30 * time.Second
	DefaultDrain       = 10 * time.Second
	DefaultVisits      = 10_000
)

// maxHands bounds the requests in flight: one machine has about as many ports for connections to one address.
const maxHands = 65_536

// Config is one run. URL and either Rate and Duration or Pacer are needed; all else has useful zero values.
type Config struct {
	// URL is http or https, whose redirects are not followed; or ws or wss: then each connection is a WebSocket, each
	// start a message of Body on one of them in turn, and the next message from the server its answer, with status 101.
	URL      string
	Rate     float64       // intended starts per second
	Duration time.Duration // of the schedule; with Pacer it may be 0: as long as the pacer goes on
	// Stages replace Rate and Duration.
	Stages []Stage
	// Poisson makes the starts arrive as those of many independent visitors do, instead of evenly spaced.
	Poisson bool
	Pacer   Pacer // replaces all of these; used by one run only

	// Connections bounds the requests in flight: each connection carries one at a time and is kept open between them.
	// They are opened when they are first needed and used in turn.
	Connections int
	// HTTP2 sends everything over HTTP/2: in the clear from the first byte to an http target, by ALPN to an https one.
	HTTP2 bool
	// Streams bounds the requests in flight on one connection of HTTP/2; all other connections carry one.
	Streams int
	// GRPC makes every start this unary call, over HTTP/2, instead of Method, Body and Mix.
	GRPC *GRPCCall
	// Timeout bounds both waits of a start: for a free connection, or it is missed, and then for the whole answer
	// (connecting included), or it has failed.
	Timeout time.Duration
	// Drain is how long after Duration starts that still wait for a connection may be sent; later they are missed.
	Drain time.Duration

	Method   string // GET, or POST where there is a body
	Header   http.Header
	Body     []byte
	BodyFunc func(seq uint64) []byte // instead of Body; called by several goroutines at once
	// Mix replaces Method, Body and BodyFunc by several requests; Header goes with all of them.
	Mix []Request
	// Scenario replaces all of these, and each start of the schedule is a visit. Header goes with all its requests.
	Scenario *Scenario
	// Visits bounds the visits under way; one more is missed.
	Visits int
	// Seed decides what is drawn at random; 0 takes another one each time.
	Seed uint64
	// IdempotencyKey adds a key that is unique to the run and the start.
	IdempotencyKey bool
	// Insecure leaves the certificate of an https target unverified.
	Insecure bool

	// InstanceHeader names the header of answers that says which instance gave them; "" is InstanceHeader.
	InstanceHeader string

	// Record takes every result to disk; where that fails, the run is cancelled. It is closed by whoever created it.
	Record *Record
	// OnResult is called once for every start, missed ones included, one call at a time. It must not block and must not
	// keep the Result's address.
	OnResult func(*Result)
	// OnProgress is called once a second, by one goroutine.
	OnProgress func(Progress)
}

// Request is one of several that a run sends.
type Request struct {
	Weight   int    // share of the starts among all weights; 0 is 1
	Method   string // GET, or POST where there is a body
	Path     string // path and query; "" is that of Config.URL
	Header   http.Header
	Body     []byte
	BodyFunc func(seq uint64) []byte
}

// Result is what became of one start. Times count from the beginning of the run.
type Result struct {
	Seq      uint64
	Request  int           // index into Config.Mix, or of the scenario's step in Report.Steps
	Visit    uint64        // number of the visit, from 0; with a scenario
	Intended time.Duration // when it should have started
	Sent     time.Duration // when its first byte was given to the kernel; 0 when nothing was sent
	Done     time.Duration // when its answer was whole or it had failed
	Status   int           // 0 without an answer
	Kind     Kind          // why it failed; "" when it did not
	Bytes    int64         // of the answer's body
	Instance string        // value of Config.InstanceHeader, cut to 100 bytes
}

// Latency is the time from the intended start to the end.
func (r *Result) Latency() time.Duration { return r.Done - r.Intended }

// Progress is the state of a run.
type Progress struct {
	Elapsed time.Duration
	Stage   int     // index into Config.Stages
	Target  float64 // starts per second that are intended now; 0 with a Pacer
	Total   Report  // since the beginning
	Last    Report  // since the previous Progress
	// InFlight is how many requests are under way of Limit that may be, Visits how many visits.
	InFlight, Limit, Visits int
	VisitRate               float64 // visits that started since the previous Progress, per second
}

// Run drives the load and returns what happened. It blocks until the last start has ended, which is at most
// Drain+Timeout after the schedule's end (2*Timeout with a Pacer and no Duration; with a Scenario as long as the visits that
// have begun take), and all that it started has ended by then. When ctx ends it starts nothing more, gives the requests in flight one second, and returns what there is with Partial set and a nil error: errors are
// for a Config that cannot run (errdefs.ErrInvalid), and for a Record that cannot be written, which ends the run as well.
func Run(ctx context.Context, cfg Config) (Report, error) {
	cfg, target, err := cfg.complete()
	if err != nil {
		return Report{}, err
	}
	requests, err := cfg.templates(target)
	if err != nil {
		return Report{}, err
	}
	return newRun(cfg, target, requests).drive(ctx)
}

// complete returns c with its defaults in place.
func (c Config) complete() (Config, *url.URL, error) {
	target, err := url.Parse(c.URL)
	if err != nil || target.Host == "" || !slices.Contains([]string{"http", "https", "ws", "wss"}, target.Scheme) {
		return c, nil, fmt.Errorf("load %q: %w: not a URL like http://host:port/path", c.URL, errdefs.ErrInvalid)
	}
	if c.Visits < 0 {
		return c, nil, fmt.Errorf("load %s: %w: visits cannot be negative", c.URL, errdefs.ErrInvalid)
	}
	if c.Visits == 0 {
		c.Visits = DefaultVisits
	}
	for c.Seed == 0 {
		c.Seed = rand.Uint64()
	}
	if err := c.schedule(); err != nil {
		return c, nil, fmt.Errorf("load %s: %w", c.URL, err)
	}
	if c.Connections < 0 || c.Timeout < 0 || c.Drain < 0 || c.Duration < 0 {
		return c, nil, fmt.Errorf("load %s: %w: connections, timeout, drain and duration cannot be negative", c.URL, errdefs.ErrInvalid)
	}
	if c.InstanceHeader == "" {
		c.InstanceHeader = InstanceHeader
	}
	if !httpguts.ValidHeaderFieldName(c.InstanceHeader) {
		return c, nil, fmt.Errorf("load %s: %w: %q is not a header's name", c.URL, errdefs.ErrInvalid, c.InstanceHeader)
	}
	if err := c.protocol(); err != nil {
		return c, nil, fmt.Errorf("load %s: %w", c.URL, err)
	}
	if c.Connections == 0 {
		c.Connections = max(DefaultConnections/c.Streams, 1)
	}
	if c.Connections > maxHands/c.Streams {
		return c, nil, fmt.Errorf("load %s: %w: %d connections with %d requests at once: at most %d in all", c.URL, errdefs.ErrInvalid, c.Connections, c.Streams, maxHands)
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Drain == 0 {
		c.Drain = DefaultDrain
	}
	return c, target, nil
}

func (c *Config) webSocket() bool {
	return strings.HasPrefix(c.URL, "ws:") || strings.HasPrefix(c.URL, "wss:")
}

// protocol settles what is sent by which protocol.
func (c *Config) protocol() error {
	several := c.HTTP2 || c.GRPC != nil
	switch {
	case c.webSocket() && (several || c.Scenario != nil || c.Mix != nil):
		return fmt.Errorf("%w: a WebSocket carries messages, and no HTTP/2, gRPC, scenario or mix", errdefs.ErrInvalid)
	case c.GRPC != nil && (c.Scenario != nil || c.Mix != nil):
		return fmt.Errorf("%w: a gRPC call is no scenario or mix", errdefs.ErrInvalid)
	case c.Streams < 0:
		return fmt.Errorf("%w: streams cannot be negative", errdefs.ErrInvalid)
	case c.Streams == 0 && several:
		c.Streams = DefaultStreams
	case !several:
		c.Streams = 1
	}
	if c.GRPC == nil {
		return nil
	}
	call, err := c.GRPC.request()
	c.Mix = []Request{call}
	return err
}

// schedule makes the pacer.
func (c *Config) schedule() (err error) {
	switch {
	case c.Pacer != nil:
		return nil
	case len(c.Stages) > 0:
		if c.Duration, err = checkStages(c.Stages); err != nil {
			return err
		}
	case !(c.Rate > 0 && c.Rate <= 1e9) || c.Duration <= 0:
		return fmt.Errorf("%w: rate %v/s for %v: both must be above 0", errdefs.ErrInvalid, c.Rate, c.Duration)
	case !c.Poisson:
		c.Pacer = Constant(c.Rate, c.Duration)
		c.Stages = []Stage{{Rate: c.Rate, For: c.Duration}}
		return nil
	default:
		c.Stages = []Stage{{Rate: c.Rate, For: c.Duration}}
	}
	c.Pacer = Stages(c.Stages, c.Poisson, c.Seed)
	return nil
}

// checkHeader refuses what would make a request that ends elsewhere than its sender thinks.
func checkHeader(h http.Header) error {
	for name, values := range h {
		switch http.CanonicalHeaderKey(name) {
		case "Content-Length", "Transfer-Encoding", SeqHeader:
			return fmt.Errorf("%w: header %s is written by load itself", errdefs.ErrInvalid, name)
		}
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("%w: %q is not a header's name", errdefs.ErrInvalid, name)
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return fmt.Errorf("%w: header %s: %q is not a header's value", errdefs.ErrInvalid, name, v)
			}
		}
	}
	return nil
}
