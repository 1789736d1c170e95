// Package driver is the contract for running single instances of services on this machine, whatever an instance is
// made of: a supervised process, a container, or nothing at all in the fake.
//
// A driver knows no project model, no order, no health and no restart: the engine decides, the driver acts. It is
// level-triggered: Watch only wakes, List is the truth, every call may be repeated. Package drivertest is this comment
// as a suite; each driver passes it.
package driver

import (
	"context"
	"io"
	"time"
)

// ID names an instance on this machine: "<project>/<service>-<slot>-<generation>", for example
// "shop/catalog-2-5f3a9c01". It is derived from what the instance is to be, so that whoever plans the same instance
// twice means the same ID.
type ID string

// Driver runs single instances. All methods are safe for concurrent use and idempotent. Errors are of the kinds of
// package errdefs; a method that does not name a kind may return any.
type Driver interface {
	// Capabilities says what this driver can do here and now, with these privileges.
	Capabilities() Capabilities

	// Start makes an instance as spec says and returns when its program has been started (not when it is ready) and
	// everything about it is durable: from then on List reports it whatever happens to the caller. An instance with the
	// same ID and Hash that is running: nil, nothing is done. The same ID that has exited: it is started again, with
	// the same addresses and Restarts counted up. The same ID with another Hash: ErrConflict. A spec that can never
	// work: ErrInvalid; one that this driver cannot carry out: ErrUnsupported. Where the program cannot be started at
	// all (no such file, no permission) Start returns nil and List reports an exit with Exit.Error set, so that there
	// is one way to look at a failed instance. PostStart hooks are run by the driver in the background; one that fails
	// stops the instance.
	Start(ctx context.Context, spec Spec) error

	// Stop runs the PreStop hooks, sends the instance's stop signal, waits up to grace for its whole tree of processes
	// to end, kills what is left of the tree, and returns when nothing runs any more. The time the hooks take counts
	// into grace. An instance that is unknown or has exited: nil. Cancelling ctx ends the wait, not the stop. Another
	// Stop meanwhile waits for the same end, and brings the kill forward where its own grace is over sooner.
	Stop(ctx context.Context, id ID, grace time.Duration) error

	// Remove forgets an exited instance: its record, logs, addresses and whatever the driver made for it. Unknown: nil.
	// Running: ErrConflict.
	Remove(ctx context.Context, id ID) error

	// List returns the instances of a project, running and exited, in order of ID. Where another program has to be asked
	// that does not answer: ErrUnavailable, whose Remedy() string, if it has one, says what to do about it.
	List(ctx context.Context, project string) ([]Instance, error)

	// Watch calls changed for each instance that may have started, exited, begun to listen or vanished, until ctx is
	// done, and then returns nil. Calls may be repeated, merged or spurious, and never overlap.
	Watch(ctx context.Context, project string, changed func(ID)) error

	// Logs returns the instance's output, oldest first; with Follow the reader ends when the instance has exited and
	// all is read, or at Close. Output of the earlier runs of the same ID comes first. Unknown: ErrNotFound.
	Logs(ctx context.Context, id ID, opt LogOptions) (io.ReadCloser, error)

	// Exec runs a command inside a running instance: its namespaces, environment, user and directory, and waits for
	// it. The command's own failure is not an error: it is the exit code. Unknown or not running: ErrNotFound.
	Exec(ctx context.Context, id ID, cmd Command) (exitCode int, err error)

	// Stats returns what the instance's whole tree uses. Unknown or not running: ErrNotFound.
	Stats(ctx context.Context, id ID) (Usage, error)
}

// In a network namespace that a driver makes, TCP connections to NamesNetwork are redirected to NamesListener: that is
// where names lead, on any port, whatever port the instance itself listens on.
const (
	NamesNetwork  = "127.88.0.0/16"
	NamesListener = "127.0.0.1:15088"
)

// Capabilities say what a driver can do here. Differences are data; nobody asserts types.
type Capabilities struct {
	Name       string // "process", "docker", "fake"
	Durable    bool   // instances outlive the program that started them
	Namespaces bool   // each instance has its own network and mounts: fixed ports, names and paths work
	Limits     bool   // CPU, memory and pid limits are enforced, not only measured
	Users      bool   // can run as another user
	Apart      bool   // instances are another program's, which may be away or hang while they go on
	// Lacks says in words what is missing here and why, one sentence each, for `trellis check`.
	Lacks []string
}

// Spec is what an instance is to be. It is complete: a driver reads nothing else.
type Spec struct {
	ID       ID
	Project  string
	Service  string
	Slot     int    // from 1
	Hash     string // of everything below that makes an instance another one
	Revision int64  // that asked for it; no part of Hash

	Command []string // program and arguments; the program is found in Env's PATH, or relative to Dir
	// Env is the whole environment ("KEY=value"); nothing is inherited. Values are never logged.
	Env        []string
	Dir        string // absolute path as the instance sees it
	Image      string // drivers of containers only: a reference, or the ID that it stood for when the revision was made
	User       string // name|uid[:group|gid]; "" as the driver runs
	GroupAdd   []string
	Hostname   string
	Init       bool
	ReadOnly   bool
	Privileged bool
	CapAdd     []string
	CapDrop    []string
	// NoNewPrivileges keeps setuid programs from giving the instance more than it has (security_opt no-new-privileges).
	NoNewPrivileges bool
	Ulimits         map[string]Ulimit // by Compose's names: nofile, nproc, core, ...
	Sysctls         map[string]string // net.* only where there are namespaces
	OomScore        int
	// TimerSlack is how much later than asked a sleep of the program may end; 0 the kernel's 50 µs. Containers have no such
	// setting.
	TimerSlack time.Duration `json:",omitempty"`
	ShmSize    int64         // bytes; 0 the system's own
	Limits     Limits
	StopSignal string // "SIGTERM" where empty

	Mounts []Mount
	Files  []File // secrets and configs
	// Hosts are the names the instance resolves by /etc/hosts, name to address. SetHosts may change them later.
	Hosts map[string]string
	// HostNetwork says that the instance shares the machine's network and has no namespace of its own.
	HostNetwork bool
	// Ports are the ports the program listens on as far as the file says (targets, expose, probe). Where there are no
	// namespaces the first one is replaced by a free port, told to the program as PORT.
	Ports []int

	PostStart []Hook
	PreStop   []Hook
	Log       LogLimits

	// Container is what drivers of containers need beyond all this; nil for the others.
	Container *Container `json:",omitempty"`
}

// Container is the part of a Spec that only a container has. With it, Command is appended to the entrypoint, Env is put
// over the image's, and what is empty of Command, Dir, User and StopSignal is as the image says.
type Container struct {
	Entrypoint  []string `json:",omitempty"` // nil: the image's; empty: none
	Idle        bool     `json:",omitempty"` // run nothing but wait for Exec, whatever the image has
	Networks    []Network
	NetworkMode string   `json:",omitempty"` // "none", "bridge"; "" the Networks
	DNS         []string `json:",omitempty"`
	DNSSearch   []string `json:",omitempty"`
	DNSOptions  []string `json:",omitempty"`
	Domainname  string   `json:",omitempty"`

	Labels      map[string]string `json:",omitempty"`
	Annotations map[string]string `json:",omitempty"`
	SecurityOpt []string          `json:",omitempty"` // beyond no-new-privileges
	Platform    string            `json:",omitempty"` // os/arch[/variant]
	Runtime     string            `json:",omitempty"`
	IPC         string            `json:",omitempty"` // "host", "shareable", "private", "none"
	PID         string            `json:",omitempty"` // "host"
	TTY         bool              `json:",omitempty"`
	OpenStdin   bool              `json:",omitempty"`
	Devices     []string          `json:",omitempty"` // SOURCE:TARGET[:rwm]

	CPUShares         int64  `json:",omitempty"`
	CPUSet            string `json:",omitempty"`
	MemoryReservation int64  `json:",omitempty"` // bytes
	MemorySwap        int64  `json:",omitempty"` // bytes of memory and swap together; -1 unlimited
	CgroupParent      string `json:",omitempty"`

	// Volumes are those of Mounts that the file says more of than their name, by full name.
	Volumes map[string]Volume `json:",omitempty"`
}

// Network is one network that a container joins.
type Network struct {
	Name     string            // full
	Key      string            // in the file
	Aliases  []string          // by which others in it find the instance
	External bool              `json:",omitempty"` // it has to be there
	Internal bool              `json:",omitempty"` // leads nowhere outside
	Driver   string            `json:",omitempty"`
	Options  map[string]string `json:",omitempty"`
	Labels   map[string]string `json:",omitempty"`
}

// Volume is what the file says of a volume.
type Volume struct {
	Key      string            // in the file
	External bool              `json:",omitempty"` // it has to be there
	Driver   string            `json:",omitempty"`
	Options  map[string]string `json:",omitempty"`
	Labels   map[string]string `json:",omitempty"`
}

// Ulimit is a soft and a hard resource limit; -1 is unlimited.
type Ulimit struct{ Soft, Hard int64 }

// Limits are upper bounds; 0 is none.
type Limits struct {
	CPUs   float64 // CPUs
	Memory int64   // bytes
	Pids   int64
}

// Mount is one path of the instance. Kinds are "bind" (Source is a host path, made as a directory if CreateSource),
// "volume" (Source is the volume's full name), "tmpfs" (Size bytes, 0 unlimited).
type Mount struct {
	Kind         string
	Source       string
	Target       string
	ReadOnly     bool
	CreateSource bool
	Subpath      string
	Size         int64
	Mode         uint32
	// Of containers: Propagation of a bind, and whether a new volume does without what the image has at Target.
	Propagation string `json:",omitempty"`
	NoCopy      bool   `json:",omitempty"`
}

// File is a secret or config: Source on the host, read at start, at Target in the instance. Secret ones lie on a tmpfs.
type File struct {
	Source string
	Target string
	UID    string
	GID    string
	Mode   uint32
	Secret bool
}

// Hook is a command that runs beside the program, inside the instance.
type Hook struct {
	Command []string
	Env     []string // added to the instance's
	Dir     string   // "" the instance's
	User    string   // "" the instance's
}

// LogLimits bound what an instance's output may take on disk; 0 takes the driver's default (10 MiB x 3).
type LogLimits struct {
	MaxSize  int64 // bytes per file
	MaxFiles int
}

// State is where an instance is in its life.
type State string

// The states of an instance.
const (
	Starting State = "starting" // its program is not yet running (mounts, hooks)
	Running  State = "running"
	Exited   State = "exited"
)

// Instance is what List says of one instance.
type Instance struct {
	ID       ID
	Project  string
	Service  string
	Slot     int
	Hash     string
	Revision int64

	State     State
	PID       int    // of the program, 0 when it does not run
	Container string // of container drivers
	StartedAt time.Time
	Restarts  int // how often this ID was started again
	Exit      *Exit
	Before    *Exit // how the run before ended, nil where there was none or nothing is known of it

	// Host is the address where the instance is reached from this machine, "" before it has one.
	Host string
	// Port maps a target port of the file to the port on Host, where they differ (no namespaces).
	PortMap map[int]int
	// Listening are the TCP ports that the instance listens on now, sorted, in its own view.
	Listening []int
	// Netns is the path of the instance's pinned network namespace, "" without one.
	Netns string
}

// Exit says how an instance ended. No field is ever inferred: what is not known is said in Error.
type Exit struct {
	Code   int    // exit status, or 128+signal
	Signal string // "SIGKILL", "" if it was none
	OOM    bool   // killed for want of memory
	Time   time.Time
	Error  string // why it could not be started, or why nothing is known (machine restarted, supervisor killed)
	Asked  bool   // Stop was called
}

// Revival says after which end of a run by itself a driver begins the next one at once, without being told. Only the run
// that was known when it was said is meant: the one that follows is again somebody's decision.
type Revival string

// The values of a Revival.
const (
	ReviveNever        Revival = ""
	ReviveAfterFailure Revival = "failure"
	ReviveAlways       Revival = "always" // after exit code 0 too
)

// LogOptions select a part of the output.
type LogOptions struct {
	Follow bool
	Tail   int       // last lines; 0 all, -1 none
	Since  time.Time // zero: all
}

// LogLine is one line of output. Logs returns them as JSON, one object a line.
type LogLine struct {
	Time   time.Time `json:"t"`
	Stream string    `json:"s"` // "stdout", "stderr", "system" (the driver's own words)
	Text   string    `json:"m"`
}

// Command is a command to run inside an instance.
type Command struct {
	Args   []string
	Env    []string // added
	Dir    string
	User   string
	TTY    bool
	Stdin  io.Reader // nil: empty
	Stdout io.Writer // nil: discarded
	Stderr io.Writer
	Resize <-chan WindowSize // with TTY
}

// WindowSize is the size of a terminal in characters.
type WindowSize struct{ Rows, Cols uint16 }

// Usage is what an instance's whole tree of processes uses.
type Usage struct {
	CPU time.Duration // consumed since start
	// Rate is how many CPUs are in use, measured over the last moments, where nothing is known of what was consumed since
	// start; then CPU, Processes, ReadBytes and WriteBytes are not known either. nil: they are.
	Rate       *float64
	Memory     int64 // bytes, resident or charged
	Processes  int
	ReadBytes  int64 // since start
	WriteBytes int64
	// Enforced says whether Limits hold; Why says why not.
	Enforced bool
	Why      string
}
