// Package compose turns Compose files into the desired state of a project: one Project value with every default,
// override, include, extends, profile and variable resolved, or diagnostics that each name file, line and column.
//
// The model mirrors the canonical ("long") form of the Compose specification, field by field and under the
// specification's own names, so that the JSON of a Project is the resolved file and a difference between two Projects
// can be told as Compose paths. Keys of Trellis itself stand under x-trellis at the node they extend. The model holds
// no type of the library that parses the files.
//
// A Project never holds a secret's content; see Contents.
package compose

import (
	"encoding/json"
	"fmt"
	"sort"
	"time"
)

// Project is the resolved desired state of one Compose project. It is a value: nobody changes one after Load.
type Project struct {
	Name     string               `json:"name"`
	Services map[string]Service   `json:"services,omitempty"`
	Networks map[string]Network   `json:"networks,omitempty"`
	Volumes  map[string]Volume    `json:"volumes,omitempty"`
	Secrets  map[string]FileValue `json:"secrets,omitempty"`
	Configs  map[string]FileValue `json:"configs,omitempty"`
	Trellis  ProjectExtension     `json:"x-trellis,omitzero"`

	// WorkingDir is the absolute project directory; relative paths of the file were resolved against it.
	WorkingDir string `json:"working_dir,omitempty"`
	// Files are the absolute paths of the files given (not those they include), in order.
	Files []string `json:"files,omitempty"`
	// EnvFiles are the absolute paths of the files that variables of the files above were read from, in order.
	EnvFiles []string `json:"env_files,omitempty"`
	// Environment is the environment of x-trellis.environments that was asked for, "" for none.
	Environment string `json:"environment,omitempty"`
	// DisabledServices are the names left out because their profile is not active, sorted.
	DisabledServices []string `json:"disabled_services,omitempty"`
	// Other holds the top-level sections that this model has no field for.
	Other map[string]any `json:"other,omitempty"`

	// Places say where the routes stand, see RoutePlace. A revision keeps them, and like Positions they make no difference.
	Places Places `json:"places,omitempty"`

	// Positions say where each value of the files stands. They are not part of what is desired: two projects that
	// differ in nothing else are equal, and the JSON leaves them out.
	Positions Positions `json:"-"`
}

// ServiceNames returns the names of the project's services, sorted.
func (p Project) ServiceNames() []string {
	names := make([]string, 0, len(p.Services))
	for name := range p.Services {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// TTL returns how long a deploy lives in the project's environment, 0 for as long as nobody takes it down.
func (p Project) TTL() time.Duration { return p.Trellis.Environments[p.Environment].TTL.Or(0) }

// UnmarshalJSON reads the JSON of a Project and gives every service its name again, which the JSON holds as its key.
func (p *Project) UnmarshalJSON(b []byte) error {
	type plain Project
	if err := json.Unmarshal(b, (*plain)(p)); err != nil {
		return fmt.Errorf("project: %w", err)
	}
	for name, s := range p.Services {
		s.Name = name
		p.Services[name] = s
	}
	return nil
}

// Service is one service, in the canonical form of the specification.
type Service struct {
	Name            string                `json:"-"`
	Image           string                `json:"image,omitempty"`
	Build           *Build                `json:"build,omitempty"`
	Command         []string              `json:"command,omitempty"`
	Entrypoint      []string              `json:"entrypoint,omitempty"`
	Environment     map[string]string     `json:"environment,omitempty"` // env_file merged in
	DependsOn       map[string]Dependency `json:"depends_on,omitempty"`
	Ports           []Port                `json:"ports,omitempty"`
	Expose          []string              `json:"expose,omitempty"`
	Volumes         []Mount               `json:"volumes,omitempty"`
	Tmpfs           []string              `json:"tmpfs,omitempty"` // "path[:options]"
	Secrets         []FileMount           `json:"secrets,omitempty"`
	Configs         []FileMount           `json:"configs,omitempty"`
	Networks        map[string]Attachment `json:"networks,omitempty"` // "default" filled in; empty with network_mode
	NetworkMode     string                `json:"network_mode,omitempty"`
	Healthcheck     *Healthcheck          `json:"healthcheck,omitempty"`
	Deploy          Deploy                `json:"deploy,omitzero"`
	Restart         string                `json:"restart,omitempty"` // no, always, unless-stopped, on-failure[:n]
	Init            bool                  `json:"init,omitempty"`
	User            string                `json:"user,omitempty"` // name|uid[:group|gid]
	GroupAdd        []string              `json:"group_add,omitempty"`
	WorkingDir      string                `json:"working_dir,omitempty"`
	Hostname        string                `json:"hostname,omitempty"`
	Domainname      string                `json:"domainname,omitempty"`
	ContainerName   string                `json:"container_name,omitempty"`
	Platform        string                `json:"platform,omitempty"`
	PullPolicy      string                `json:"pull_policy,omitempty"`
	Labels          map[string]string     `json:"labels,omitempty"`
	Annotations     map[string]string     `json:"annotations,omitempty"`
	Profiles        []string              `json:"profiles,omitempty"`
	StopSignal      string                `json:"stop_signal,omitempty"`
	StopGracePeriod *Duration             `json:"stop_grace_period,omitempty"` // nil: 10 s
	PostStart       []Hook                `json:"post_start,omitempty"`
	PreStop         []Hook                `json:"pre_stop,omitempty"`
	PreStart        []PreStart            `json:"pre_start,omitempty"`
	ReadOnly        bool                  `json:"read_only,omitempty"`
	Privileged      bool                  `json:"privileged,omitempty"`
	CapAdd          []string              `json:"cap_add,omitempty"`
	CapDrop         []string              `json:"cap_drop,omitempty"`
	SecurityOpt     []string              `json:"security_opt,omitempty"`
	Ulimits         map[string]Ulimit     `json:"ulimits,omitempty"`
	Sysctls         map[string]string     `json:"sysctls,omitempty"`
	ExtraHosts      map[string][]string   `json:"extra_hosts,omitempty"`
	DNS             []string              `json:"dns,omitempty"`
	DNSSearch       []string              `json:"dns_search,omitempty"`
	DNSOpt          []string              `json:"dns_opt,omitempty"`
	Links           []string              `json:"links,omitempty"`
	ExternalLinks   []string              `json:"external_links,omitempty"`
	ShmSize         int64                 `json:"shm_size,omitempty"` // bytes
	OomScoreAdj     int64                 `json:"oom_score_adj,omitempty" trellis:"zero"`
	Pid             string                `json:"pid,omitempty"`
	Ipc             string                `json:"ipc,omitempty"`
	StdinOpen       bool                  `json:"stdin_open,omitempty"`
	Tty             bool                  `json:"tty,omitempty"`
	Logging         *Logging              `json:"logging,omitempty"`
	Develop         *Develop              `json:"develop,omitempty"`
	Trellis         ServiceExtension      `json:"x-trellis,omitzero"`

	// Other holds, in the specification's form, every attribute that the file sets and that this model has no field
	// for. Nothing is lost: the support matrix speaks of them, and an engine that carries one out reads it here.
	Other map[string]any `json:"other,omitempty"`
}

// Provided says whether the file leaves it to a provider to make what a service is: nothing of it runs.
func (s Service) Provided() bool { return s.Other["provider"] != nil }

// Build says how an image is built.
type Build struct {
	Context            string            `json:"context,omitempty"` // absolute path, or a URL
	Dockerfile         string            `json:"dockerfile,omitempty"`
	DockerfileInline   string            `json:"dockerfile_inline,omitempty"`
	Args               map[string]string `json:"args,omitempty"`
	Target             string            `json:"target,omitempty"`
	Labels             map[string]string `json:"labels,omitempty"`
	CacheFrom          []string          `json:"cache_from,omitempty"`
	CacheTo            []string          `json:"cache_to,omitempty"`
	AdditionalContexts map[string]string `json:"additional_contexts,omitempty"`
	NoCache            bool              `json:"no_cache,omitempty"`
	Pull               bool              `json:"pull,omitempty"`
	Network            string            `json:"network,omitempty"`
	Tags               []string          `json:"tags,omitempty"`
	Platforms          []string          `json:"platforms,omitempty"`
	Other              map[string]any    `json:"other,omitempty"`
}

// The conditions of a Dependency.
const (
	ServiceStarted               = "service_started"
	ServiceHealthy               = "service_healthy"
	ServiceCompletedSuccessfully = "service_completed_successfully"
)

// Dependency is one entry of depends_on.
type Dependency struct {
	Condition string `json:"condition"`
	Restart   bool   `json:"restart,omitempty"`
	Required  bool   `json:"required"` // false: a missing service is no error
}

// Port is one published port, ranges already taken apart.
type Port struct {
	Name        string `json:"name,omitempty"`
	Target      int    `json:"target"`
	Published   string `json:"published,omitempty"` // decimal, or "lo-hi" for one free port of a range; "" any free
	HostIP      string `json:"host_ip,omitempty"`
	Protocol    string `json:"protocol"` // tcp or udp
	AppProtocol string `json:"app_protocol,omitempty"`
	Mode        string `json:"mode,omitempty"` // ingress (default) or host

	Trellis PortExtension `json:"x-trellis,omitzero"`
}

// The types of a Mount.
const (
	MountBind   = "bind"
	MountVolume = "volume"
	MountTmpfs  = "tmpfs"
)

// Mount is one entry of a service's volumes.
type Mount struct {
	Type           string `json:"type"`
	Source         string `json:"source,omitempty"` // bind: absolute path; volume: key under volumes; "" anonymous
	Target         string `json:"target"`
	ReadOnly       bool   `json:"read_only,omitempty"`
	CreateHostPath bool   `json:"create_host_path,omitempty"` // bind
	Propagation    string `json:"propagation,omitempty"`      // bind
	Subpath        string `json:"subpath,omitempty"`          // volume
	NoCopy         bool   `json:"nocopy,omitempty"`           // volume
	TmpfsSize      int64  `json:"tmpfs_size,omitempty"`       // bytes, 0 unlimited
	TmpfsMode      uint32 `json:"tmpfs_mode,omitempty"`
	// Ref is of a bind mount whose files go along to where the project runs, which files they were; see FileValue.Ref.
	Ref string `json:"ref,omitempty"`

	Other map[string]any `json:"other,omitempty"`
}

// FileMount is one use of a secret or config by a service.
type FileMount struct {
	Source string  `json:"source"`
	Target string  `json:"target,omitempty"` // secrets: "" is /run/secrets/SOURCE; configs: "" is /SOURCE
	UID    string  `json:"uid,omitempty"`
	GID    string  `json:"gid,omitempty"`
	Mode   *uint32 `json:"mode,omitempty"` // nil: 0400 for secrets, 0444 for configs
}

// FileValue is a secret or config of the project: where its content comes from, and which content it was.
type FileValue struct {
	Name        string            `json:"name,omitempty"`
	File        string            `json:"file,omitempty"` // absolute
	Environment string            `json:"environment,omitempty"`
	Content     string            `json:"content,omitempty"` // configs only
	External    bool              `json:"external,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	// Ref names the content in the project's content store. Load leaves it empty; an apply fills it, so that a
	// revision refers to content and never holds it.
	Ref string `json:"ref,omitempty"`

	Other map[string]any `json:"other,omitempty"`
}

// Network is one network of the project.
type Network struct {
	Name       string            `json:"name,omitempty"`
	Driver     string            `json:"driver,omitempty"`
	DriverOpts map[string]string `json:"driver_opts,omitempty"`
	External   bool              `json:"external,omitempty"`
	Internal   bool              `json:"internal,omitempty"`
	Attachable bool              `json:"attachable,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Other      map[string]any    `json:"other,omitempty"`
}

// Attachment is a service's place in a network.
type Attachment struct {
	Aliases []string       `json:"aliases,omitempty"`
	Other   map[string]any `json:"other,omitempty"`
}

// Volume is one named volume of the project.
type Volume struct {
	Name       string            `json:"name,omitempty"` // "<project>_<key>" unless the file names it
	Driver     string            `json:"driver,omitempty"`
	DriverOpts map[string]string `json:"driver_opts,omitempty"`
	External   bool              `json:"external,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
}

// Healthcheck is Compose's own health check.
type Healthcheck struct {
	Test          []string  `json:"test,omitempty"` // NONE, CMD ..., CMD-SHELL "..."; empty: only timings are given
	Interval      *Duration `json:"interval,omitempty"`
	Timeout       *Duration `json:"timeout,omitempty"`
	Retries       *int      `json:"retries,omitempty"`
	StartPeriod   *Duration `json:"start_period,omitempty"`
	StartInterval *Duration `json:"start_interval,omitempty"`
	Disable       bool      `json:"disable,omitempty"`
}

// Deploy is the deploy section.
type Deploy struct {
	Mode           string            `json:"mode,omitempty"`     // replicated (default) or global
	Replicas       *int              `json:"replicas,omitempty"` // nil: 1; the top-level scale is folded in here
	EndpointMode   string            `json:"endpoint_mode,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	Resources      Resources         `json:"resources,omitzero"` // legacy cpus, mem_limit, pids_limit folded in
	RestartPolicy  *RestartPolicy    `json:"restart_policy,omitempty"`
	UpdateConfig   *UpdateConfig     `json:"update_config,omitempty"`
	RollbackConfig *UpdateConfig     `json:"rollback_config,omitempty"`
	Placement      map[string]any    `json:"placement,omitempty"`
	Trellis        DeployExtension   `json:"x-trellis,omitzero"`
}

// Resources are limits and reservations.
type Resources struct {
	Limits       ResourceAmounts `json:"limits,omitzero"`
	Reservations ResourceAmounts `json:"reservations,omitzero"`
}

// ResourceAmounts are amounts of CPU, memory and processes; 0 is unset.
type ResourceAmounts struct {
	CPUs   float64        `json:"cpus,omitempty"`   // CPUs: 0.5 is half of one
	Memory int64          `json:"memory,omitempty"` // bytes
	Pids   int64          `json:"pids,omitempty"`
	Other  map[string]any `json:"other,omitempty"` // devices, generic_resources
}

// RestartPolicy is deploy.restart_policy.
type RestartPolicy struct {
	Condition   string    `json:"condition,omitempty"` // none, on-failure, any (default)
	Delay       *Duration `json:"delay,omitempty"`
	MaxAttempts *int      `json:"max_attempts,omitempty"`
	Window      *Duration `json:"window,omitempty"`
}

// The orders of an UpdateConfig.
const (
	StartFirst = "start-first"
	StopFirst  = "stop-first"
)

// What a rollout that fails does, as failure_action says; a rollback_config knows the first two.
const (
	OnFailurePause    = "pause"
	OnFailureContinue = "continue"
	OnFailureRollback = "rollback"
)

// UpdateConfig is deploy.update_config or deploy.rollback_config.
type UpdateConfig struct {
	Parallelism     *int      `json:"parallelism,omitempty"` // nil: 1; 0: all at once
	Delay           *Duration `json:"delay,omitempty"`
	FailureAction   string    `json:"failure_action,omitempty"` // pause, continue, rollback
	Monitor         *Duration `json:"monitor,omitempty"`
	MaxFailureRatio float64   `json:"max_failure_ratio,omitempty" trellis:"zero"`
	Order           string    `json:"order,omitempty"`
}

// Hook is one post_start or pre_stop command.
type Hook struct {
	Command     []string          `json:"command"`
	User        string            `json:"user,omitempty"`
	Privileged  bool              `json:"privileged,omitempty"`
	WorkingDir  string            `json:"working_dir,omitempty"`
	Environment map[string]string `json:"environment,omitempty"`
}

// PreStart is one pre_start step, which has to succeed before the service starts. It starts from the service: what is
// empty here is as there.
type PreStart struct {
	Hook
	Image      string `json:"image,omitempty"`
	PerReplica bool   `json:"per_replica,omitempty"` // false: once per service

	Other map[string]any `json:"other,omitempty"` // set by the step itself, not taken over from the service
}

// Ulimit is a resource limit of the process.
type Ulimit struct {
	Soft int64 `json:"soft"`
	Hard int64 `json:"hard"`
}

// Logging is the logging section.
type Logging struct {
	Driver  string            `json:"driver,omitempty"`
	Options map[string]string `json:"options,omitempty"`
}

// Develop is the develop section.
type Develop struct {
	Watch []WatchRule `json:"watch,omitempty"`
}

// WatchRule is one rule of develop.watch.
type WatchRule struct {
	Path        string   `json:"path"`
	Action      string   `json:"action"`
	Target      string   `json:"target,omitempty"`
	Ignore      []string `json:"ignore,omitempty"`
	Include     []string `json:"include,omitempty"`
	Exec        *Hook    `json:"exec,omitempty"`
	InitialSync bool     `json:"initial_sync,omitempty"`
}
