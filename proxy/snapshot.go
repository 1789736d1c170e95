// Package proxy is the data plane: one program that is the gateway, the owner of every published port and the mesh. It
// is fed with whole snapshots, decides by itself between them, and goes on with the last one when nobody feeds it.
//
// Matching, balancing, retrying and limiting take the package's own view of a request; net/http appears only in the
// files that bind it.
package proxy

import (
	"time"

	"trellis/probe"
)

// Snapshot is everything the data plane has to know about a project. It is complete and immutable. One with a lower
// (Epoch, Version) than the last accepted is refused.
type Snapshot struct {
	Project string `json:"project"`
	Epoch   uint64 `json:"epoch"`   // counted up by each control plane
	Version uint64 `json:"version"` // counted up by each change within an epoch

	Listeners []Listener `json:"listeners,omitempty"`
	Routes    []Route    `json:"routes,omitempty"` // of the gateway
	// AccessLog is the share of requests that the access log has, 0 to 1; what fails is in it in any case unless it is 0.
	AccessLog float64   `json:"access_log,omitempty"`
	Services  []Service `json:"services,omitempty"`
	// Auth are the ways to prove who calls, by the name that routes use.
	Auth map[string]Auth `json:"auth,omitempty"`
	// Shift leads a part of what comes to the gateway elsewhere; nil: none.
	Shift *Shift `json:"shift,omitempty"`
	// Mesh says how data planes of several hosts call each other; nil: there is one host.
	Mesh *Mesh `json:"mesh,omitempty"`
	// Callers are services by the addresses that they call others from, at sockets that no Caller is known of. An address proves
	// nothing: it names who calls in what is measured, and permits nothing.
	Callers map[string]string `json:"callers,omitempty"`
}

// Mesh is what a data plane has to know to call those of other hosts, and to be called by them: always over mutual TLS.
// Who calls is who has called it, and who is called is the service: each end proves to be that one.
type Mesh struct {
	Domain string `json:"domain"` // the trust domain
	// Identities is a folder as Mutual's: callers show what is in it, and so does a Listener that speaks Link, for each service
	// that has instances on this host.
	Identities string `json:"identities"`
	// Calls are the services that a service may call, where the project has such a list; nil: everybody may call everybody. A
	// service that is not in it may call none. Clients from outside, which routes decide about, are not asked.
	Calls map[string][]string `json:"calls,omitempty"`
}

// Protocols of a Listener.
const (
	// Detect looks at what comes first: an HTTP/1 request line or an HTTP/2 preface is treated as HTTP, anything else
	// (a server that speaks first included) is passed through. It costs no round trip, and a client is never asked to
	// speak first.
	Detect = "detect"
	TCP    = "tcp"  // passed through, never looked at
	UDP    = "udp"  // passed through
	HTTP1  = "http" // HTTP/1.1, HTTP/2 with prior knowledge, WebSocket
	Link   = "link" // from data planes of other hosts, to whichever instance of this one they name
)

// Listener is one socket that the data plane serves. The socket itself is handed over under Name.
type Listener struct {
	Name     string `json:"name"`     // unique and stable: "gateway", "port/0.0.0.0:8080/tcp", "name/INSTANCE"
	Address  string `json:"address"`  // host:port, for log lines
	Protocol string `json:"protocol"` // above
	// Service and Port are where every connection goes; Service "" is the gateway: Routes decide.
	Service string `json:"service,omitempty"`
	Port    int    `json:"port,omitempty"`
	// Caller is the service whose network namespace the socket is in, "" for callers from outside.
	Caller string `json:"caller,omitempty"`
	// Names makes the listener the one that connections to names are redirected to inside a namespace: the address that
	// a client connected to names the service, its port the service's port. Service and Port are empty then.
	Names map[string]string `json:"names,omitempty"`
	// Refused are services of Names that Caller may not call.
	Refused []string `json:"refused,omitempty"`
	// TLS says that clients speak TLS, with one of Certificates.
	TLS          bool          `json:"tls,omitempty"`
	Certificates []Certificate `json:"certificates,omitempty"`
	// RequireClientCertificate has handshakes fail without a certificate that one of Snapshot.Auth takes. Where there is such
	// a scheme clients are asked for one in any case.
	RequireClientCertificate bool `json:"require_client_certificate,omitempty"`
	// Challenges is the folder with the answers for a certificate authority that comes to look; "": it gets none.
	Challenges string `json:"challenges,omitempty"`
	// Proxied are the addresses, as prefixes, of balancers in front: a connection from one of them begins with a header of
	// the PROXY protocol, version 2, that says whose it is, or is closed.
	Proxied []string `json:"proxied,omitempty"`
	// Trusted are the addresses, as prefixes, of balancers and gateways in front that speak HTTP: who the client is and whether
	// it came over TLS is what their X-Forwarded-For and X-Forwarded-Proto say.
	Trusted []string `json:"trusted,omitempty"`
	// Upgrade is the port of the listener with TLS that requests over this one are redirected to; 0: they are served.
	Upgrade int `json:"upgrade,omitempty"`
	// Netns is the namespace's path, for whoever opens the socket; "" is the machine's own.
	Netns string `json:"netns,omitempty"`
}

// Route sends requests at the gateway to a service. Of several that match, the most specific wins: an exact host over
// a wildcard over none; then the path with the longest literal prefix, exact over parameter over wildcard; then more
// headers; then one that names methods.
type Route struct {
	Host    string            `json:"host,omitempty"`
	Path    string            `json:"path,omitempty"`
	Methods []string          `json:"methods,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Service string            `json:"service"`
	Port    int               `json:"port"`
	Timeout time.Duration     `json:"timeout,omitempty"` // until the response's headers; 0: 30 s
	Try     time.Duration     `json:"try,omitempty"`     // the same of one attempt, after which another instance is asked; 0: Timeout
	Source  string            `json:"source,omitempty"`  // file:line:column
	Decision
}

// Service is a set of instances and the policy of calling them.
type Service struct {
	Name      string     `json:"name"`
	Instances []Instance `json:"instances,omitempty"`
	// Hold is how long a request waits while no instance is ready; 0: 5 s; negative: not at all.
	Hold time.Duration `json:"hold,omitempty"`
	// Concurrency is how many requests, streams and connections one instance works on at a time; 0: any number. Where all
	// have so many the next ones wait in line for as long as Hold says, and then get 503.
	Concurrency int `json:"concurrency,omitempty"`
	// Pending is how many requests may wait for an instance at a time, the next ones get 503 at once; 0: 10,000.
	Pending int `json:"pending,omitempty"`
	// Failures is how many failures in a row take an instance out for a second, twice as long each time, up to 30 s; 0: five
	// answers that broke off or never came. Where it is set answers of 5xx count too.
	Failures int `json:"failures,omitempty"`
	// Wakes says that the service is scaled to nothing and started by the first request that waits for it. A browser that
	// opens a page gets one that says so when it takes long, and asks again by itself.
	Wakes bool `json:"wakes,omitempty"`
	// Measured says that whoever scales the service is told its Demand.
	Measured bool `json:"measured,omitempty"`
	// Internal says that the service is a part of Trellis: what it is asked is neither counted nor traced.
	Internal bool `json:"internal,omitempty"`
	// ConnectTimeout bounds a connect to an instance; 0: 1 s.
	ConnectTimeout time.Duration `json:"connect_timeout,omitempty"`
	// Retries bound the attempts after the first for requests that may be repeated; 0: 3; negative: none. All retries
	// together stay below 20 % of the requests plus 10 a second (Linkerd's published default).
	Retries int `json:"retries,omitempty"`
	// HTTP2 are the target ports whose program speaks HTTP/2 with prior knowledge (app_protocol grpc or h2c). gRPC
	// requests are sent so to every port.
	HTTP2 []int      `json:"http2,omitempty"`
	Probe probe.Spec `json:"probe,omitzero"` // for when the control plane is away; exec is not asked
	// Mutual says which ports speak TLS and want to be shown who calls; nil: none.
	Mutual *Mutual `json:"mutual,omitempty"`
	// TLS says that instances speak TLS at every port, and who they have to prove to be: a service that is not of the project.
	TLS *UpstreamTLS `json:"tls,omitempty"`
}

// UpstreamTLS says whom an instance has to prove to be.
type UpstreamTLS struct {
	ServerName string `json:"server_name"`
	// CA are the certificates, as PEM, of whoever vouches for it; "": those that the machine trusts.
	CA string `json:"ca,omitempty"`
}

// Mutual says how the data plane calls a service over mutual TLS: as the service that called it, which the socket tells.
type Mutual struct {
	Ports []int `json:"ports,omitempty"` // none: all of them but Plain
	Plain []int `json:"plain,omitempty"` // ports without TLS
	// ID is the SPIFFE ID that instances have to prove.
	ID string `json:"id"`
	// Identities is the folder with the files (identity.Files) of callers, each in a folder after the path of its ID:
	// service/NAME, and gateway for who is no service.
	Identities string `json:"identities"`
}

// Instance is one address of a service.
type Instance struct {
	ID       string      `json:"id"`
	Host     string      `json:"host"`
	Plane    string      `json:"plane,omitempty"`    // host:port where the data plane of another host leads to it; "": it is on this host
	PortMap  map[int]int `json:"port_map,omitempty"` // target to actual, where they differ
	Ready    bool        `json:"ready"`
	Draining bool        `json:"draining,omitempty"` // takes nothing new; what is in flight goes on
	DrainBy  time.Time   `json:"drain_by,omitzero"`  // streams end here, with 1001, GOAWAY or a close
	Weight   int         `json:"weight,omitempty"`   // share of traffic; 0 counts as 100
	Revision int64       `json:"revision,omitempty"` // for log and metrics
	Slot     int         `json:"slot,omitempty"`     // for log and metrics
	WarmFrom time.Time   `json:"warm_from,omitzero"` // ready since; weight grows over the first seconds
}

// Status is what a data plane says of itself on its status socket.
type Status struct {
	PID     int            `json:"pid"`
	Epoch   uint64         `json:"epoch"`
	Version uint64         `json:"version"`
	InUse   map[string]int `json:"in_use,omitempty"` // instance ID to requests, streams and connections in flight
	Holding int            `json:"holding"`          // requests that wait for a ready instance
	Ejected []string       `json:"ejected,omitempty"`
	// Counters are cumulative since this data plane started.
	Counters map[string]Counters `json:"counters,omitempty"` // by service
}

// Counters count what was done for one service, cumulative.
type Counters struct {
	Requests    uint64 `json:"requests"`
	Failed      uint64 `json:"failed"` // answered by the data plane itself with 5xx, or cut off
	Retries     uint64 `json:"retries"`
	Held        uint64 `json:"held"`
	Connections uint64 `json:"connections"`
	// ColdStarts are the times that requests waited because the service was scaled to nothing, from their arrival until an
	// instance took them.
	ColdStarts Histogram `json:"cold_starts,omitempty"`
}
