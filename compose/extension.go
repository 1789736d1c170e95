package compose

// The x-trellis keys, by the node they stand on. Unknown keys are errors. Only keys that Trellis carries out, or whose
// form other parts already rely on, stand here.

// ProjectExtension is x-trellis at the top of the file.
type ProjectExtension struct {
	Gateway      *Gateway                  `json:"gateway,omitempty"`
	Environments map[string]EnvironmentRef `json:"environments,omitempty"`
}

// Gateway is the front door that routes are mounted on.
type Gateway struct {
	HTTP  string   `json:"http,omitempty"` // listen address, ":8080" where unset and there are routes
	Hosts []string `json:"hosts,omitempty"`
	// Policy is what a route gets that does not decide for itself.
	Policy *Policy `json:"policy,omitempty"`
}

// Policy is the gateway's default decision for its routes.
type Policy struct {
	Auth string `json:"auth,omitempty"` // none is the only scheme yet, and must be written out
}

// EnvironmentRef says where an environment of the project runs.
type EnvironmentRef struct {
	On        string `json:"on,omitempty"` // local or kubernetes
	Context   string `json:"context,omitempty"`
	Namespace string `json:"namespace,omitempty"`
}

// PortExtension is x-trellis of a port.
type PortExtension struct {
	Routes []Route `json:"routes,omitempty"`
}

// Route mounts a port of a service on the gateway.
type Route struct {
	Host    string            `json:"host,omitempty"`    // exact or "*.example.org"; "" any of the gateway's hosts
	Path    string            `json:"path,omitempty"`    // "/exact", "/prefix/*", "/a/{param}/b"; "" is "/*"
	Methods []string          `json:"methods,omitempty"` // nil: all
	Headers map[string]string `json:"headers,omitempty"` // all must be equal
	Auth    string            `json:"auth,omitempty"`    // "" takes the gateway's policy
	Timeout *Duration         `json:"timeout,omitempty"` // whole request; nil: 30 s until the response's headers
}

// DeployExtension is x-trellis of deploy.
type DeployExtension struct {
	Autoscale *Autoscale `json:"autoscale,omitempty"`
}

// Autoscale bounds and targets the replicas of a service.
type Autoscale struct {
	Min    int                `json:"min"`
	Max    int                `json:"max"`
	Target map[string]float64 `json:"target,omitempty"` // concurrency, rps, cpu
}

// ServiceExtension is x-trellis of a service.
type ServiceExtension struct {
	Process *Process `json:"process,omitempty"`
	Probe   *Probe   `json:"probe,omitempty"`
	// Objective is what the service promises.
	Objective *Objective `json:"objective,omitempty"`
	Calls     []string   `json:"calls,omitempty"`
}

// Process says how a service runs as a process of this machine.
type Process struct {
	Build     string   `json:"build,omitempty"`     // shell command line, run in Dir
	Artifacts []string `json:"artifacts,omitempty"` // files or folders that build makes, relative to Dir
	Command   []string `json:"command,omitempty"`   // nil: entrypoint + command of the service
	Dir       string   `json:"dir,omitempty"`       // absolute; the project directory unless the file says else
	// Artifact is the digest of the artefacts' content in the artefact store. Load leaves it empty; a build fills it.
	Artifact string `json:"artifact,omitempty"`
}

// Probe is the readiness probe; exactly one of HTTP, TCP and GRPC is set.
type Probe struct {
	HTTP   string `json:"http,omitempty"` // path; 2xx and 3xx are ready
	TCP    bool   `json:"tcp,omitempty"`
	GRPC   string `json:"grpc,omitempty"` // service name of grpc.health.v1, "-" for the server as a whole
	Port   int    `json:"port,omitempty"` // target port; 0: the service's only or first port
	Scheme string `json:"scheme,omitempty"`
}

// Objective is a service-level objective.
type Objective struct {
	Availability float64             `json:"availability,omitempty"` // share of good requests, 0..1
	Latency      map[string]Duration `json:"latency,omitempty"`      // "p99": bound
}
